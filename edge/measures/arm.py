"""How much each arm did in a day: hours of use, ratios and smoothness, with wear time and uncertainty.

Formulas and reference values: Bailey, Lang, J Rehabil Res Dev 2013, 50:1213 (hours, use ratio); Lang et al., J Vis Exp
2014, 94:51888 and Urbin et al. 2015 (magnitude ratio, bilateral magnitude). Walking is kept apart: it swings the arms
without using them. What was not worn or not received is counted as such, never as rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.counts import ActivityCounts, CountsState, GrossMovement, GrossMovementState
from kinedge.edge.measures.seconds import Second, whole_rate
from kinedge.edge.measures.smoothness import Movements, MovementsState
from kinedge.edge.measures.walking import Walking, WalkingState
from kinedge.errors import SignalError
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["ArmDay", "ArmUse", "ArmUseConfig", "ArmUseState", "DayTotals"]

F64 = NDArray[np.float64]

_ENOUGH: Final = 0.8  # of a second's samples
_STILL_SD_G: Final = 0.013
_STILL_RANGE_G: Final = 0.05
_RATIO_EDGES: Final = np.linspace(-7.0, 7.0, 141)
_SIZE_EDGES: Final = np.linspace(0.0, 9.0, 181)  # ln(1 + counts)
_SPARC_EDGES: Final = np.linspace(-10.0, -1.0, 181)
_MIN_HOURS: Final = 3  # for an interval


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
class DayTotals:
    """Sums over part of a day; pairs are (paretic, other). Hours are of the local day.

    ``worn_s``, ``unworn_s``, ``missing_s`` and ``walking_s`` are seconds; ``active_s`` and ``use_s`` seconds of
    activity and of functional use outside walking; ``counts`` their sum.
    """

    worn_s: NDArray[np.int64]
    unworn_s: NDArray[np.int64]
    missing_s: NDArray[np.int64]
    walking_s: NDArray[np.int64]
    active_s: NDArray[np.int64]
    use_s: F64
    counts: F64
    hourly_active_s: NDArray[np.int64]
    hourly_worn_s: NDArray[np.int64]
    ratio: NDArray[np.int64]
    size: NDArray[np.int64]
    sparc: NDArray[np.int64]

    @classmethod
    def zero(cls) -> DayTotals:
        """Return the totals of nothing."""
        return cls(
            worn_s=np.zeros((), np.int64),
            unworn_s=np.zeros((), np.int64),
            missing_s=np.zeros((), np.int64),
            walking_s=np.zeros((), np.int64),
            active_s=np.zeros(2, np.int64),
            use_s=np.zeros(2),
            counts=np.zeros(2),
            hourly_active_s=np.zeros((24, 2), np.int64),
            hourly_worn_s=np.zeros(24, np.int64),
            ratio=np.zeros(len(_RATIO_EDGES) + 1, np.int64),
            size=np.zeros(len(_SIZE_EDGES) + 1, np.int64),
            sparc=np.zeros((2, len(_SPARC_EDGES) + 1), np.int64),
        )

    def plus(self, other: DayTotals) -> DayTotals:
        """Return the sum of both."""
        return DayTotals(**{k: np.asarray(v + getattr(other, k)) for k, v in vars(self).items()})


@dataclass(frozen=True)
class ArmDay:
    """One day of both arms; None where the day does not carry it.

    Parameters
    ----------
    day
        Days since 1970-01-01, local.
    worn_h, unworn_h, missing_h, walking_h
        Hours both wrists were worn and heard, were not worn, were not heard, and of walking while worn.
    active_h, use_h
        (paretic, other): hours of activity and of functional use (GMAC) outside walking.
    use_ratio
        ``active_h`` of the paretic arm over that of the other.
    use_ratio_95
        Its interval, from leaving out each hour in turn.
    magnitude_ratio
        Median over active seconds of ``ln((counts + 1) / (other counts + 1))``.
    bilateral_magnitude
        Median over active seconds of the sum of counts.
    sparc
        (paretic, other): median smoothness of movements.
    """

    day: int
    worn_h: float
    unworn_h: float
    missing_h: float
    walking_h: float
    active_h: tuple[float, float]
    use_h: tuple[float, float]
    use_ratio: float | None
    use_ratio_95: tuple[float, float] | None
    magnitude_ratio: float | None
    bilateral_magnitude: float | None
    sparc: tuple[float | None, float | None]

    @classmethod
    def of(cls, day: int, totals: DayTotals) -> ArmDay:
        """Summarise a day's totals."""
        active = totals.active_s
        size = _median(_SIZE_EDGES, totals.size)
        return cls(
            day=day,
            worn_h=int(totals.worn_s) / 3600,
            unworn_h=int(totals.unworn_s) / 3600,
            missing_h=int(totals.missing_s) / 3600,
            walking_h=int(totals.walking_s) / 3600,
            active_h=(int(active[0]) / 3600, int(active[1]) / 3600),
            use_h=(float(totals.use_s[0]) / 3600, float(totals.use_s[1]) / 3600),
            use_ratio=float(active[0] / active[1]) if active[1] else None,
            use_ratio_95=_interval(totals.hourly_active_s),
            magnitude_ratio=_median(_RATIO_EDGES, totals.ratio),
            bilateral_magnitude=None if size is None else math.expm1(size),
            sparc=(_median(_SPARC_EDGES, totals.sparc[0]), _median(_SPARC_EDGES, totals.sparc[1])),
        )


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
    """Everything between two seconds.

    ``sure`` is the day so far. ``early`` is the time since one wrist lay still, and ``late`` since the other did too:
    both may turn out not to have been worn.
    """

    paretic: WristState
    other: WristState
    walking: WalkingState
    day: NDArray[np.int64]
    sure: DayTotals
    early: DayTotals
    late: DayTotals


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

    Raises
    ------
    SignalError
        The rate is not whole, or the columns are not six each.
    """

    def __init__(self, rate_hz: float, *, paretic: slice, other: slice, config: ArmUseConfig | None = None) -> None:
        self._rate = whole_rate(rate_hz)
        if any(c.stop - c.start != 6 for c in (paretic, other)):
            raise SignalError("arm use needs acceleration and angular rate, six columns, of each wrist")
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
            sure=DayTotals.zero(),
            early=DayTotals.zero(),
            late=DayTotals.zero(),
        )

    def _fresh_wrist(self) -> WristState:
        return WristState(
            np.zeros(6),
            self._counts.initial_state(),
            self._use.initial_state(),
            self._movements.initial_state(),
            np.zeros((), np.int64),
        )

    def step(self, second: Second, state: ArmUseState, *, local_s: int) -> tuple[ArmDay | None, ArmUseState]:
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
        day, hour = local_s // 86400, local_s % 86400 // 3600
        ended: ArmDay | None = None
        if day != int(state.day):
            if int(state.day) >= 0:
                ended = ArmDay.of(int(state.day), self.day_so_far(state))
            nothing = DayTotals.zero()
            state = replace(state, day=np.asarray(day), sure=nothing, early=nothing, late=nothing)
        held = [second.held(c, w.last) for c, w in zip(self._columns, (state.paretic, state.other), strict=True)]
        if min(share for _, share in held) < _ENOUGH:
            return ended, self._missed(state)
        values = [v for v, _ in held]
        rated = [self._wrist(v, w) for v, w in zip(values, (state.paretic, state.other), strict=True)]
        walking, walked = self._walking.step(np.stack([v[:, :3] for v in values], axis=1), state.walking)
        part = self._part(rated, walking=walking, hour=hour)
        wrists = tuple(r.state for r in rated)
        books = self._book(state, part, [int(w.still_s) for w in wrists])
        return ended, replace(
            state, paretic=wrists[0], other=wrists[1], walking=walked, sure=books[0], early=books[1], late=books[2]
        )

    def day_so_far(self, state: ArmUseState) -> DayTotals:
        """Return the totals of the day under way; time at rest counts as worn until it is known better."""
        return state.sure.plus(state.early).plus(state.late)

    def _missed(self, state: ArmUseState) -> ArmUseState:
        """Account for a second that was not received: half a movement is none, and filters begin anew."""
        fresh = self._fresh_wrist()
        wrists = [replace(fresh, last=w.last, still_s=w.still_s) for w in (state.paretic, state.other)]
        missed = replace(DayTotals.zero(), missing_s=np.asarray(1))
        return replace(
            state,
            paretic=wrists[0],
            other=wrists[1],
            walking=self._walking.initial_state(),
            sure=state.sure.plus(missed),
        )

    def _wrist(self, values: F64, state: WristState) -> _Rated:
        acc, gyr = values[:, :3], values[:, 3:]
        counts, counts_state = self._counts.step(acc, state.counts)
        use, use_state = self._use.step(acc, state.use)
        sparcs, movements = self._movements.step(np.linalg.norm(gyr, axis=1), state.movements)
        acc_g = acc / STANDARD_GRAVITY_M_S2
        still = bool((acc_g.std(axis=0) < _STILL_SD_G).all() and (np.ptp(acc_g, axis=0) < _STILL_RANGE_G).all())
        still_s = np.asarray(int(state.still_s) + 1 if still else 0)
        return _Rated(
            counts, float(use.mean()), sparcs, WristState(values[-1], counts_state, use_state, movements, still_s)
        )

    def _part(self, rated: list[_Rated], *, walking: bool, hour: int) -> DayTotals:
        """Return the totals of one second."""
        part = replace(DayTotals.zero(), worn_s=np.asarray(1), walking_s=np.asarray(int(walking)))
        part.hourly_worn_s[hour] = 1
        if walking:
            return part
        counts = np.array([r.counts for r in rated])
        active = counts >= self._config.active_counts
        part.active_s[:] = active
        part.use_s[:] = [r.use for r in rated]
        part.counts[:] = counts
        part.hourly_active_s[hour] = active
        if active.any():
            ratio = math.log((counts[0] + 1) / (counts[1] + 1))
            part.ratio[np.searchsorted(_RATIO_EDGES, ratio)] += 1
            part.size[np.searchsorted(_SIZE_EDGES, math.log1p(counts.sum()))] += 1
        for row, r in zip(part.sparc, rated, strict=True):
            np.add.at(row, np.searchsorted(_SPARC_EDGES, r.sparcs), 1)
        return part

    def _book(self, state: ArmUseState, part: DayTotals, still_s: list[int]) -> tuple[DayTotals, ...]:
        """Add a second to what is sure, or to what may turn out not to have been worn."""
        sure, early, late = state.sure, state.early, state.late
        before = [int(state.paretic.still_s), int(state.other.still_s)]
        first = 0 if before[0] >= before[1] else 1  # who has been still for longer
        nothing = DayTotals.zero()
        if still_s[first] == 0:
            sure, early, late = sure.plus(early), late, nothing
            first = 1 - first
            if still_s[first] == 0:
                sure, early = sure.plus(early), nothing
        elif still_s[1 - first] == 0:
            early, late = early.plus(late), nothing
        if still_s[first] >= self._config.off_body_s:
            n = int(early.worn_s + late.worn_s + part.worn_s)
            return sure.plus(replace(nothing, unworn_s=np.asarray(n))), nothing, nothing
        if min(still_s) > 0:
            late = late.plus(part)
        elif max(still_s) > 0:
            early = early.plus(part)
        else:
            sure = sure.plus(part)
        return sure, early, late


def _median(edges: F64, histogram: NDArray[np.int64]) -> float | None:
    """Return the median of a histogram whose first and last bins are open; to half a bin."""
    n = int(histogram.sum())
    if not n:
        return None
    i = int(np.searchsorted(np.cumsum(histogram), (n + 1) // 2))
    inner = np.clip([i - 1, i], 0, len(edges) - 1)
    return float(edges[inner].mean())


def _interval(hourly: NDArray[np.int64]) -> tuple[float, float] | None:
    """Return the jackknife interval (95 %) of the ratio over hours with activity of the other arm."""
    hours = hourly[hourly.sum(axis=1) > 0].astype(np.float64)
    if len(hours) < _MIN_HOURS or (hours.sum(axis=0) - hours <= 0).any():
        return None
    left_out = np.log((hours.sum(axis=0) - hours)[:, 0] / (hours.sum(axis=0) - hours)[:, 1])
    m = len(hours)
    error = math.sqrt((m - 1) / m * float(((left_out - left_out.mean()) ** 2).sum()))
    ratio = math.log(float(hours[:, 0].sum() / hours[:, 1].sum()))
    return math.exp(ratio - 1.96 * error), math.exp(ratio + 1.96 * error)
