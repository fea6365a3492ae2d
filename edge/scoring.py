"""One step of scoring: hops of all streams in, verdicts out. Pure: ``step(input, state) -> (output, state)``.

The same code scores a live stream, a replay, a benchmark and a calibration set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends import Backend, load_backend
from kinedge.edge.calibration import Calibration
from kinedge.edge.caution import BeliefState, CautionConfig, Decision
from kinedge.edge.engine import Engine, EngineState, Surprise
from kinedge.edge.hop_facts import HopFacts
from kinedge.edge.hop_in_c import HopInC
from kinedge.edge.judgement import Judgement
from kinedge.edge.reliability import ReliabilityMonitor
from kinedge.edge.scores import BlockScorer, BlockScores, ScorerState
from kinedge.edge.sensor_health import HealthState, SensorHealth
from kinedge.edge.sides import SidesState, SideWatch
from kinedge.edge.state_rows import put_rows, take_rows, write_rows
from kinedge.edge.timing import Timing, TimingState
from kinedge.edge.verdict import VerdictBatch
from kinedge.edge.without import Without, WithoutState
from kinedge.units import period_ns

__all__ = ["Scorer", "ScoringState"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoringState:
    """State of all streams: of the forecaster, blocks, sensors' health, what was believed, sides, timing, samples."""

    engine: EngineState
    blocks: ScorerState
    health: HealthState
    belief: BeliefState
    sides: SidesState
    timing: TimingState
    without: WithoutState

    def take(self, rows: NDArray[np.intp]) -> ScoringState:
        """Return the state of some streams."""
        return ScoringState(
            take_rows(self.engine, rows),
            take_rows(self.blocks, rows),
            take_rows(self.health, rows),
            take_rows(self.belief, rows),
            take_rows(self.sides, rows),
            take_rows(self.timing, rows),
            take_rows(self.without, rows),
        )

    def put(self, rows: NDArray[np.intp], part: ScoringState) -> ScoringState:
        """Return the state with some streams replaced."""
        return ScoringState(
            put_rows(self.engine, rows, part.engine),
            put_rows(self.blocks, rows, part.blocks),
            put_rows(self.health, rows, part.health),
            put_rows(self.belief, rows, part.belief),
            put_rows(self.sides, rows, part.sides),
            put_rows(self.timing, rows, part.timing),
            put_rows(self.without, rows, part.without),
        )

    def owned(self) -> ScoringState:
        """Return a copy whose arrays nobody else has."""
        return self.take(np.arange(len(self.engine.n_seen)))

    def write(self, rows: NDArray[np.intp], part: ScoringState) -> None:
        """Replace some streams in place, of a state that is ``owned``: thousands of others are not copied."""
        write_rows(self.engine, rows, part.engine)
        write_rows(self.blocks, rows, part.blocks)
        write_rows(self.health, rows, part.health)
        write_rows(self.belief, rows, part.belief)
        write_rows(self.sides, rows, part.sides)
        write_rows(self.timing, rows, part.timing)
        write_rows(self.without, rows, part.without)


class Scorer:
    """Everything of a bundle that scoring needs, loaded once.

    Parameters
    ----------
    bundle
        As read and checked.
    backend
        The first of ``DEFAULT_BACKENDS`` that runs the graph when None.
    calibration
        The bundle's own when None.
    caution
        When an answer is given, and when not.
    precision
        Which of the bundle's models; it comes with a calibration of its own.
    ask_more
        Whether the forecaster is asked for more than how it is surprised by each hop: which way alike sensors of both
        sides were put on, and whose surprise it is. Not where forms of one model are compared: what it answers decides
        what it is shown afterwards.

    Raises
    ------
    BackendError
        The graph does not load.
    BundleError
        The calibration does not fit the model.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend | None = None,
        calibration: Calibration | None = None,
        caution: CautionConfig | None = None,
        precision: str = "fp32",
        ask_more: bool = True,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.precision = precision
        if calibration is None:
            calibration = Calibration.from_arrays(bundle.calibration_arrays(precision), self.manifest)
        self.calibration = calibration
        self.caution = caution or CautionConfig()
        self.engine = Engine(self.manifest, backend or load_backend(bundle, precision=precision))
        self.blocks = BlockScorer(self.manifest, calibration.precision)
        self.groups = self.blocks.groups
        self.monitor = ReliabilityMonitor(self.manifest)
        self.sides = SideWatch(self.manifest, self.engine, self.monitor.alike_sides if ask_more else ())
        self.timing = Timing(self.manifest)
        self.without = Without(self.manifest, self.engine, self.groups, watches=ask_more)
        rate_hz = self.manifest.rate_hz
        hop_s, block_s = self.manifest.hop / rate_hz, self.manifest.block / rate_hz
        self.judgement = Judgement(self.groups, self.caution, hop_s=hop_s, block_s=block_s)
        self._in_c: HopInC | None = None
        if HopInC.is_there():
            self._in_c = HopInC(self.manifest, self.engine, self.monitor, self.blocks, self.timing, self.judgement)
        self.sensors = tuple(s.name for s in self.manifest.sensor_specs)
        self.channels = tuple(name for s in self.manifest.sensor_specs for name in s.full_names)
        self.period_ns = period_ns(self.manifest.rate_hz)

    def initial_state(self, n_streams: int) -> ScoringState:
        """Return the state of streams that have seen nothing."""
        n = n_streams
        return ScoringState(
            self.engine.initial_state(n),
            self.blocks.initial_state(n),
            self.monitor.initial_state(n),
            BeliefState.initial(n, len(self.sensors), len(self.channels)),
            self.sides.initial_state(n),
            self.timing.initial_state(n),
            self.without.initial_state(n),
        )

    def score(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        *,
        calibration: Calibration | None = None,
        used: NDArray[np.bool_] | None = None,
    ) -> tuple[BlockScores, Surprise, ScoringState]:
        """Score one hop of all streams, without judging it (calibration needs no more).

        Parameters
        ----------
        values, valid, saturated : (n_streams, hop, n_channels)
            SI units on the model's grid.
        calibration
            Of these streams, from ``stack_calibrations``; the scorer's own for all when None.
        used : (n_streams, n_channels)
            Channels that the model may see; all when None.
        """
        precision = None if calibration is None or calibration.which is None else calibration.precision
        seen = valid if used is None or used.all() else valid & used[:, None]
        surprise, engine_state = self.engine.step(values, seen, state.engine)
        every = np.arange(len(values))
        timing = take_rows(state.timing, every)
        late = self.timing.advance(values, seen, timing, every)
        scores, blocks = self.blocks.step(
            surprise, values, valid, saturated, state.blocks, precision=precision, late=late
        )
        after = ScoringState(engine_state, blocks, state.health, state.belief, state.sides, timing, state.without)
        return scores, surprise, after

    def step(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        *,
        end_tick: int,
        calibration: Calibration | None = None,
        clock_ms: F64 | None = None,
        raw: F32 | None = None,
    ) -> tuple[VerdictBatch, ScoringState]:
        """Score and judge one hop of all streams.

        ``end_tick`` is the first tick behind it; ``clock_ms`` (n_streams, n_sensors) by how much each sensor's times
        may be apart from another's; ``raw`` the samples as the sensors gave them, where ``values`` are turned.
        """
        after: list[EngineState] = []

        def run(values: F32, seen: NDArray[np.bool_]) -> tuple[Surprise, EngineState]:
            surprise, engine = self.engine.step(values, seen, state.engine)
            after.append(engine)
            return surprise, engine

        every = np.arange(len(values))
        own = (
            take_rows(state.blocks, every),
            take_rows(state.health, every),
            take_rows(state.belief, every),
            take_rows(state.sides, every),
            take_rows(state.timing, every),
            take_rows(state.without, every),
        )
        batch = self._step(values, valid, saturated, own, every, run, end_tick, calibration, clock_ms, raw=raw)
        return batch, ScoringState(after[0], *own)

    def advance(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        rows: NDArray[np.intp] | None = None,
        *,
        end_tick: int,
        calibration: Calibration | None = None,
        clock_ms: F64 | None = None,
        raw: F32 | None = None,
    ) -> tuple[VerdictBatch, ScoringState]:
        """Score and judge one hop of some streams as ``step`` does, to the bit, and use up the state.

        Parameters
        ----------
        values, valid, saturated, calibration, clock_ms
            Of these streams.
        state
            Of all streams, ``owned``: it must not be used any more, as the one that is returned has its arrays.
        rows
            Which they are, each at most once; all in their order when None.
        raw : (n_streams, hop, n_channels)
            The samples as the sensors gave them, where ``values`` are turned.
        """
        at = np.arange(len(values)) if rows is None else np.ascontiguousarray(rows, np.int64)
        own = state.blocks, state.health, state.belief, state.sides, state.timing, state.without

        def run(values: F32, seen: NDArray[np.bool_]) -> tuple[Surprise, EngineState]:
            return self.engine.advance(values, seen, state.engine, rows), state.engine

        chosen, looked = calibration or self.calibration, None
        begun = None
        if self._in_c is not None:
            begun = self._in_c.look(values, valid, saturated, state, at, calibration=chosen, clock_ms=clock_ms, raw=raw)
        if self._in_c is not None and begun is not None:
            found, fine = begun
            watches = self.sides.watches
            if watches or not fine:
                looked = found.facts, found.health
                told = self.sides.tell(found.health, state.sides, at)
                fine = (fine and told is found.health) or self.monitor.leaves(told)
            if fine:
                self._in_c.forecast(found, at)
                if watches:
                    self.sides.advance(
                        values,
                        valid,
                        found.surprise,
                        state.sides,
                        at,
                        facts=found.facts,
                        health=told,
                        first=state.engine,
                        first_rows=at,
                    )
                    told = self.sides.tell(found.health, state.sides, at)  # with what this hop said of the sides
                    self._in_c.use_health(found, told)
                self._in_c.judge(found)
                self.without.keep(values, valid, state.without, at)
                batch = VerdictBatch.of_hop(found, **self._of_batch(end_tick, chosen, clock_ms))
                return self._whose(batch, found.decision, chosen, state.without, at), state
        return self._step(values, valid, saturated, own, at, run, end_tick, calibration, clock_ms, looked, raw), state

    def _of_batch(self, end_tick: int, chosen: Calibration, clock_ms: F64 | None) -> dict[str, Any]:
        """Return what a batch knows besides what was found of the hop."""
        return {
            "end_tick": end_tick,
            "host_time_ns": end_tick * self.period_ns,
            "precision": chosen.precision,
            "sensors": self.sensors,
            "channels": self.channels,
            "config": self.caution,
            "clock_ms": clock_ms,
            "additive": bool(chosen.additive[0]),
            "coordination": chosen.coordination,
        }

    def _step(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        own: tuple[ScorerState, HealthState, BeliefState, SidesState, TimingState, WithoutState],
        rows: NDArray[np.intp],
        run: Callable[[F32, NDArray[np.bool_]], tuple[Surprise, EngineState]],
        end_tick: int,
        calibration: Calibration | None,
        clock_ms: F64 | None,
        looked: tuple[HopFacts, SensorHealth] | None = None,
        raw: F32 | None = None,
    ) -> VerdictBatch:
        """Score and judge one hop of these rows of the states, which are written to; it may have been looked at."""
        blocks, health_state, believed, sides, timing, without = own
        if looked is None:
            facts = self.monitor.look_at(values, valid, saturated)
            looked = facts, self.monitor.advance(values, valid, health_state, rows, facts=facts, raw=raw)
        facts, found = looked
        health = self.sides.tell(found, sides, rows)
        values, valid, saturated, used = self.monitor.repair(values, valid, saturated, health)
        as_named, facts = facts, self.monitor.repair_facts(facts, health)
        seen = valid if used is None or used.all() else valid & used[:, None]
        surprise, engine = run(values, seen)
        self.sides.advance(
            values, seen, surprise, sides, rows, facts=as_named, health=health, first=engine, first_rows=rows
        )
        health = self.sides.tell(found, sides, rows)  # with what this hop said of the sides
        precision = None if calibration is None or calibration.which is None else calibration.precision
        late = self.timing.advance(values, seen, timing, rows)
        scores = self.blocks.advance(
            surprise, values, valid, saturated, blocks, rows, precision=precision, facts=facts, late=late
        )
        chosen = calibration or self.calibration
        judged = self.judgement.advance(scores, chosen, believed, rows, health=health, clock_ms=clock_ms)
        self.monitor.learn_from(judged.unusual.sensor, health_state, rows)
        self.without.keep(values, seen, without, rows)
        batch = VerdictBatch(
            scores=scores,
            surprise=surprise,
            unusual=judged.unusual,
            belief=judged.belief,
            channel_share=judged.channel_share,
            sensor_share=judged.sensor_share,
            movement=judged.movement,
            health=health,
            **self._of_batch(end_tick, chosen, clock_ms),
        )
        return self._whose(batch, judged.belief.decision, chosen, without, rows)

    def _whose(
        self,
        batch: VerdictBatch,
        decision: NDArray[np.int8],
        calibration: Calibration,
        state: WithoutState,
        rows: NDArray[np.intp],
    ) -> VerdictBatch:
        """Return the batch with the shares of sensors passed on to whose surprise it is."""
        if not self.without.watches or (decision == Decision.NORMAL).all():
            return batch
        self.without.look(batch, decision, calibration, state, rows)
        shares = self.without.shares(batch, decision, state, rows)
        if shares is None:
            return batch
        channel, sensor, passed_on = shares
        return batch.changed(channel_share=channel, sensor_share=sensor, passed_on=passed_on)
