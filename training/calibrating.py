"""A cohort's calibration from blocks of its ordinary movement: what is usual, how much it spreads, and how it ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.calibration import MAX_REFERENCE, Calibration, precision_of, thin
from kinedge.edge.scores import sensor_groups
from kinedge.errors import SignalError

__all__ = ["SubjectScores", "fit_calibration", "pool_reference", "ranked"]

F64 = NDArray[np.float64]

_N_KNOTS: Final = 5
_MIN_SPREAD: Final = 0.1  # of a score, in nats: a cohort that never varies must not make everything rare


@dataclass(frozen=True, eq=False)
class SubjectScores:
    """Normal blocks of one subject: some of what ``BlockScores`` has of them."""

    subject: str
    channel: F64
    intensity: F64
    before: F64
    late: F64


def fit_calibration(
    manifest: Manifest,
    normal: Sequence[SubjectScores],
    residuals: F64,
    *,
    likelihood: F64 | None = None,
    additive: bool = False,
) -> Calibration:
    """Fit a cohort calibration from blocks of normal movement of subjects the model was not trained on.

    Every subject counts the same: each brings equally many blocks to the reference, its most unusual ones among
    them. The reference keeps the differences between subjects, since the next one will differ too.

    Parameters
    ----------
    manifest
        Of the model.
    normal
        One entry per subject, at least 20 blocks in all.
    residuals : (n, n_channels)
        Valid ``z`` of the first horizon on the same blocks, for the precision matrix.
    likelihood : (n_sensors, 2)
        From ``fit_likelihood_ratio``; a cautious default when None.
    additive
        Use the excess in nats for the attribution instead of the counterfactual drop.

    Raises
    ------
    SignalError
        Too few blocks, or shapes that do not fit.
    """
    n_blocks = sum(len(s.channel) for s in normal)
    if n_blocks < 20:
        raise SignalError(f"calibration needs at least 20 blocks of normal movement, got {n_blocks}; record longer")
    if residuals.ndim != 2 or residuals.shape[1] != manifest.n_channels:
        raise SignalError(f"calibration residuals must be (n, {manifest.n_channels}), got {residuals.shape}")
    groups = sensor_groups(manifest)
    channel = np.concatenate([s.channel for s in normal])
    intensity = np.concatenate([s.intensity for s in normal])
    n_knots = min(_N_KNOTS, n_blocks // 10)
    knots = np.empty((n_knots, len(groups)))
    center = np.empty((n_knots, manifest.n_channels))
    spread = np.empty((n_knots, manifest.n_channels))
    for i, group in enumerate(groups):
        for k, rows in enumerate(np.array_split(np.argsort(intensity[:, i], kind="stable"), n_knots)):
            knots[k, i] = np.median(intensity[rows, i])
            center[k, group] = np.median(channel[rows, group], axis=0)
            spread[k, group] = np.quantile(channel[rows, group], 0.99, axis=0) - center[k, group]
    knots += 1e-6 * np.arange(n_knots)[:, None]  # equal medians must not divide by zero
    covariance = np.cov(residuals, rowvar=False).reshape(manifest.n_channels, manifest.n_channels)
    if likelihood is None:
        likelihood = np.tile([-3.0, 3.0], (len(groups), 1))
    first = Calibration(
        knots=knots,
        center=center,
        spread=np.maximum(spread, _MIN_SPREAD),
        reference=np.zeros(1),
        likelihood=likelihood,
        precision=precision_of(covariance),
        additive=np.array([float(additive)]),
    )
    return ranked(first, normal, groups)


def ranked(calibration: Calibration, normal: Sequence[SubjectScores], groups: Sequence[slice]) -> Calibration:
    """Return the calibration with the statistics of these blocks as its reference."""
    statistics = []
    for s in normal:
        center, spread = calibration.usual(s.intensity, groups)
        u = (s.channel - center) / spread
        sensor = calibration.by_sensor(u, s.intensity, s.late, groups, before=s.before)
        statistics.append(calibration.rankable(u, sensor))
    return replace(calibration, reference=pool_reference(statistics))


def pool_reference(statistics: Sequence[F64]) -> F64:
    """Return the sorted statistics of several subjects, equally many of each, the largest among them."""
    share = max(1, min([MAX_REFERENCE // len(statistics), *(len(s) for s in statistics)]))
    return np.sort(np.concatenate([thin(np.sort(s), share) for s in statistics]))
