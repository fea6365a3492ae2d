"""A hop of some streams from its samples to belief, in C, for a pipeline whose forecaster goes on where its state lies.

It does what ``Scorer`` does with its parts one by one, to the bit, in a tenth of the calls: with few streams in a step
a call costs more than what it does. All that a step makes lies in one piece of memory, and becomes arrays when somebody
asks for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.calibration import Calibration, Unusualness
from kinedge.edge.caution import Belief
from kinedge.edge.engine import STREAMS_IN_CACHE, Engine, Surprise
from kinedge.edge.engine_memory import StepMemory
from kinedge.edge.hop_facts import HopFacts, named
from kinedge.edge.judgement import Judgement
from kinedge.edge.native import NativeBelief, NativeBlocks, NativeHealth, NativeTiming
from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.hop import BASES, HOP, hop_functions
from kinedge.edge.native.record import Record
from kinedge.edge.reliability import ReliabilityMonitor
from kinedge.edge.scores import BlockScorer, BlockScores
from kinedge.edge.sensor_health import FINE, N_FOUND, SensorHealth
from kinedge.edge.timing import Timing
from kinedge.edge.wearing import SILENT_SHARE, STILL_S
from kinedge.errors import BackendError

__all__ = ["FoundHop", "HopInC"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_ALIGNED: Final = 64
_LAYOUTS: Final = 128  # of steps of so many sizes
_F32, _F64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)


class _Layout:
    """Where things lie of a step of so many streams, and what C is told of that.

    Parameters
    ----------
    parts
        Name, type and shape of each array that the step makes.
    places
        Of each field: where it lies, its base, the part that it points to and the number of a plane of that; no name
        for the base itself.
    work_shape
        Of what is worked in.
    y
        Where the product of surprise and precision is written, of a piece of the streams.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
        places: Sequence[tuple[int, int, str, int]],
        work_shape: tuple[int, ...],
        y: F32,
    ) -> None:
        self.parts: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        size = 0
        for name, kind, shape in parts:
            self.parts[name] = size, kind, shape
            size += -(-int(np.prod(shape)) * kind.itemsize // _ALIGNED) * _ALIGNED
        self.size = size
        offsets = []
        for field, base, name, plane in places:
            offset = 0
            if name:
                start, kind, shape = self.parts[name]
                offset = start + plane * int(np.prod(shape[1:])) * kind.itemsize
            offsets.append((field, base, offset))
        self.places = np.array(offsets, np.int64)
        self.work: F64 = np.empty(work_shape)
        self.left, self.faded, self.odds = (self.work[0], self.work[1]), self.work[2:4], self.work[4:]
        self.y = y
        self.sensor_u = self.parts["sensors"][0]
        # of what numpy is asked to take a logarithm, an exponential or a product of
        start, _, shape = self.parts["nats"]
        self.nats = slice(start, start + 4 * int(np.prod(shape)))
        start, _, shape = self.parts["block_sensors"]
        self.intensity = slice(start, start + 2 * 8 * int(np.prod(shape[1:])))  # now, and a hop ago
        self.z_start, _, (n, n_samples, n_horizons, n_channels) = self.parts["z"]
        self.z_shape = n, n_samples * n_horizons, n_channels


class FoundHop:
    """What was found of a hop of some streams; each part becomes arrays when it is asked for first."""

    def __init__(self, room: NDArray[np.uint8], layout: _Layout, calibration: Calibration) -> None:
        self.room, self.layout, self._of_one = room, layout, calibration.of_one
        self.precision = calibration.precision
        self.worn = False  # it is known that no sensor is silent, or has been still for long

    def _part(self, name: str) -> NDArray[Any]:
        start, kind, shape = self.layout.parts[name]
        part: NDArray[Any] = np.ndarray(shape, kind, self.room, start)
        return part

    @cached_property
    def facts(self) -> HopFacts:
        """What the samples say by themselves; without what pairs of sensors share."""
        return named(self._part("facts"), self._part("shared"), ())

    @cached_property
    def health(self) -> SensorHealth:
        """What stands against the sensors."""
        return SensorHealth.of(self._part("found"), self._part("twins"), self._part("copies"))

    @cached_property
    def surprise(self) -> Surprise:
        """Of the hop alone."""
        return Surprise(self._part("z"), self._part("nats"), self._part("ok"))

    @cached_property
    def scores(self) -> BlockScores:
        """Of the block that ends with the hop."""
        channel, power, drop = self._part("block_channels")
        intensity, before, missing, saturated = self._part("block_sensors")
        rest = (self._part(name) for name in ("scored", "flat", "full", "late"))
        scored, flat, full, late = rest
        return BlockScores(channel, scored, intensity, before, power, drop, missing, saturated, flat, full, late)

    @cached_property
    def _channels(self) -> NDArray[Any]:
        return self._part("channels")

    @cached_property
    def _sensors(self) -> NDArray[Any]:
        return self._part("sensors")

    @cached_property
    def _streams(self) -> NDArray[Any]:
        return self._part("streams")

    @cached_property
    def unusual(self) -> Unusualness:
        """How unusual the block is."""
        return Unusualness(self._channels[0], self._sensors[0], self._streams[0], self._streams[1], self._channels[1])

    @cached_property
    def belief(self) -> Belief:
        """What is believed of it."""
        _, _, normal, anomalous, odds, beyond, decisive, others, fresh, brought = self._streams
        lean = np.log(odds)
        lean += np.log(beyond)
        lean *= 0.5
        return Belief(
            normal=normal,
            anomalous=anomalous,
            reliability=self._sensors[3],
            decision=self._part("decision"),
            lean=lean,
            decisive=decisive,
            lost=self._sensors[4],
            others=others,
            without=self._part("without"),
            withheld=self._sensors[6],
            unlike=self._sensors[7],
            enrolled=np.broadcast_to(self._of_one > 0, len(normal)),
            fresh=fresh,
            brought=brought,
        )

    @property
    def decision(self) -> NDArray[np.int8]:
        """What is said of each stream."""
        return self._part("decision")

    @property
    def channel_share(self) -> F64:
        """Where the surprise starts, by channel."""
        share: F64 = self._channels[2]
        return share

    @property
    def sensor_share(self) -> F64:
        """The same by sensor."""
        share: F64 = self._sensors[2]
        return share

    @property
    def movement(self) -> F64:
        """How much each sensor moved."""
        movement: F64 = self._sensors[1]
        return movement


class HopInC:
    """The parts of a scorer in C, which tell each other where things are.

    Parameters
    ----------
    manifest, engine, monitor, blocks, timing, judgement
        The parts that do the same, one by one; this has structures of its own, and shares the engine's memory.

    Raises
    ------
    RuntimeError
        There is no native library: ask ``HopInC.is_there`` first.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        monitor: ReliabilityMonitor,
        blocks: BlockScorer,
        timing: Timing,
        judgement: Judgement,
    ) -> None:
        functions = hop_functions()
        if functions is None:
            raise RuntimeError("no native library is loaded")
        self._functions = functions
        self._engine, self._all_blocks = engine, blocks
        self._health: NativeHealth = monitor.in_c()
        self._blocks: NativeBlocks = blocks.in_c()
        self._timing: NativeTiming = timing.in_c()
        self._belief: NativeBelief = judgement.in_c()
        self._shape = manifest.hop, len(manifest.horizons), manifest.n_channels
        self._n_sensors = len(manifest.sensors)
        pairs = monitor.pair_columns
        self._n_shared = sum(a.stop - a.start for a, _ in pairs)
        self._record = Record(HOP)
        columns = np.array([(a.start, b.start, a.stop - a.start) for a, b in pairs], np.int64).reshape(-1, 3)
        self._record.set(
            {
                "hop": manifest.hop,
                "n_channels": manifest.n_channels,
                "n_horizons": len(manifest.horizons),
                "n_sensors": self._n_sensors,
                "n_pairs": len(columns),
                "n_shared": self._n_shared,
                "fine_below": FINE,
                "silent_from": SILENT_SHARE,
                "still_from": STILL_S,
            },
            pairs=columns,
            memory=np.empty((manifest.hop, manifest.n_channels), np.float32),
        )
        self._fields = self._record.fields
        self._fields.health, self._fields.blocks = self._health.record.at, self._blocks.record.at
        self._fields.timing = self._timing.record.at
        parts = self._health, self._blocks, self._timing, self._belief
        numbers = (part.record.place("n_streams") for part in parts)
        self._counts = np.array([*numbers, 0], np.int64)
        self._record.set({"n_counts": len(self._counts)}, counts=self._counts)
        hop, n_horizons, c = self._shape
        self._y: F32 = np.empty((STREAMS_IN_CACHE, hop * n_horizons, c), np.float32)  # of a piece of the streams
        self._layouts: OrderedDict[int, _Layout] = OrderedDict()
        self._layout: _Layout | None = None
        self._calibration: Calibration | None = None
        self._has_clock: bool | None = None
        self._state: object = None
        self._memory: StepMemory | None = None
        self._step: Any = None
        self._precision: F32 = np.empty(0, np.float32)

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return hop_functions() is not None

    def look(
        self,
        values: F32,
        valid: Mask,
        saturated: Mask,
        state: Any,
        rows: Rows,
        *,
        calibration: Calibration,
        clock_ms: F64 | None,
        raw: F32 | None = None,
    ) -> tuple[FoundHop, bool] | None:
        """Begin a hop of some streams: look at its samples and sensors.

        Parameters
        ----------
        values, valid, saturated, calibration, clock_ms, raw
            Of these streams, as ``Scorer.advance`` takes them.
        state
            A ``ScoringState`` of all, each array its own; health has gone on behind this.
        rows
            Which streams they are.

        Returns
        -------
        found, fine
            With ``facts`` and ``health``; and whether nothing speaks against any sensor. ``forecast`` and ``judge``
            make the rest. None, with nothing done, where this cannot be done in one go.
        """
        n, fields, raw = len(rows), self._fields, values if raw is None else raw
        shape = (n, self._shape[0], self._shape[2])
        if not (
            is_plain(values, _F32, shape)
            and is_plain(raw, _F32, shape)
            and is_plain(valid, _BOOL, shape)
            and is_plain(saturated, _BOOL, shape)
        ):
            return None
        if not n or not (self._tell(state) and self._use(calibration, clock_ms)):
            return None
        layout = self._layouts.get(n)
        if layout is None:
            layout = self._new_layout(n)
        if layout is not self._layout:
            fields.n_streams, fields.n_places, fields.places = n, len(layout.places), address(layout.places)
            fields.work, fields.y, self._layout = address(layout.work), address(layout.y), layout
        room = np.empty(layout.size, np.uint8)
        fields.room, fields.values, fields.valid = address(room), address(values), address(valid)
        fields.saturated, fields.rows, fields.clock_ms = address(saturated), address(rows), address(clock_ms)
        fields.raw = address(raw)
        against = self._functions[0](self._record.at)
        if against < 0:
            return None
        return FoundHop(room, layout, calibration), not against

    def forecast(self, found: FoundHop, rows: Rows) -> None:
        """Forecast the hop that ``look`` has begun, whose arrays are all still there: ``surprise`` is made.

        Raises
        ------
        BackendError
            The forecaster refused: a defect.
        """
        _, forecast, sums, _, standardise, finish, *_ = self._functions
        at, step, layout, room, n = self._record.at, self._step.at, found.layout, found.room, len(rows)
        nats: F32 = room[layout.nats].view(_F32)
        z = np.ndarray(layout.z_shape, _F32, room, layout.z_start)
        precision = self._precision
        size = len(nats) // n
        for start in range(0, n, STREAMS_IN_CACHE):
            stop = min(start + STREAMS_IN_CACHE, n)
            if refused := forecast(at, start, stop):
                raise BackendError(f"the native step refuses its arguments ({refused}); this is a defect")
            whole = stop - start == n
            part = nats if whole else nats[start * size : stop * size]
            np.exp(part, part)
            standardise(step, start, stop)
            np.log(part, part)
            finish(step, start, stop)
            own = precision if precision.ndim == 2 else precision[start:stop]
            np.matmul(z if whole else z[start:stop], own, layout.y if whole else layout.y[: stop - start])
            sums(at, start, stop)

    def use_health(self, found: FoundHop, health: SensorHealth) -> None:
        """Judge with this instead of what was found of the sensors, of which ``swapped`` alone may be another."""
        if health is not found.health:
            found.health = health
            self._belief.record.set(swapped=np.ascontiguousarray(health.swapped))

    def judge(self, found: FoundHop) -> None:
        """Score and judge the hop that was forecast just now; the rest is made."""
        add, assess, trust, gather, decide, learn = self._functions[3:4] + self._functions[6:]
        layout = found.layout
        found.worn = add(self._record.at) == 0
        intensity = found.room[layout.intensity].view(_F64)
        np.log(intensity, intensity)
        belief = self._belief.record.at
        assess(belief)
        for left, power in zip(layout.left, self._belief.powers, strict=True):
            np.power(left, power, left)
        np.exp(layout.faded, layout.faded)
        trust(belief)
        np.log(layout.faded, layout.faded)
        gather(belief)
        np.exp(layout.odds, layout.odds)
        decide(belief)
        learn(self._health.record.at, self._fields.room + layout.sensor_u)
        if self._calibration is not None and self._calibration.which is not None:  # of this step alone
            self._belief.forget_streams()
            self._blocks.record.forget("diagonal")
            self._calibration, self._precision = None, np.empty(0, np.float32)

    def _tell(self, state: Any) -> bool:
        """Tell all parts of a state; whether they can go on in it."""
        memory, engine = self._memory, state.engine
        if self._state is not state or memory is None or memory.told is not engine:
            self._state, memory = None, self._engine.in_place(engine)
            of_sensors = self._health.tell(state.health) and self._timing.tell(state.timing)
            told = of_sensors and self._blocks.tell(state.blocks) and self._belief.tell(state.belief)
            if memory is None or not told:
                return False
            if memory is not self._memory:
                self._memory, self._step = memory, self._engine.native_step(memory)
                self._fields.step = self._step.at
                self._counts[-1] = self._step.place("n_streams")
                self._layouts.clear()
                self._layout = None
            self._state = state
        self._fields.forecaster = memory.forecaster_at(engine.model)
        return True

    def _use(self, calibration: Calibration, clock_ms: F64 | None) -> bool:
        """Tell how the streams are judged; whether C can do that."""
        if self._calibration is not calibration:
            own = calibration.which is not None
            knots = calibration.knots.shape[-2] if calibration.own_knots is None else calibration.own_knots.min()
            if knots < 2 or not self._belief.use(calibration):
                return False
            self._precision, diagonal = self._all_blocks.precision_of(calibration.precision if own else None)
            diagonal = np.ascontiguousarray(diagonal)
            self._blocks.record.set({"own_diagonal": diagonal.ndim - 1}, diagonal=diagonal)
            self._calibration = calibration
        if self._has_clock is not (clock_ms is not None):
            self._has_clock = clock_ms is not None
            self._belief.record.set({"has_clock": self._has_clock, "has_health": True})
        return True

    def _new_layout(self, n: int) -> _Layout:
        hop, n_horizons, c = self._shape
        s, samples = self._n_sensors, (n, hop, n_horizons, c)
        of_health, of_blocks, of_belief = (part.record.place for part in (self._health, self._blocks, self._belief))
        of_hop, of_step, of_timing = self._record.place, self._step.place, self._timing.record.place
        given = [
            (place(name), BASES.index(name), "", 0)
            for place, names in (
                (of_health, "valid rows"),
                (of_step, "values valid rows"),
                (of_timing, "values valid rows"),
                (of_blocks, "rows"),
                (of_belief, "rows work clock_ms"),
            )
            for name in names.split()
        ]
        given.append((of_health("values"), BASES.index("raw"), "", 0))
        made = [
            (place(field), 0, part, plane)
            for place, fields in (
                (of_hop, "given facts shared found copies z nats ok sums of_sensors=block_sensors"),
                (of_health, "facts given shared found twins copies"),
                (of_step, "z nats ok"),
                (of_timing, "late"),
                (of_blocks, "sums facts of_channels=block_channels of_sensors=block_sensors scored flat full"),
                (of_belief, "channel=block_channels drop=block_channels:2 intensity=block_sensors scored flat full"),
                (of_belief, "missing=block_sensors:2 saturated=block_sensors:3 repeated=found clipped=found:1 copies"),
                (
                    of_belief,
                    "late off_body=found:2 units=found:3 held=found:10 swapped=found:4 shifted=found:5 decision",
                ),
                (
                    of_belief,
                    "without before=block_sensors:1 of_channels=channels of_sensors=sensors of_streams=streams",
                ),
            )
            for field, part, plane in map(_place, fields.split())
        ]
        layout = _Layout(
            [
                ("facts", _F32, (10, n, c)),
                ("given", _F32, (10, n, c)),
                ("shared", _F32, (n, self._n_shared)),
                ("found", _F64, (N_FOUND, n, s)),
                ("twins", np.dtype(np.int64), (n, s)),
                ("copies", _BOOL, (n, s)),
                ("z", _F32, samples),
                ("nats", _F32, samples),
                ("ok", _BOOL, samples),
                ("sums", _F32, (4, n, c)),
                ("block_channels", _F64, (3, n, c)),
                ("block_sensors", _F64, (4, n, s)),
                ("scored", _BOOL, (n, c)),
                ("flat", _BOOL, (n, s)),
                ("full", _BOOL, (n,)),
                ("channels", _F64, (3, n, c)),
                ("sensors", _F64, (8, n, s)),
                ("streams", _F64, (10, n)),
                ("decision", np.dtype(np.int8), (n,)),
                ("without", _BOOL, (n, s)),
                ("late", _F64, (n, s)),
            ],
            [*given, *made],
            (7, n, s),
            self._y[:n],
        )
        if len(self._layouts) >= _LAYOUTS:
            self._layouts.popitem(last=False)
        self._layouts[n] = layout
        return layout


def _place(text: str) -> tuple[str, str, int]:
    """Return a field, the part that it points to, and a plane of that: of ``field=part:plane``, or less."""
    field, _, rest = text.partition("=")
    part, _, plane = rest.partition(":")
    return field, part or field, int(plane or 0)
