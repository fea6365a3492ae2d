"""Chunks of all people to verdicts: clocks, alignment, hops and one vectorised step. No I/O, no clock of its own.

One direction: chunk (device time) -> host time -> common grid -> hop -> scores -> verdict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.aligner import AlignedBlock, Aligner
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer, ScoringState
from kinedge.edge.verdict import VerdictBatch
from kinedge.edge.watch import AlarmWatch
from kinedge.errors import SignalError
from kinedge.firmware_bridge.alignment import PairUncertainty, alignment_of
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.signals import ImuChunk

__all__ = ["Pipeline", "Scored"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scored:
    """One hop of one person with its verdict: row ``stream`` of ``batch``.

    ``values`` and ``valid`` are the hop itself, ``(hop, n_channels)``, as the sensors sit.
    """

    subject: str
    batch: VerdictBatch
    stream: int
    values: F32
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Hop:
    index: int
    values: F32
    valid: NDArray[np.bool_]
    saturated: NDArray[np.bool_]


class _HopCutter:
    """Cuts ticks into hops that start at whole multiples of the hop: the same cut for any chunking, for everybody."""

    def __init__(self, hop: int, n_channels: int) -> None:
        self._hop, self._n_channels = hop, n_channels
        self._blank(0)
        self._index: int | None = None
        self._filled = 0

    def _blank(self, filled: int) -> None:
        shape = (self._hop, self._n_channels)
        self._values = np.zeros(shape, np.float32)
        self._valid = np.zeros(shape, bool)
        self._saturated = np.zeros(shape, bool)
        self._filled = filled

    def cut(self, block: AlignedBlock) -> list[_Hop]:
        hops: list[_Hop] = []
        done = 0
        while done < len(block):
            index, offset = divmod(block.first_tick + done, self._hop)
            if index != self._index:
                # a first hop begins in its middle, and after a leap of the grid the old one stays unfinished:
                # what lies before is marked missing
                self._index = index
                self._blank(offset)
            n = min(self._hop - offset, len(block) - done)
            self._values[offset : offset + n] = block.values[done : done + n]
            self._valid[offset : offset + n] = block.valid[done : done + n]
            self._saturated[offset : offset + n] = block.saturated[done : done + n]
            self._filled = offset + n
            done += n
            if self._filled == self._hop:
                hops.append(_Hop(index, self._values, self._valid, self._saturated))
                self._index = None
        return hops


class _Person:
    def __init__(self, scorer: Scorer, *, max_delay_s: float) -> None:
        manifest = scorer.manifest
        self.aligner = Aligner(manifest.sensor_specs, rate_hz=manifest.rate_hz, max_delay_s=max_delay_s)
        self.cutter = _HopCutter(manifest.hop, manifest.n_channels)
        self.hops: deque[_Hop] = deque()
        self.clocks: dict[str, Clock] = {}
        self.boot_ids: dict[str, int] = {}
        self.last_index: int | None = None
        self.turned = False


class Pipeline:
    """Scores the streams of several people with one model.

    Parameters
    ----------
    scorer
        The model.
    subjects
        Pseudonyms, one stream each.
    max_delay_s
        How long a tick waits for a slow sensor.
    make_clock
        Makes the clock map of each sensor.
    people
        Whom each subject is compared with; everybody with the cohort when None.
    alarm
        When an episode of an enrolled person may be called one; None: verdicts stand for themselves.

    Raises
    ------
    SignalError
        No subject, or one twice.
    """

    def __init__(
        self,
        scorer: Scorer,
        subjects: Sequence[str],
        *,
        max_delay_s: float = 0.25,
        make_clock: Callable[[], Clock] = ClockMap,
        people: People | None = None,
        alarm: AlarmConfig | None = None,
    ) -> None:
        if not subjects or len(set(subjects)) != len(subjects):
            raise SignalError("a pipeline needs distinct subjects, at least one")
        self.scorer = scorer
        self.subjects = tuple(subjects)
        self.people = people or People(scorer, self.subjects)
        if self.people.subjects != self.subjects:
            raise SignalError("a pipeline and its people need the same subjects in the same order")
        self._alarm = alarm
        self._watch = AlarmWatch(scorer, self.people, alarm) if alarm is not None and self.people.enrolments else None
        self._make_clock = make_clock
        self._people = {s: _Person(scorer, max_delay_s=max_delay_s) for s in subjects}
        self._channels = {s.name: s.channels for s in scorer.manifest.sensor_specs}
        self._state: ScoringState = scorer.initial_state(len(subjects))
        self.n_ignored_chunks = 0

    def use_model(self, scorer: Scorer, people: People) -> None:
        """Score by another model from the next hop on; no sample is lost, and the model begins having seen nothing.

        Raises
        ------
        SignalError
            It hears other sensors, or has another rate or hop, or the people are others.
        ConfigError
            It cannot keep the promise of the alarm.
        """
        a, b = self.scorer.manifest, scorer.manifest
        if (a.sensors, a.rate_hz, a.hop) != (b.sensors, b.rate_hz, b.hop) or people.subjects != self.subjects:
            raise SignalError(f"{b.name}: does not go on where {a.name} stops; start anew with it")
        self._watch = AlarmWatch(scorer, people, self._alarm) if self._alarm is not None and people.enrolments else None
        self.scorer, self.people = scorer, people
        self._state = scorer.initial_state(len(self.subjects))

    def clock(self, subject: str, sensor: str) -> Clock | None:
        """Return the clock map of a sensor, None before its first chunk."""
        return self._people[subject].clocks.get(sensor)

    def use_clock(self, subject: str, sensor: str, clock: Clock) -> None:
        """Map a sensor by this clock from its next chunk on, not by one of ``make_clock``."""
        self._people[subject].clocks[sensor] = clock

    def alignment(self, subject: str) -> tuple[PairUncertainty, ...]:
        """Return how far the times of each two sensors of a person may be apart, the worst first."""
        return alignment_of(self._people[subject].clocks)

    def n_late(self, subject: str) -> int:
        """Return how many samples of a person came too late to be used."""
        return sum(self._people[subject].aligner.n_late.values())

    def push(self, subject: str, chunk: ImuChunk, *, channels: Sequence[str]) -> None:
        """Take a chunk of one person; chunks of sensors that the model does not use are counted and ignored.

        Parameters
        ----------
        subject
            Whose.
        chunk
            From a decoder; its device time is mapped to host time here.
        channels
            Names of the chunk's columns; the model's are picked by name.

        Raises
        ------
        SignalError
            The subject is unknown, or the sensor lacks a channel that the model needs.
        """
        person = self._people.get(subject)
        if person is None:
            raise SignalError(f"no subject {subject!r} here")
        wanted = self._channels.get(chunk.sensor)
        if wanted is None:
            self.n_ignored_chunks += 1
            return
        if not len(chunk):
            return
        missing = [c for c in wanted if c not in channels]
        if missing:
            raise SignalError(
                f"{chunk.sensor}: the model needs {', '.join(missing)}, the sensor has {', '.join(channels)}"
            )
        columns = [list(channels).index(c) for c in wanted]
        clock = person.clocks.get(chunk.sensor)
        if clock is None:
            clock = person.clocks[chunk.sensor] = self._make_clock()
        elif person.boot_ids.get(chunk.sensor, chunk.boot_id) != chunk.boot_id:
            clock.reset()
            person.aligner.reset_sensor(chunk.sensor)
        person.boot_ids[chunk.sensor] = chunk.boot_id
        if chunk.host_time_ns is not None:
            clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        person.aligner.push(
            chunk.sensor,
            clock.to_host_ns(chunk.device_time_ns),
            chunk.values[:, columns],
            chunk.valid[:, columns],
            chunk.saturated[:, columns],
            interval_ns=chunk.interval_ns,
        )

    def advance(self, *, now_ns: int | None = None, flush: bool = False) -> list[Scored]:
        """Score every hop that is complete, in order.

        Parameters
        ----------
        now_ns
            Host clock; without it only data moves the grid, which is what a replay wants.
        flush
            Wait for nobody: the recording has ended.

        Raises
        ------
        BackendError
            The backend failed.
        """
        for person in self._people.values():
            person.hops.extend(person.cutter.cut(person.aligner.pull(now_ns=now_ns, flush=flush)))
        found: list[Scored] = []
        while any(p.hops for p in self._people.values()):
            index = min(p.hops[0].index for p in self._people.values() if p.hops)
            rows = [i for i, s in enumerate(self.subjects) if (h := self._people[s].hops) and h[0].index == index]
            found.extend(self._step(index, rows))
        return found

    def _step(self, index: int, rows: list[int]) -> list[Scored]:
        people = [self._people[self.subjects[i]] for i in rows]
        hops = [p.hops.popleft() for p in people]
        at = np.array(rows, np.intp)
        leapt = [
            i
            for i, p in zip(rows, people, strict=True)
            if p.turned or (p.last_index is not None and p.last_index + 1 != index)
        ]
        state = self._state
        if leapt:
            # the grid leapt over a long silence, or the sensors are turned otherwise from here on: what the model
            # remembers is no longer the past of what comes
            fresh = self.scorer.initial_state(len(leapt))
            gone = np.array(leapt, np.intp)
            state = state.put(gone, fresh)
        everybody = len(rows) == len(self.subjects)
        part = state if everybody else state.take(at)
        values, valid, saturated = self.people.turn(
            at,
            np.stack([h.values for h in hops]),
            np.stack([h.valid for h in hops]),
            np.stack([h.saturated for h in hops]),
        )
        calibration = self.people.calibration
        if calibration is not None and not everybody:
            calibration = calibration.rows(at)
        end_tick = (index + 1) * self.scorer.manifest.hop
        batch, part = self.scorer.step(values, valid, saturated, part, end_tick=end_tick, calibration=calibration)
        bases = self.people.bases
        batch = replace(
            batch,
            bases=bases if everybody else tuple(bases[i] for i in rows),
            watched=() if self._watch is None else self._watch.look(rows, index, batch.unusual, batch.scores),
        )
        self._state = part if everybody else state.put(at, part)
        for i, p, h in zip(rows, people, hops, strict=True):
            p.last_index = index
            p.turned = self.people.learn(i, h.values, h.valid)
        return [
            Scored(self.subjects[i], batch, k, h.values, h.valid)
            for k, (i, h) in enumerate(zip(rows, hops, strict=True))
        ]
