"""Chunks of all people to verdicts: clocks, alignment, hops and one vectorised step. No I/O, no clock of its own.

One direction: chunk (device time) -> host time -> common grid -> hop -> scores -> verdict.

With one phase, hops of all people end at the same tick and are scored in one step, which is cheapest. Thousands of
people would then wait for each other: with ``n_phases``, a person's hops end at a tick that follows from their
pseudonym, the work is spread over the hop, and whoever joins or leaves changes nothing for the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.arrivals import Arrivals
from kinedge.edge.grid import Grid
from kinedge.edge.people import People
from kinedge.edge.pose import PoseAlignment, PoseFrames
from kinedge.edge.promise import Watched
from kinedge.edge.reliability_clock import ClockWatch
from kinedge.edge.scoring import Scorer, ScoringState
from kinedge.edge.verdict import VerdictBatch
from kinedge.edge.watch import AlarmWatch
from kinedge.edge.wearing import WearWatch
from kinedge.errors import SignalError
from kinedge.firmware_bridge.alignment import PairUncertainty, alignment_of
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.signals import ImuChunk

__all__ = ["AT_ONCE", "Pipeline", "Scored", "phases_for"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_NONE_YET: Final = -(2**62)
_TOGETHER: Final = 64  # people whose hops may all end at once: the last one of them waits some milliseconds
AT_ONCE: Final = 128  # people of one step: what it makes is freed in pieces that the next one fits into
_A_PHASE: Final = 12  # people beyond that: more would wait for each other, as their hops end at once


def phases_for(n_people: int, hop: int) -> int:
    """Return at how many different ticks the hops of so many people should end."""
    return 1 if n_people <= _TOGETHER else min(hop, n_people // _A_PHASE)


class Scored:
    """One hop of one person with its verdict: row ``stream`` of ``batch``.

    It is made of every hop, so it is no more than where things are.

    Parameters
    ----------
    subject
        Whose.
    batch, stream
        Where the verdict is.
    values, valid : (n_streams, hop, n_channels)
        The hops of all streams of the batch, as the sensors sit.
    """

    __slots__ = ("_valid", "_values", "batch", "stream", "subject")

    def __init__(self, subject: str, batch: VerdictBatch, stream: int, values: F32, valid: Mask) -> None:
        self.subject, self.batch, self.stream = subject, batch, stream
        self._values, self._valid = values, valid

    @property
    def values(self) -> F32:
        """The hop itself, (hop, n_channels)."""
        own: F32 = self._values[self.stream]
        return own

    @property
    def valid(self) -> Mask:
        """Which samples of it are there, (hop, n_channels)."""
        own: Mask = self._valid[self.stream]
        return own


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
    n_phases
        At how many different ticks hops end, at most one per tick of a hop.

    Raises
    ------
    SignalError
        No subject, one twice, or an impossible number of phases.
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
        n_phases: int = 1,
    ) -> None:
        manifest = scorer.manifest
        if not subjects or len(set(subjects)) != len(subjects):
            raise SignalError("a pipeline needs distinct subjects, at least one")
        if not 1 <= n_phases <= manifest.hop:
            raise SignalError(f"n_phases must be 1 to {manifest.hop}, the ticks of a hop; got {n_phases}")
        self.scorer = scorer
        self.subjects = tuple(subjects)
        self.people = people or People(scorer, self.subjects)
        if self.people.subjects != self.subjects:
            raise SignalError("a pipeline and its people need the same subjects in the same order")
        self._alarm = alarm
        self._watch = AlarmWatch(scorer, self.people, alarm) if alarm is not None and self.people.enrolments else None
        self._n_phases = n_phases
        self._grid = Grid(
            manifest.sensor_specs,
            self._phases(self.subjects),
            rate_hz=manifest.rate_hz,
            hop=manifest.hop,
            max_delay_s=max_delay_s,
        )
        self._row = {s: i for i, s in enumerate(self.subjects)}
        self._arrivals = Arrivals(self._grid, self.subjects, make_clock)
        self._clock_watch = self._new_clock_watch()
        self._wear = WearWatch(len(self.subjects), len(scorer.sensors), hop_s=manifest.hop / manifest.rate_hz)
        self._state: ScoringState = scorer.initial_state(len(self.subjects))
        self._last_index = np.full(len(self.subjects), _NONE_YET)
        self._turned = np.zeros(len(self.subjects), bool)
        self._some_turned = False

    def _phases(self, subjects: Sequence[str]) -> NDArray[np.int64]:
        hop = self.scorer.manifest.hop
        return np.array([zlib.crc32(s.encode()) % self._n_phases * hop // self._n_phases for s in subjects], np.int64)

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

    def use_people(self, people: People) -> None:
        """Let people join, leave or be compared with another enrolment, between two hops.

        Verdicts about everybody who stays with the same enrolment go on as if nothing had happened, to the bit. Who
        is new begins having seen nothing; of who leaves nothing is kept.

        Raises
        ------
        SignalError
            Nobody would be left.
        ConfigError
            The model cannot keep the promise of the alarm.
        """
        if not people.subjects:
            raise SignalError("a pipeline needs at least one subject; stop it instead")
        self._arrivals.settle()
        watch = AlarmWatch(self.scorer, people, self._alarm) if self._alarm is not None and people.enrolments else None
        before = [self._row.get(s, -1) for s in people.subjects]
        stay = {old: new for new, old in enumerate(before) if old >= 0}
        same = {old: new for old, new in stay.items() if self._digest(self.people, old) == self._digest(people, new)}
        people.load(self.people.save(), same)
        if watch is not None and self._watch is not None:
            watch.load(self._watch.save(), same)
        now, then = np.array(list(stay.values()), np.intp), np.array(list(stay), np.intp)
        state = self.scorer.initial_state(len(before))
        state.write(now, self._state.take(then))
        last_index, turned = np.full(len(before), _NONE_YET), np.zeros(len(before), bool)
        last_index[now], turned[now] = self._last_index[then], self._turned[then]
        was_turned = self.people.save()["turned"]
        # as their sensors sat by another enrolment is not how they sit by this one
        turned[[new for old, new in stay.items() if old not in same and was_turned[old]]] = True
        self._grid.rearrange(before, self._phases(people.subjects))
        self._wear = self._wear.rearranged(before)
        self.people, self._watch, self._state = people, watch, state
        self._last_index, self._turned, self._some_turned = last_index, turned, bool(turned.any())
        self.subjects = people.subjects
        self._row = {s: i for i, s in enumerate(self.subjects)}
        self._arrivals.use_subjects(self.subjects)
        clock_watch = self._new_clock_watch()
        clock_watch.load(self._clock_watch, stay)
        self._clock_watch = clock_watch

    def hand_over(self, sensor: str, *, giver: str, taker: str) -> None:
        """Let a sensor be of another person from its next chunk on; its clock goes with it, its samples do not.

        The giver's sensor is missing from here on. How it sits at a taker who is enrolled is looked at anew.

        Raises
        ------
        SignalError
            One of them is not here, or the sensor was never heard at the giver.
        """
        for subject in (giver, taker):
            if subject not in self._row:
                raise SignalError(f"no subject {subject!r} here")
        self._arrivals.hand_over(sensor, giver=giver, taker=taker)
        for subject in (giver, taker):
            self._grid.reset_sensor(self._row[subject], sensor)
        self._is_off(taker, sensor)

    def use_poses(self, subject: str, today: PoseFrames) -> PoseAlignment:
        """Turn a person's sensors by poses they took just now, from the next hop on; their scoring starts anew.

        Raises
        ------
        ConfigError
            The person is not here, or their enrolment has no poses.
        SignalError
            The poses are of other sensors.
        """
        found = self.people.pose(subject, today)
        if found.alignment.usable.any():
            self._turned[self._row[subject]] = self._some_turned = True
        return found

    def take_off(self, subject: str, sensor: str) -> None:
        """Forget a sensor that nobody wears any more: it is missing from here on.

        Raises
        ------
        SignalError
            The person is not here.
        """
        row = self._row.get(subject)
        if row is None:
            raise SignalError(f"no subject {subject!r} here")
        self._arrivals.take_off(subject, sensor)
        if sensor in self.scorer.sensors:
            self._grid.reset_sensor(row, sensor)
        self._is_off(subject, sensor)

    def _is_off(self, subject: str, sensor: str) -> None:
        """Know no more how a sensor of a person sits."""
        row = self._row[subject]
        self._wear.note_off(row)
        self.people.taken_off(np.array([row]), np.array([[s == sensor for s in self.scorer.sensors]]))

    def seen_off(self, subject: str) -> int:
        """Return a number that grows whenever a sensor of a person is off the body; to tell if all stayed on."""
        return self._wear.seen_off(self._row[subject])

    def save(self) -> dict[str, NDArray[Any]]:
        """Return all that is remembered of everybody, row by row, but what has not been scored and the clocks."""
        self._arrivals.settle()
        saved: dict[str, NDArray[Any]] = {
            f"{part}.{f.name}": getattr(own, f.name).copy()
            for part, own in self._parts(self._state)
            for f in fields(own)
        }
        saved |= {"last_index": self._last_index.copy(), "next_tick": self._grid.next_tick.copy()}
        saved["silent_s"] = self._wear.silent_s.copy()
        saved |= {f"people.{name}": array for name, array in self.people.save().items()}
        if self._watch is not None:
            saved |= {f"watch.{name}": array for name, array in self._watch.save().items()}
        return saved

    def load(self, saved: Mapping[str, NDArray[Any]], rows: Mapping[int, int]) -> None:
        """Go on from what was saved: what happened since is missing, not bridged, and nobody warms up anew.

        Parameters
        ----------
        saved
            From ``save``, of a pipeline with the same model.
        rows
            Rows of then (keys) that are rows here, with the same enrolments.

        Raises
        ------
        SignalError
            A part is missing, unused, or of another model.
        """
        then, now = np.array(list(rows), np.intp), np.array(list(rows.values()), np.intp)
        like = self.save()
        if "watch.row" not in saved:
            like = {name: array for name, array in like.items() if not name.startswith("watch.")}
        odd = set(saved) ^ set(like)
        odd |= {n for n in set(saved) & set(like) if saved[n].shape[1:] != like[n].shape[1:]}
        odd |= {n for n in set(saved) & set(like) if saved[n].dtype != like[n].dtype}
        if odd:
            raise SignalError(f"state of another model: {', '.join(sorted(odd))} does not fit")
        for part, own in self._parts(self._state):
            for f in fields(own):
                getattr(own, f.name)[now] = saved[f"{part}.{f.name}"][then]
        self._last_index[now] = saved["last_index"][then]
        self._wear.go_on_from(now, saved["silent_s"][then])
        for old, new in rows.items():
            if saved["last_index"][old] != _NONE_YET:
                self._grid.go_on_from(new, int(saved["next_tick"][old]))
        self.people.load({n.removeprefix("people."): a for n, a in saved.items() if n.startswith("people.")}, rows)
        if self._watch is not None and "watch.row" in saved:
            self._watch.load({n.removeprefix("watch."): a for n, a in saved.items() if n.startswith("watch.")}, rows)

    @staticmethod
    def _parts(state: ScoringState) -> tuple[tuple[str, Any], ...]:
        return tuple((f.name, getattr(state, f.name)) for f in fields(state))

    @staticmethod
    def _digest(people: People, row: int) -> str | None:
        return people.bases[row].enrolment_digest

    def _new_clock_watch(self) -> ClockWatch:
        turns = np.array([zlib.crc32(s.encode()) for s in self.subjects], np.int64)
        return ClockWatch(len(self.subjects), self.scorer.sensors, turns=turns)

    def clock(self, subject: str, sensor: str) -> Clock | None:
        """Return the clock map of a sensor, None before its first chunk."""
        return self._arrivals.clocks[subject].get(sensor)

    def use_clock(self, subject: str, sensor: str, clock: Clock) -> None:
        """Map a sensor by this clock from its next chunk on, not by one of ``make_clock``.

        It is this pipeline's alone from there on.
        """
        self._arrivals.use_clock(subject, sensor, clock)

    @property
    def n_ignored_chunks(self) -> int:
        """Chunks so far of sensors that the model does not use."""
        return self._arrivals.n_ignored

    def alignment(self, subject: str) -> tuple[PairUncertainty, ...]:
        """Return how far the times of each two sensors of a person may be apart, the worst first."""
        return alignment_of(self._arrivals.clocks[subject])

    def n_late(self, subject: str) -> int:
        """Return how many samples of a person came too late to be used."""
        self._arrivals.settle()
        return sum(self._grid.n_late(self._row[subject]).values())

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
        self._arrivals.push(subject, chunk, channels)

    @property
    def n_due(self) -> int:
        """How many people have sent a whole hop that is not scored yet: worth an ``advance`` before its time."""
        self._arrivals.settle()
        return len(self._grid.due)

    def advance(self, *, now_ns: int | None = None, flush: bool = False, at_most: int | None = None) -> list[Scored]:
        """Score every hop that is complete, in order.

        Parameters
        ----------
        now_ns
            Host clock; without it only data moves the grid, which is what a replay wants.
        flush
            Wait for nobody: the recording has ended.
        at_most
            Hops to score now, those that end first: under load, verdicts then come as they are ready, and who asks can
            look at the radio in between. Ask again while as many come.

        Raises
        ------
        BackendError
            The backend failed.
        """
        self._arrivals.settle()
        hop = self._grid.hop
        found: list[Scored] = []
        more = True
        while more and (at_most is None or len(found) < at_most):
            due, again = self._grid.ready(now_ns=now_ns, flush=flush)
            if not len(due):
                break
            first = self._grid.next_tick[due]
            # people of several phases go together, but nobody's hop overtakes a hop that ended before
            rows = due
            if len(due) > 1:
                together = first < first.min() + hop
                rows = due[together][np.argsort(first[together], kind="stable")]
            most = min(AT_ONCE, len(rows) if at_most is None else at_most - len(found))
            found += self._step(rows[:most])
            more = again or most < len(due)
        return found

    def _step(self, rows: Rows) -> list[Scored]:
        hop = self._grid.hop
        first_tick = self._grid.next_tick[rows]
        index = first_tick // hop
        values, valid, saturated = self._grid.take(rows, hop)
        last, leapt = self._last_index[rows], rows[:0]
        if self._some_turned or not (last + 1 == index).all():
            leapt = rows[self._turned[rows] | ((last != _NONE_YET) & (last + 1 != index))]
        if len(leapt):
            # the grid leapt over a long silence, or the sensors are turned otherwise from here on: what the model
            # remembers is no longer the past of what comes
            self._state.write(leapt, self.scorer.initial_state(len(leapt)))
        everybody = len(rows) == len(self.subjects) and bool((rows[:-1] < rows[1:]).all())
        turned = self.people.turn(rows, values, valid, saturated)
        clock_ms = self._clock_watch.look(rows, index, self._arrivals.clocks_by_row, self._arrivals.error_bounds_ns)
        ends = (first_tick + hop).tolist()
        batch, self._state = self.scorer.advance(
            *turned,
            self._state,
            None if everybody else rows,
            end_tick=ends[0],
            calibration=self.people.calibration_of(None if everybody else rows),
            clock_ms=clock_ms,
            raw=None if turned[0] is values else values,
        )
        gap_s = None
        if len(leapt):
            gap_s = np.where(last != _NONE_YET, index - last - 1, 0) * (hop / self.scorer.manifest.rate_hz)
        if gap_s is not None or self._wear.some_silent or not batch.is_worn:
            still_s = np.zeros_like(batch.scores.missing) if batch.health is None else batch.health.still_s
            off = self._wear.look(rows, gap_s, batch.scores.missing, still_s)
            if off is not None:
                self.people.taken_off(rows, off)
        bases, who = self.people.bases, rows.tolist()
        bases = bases if everybody else tuple([bases[i] for i in who])
        watched: Sequence[Watched | None] = ()
        if self._watch is not None:
            watched = self._watch.look(rows, index, batch.unusual, batch.scores, known=self.people.known[rows])
        self._last_index[rows] = index
        if self._some_turned or self.people.learning:
            self._turned[rows] = self.people.learn(rows, values, valid) if self.people.learning else False
            self._some_turned = bool(self._turned.any())
        of_end = {
            end: batch.changed(end_tick=end, host_time_ns=end * self._grid.period_ns, bases=bases, watched=watched)
            for end in set(ends)
        }
        subjects = self.subjects
        return [Scored(subjects[i], of_end[ends[k]], k, values, valid) for k, i in enumerate(who)]
