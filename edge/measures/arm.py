"""How much each arm did in a day: hours of use, ratios and smoothness, with wear time and uncertainty.

Formulas and reference values: Bailey, Lang, J Rehabil Res Dev 2013, 50:1213 (hours, use ratio); Lang et al., J Vis Exp
2014, 94:51888 and Urbin et al. 2015 (magnitude ratio, bilateral magnitude). Walking is kept apart: it swings the arms
without using them. What was not worn, not received, or what no body shows, is counted as such, never as rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.counts import ActivityCounts, CountsState, GrossMovement, GrossMovementState
from kinedge.edge.measures.day import (
    BLOCK_S,
    MISSING,
    N_BLOCKS,
    N_GROUPS,
    UNWORN,
    WALKING,
    WORN,
    Estimate,
    MeasuredDay,
    Totals,
    by_hour,
    estimate,
    group_of,
    median_of,
)
from kinedge.edge.measures.seconds import Second, whole_rate
from kinedge.edge.measures.smoothness import Movements, MovementsState
from kinedge.edge.measures.walking import Walking, WalkingState
from kinedge.edge.measures.wear import Books, is_still
from kinedge.errors import SignalError

__all__ = ["ArmTotals", "ArmUse", "ArmUseConfig", "ArmUseState", "arm_estimates"]

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

_ENOUGH: Final = 0.8  # of a second's samples
_RATIO_EDGES: Final = np.linspace(-7.0, 7.0, 141)
_SIZE_EDGES: Final = np.linspace(0.0, 9.0, 181)  # ln(1 + counts)
_SPARC_EDGES: Final = np.linspace(-10.0, -1.0, 181)
_ACTIVE, _USE, _COUNTS = slice(4, 6), slice(6, 8), slice(8, 10)


@dataclass(frozen=True)
class ArmUseConfig:
    """Thresholds, which depend on the sensor and its place.

    Parameters
    ----------
    active_counts
        A second with so many counts is active.
    off_body_s
        A wrist that lay still for so long was not worn, from the first still second on.
    forearm_axis, forearm_sign
        Column of the accelerometer axis along the forearm, and 1 if it points to the hand.
    """

    active_counts: float = 2.0
    off_body_s: int = 1800
    forearm_axis: int = 0
    forearm_sign: int = 1


@dataclass(frozen=True, eq=False)
class ArmTotals(Totals):
    """Sums over part of a day; pairs are (paretic, other).

    The columns of ``blocks`` are seconds worn, not worn, missing and walking, seconds of activity and of functional use
    of each arm outside walking, and the counts of each. ``ratio`` (8, 142), ``size`` (8, 182) and ``sparc`` (8, 2, 182)
    are histograms over active seconds and over movements, by groups of hours.
    """

    ratio: I32
    size: I32
    sparc: I32

    @classmethod
    def zero(cls) -> ArmTotals:
        """Return the totals of nothing."""
        return cls(
            blocks=np.zeros((N_BLOCKS, 10)),
            ratio=np.zeros((N_GROUPS, len(_RATIO_EDGES) + 1), np.int32),
            size=np.zeros((N_GROUPS, len(_SIZE_EDGES) + 1), np.int32),
            sparc=np.zeros((N_GROUPS, 2, len(_SPARC_EDGES) + 1), np.int32),
        )


def arm_estimates(blocks: F64, names: tuple[str, str]) -> dict[str, Estimate]:
    """Return what sums (n_groups, 10) of both arms tell: the day's hours, or the ten minutes of an hour.

    ``counts_per_min_*`` are activity counts a minute worn outside walking. ``active_h_*`` and ``use_h_*`` are hours of
    activity and of functional use (GMAC) outside walking, ``active_share`` the mean of both arms' activity as a share
    of the time worn without walking, and ``use_ratio`` the first arm's hours of activity over the second's.
    """
    worn = blocks[:, WORN].sum()

    def hours_of(column: int) -> Callable[[F64], float | None]:
        return lambda s: float(s[column] / s[WORN] * worn / 3600) if s[WORN] > 0 else None

    def counts_per_min(arm: int) -> Callable[[F64], float | None]:
        def of(s: F64) -> float | None:
            still_worn = s[WORN] - s[WALKING]
            return float(60 * s[_COUNTS][arm] / still_worn) if still_worn > 0 else None

        return of

    def share(s: F64) -> float | None:
        still_worn = s[WORN] - s[WALKING]
        return float(s[_ACTIVE].mean() / still_worn) if still_worn > 0 else None

    def ratio(s: F64) -> float | None:
        first, second = s[_ACTIVE]
        return float(first / second) if second > 0 else None

    found = {}
    for i, name in enumerate(names):
        found[f"active_h_{name}"] = estimate(hours_of(_ACTIVE.start + i), blocks, unit="h")
        found[f"counts_per_min_{name}"] = estimate(counts_per_min(i), blocks, unit="1/min")
        found[f"use_h_{name}"] = estimate(hours_of(_USE.start + i), blocks, unit="h")
    found["active_share"] = estimate(share, blocks)
    found["use_ratio"] = estimate(ratio, blocks, log=True)
    return found


@dataclass(frozen=True, eq=False)
class WristState:
    """The last acceleration and angular rate (6,) for gaps, the filters, and the still time so far."""

    last: F64
    counts: CountsState
    use: GrossMovementState
    movements: MovementsState
    still_s: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ArmUseState:
    """Everything between two seconds."""

    paretic: WristState
    other: WristState
    walking: WalkingState
    day: NDArray[np.int64]
    books: Books[ArmTotals]


@dataclass(frozen=True, eq=False)
class _Rated:
    counts: float
    use: float
    sparcs: list[float]
    state: WristState


class ArmUse:
    """Arm use of one person, a second at a time.

    Parameters
    ----------
    rate_hz
        Of the grid.
    paretic, other
        Columns of each wrist: three of acceleration (m/s^2), then three of angular rate (rad/s).
    config
        Thresholds.
    names
        Of the two arms, for the names of the measures.

    Raises
    ------
    SignalError
        The rate is not whole, or the columns are not six each.
    """

    def __init__(
        self,
        rate_hz: float,
        *,
        paretic: slice,
        other: slice,
        config: ArmUseConfig | None = None,
        names: tuple[str, str] = ("paretic", "other"),
    ) -> None:
        self._rate = whole_rate(rate_hz)
        if any(c.stop - c.start != 6 for c in (paretic, other)):
            raise SignalError("arm use needs acceleration and angular rate, six columns, of each wrist")
        self.names = names
        self._columns = (paretic, other)
        self._config = config or ArmUseConfig()
        self._counts = ActivityCounts(self._rate)
        self._use = GrossMovement(self._rate, forearm_axis=self._config.forearm_axis, sign=self._config.forearm_sign)
        self._movements = Movements(self._rate)
        self._walking = Walking(self._rate, 2)

    def initial_state(self) -> ArmUseState:
        """Return the state before the first second."""
        return ArmUseState(
            paretic=self._fresh_wrist(),
            other=self._fresh_wrist(),
            walking=self._walking.initial_state(),
            day=np.asarray(-1),
            books=Books.of(ArmTotals.zero()),
        )

    def _fresh_wrist(self) -> WristState:
        return WristState(
            np.zeros(6),
            self._counts.initial_state(),
            self._use.initial_state(),
            self._movements.initial_state(),
            np.zeros((), np.int64),
        )

    def step(self, second: Second, state: ArmUseState, *, local_s: int) -> tuple[MeasuredDay | None, ArmUseState]:
        """Take one second; return the day that ended with it, if one did.

        Parameters
        ----------
        second
            Of the person's grid.
        state
            From the call before.
        local_s
            Local time of the second, in seconds since 1970-01-01 as a wall clock there counts them.
        """
        day, of_day = divmod(local_s, 86400)
        ended: MeasuredDay | None = None
        if day != int(state.day):
            ended = self.day(state)
            state = replace(state, day=np.asarray(day), books=Books.of(ArmTotals.zero()))
        held = [second.held(c, w.last) for c, w in zip(self._columns, (state.paretic, state.other), strict=True)]
        if min(share for _, share in held) < _ENOUGH:
            return ended, self.unheard(state, of_day, of_day + 1)
        values = [v for v, _ in held]
        wrists = (state.paretic, state.other)
        rated = [self._wrist(v, w) for v, w in zip(values, wrists, strict=True)]
        walking, walked = self._walking.step(np.stack([v[:, :3] for v in values], axis=1), state.walking)
        books = state.books.with_second(
            self._part(rated, walking=walking, of_day=of_day),
            before=[int(w.still_s) for w in wrists],
            still_s=[int(r.state.still_s) for r in rated],
            off_body_s=self._config.off_body_s,
        )
        return ended, replace(state, paretic=rated[0].state, other=rated[1].state, walking=walked, books=books)

    def day(self, state: ArmUseState) -> MeasuredDay | None:
        """Return the day under way; None before the first second. Rest counts as worn until it is known better."""
        if int(state.day) < 0:
            return None
        totals = state.books.total()
        hours = by_hour(totals.blocks)
        worn, unworn, missing, walking = (float(hours[:, c].sum()) / 3600 for c in (WORN, UNWORN, MISSING, WALKING))
        measures = arm_estimates(hours, self.names)
        measures["magnitude_ratio"] = estimate(lambda h: median_of(_RATIO_EDGES, h), totals.ratio)
        measures["bilateral_magnitude"] = estimate(_size, totals.size, unit="counts/s")
        for i, name in enumerate(self.names):
            measures[f"sparc_{name}"] = estimate(lambda h: median_of(_SPARC_EDGES, h), totals.sparc[:, i])
        return MeasuredDay("arm", int(state.day), worn, unworn, missing, walking, measures)

    def estimates(self, blocks: F64) -> dict[str, Estimate]:
        """Return what the ten-minute sums of one hour tell."""
        return arm_estimates(blocks, self.names)

    def unheard(self, state: ArmUseState, first_s: int, end_s: int) -> ArmUseState:
        """Account for seconds ``[first_s, end_s)`` of the day that were not received.

        Half a movement is none, and filters begin anew.
        """
        fresh = self._fresh_wrist()
        wrists = [replace(fresh, last=w.last, still_s=w.still_s) for w in (state.paretic, state.other)]
        books = replace(state.books, sure=state.books.sure.without(first_s, end_s))
        return replace(state, paretic=wrists[0], other=wrists[1], walking=self._walking.initial_state(), books=books)

    def _wrist(self, values: F64, state: WristState) -> _Rated:
        acc, gyr = values[:, :3], values[:, 3:]
        counts, counts_state = self._counts.step(acc, state.counts)
        use, use_state = self._use.step(acc, state.use)
        sparcs, movements = self._movements.step(np.linalg.norm(gyr, axis=1), state.movements)
        still_s = np.asarray(int(state.still_s) + 1 if is_still(acc) else 0)
        return _Rated(
            counts, float(use.mean()), sparcs, WristState(values[-1], counts_state, use_state, movements, still_s)
        )

    def _part(self, rated: list[_Rated], *, walking: bool, of_day: int) -> ArmTotals:
        """Return the totals of one second."""
        part = ArmTotals.zero()
        row, group = part.blocks[of_day // BLOCK_S], group_of(of_day)
        row[WORN], row[WALKING] = 1, walking
        if walking:
            return part
        counts = np.array([r.counts for r in rated])
        active = counts >= self._config.active_counts
        row[_ACTIVE], row[_USE], row[_COUNTS] = active, [r.use for r in rated], counts
        if active.any():
            ratio = math.log((counts[0] + 1) / (counts[1] + 1))
            part.ratio[group, np.searchsorted(_RATIO_EDGES, ratio)] = 1
            part.size[group, np.searchsorted(_SIZE_EDGES, math.log1p(counts.sum()))] = 1
        for histogram, r in zip(part.sparc[group], rated, strict=True):
            np.add.at(histogram, np.searchsorted(_SPARC_EDGES, r.sparcs), 1)
        return part


def _size(histogram: I32) -> float | None:
    size = median_of(_SIZE_EDGES, histogram)
    return None if size is None else math.expm1(size)
