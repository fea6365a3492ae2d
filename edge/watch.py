"""The alarms of the enrolled people of one board, block by block, beside the verdicts of every hop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.alarm import AlarmConfig, Alarms, AlarmState, put_streams, take_streams
from kinedge.edge.calibration import UNSCORED, Unusualness
from kinedge.edge.enrolment_audit import worse_than
from kinedge.edge.people import People
from kinedge.edge.personal import Detectors, detector_names
from kinedge.edge.promise import Watched, Way, promise
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError

__all__ = ["AlarmWatch"]

_MAX_MISSING: Final = 0.25  # of a sensor's samples, as at enrolment


class AlarmWatch:
    """Follows the enrolled people of a pipeline.

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
        self._row_of = {i: k for k, i in enumerate(i for i, s in enumerate(people.subjects) if s in people.enrolments)}
        enrolled = [people.enrolments[people.subjects[i]] for i in self._row_of]
        self._names = detector_names(scorer.sensors, scorer.channels)
        self._baselines = [e.baseline for e in enrolled]
        self._groups = scorer.groups
        self._sensors = scorer.sensors
        self._ways = [_ways_of(people, people.subjects[i]) for i in self._row_of]
        self._promises = [
            promise(config, audit=e.manifest.audit.verdict, n_subjects=int(cohort.n_subjects[0])) for e in enrolled
        ]
        self._alarms = Alarms(
            cohort,
            n_detectors=len(self._names),
            block_s=manifest.block / manifest.rate_hz,
            config=config,
            worse=np.stack([worse_than(e.manifest.audit) for e in enrolled]),
        )
        self._state: AlarmState = self._alarms.initial_state(len(enrolled))
        self._block = np.full(len(enrolled), -2, np.int64)
        self._last = [
            Watched(False, False, 0.0, 0.0, 0.05, self._names[0], words) for words in self._promises
        ]  # before anything was heard

    def save(self) -> dict[str, NDArray[Any]]:
        """Return the evidence so far, one row per enrolled person; ``row`` is theirs in the pipeline."""
        parts = {f.name: getattr(self._state, f.name).copy() for f in fields(self._state)}
        return {**parts, "row": np.array(list(self._row_of), np.int64), "block": self._block.copy()}

    def load(self, saved: Mapping[str, NDArray[Any]], rows: Mapping[int, int]) -> None:
        """Go on from what was saved, for rows of then (keys) that are rows here now, with the same enrolments."""
        for old, i in enumerate(saved["row"].tolist()):
            own = self._row_of.get(rows.get(i, -1))
            if own is not None:
                for f in fields(self._state):
                    getattr(self._state, f.name)[own] = saved[f.name][old]
                self._block[own] = saved["block"][old]

    def look(
        self,
        rows: list[int],
        hop: int,
        unusual: Unusualness,
        scores: BlockScores,
        *,
        known: NDArray[np.bool_] | None = None,
    ) -> tuple[Watched | None, ...]:
        """Take one hop of some streams; the alarms move where a block ends with it.

        Parameters
        ----------
        rows
            Streams of the pipeline, in the order of the arrays.
        hop
            Number of the hop on the grid.
        unusual, scores
            Of these streams.
        known : (n_streams, n_sensors) bool
            Of which sensors it is known how they sit today; of all when None. Those that are not heard do not matter.

        Returns
        -------
        watched
            One per stream; None for people who are not enrolled.
        """
        at = [k for k, i in enumerate(rows) if i in self._row_of]
        own = np.array([self._row_of[rows[k]] for k in at], np.intp)
        if (hop + 1) % self._n_hops == 0 and at:
            away = None if known is None else ~known[at]
            self._step(np.array(at, np.intp), own, (hop + 1) // self._n_hops, unusual, scores, away)
        else:
            for row in own:
                self._last[row] = replace(self._last[row], alarm=False)
        watched: list[Watched | None] = [None] * len(rows)
        for k, row in zip(at, own, strict=True):
            watched[k] = self._last[row]
        return tuple(watched)

    def _step(
        self,
        at: NDArray[np.intp],
        own: NDArray[np.intp],
        block: int,
        unusual: Unusualness,
        scores: BlockScores,
        away: NDArray[np.bool_] | None,
    ) -> None:
        detectors = Detectors([self._baselines[r] for r in own], self._groups)
        # a block with many samples missing was never part of an enrolment: nothing is known of it, and nothing bet
        gappy = scores.missing[at] > _MAX_MISSING
        channel = unusual.channel[at].copy()
        for sensor, group in enumerate(self._groups):
            channel[gappy[:, sensor], group] = UNSCORED
        u, q95 = detectors.assess(channel, scores.intensity[at])
        u[gappy.any(axis=1), -1] = UNSCORED
        part = take_streams(self._state, own)
        # after a leap of the grid the blocks between were never seen, and no history is known
        leapt = self._block[own] + 1 != block
        part = replace(part, known=part.known & ~leapt[:, None, None])
        away = np.zeros(gappy.shape, bool) if away is None else away & ~gappy & (unusual.sensor[at] > UNSCORED)
        placed: NDArray[np.bool_] = np.asarray(~away.any(axis=1))
        step, part = self._alarms.step(u, q95, part, rows=own, placed=placed)
        self._state = put_streams(self._state, own, part)
        self._block[own] = block
        for k, row in enumerate(own):
            self._last[row] = Watched(
                alarm=bool(step.alarm[k]),
                valid=bool(step.valid[k]),
                evidence=float(step.evidence[k]),
                learned=float(step.learned[k]),
                unlike=float(step.unlike[k]),
                leading=self._names[step.leading[k]],
                promise=self._promises[row],
                shift=float(step.shift[k]),
                unplaced=tuple(s for s, a in zip(self._sensors, away[k], strict=True) if a),
                ways=self._ways[row],
            )


def _ways_of(people: People, subject: str) -> tuple[Way, ...]:
    walking: tuple[Way, ...] = ("walking",) if people.can_align(subject) else ()
    poses: tuple[Way, ...] = ("poses",) if people.can_pose(subject) else ()
    return walking + poses
