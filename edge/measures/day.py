"""What a day of measures is: sums over ten-minute blocks, and estimates with an interval from leaving blocks out.

An interval is a delete-a-group jackknife, over the hours of a day or the ten-minute blocks of an hour, since
neighbouring seconds are far from independent. It tells how much the number hangs on which hours were worn, and nothing
about what was never seen: wear time stands beside it for that.

Source: Kott, "The delete-a-group jackknife", Journal of Official Statistics 17 (2001).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCKS_AN_HOUR",
    "BLOCK_S",
    "MISSING",
    "N_BLOCKS",
    "N_GROUPS",
    "UNWORN",
    "WALKING",
    "WORN",
    "Estimate",
    "MeasuredDay",
    "Part",
    "Totals",
    "by_hour",
    "estimate",
    "group_of",
    "median_of",
]

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Part = Literal["arm", "gait"]
TotalsT = TypeVar("TotalsT", bound="Totals")

BLOCK_S: Final = 600
BLOCKS_AN_HOUR: Final = 6
N_BLOCKS: Final = 24 * BLOCKS_AN_HOUR
N_GROUPS: Final = 8  # of hours, for what is kept as a histogram
WORN, UNWORN, MISSING, WALKING = range(4)  # the first columns of every part, in seconds
_MIN_GROUPS: Final = 3
_Z: Final = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where the day does not carry it.

    Parameters
    ----------
    value
        In ``unit``.
    low, high
        None with fewer than three groups of data.
    unit
        Empty: a pure number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""

    @property
    def error(self) -> float:
        """Standard error; 0 where it is not known."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / (2 * _Z)


@dataclass(frozen=True)
class MeasuredDay:
    """One day of one part of the body.

    Parameters
    ----------
    part
        ``arm`` or ``gait``.
    day
        Days since 1970-01-01, local.
    worn_h, unworn_h, missing_h, walking_h
        Hours the sensors were worn and heard, were not worn, were not heard between the first and the last second of
        the day, and of walking while worn.
    measures
        By name.
    """

    part: Part
    day: int
    worn_h: float
    unworn_h: float
    missing_h: float
    walking_h: float
    measures: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over a day: ``blocks`` (144, n_columns) by ten minutes, the first columns seconds of ``WORN`` ...

    Parts add columns, and histograms by groups of hours.
    """

    blocks: F64

    def plus(self: TotalsT, other: TotalsT) -> TotalsT:
        """Return the sum of both."""
        return type(self)(**{k: np.asarray(v + getattr(other, k)) for k, v in vars(self).items()})

    def emptied(self: TotalsT) -> TotalsT:
        """Return the totals of nothing."""
        return type(self)(**{k: np.zeros_like(v) for k, v in vars(self).items()})

    def as_unworn(self: TotalsT) -> TotalsT:
        """Return the same time as time that was not worn."""
        nothing = self.emptied()
        nothing.blocks[:, UNWORN] = self.blocks[:, WORN] + self.blocks[:, UNWORN]
        return nothing

    def without(self: TotalsT, first_s: int, end_s: int) -> TotalsT:
        """Return these totals with seconds ``[first_s, end_s)`` of the day added as not heard."""
        edges = np.arange(N_BLOCKS + 1) * BLOCK_S
        blocks = self.blocks.copy()
        blocks[:, MISSING] += np.clip(np.minimum(end_s, edges[1:]) - np.maximum(first_s, edges[:-1]), 0, None)
        return replace(self, blocks=blocks)


def by_hour(blocks: F64) -> F64:
    """Return the sums (24, n_columns) of the hours."""
    hours: F64 = blocks.reshape(24, BLOCKS_AN_HOUR, -1).sum(axis=1)
    return hours


def group_of(second_of_day: int) -> int:
    """Return the group of a second: hours in turns, so that each group sees the whole day."""
    return second_of_day // 3600 % N_GROUPS


def estimate(
    statistic: Callable[[Any], float | None], groups: NDArray[Any], *, unit: str = "", log: bool = False
) -> Estimate:
    """Return a statistic of sums, with its interval from leaving out each group.

    Parameters
    ----------
    statistic
        Of sums ``(...)``; None where they do not carry it.
    groups : (n_groups, ...)
        Sums; empty groups do not count.
    unit
        Of the statistic.
    log
        Make the interval on a logarithmic scale, for ratios.
    """
    value = statistic(groups.sum(axis=0))
    filled = groups[groups.reshape(len(groups), -1).any(axis=1)]
    if value is None or len(filled) < _MIN_GROUPS:
        return Estimate(value, unit=unit)
    rest = [statistic(filled.sum(axis=0) - group) for group in filled]
    if any(r is None for r in rest) or (log and (value <= 0 or min(r for r in rest if r is not None) <= 0)):
        return Estimate(value, unit=unit)
    left_out = np.array(rest, dtype=np.float64)
    if log:
        left_out = np.log(left_out)
    m = len(left_out)
    half = _student(m - 1) * math.sqrt((m - 1) / m * float(((left_out - left_out.mean()) ** 2).sum()))
    if log:
        return Estimate(value, value * math.exp(-half), value * math.exp(half), unit)
    return Estimate(value, value - half, value + half, unit)


def median_of(edges: F64, histogram: NDArray[Any]) -> float | None:
    """Return the median of a histogram (n_edges + 1,) whose first and last bins are open, linear within a bin."""
    n = float(histogram.sum())
    if n <= 0:
        return None
    below = np.cumsum(histogram)
    i = int(np.searchsorted(below, n / 2))
    if i == 0 or i == len(edges):
        return float(edges[0] if i == 0 else edges[-1])
    inside = (n / 2 - (float(below[i]) - float(histogram[i]))) / float(histogram[i])
    return float(edges[i - 1] + inside * (edges[i] - edges[i - 1]))


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, by the expansion of Cornish and Fisher (1 % off at 2)."""
    z, v = _Z, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
