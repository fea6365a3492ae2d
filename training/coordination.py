"""How the sensors of a cohort move together, and when: fitted on ordinary blocks, and weighed on injected changes.

The line of each subject's blocks is fitted on the other subjects, so that the quantiles hold what one more person adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration
from kinedge.edge.coordination import Coordination, Weights, by_level, least_squares, line
from kinedge.edge.likelihood import N_TERMS
from kinedge.edge.scores import BlockScores
from kinedge.edge.timing import UNTOLD
from kinedge.training.calibrating import SubjectScores
from kinedge.training.likelihood import FEWEST, fit_likelihood_ratio, fit_slopes, limited

__all__ = ["fit_coordination", "told_of", "weighed"]

F64 = NDArray[np.float64]

_N_LEVELS: Final = 5
_LEAST: Final = 100  # blocks of a level: less have no 1 and 99 % quantile
_RARE: Final = 0.99
_MIN_LATE: Final = 0.1  # of a cohort whose steps are always alike, that any step otherwise must not be rare
_MOST_WEIGHT: Final = 3.0


def fit_coordination(normal: Sequence[SubjectScores]) -> Coordination | None:
    """Fit how much each sensor moves for how much the others do, without weight yet.

    Parameters
    ----------
    normal
        One entry per subject, of at least two sensors and 200 blocks in all, or it is None.
    """
    every = np.concatenate([s.intensity for s in normal])
    n_levels = min(_N_LEVELS, len(every) // _LEAST)
    n_sensors = every.shape[1]
    if n_sensors < 2 or n_levels < 2:
        return None
    if len(normal) > 1:
        level = np.concatenate(
            [line(_mix([o for o in normal if o is not s]), s.intensity) for s in normal]
        )  # as of somebody new
    else:
        level = line(_mix(normal), every)
    lines = replace(by_level(level, every - level, n_levels), mix=_mix(normal))
    scale, timed = _lateness(normal)
    weights = Weights(
        usual=lines.unusual(every, before=np.concatenate([s.before for s in normal])).mean(axis=0),
        weight=np.zeros(n_sensors),
        late_scale=scale,
        late_usual=np.zeros(n_sensors),
        late_weight=np.zeros(n_sensors),
        reference=np.zeros(1),
        likelihood=np.zeros((n_sensors, N_TERMS)),
        further=np.zeros(1),
    )
    if len(timed):
        weights = replace(weights, late_usual=weights.away(timed).mean(axis=0))
    return Coordination(lines, weights)


def told_of(calibration: Calibration, scores: BlockScores, sensor: int, groups: Sequence[slice]) -> F64:
    """Return ``u``, ``v`` and ``w`` of a sensor in a block, the latter two beyond what is usual."""
    together = calibration.coordination
    u = calibration.assess(scores, groups).channel[0, groups[sensor]].max()
    if together is None:
        return np.array([u, 0.0, 0.0])
    v = together.lines.unusual(scores.intensity, before=scores.before) - together.weights.usual
    w = together.weights.away(scores.late) - together.weights.late_usual
    return np.array([u, v[0, sensor], w[0, sensor]])


def weighed(start: Weights, blocks: Sequence[tuple[Sequence[F64], Sequence[F64]]]) -> Weights:
    """Return weights with what ``v`` and ``w`` of each sensor weigh beside its ``u``, and the ratios by ``u`` alone.

    What loss does to these is not known yet.

    A weight is the ratio of two slopes where a change is told from none.

    Parameters
    ----------
    start
        Without weight.
    blocks
        Of each sensor: from ``told_of``, of ordinary blocks and of blocks with a change there.
    """
    weight, late_weight = start.weight.copy(), start.late_weight.copy()
    alone = start.likelihood.copy()
    for i, (calm, odd) in enumerate(blocks):
        if min(len(calm), len(odd)) < FEWEST:
            continue
        told = [np.stack(rows) for rows in (calm, odd)]
        alone[i, :2] = fit_likelihood_ratio(*(rows[:, 0] for rows in told))
        of_u, *others = fit_slopes(*(np.concatenate([limited(r[:, :1]), r[:, 1:]], axis=1) for r in told))[1:]
        weights = [_MOST_WEIGHT if of_u <= 0 else min(float(other / of_u), _MOST_WEIGHT) for other in others]
        weight[i], late_weight[i] = (w if other > 0 else 0.0 for w, other in zip(weights, others, strict=True))
    return replace(start, weight=weight, late_weight=late_weight, likelihood=alone)


def _lateness(normal: Sequence[SubjectScores]) -> tuple[F64, F64]:
    """Return the 99 % quantile of each sensor's lateness, and all (n, n_sensors) of which it is."""
    late = np.concatenate([s.late for s in normal])
    timed = late[(late > UNTOLD).all(axis=1)]
    scale: F64 = np.quantile(timed, _RARE, axis=0) if len(timed) else np.zeros(late.shape[1])
    return np.maximum(scale, _MIN_LATE), timed


def _mix(normal: Sequence[SubjectScores]) -> F64:
    """Return the weights (n_sensors, n_sensors + 1) of least squares in which every subject counts the same."""
    x = np.concatenate([s.intensity for s in normal])
    counts = np.concatenate([np.full(len(s.intensity), 1 / max(len(s.intensity), 1)) for s in normal])
    center = counts @ x / counts.sum()
    apart = x - center
    return least_squares(center, (apart * counts[:, None]).T @ apart / counts.sum())
