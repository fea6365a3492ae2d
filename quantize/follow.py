"""The calibration of another precision: what is usual moves by what the scores moved, and ranks are its own.

A calibration has two parts. What is usual (centers, spreads, likelihood ratios) is estimated, and estimating it anew
for each precision adds the noise of a small cohort: scores that moved by 1 % met spreads that moved by up to 22 %, and
more verdicts changed by that than by rounding. But both precisions can score the same blocks. So the centers, which
are medians, move by the median difference of paired scores, which is known well; the rest of the yardstick stays.
Means were tried: a few blocks at the end of a range moved them, and 6 of 159 verdicts with them.

What is promised is a rank, and that is never taken over: the reference of the p-values, of the cohort and of enrolled
people, is made of scores in the precision that runs, measured by its own yardstick. The promised false-alarm rate then
holds on what runs as far as it does in single precision, whichever yardstick both use.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), chapter 2: validity of conformal
p-values for any nonconformity measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.calibrating import ranked
from kinedge.training.cohort import ordinary_blocks
from kinedge.training.enrolled import ScoredRecording, enrol_each, of_subjects

__all__ = ["follow_calibration"]

F64 = NDArray[np.float64]

_ENOUGH: Final = 10  # blocks at one intensity, for a median of their own


def follow_calibration(
    calibration: Calibration,
    full: Scorer,
    reduced: Scorer,
    recordings: Sequence[Recording],
    *,
    exclude_labels: Sequence[str],
) -> Calibration:
    """Return the calibration of a model in another precision.

    Parameters
    ----------
    calibration
        In single precision.
    full, reduced
        The model in single precision and in the other; only scores are read.
    recordings
        On the model's grid, of people it was not trained on: those of ``calibration``.
    exclude_labels
        Regions that are no ordinary movement.

    Raises
    ------
    SignalError
        There is no ordinary movement that both can score.
    """
    groups = reduced.groups
    scored: list[ScoredRecording] = []
    moved: list[F64] = []
    intensity: list[F64] = []
    for recording in recordings:
        before, _ = ordinary_blocks(full, recording, exclude_labels)
        after, _ = ordinary_blocks(reduced, recording, exclude_labels)
        _, in_before, in_after = np.intersect1d(before.hop, after.hop, return_indices=True)
        moved.append(after.channel[in_after] - before.channel[in_before])
        intensity.append(after.intensity[in_after])
        scored.append(ScoredRecording(recording.subject, after))
    difference, at = np.concatenate(moved or [np.zeros((0, 0))]), np.concatenate(intensity or [np.zeros((0, 0))])
    if not len(difference):
        raise SignalError("no ordinary movement is left to calibrate on: check labels and missing data")
    center = calibration.center + _per_knot(difference, at, calibration.knots, groups)
    followed = replace(calibration, center=center)
    normal = of_subjects(scored)
    if calibration.coordination is not None:  # how strongly sensors move does not hang on the precision
        by_surprise = ranked(replace(followed, coordination=None), normal, groups).reference
        weights = replace(calibration.coordination.weights, reference=by_surprise)
        followed = replace(followed, coordination=replace(calibration.coordination, weights=weights))
    followed = replace(ranked(followed, normal, groups), enrolled=None)
    if calibration.enrolled is None:
        return followed
    manifest = reduced.manifest
    folds = enrol_each(scored, followed, groups)
    known, stride = calibration.enrolled, manifest.block // manifest.hop
    enrolled = folds.cohort(scored, followed, groups, known.likelihood, known.weights, stride=stride)
    return replace(followed, enrolled=enrolled)


def _per_knot(difference: F64, intensity: F64, knots: F64, groups: Sequence[slice]) -> F64:
    """Return the median difference (n_knots, n_channels) of the blocks next to each knot; of all if few are."""
    moved = np.tile(np.median(difference, axis=0), (len(knots), 1))
    for i, group in enumerate(groups):
        nearest = np.abs(intensity[:, i, None] - knots[:, i]).argmin(axis=1)
        for k in range(len(knots)):
            rows = nearest == k
            if rows.sum() >= _ENOUGH:
                moved[k, group] = np.median(difference[rows, group], axis=0)
    return moved
