"""How the sensors of a cohort move together, and when: fitted on ordinary blocks, and weighed on injected changes.

The line of each subject's blocks is fitted on the other subjects, so that the quantiles hold what one more person adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.coordination import Coordination
from kinedge.edge.timing import UNTOLD
from kinedge.training.calibrating import SubjectScores
from kinedge.training.likelihood import fit_likelihood_ratio, fit_slopes, limited

__all__ = ["fit_coordination", "weighed"]

F64 = NDArray[np.float64]

_N_LEVELS: Final = 5
_LEAST: Final = 100  # blocks of a level: less have no 1 and 99 % quantile
_MIN_WIDTH: Final = 0.1  # log of power: a cohort that never varies must not make everything rare
_RIDGE: Final = 1e-3
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
        lines = np.concatenate(
            [_line(_mix([o for o in normal if o is not s]), s.intensity) for s in normal]
        )  # as of somebody new
    else:
        lines = _line(_mix(normal), every)
    levels, low, middle, high = (np.empty((n_levels, n_sensors)) for _ in range(4))
    for i in range(n_sensors):
        for k, rows in enumerate(np.array_split(np.argsort(lines[:, i], kind="stable"), n_levels)):
            levels[k, i] = np.median(lines[rows, i])
            low[k, i], middle[k, i], high[k, i] = np.quantile((every - lines)[rows, i], [0.01, 0.5, 0.99])
    levels += 1e-6 * np.arange(n_levels)[:, None]  # equal medians must not divide by zero
    found = Coordination(
        mix=_mix(normal),
        levels=levels,
        low=np.minimum(low, middle - _MIN_WIDTH),
        middle=middle,
        high=np.maximum(high, middle + _MIN_WIDTH),
        usual=np.zeros(n_sensors),
        weight=np.zeros(n_sensors),
        late_scale=_late_scale(normal),
        late_usual=np.zeros(n_sensors),
        late_weight=np.zeros(n_sensors),
        reference=np.zeros(1),
        likelihood=np.zeros((n_sensors, 2)),
        further=np.zeros(1),
    )
    timed = np.concatenate([s.late[(s.late > UNTOLD).all(axis=1)] for s in normal])
    late_usual = found.away(timed).mean(axis=0) if len(timed) else np.zeros(n_sensors)
    return replace(found, usual=found.unusual(every).mean(axis=0), late_usual=late_usual)


def weighed(coordination: Coordination, sensor: int, calm: F64, odd: F64) -> tuple[F64, tuple[float, float]]:
    """Return what ``v`` and ``w`` of a sensor weigh beside its ``u``, and ``b0`` and ``b1`` by ``u`` alone.

    A weight is the ratio of two slopes where a change is told from none.

    Parameters
    ----------
    coordination
        Without weight.
    sensor
        Which one.
    calm, odd : (n, 1 + 2 n_sensors)
        ``u`` of the sensor's channels, all intensities and lateness, of ordinary blocks and of blocks with a change
        there.
    """
    alone = fit_likelihood_ratio(calm[:, 0], odd[:, 0])
    parts = []
    n_sensors = len(coordination.usual)
    for blocks in (calm, odd):
        v = coordination.unusual(blocks[:, 1 : 1 + n_sensors])[:, sensor] - coordination.usual[sensor]
        w = coordination.away(blocks[:, 1 + n_sensors :])[:, sensor] - coordination.late_usual[sensor]
        parts.append(np.stack([limited(blocks[:, 0]), v, w], axis=1))
    of_u, *others = fit_slopes(*parts)[1:]
    weights = [_MOST_WEIGHT if of_u <= 0 else min(float(other / of_u), _MOST_WEIGHT) for other in others]
    return np.where(np.array(others) > 0, weights, 0.0), alone


def _late_scale(normal: Sequence[SubjectScores]) -> F64:
    """Return the 99 % quantile of each sensor's lateness, where it is told."""
    late = np.concatenate([s.late for s in normal])
    timed = late[(late > UNTOLD).all(axis=1)]
    scale: F64 = np.quantile(timed, _RARE, axis=0) if len(timed) else np.zeros(late.shape[1])
    return np.maximum(scale, _MIN_LATE)


def _mix(normal: Sequence[SubjectScores]) -> F64:
    """Return the weights (n_sensors, n_sensors + 1) of least squares in which every subject counts the same."""
    x = np.concatenate([s.intensity for s in normal])
    counts = np.concatenate([np.full(len(s.intensity), 1 / max(len(s.intensity), 1)) for s in normal])
    n_sensors = x.shape[1]
    center = counts @ x / counts.sum()
    apart = x - center
    covariance = (apart * counts[:, None]).T @ apart / counts.sum()
    mix = np.zeros((n_sensors, n_sensors + 1))
    for i in range(n_sensors):
        others = [j for j in range(n_sensors) if j != i]
        square = covariance[np.ix_(others, others)] + _RIDGE * np.eye(len(others))
        mix[i, others] = np.linalg.solve(square, covariance[others, i])
        mix[i, -1] = center[i] - mix[i, others] @ center[others]
    return mix


def _line(mix: F64, intensity: F64) -> F64:
    line: F64 = mix[:, -1] + intensity @ mix[:, :-1].T
    return line
