"""The alarms of the enrolled people of one board, block by block, beside the verdicts of every hop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.alarm import AlarmConfig, Alarms, AlarmState
from kinedge.edge.calibration import UNSCORED, Unusualness
from kinedge.edge.enrolment_audit import worse_than
from kinedge.edge.people import People
from kinedge.edge.personal import Detectors, detector_names, of_all
from kinedge.edge.promise import Watched, Way, promise
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.state_rows import take_rows, write_rows
from kinedge.errors import ConfigError

__all__ = ["AlarmWatch"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

_MAX_MISSING: Final = 0.25  # of a sensor's samples, as at enrolment
_BEFORE: Final = (0.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0)  # what is told before anything was heard
_ALARM: Final = 0  # of the columns of what is told


class AlarmWatch:
    """Follows the enrolled people of a pipeline, all those of a step at once.

    Parameters
    ----------
    scorer, people
        Of the pipeline.
    config
        The setting.

    Raises
    ------
    ConfigError
        The model's cohort was not enrolled, or not counted at the level of the setting.
    """

    def __init__(self, scorer: Scorer, people: People, config: AlarmConfig) -> None:
        cohort = scorer.calibration.enrolled
        if cohort is None:
            raise ConfigError(
                f"alarm: {scorer.manifest.name} was made without an enrolled cohort, so nothing can be promised; train "
                "it again, or set alarm = false"
            )
        manifest = scorer.manifest
        self._n_hops = manifest.block // manifest.hop
        self._rows = [i for i, s in enumerate(people.subjects) if s in people.enrolments]
        self._own = np.full(len(people.subjects), -1, np.intp)  # which of the enrolled each row of the pipeline is
        self._own[self._rows] = np.arange(len(self._rows))
        baselines, worse, promises = [], [], []
        said: dict[str, str] = {}
        for i in self._rows:
            enrolment = people.enrolments[people.subjects[i]]
            audit = enrolment.manifest.audit
            if audit.verdict not in said:
                said[audit.verdict] = promise(config, audit=audit.verdict, n_subjects=int(cohort.n_subjects[0]))
            baselines.append(enrolment.baseline)
            worse.append(worse_than(audit))
            promises.append(said[audit.verdict])
        self._detectors = Detectors(baselines, scorer.groups)
        self._sensor_of = np.repeat(np.arange(len(scorer.groups)), [g.stop - g.start for g in scorer.groups])
        self._of_all = of_all(scorer.groups)
        names = detector_names(scorer.sensors, scorer.channels, together=self._detectors.together)
        self._words = _Words(
            names=names,
            sensors=scorer.sensors,
            promises=promises,
            ways=[_ways_of(people, people.subjects[i]) for i in self._rows],
        )
        self._alarms = Alarms(
            cohort,
            n_detectors=len(names),
            block_s=manifest.block / manifest.rate_hz,
            config=config,
            worse=np.stack(worse),
        )
        self._state: AlarmState = self._alarms.initial_state(len(baselines))
        self._block = np.full(len(baselines), -2, np.int64)
        # a row of each: what AlarmStep has, in its order, and for every sensor whether it is unplaced
        self._told = np.tile(np.array([*_BEFORE, *(0.0 for _ in scorer.sensors)]), (len(baselines), 1))

    def save(self) -> dict[str, NDArray[Any]]:
        """Return the evidence so far, one row per enrolled person; ``row`` is theirs in the pipeline."""
        parts = {f.name: getattr(self._state, f.name).copy() for f in fields(self._state)}
        return {**parts, "row": np.array(self._rows, np.int64), "block": self._block.copy()}

    def load(self, saved: Mapping[str, NDArray[Any]], rows: Mapping[int, int]) -> None:
        """Go on from what was saved, for rows of then (keys) that are rows here now, with the same enrolments."""
        for old, i in enumerate(saved["row"].tolist()):
            own = self._own[rows[i]] if i in rows else -1
            if own >= 0:
                for f in fields(self._state):
                    getattr(self._state, f.name)[own] = saved[f.name][old]
                self._block[own] = saved["block"][old]

    def look(
        self,
        rows: Rows,
        hop: int | NDArray[np.int64],
        unusual: Unusualness,
        scores: BlockScores,
        *,
        known: NDArray[np.bool_] | None = None,
    ) -> Sequence[Watched | None]:
        """Take one hop of some streams; the alarms move where a block ends with it.

        Parameters
        ----------
        rows : (n_streams,)
            Streams of the pipeline, in the order of the arrays.
        hop
            Number of the hop on the grid, of all or (n_streams,): hops of people of several phases end together.
        unusual, scores
            Of these streams.
        known : (n_streams, n_sensors) bool
            Of which sensors it is known how they sit today; of all when None. Those that are not heard do not matter.

        Returns
        -------
        watched
            One per stream, made when it is asked for; None for people who are not enrolled.
        """
        own = self._own[rows]
        block, odd = np.divmod(np.add(hop, 1), self._n_hops)
        enrolled, ends = own >= 0, np.broadcast_to(odd == 0, own.shape)
        if not ends.all():
            self._told[own[enrolled & ~ends], _ALARM] = 0.0
        at = np.flatnonzero(enrolled & ends)
        if len(at):
            away = None if known is None else ~known[at]
            self._step(at, own[at], np.broadcast_to(block, own.shape)[at], unusual, scores, away)
        return _Told(self._words, own, self._told[own])

    def _step(
        self,
        at: Rows,
        own: Rows,
        block: NDArray[np.int64],
        unusual: Unusualness,
        scores: BlockScores,
        away: NDArray[np.bool_] | None,
    ) -> None:
        # a block with many samples missing was never part of an enrolment: nothing is known of it, and nothing bet
        gappy = scores.missing[at] > _MAX_MISSING
        channel, some_gappy = unusual.channel[at], bool(gappy.any())
        if some_gappy:
            channel[gappy[:, self._sensor_of]] = UNSCORED
        u, q95 = self._detectors.assess(channel, scores.intensity[at], scores.before[at], rows=own)
        if some_gappy:
            u[gappy.any(axis=1), self._of_all] = UNSCORED
        part = take_rows(self._state, own)
        # after a leap of the grid the blocks between were never seen, and no history is known
        part.known[self._block[own] + 1 != block] = False
        away = np.zeros(gappy.shape, bool) if away is None else away & ~gappy & (unusual.sensor[at] > UNSCORED)
        step, part = self._alarms.step(u, q95, part, rows=own, placed=np.asarray(~away.any(axis=1)))
        write_rows(self._state, own, part)
        self._block[own] = block
        of_step = [getattr(step, f.name) for f in fields(step)]
        self._told[own] = np.concatenate([np.stack(of_step, axis=1), away], axis=1)


class _Words:
    """What is told of enrolled people and does not change.

    Parameters
    ----------
    names, sensors
        Of the detectors, and of the sensors.
    promises, ways
        One per enrolled person.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        sensors: Sequence[str],
        promises: Sequence[str],
        ways: Sequence[tuple[Way, ...]],
    ) -> None:
        self.names, self.sensors, self.promises, self.ways = names, sensors, promises, ways


class _Told(Sequence[Watched | None]):
    """How the alarms of a step stand: numbers, until somebody asks for one.

    Parameters
    ----------
    words
        Of all enrolled people.
    own : (n_streams,)
        Which of them each stream is, -1 for nobody.
    told : (n_streams, n_told)
        See ``AlarmWatch``.
    """

    __slots__ = ("_own", "_told", "_words")

    def __init__(self, words: _Words, own: Rows, told: F64) -> None:
        self._words, self._own, self._told = words, own, told

    def __len__(self) -> int:
        return len(self._own)

    @overload
    def __getitem__(self, stream: int) -> Watched | None: ...
    @overload
    def __getitem__(self, stream: slice) -> Sequence[Watched | None]: ...
    def __getitem__(self, stream: int | slice) -> Watched | Sequence[Watched | None] | None:
        if isinstance(stream, slice):
            return _Told(self._words, self._own[stream], self._told[stream])
        own, words = int(self._own[stream]), self._words
        if own < 0:
            return None
        alarm, valid, evidence, learned, unlike, leading, shift, *unplaced = self._told[stream].tolist()
        return Watched(
            alarm=bool(alarm),
            valid=bool(valid),
            evidence=evidence,
            learned=learned,
            unlike=unlike,
            leading=words.names[int(leading)],
            promise=words.promises[own],
            shift=shift,
            unplaced=tuple(s for s, away in zip(words.sensors, unplaced, strict=True) if away),
            ways=words.ways[own],
        )

    def __iter__(self) -> Iterator[Watched | None]:
        return (self[k] for k in range(len(self)))


def _ways_of(people: People, subject: str) -> tuple[Way, ...]:
    walking: tuple[Way, ...] = ("walking",) if people.can_align(subject) else ()
    poses: tuple[Way, ...] = ("poses",) if people.can_pose(subject) else ()
    return walking + poses
