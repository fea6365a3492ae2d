"""The cohort against itself: each subject held against a baseline from other recordings of theirs.

What comes out tells what an enrolled person may be expected to do: how unusual their ordinary blocks get against their
own baseline, and how likely a detector exceeds when it just did. It is stored with the calibration of a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, EnrolledCohort
from kinedge.edge.coordination import Coordination, Weights
from kinedge.edge.history import History, history_of, limits_of
from kinedge.edge.personal import Baseline, Blocks, Detectors, fit_baseline
from kinedge.training.calibrating import SubjectScores, pool_reference

__all__ = ["Folds", "ScoredRecording", "enrol_each", "joined", "of_subjects"]

F64 = NDArray[np.float64]

_LEVELS: Final = (0.5, 1.0)  # of u, at which exceedances are counted
_TAILS: Final = (1.5, 2.0, 3.0, 5.0)  # beyond the level that histories are told by
_TOLD_BY: Final = 1.0
_RARE: Final = 0.99
_SCORES: Final = ("channel", "intensity", "before", "late")
_MIN_FOLD: Final = 60  # blocks to learn a baseline from, and to hold against it


@dataclass(frozen=True, eq=False)
class ScoredRecording:
    """Ordinary blocks of one recording."""

    subject: str
    blocks: Blocks


def of_subjects(scored: Sequence[ScoredRecording]) -> list[SubjectScores]:
    """Return all blocks of each subject that has any, in the order of their names."""
    found = []
    for subject in sorted({s.subject for s in scored}):
        own = [s.blocks for s in scored if s.subject == subject and len(s.blocks)]
        if own:
            every = joined(own)
            found.append(SubjectScores(subject, every.channel, every.intensity, every.before, every.late))
    return found


@dataclass(frozen=True, eq=False)
class Folds:
    """For each recording, or half of one, a baseline of the same subject that it had no part in.

    ``parts[i]`` lists ``(rows of recording i, baseline)``.
    """

    parts: Mapping[int, Sequence[tuple[slice, Baseline]]]

    def of(self, i: int) -> Baseline | None:
        """Return the baseline of the subject for what is injected into recording ``i``."""
        return self.parts[i][0][1] if self.parts.get(i) else None

    def weights(self, scored: Sequence[ScoredRecording], cohort: Calibration) -> Weights | None:
        """Return what is usual of people held against their own lines, without weight yet; None where there is none."""
        if cohort.coordination is None or not self.parts:
            return None
        usual = [
            lines.unusual(blocks.intensity, before=blocks.before)
            for i, parts in self.parts.items()
            for rows, baseline in parts
            if (lines := baseline.lines) is not None
            for blocks in (scored[i].blocks.take(rows),)
        ]
        nothing = np.zeros_like(cohort.coordination.weights.weight)
        return replace(
            cohort.coordination.weights,
            usual=np.concatenate(usual).mean(axis=0),
            weight=nothing,
            late_weight=nothing,
            reference=np.zeros(1),
            further=np.zeros(1),
        )

    def cohort(
        self,
        scored: Sequence[ScoredRecording],
        cohort: Calibration,
        groups: Sequence[slice],
        likelihood: F64 | None,
        weights: Weights | None,
        *,
        stride: int,
    ) -> EnrolledCohort | None:
        """Hold every part against its baseline; None when fewer than two subjects had enough.

        Of ``weights``, the ranks are found here.
        """
        statistics: dict[str, list[F64]] = {}
        more: dict[str, list[F64]] = {}
        histories: dict[str, list[History]] = {}
        for i, parts in self.parts.items():
            subject = scored[i].subject
            for rows, baseline in parts:
                blocks = scored[i].blocks.take(rows)
                u, detectors = _against(baseline, blocks, cohort, groups)
                statistics.setdefault(subject, []).append(u.max(axis=1))
                if weights is not None and baseline.lines is not None:
                    together = replace(cohort, coordination=Coordination(baseline.lines, weights))
                    sensor = together.by_sensor(u, blocks.intensity, blocks.late, groups, before=blocks.before)
                    more.setdefault(subject, []).append(sensor.max(axis=1))
                apart = blocks.hop % stride == 0
                block, held = blocks.hop[apart] // stride, detectors[apart]
                found = [history_of(held > level, block) for level in _LEVELS]
                found += [history_of(held > _TOLD_BY, block, held > level) for level in _TAILS]
                known = histories.setdefault(subject, [])
                histories[subject] = [a + b for a, b in zip(known, found, strict=True)] if known else found
        if len(statistics) < 2 or likelihood is None:
            return None
        limits = np.stack([limits_of(level) for level in zip(*histories.values(), strict=True)])
        by_surprise = [np.concatenate(s) for s in statistics.values()]
        reference = pool_reference(by_surprise)
        if weights is not None:
            # ranked so that a block may be rare in either way, both reach as far
            both = [np.concatenate(s) for s in more.values()]
            further = float(np.quantile(pool_reference(both), _RARE) - np.quantile(reference, _RARE))
            further = max(further, 0.0)
            weights = replace(weights, reference=reference, further=np.array([further]))
            reference = pool_reference([np.maximum(u, b - further) for u, b in zip(by_surprise, both, strict=True)])
        return EnrolledCohort(
            reference=reference,
            likelihood=likelihood,
            levels=np.array(_LEVELS),
            limits=limits[: len(_LEVELS)],
            n_subjects=np.array([float(len(statistics))]),
            tail_levels=np.array(_TAILS),
            tails=limits[len(_LEVELS) :],
            weights=weights,
        )


def _against(baseline: Baseline, blocks: Blocks, cohort: Calibration, groups: Sequence[slice]) -> tuple[F64, F64]:
    """Return the ``u`` of all channels and of all detectors of blocks against a baseline."""
    center, spread = baseline.calibration(cohort, groups).usual(blocks.intensity, groups)
    u = (blocks.channel - center) / spread
    return u, Detectors([baseline], groups).assess(u, blocks.intensity, blocks.before)[0]


def enrol_each(scored: Sequence[ScoredRecording], cohort: Calibration, groups: Sequence[slice]) -> Folds:
    """Split each subject's recordings, every other one, or their only recording in the middle, and enrol on each side.

    Recordings of one subject are often of different days or donnings: their difference belongs into what is promised.
    """
    parts: dict[int, list[tuple[slice, Baseline]]] = {}
    covariance = np.linalg.inv(cohort.precision).astype(np.float64)
    for subject in sorted({s.subject for s in scored}):
        own = [i for i, s in enumerate(scored) if s.subject == subject and len(s.blocks)]
        whole = slice(None)
        if len(own) > 1:
            sides = [[(i, whole) for i in own[0::2]], [(i, whole) for i in own[1::2]]]
        elif own:
            half = len(scored[own[0]].blocks) // 2
            sides = [[(own[0], slice(0, half))], [(own[0], slice(half, None))]]
        else:
            continue
        blocks = [joined([scored[i].blocks.take(rows) for i, rows in side]) for side in sides]
        if min(len(b) for b in blocks) < _MIN_FOLD:
            continue
        for held, other in ((0, 1), (1, 0)):
            baseline = fit_baseline(blocks[other], covariance, cohort=cohort, groups=groups)
            for i, rows in sides[held]:
                parts.setdefault(i, []).append((rows, baseline))
    return Folds(parts)


def joined(blocks: Sequence[Blocks]) -> Blocks:
    """Put blocks of several recordings into one; only their scores matter then, not when they were."""
    parts = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in _SCORES}
    return Blocks(**parts, hop=np.arange(len(parts["channel"])))
