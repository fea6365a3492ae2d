"""A day of both legs: steps, contact time, impacts, load, symmetry and regularity, with wear time and uncertainty.

Contact times and impacts are medians over the day's steps; left and right are compared by the symmetry index
``(right - left) / mean * 100``. Impacts are told from 200 Hz on and load at 100 Hz, since other rates give other
numbers; regularity needs a sensor on the trunk and 15 strides without a pause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from kinedge.edge.measures.gait import (
    GaitEvents,
    GaitState,
    Place,
    PlayerLoad,
    PlayerLoadState,
    Step,
    impact_bins,
    regularity,
    symmetry_angle_percent,
    symmetry_index_percent,
)
from kinedge.edge.measures.seconds import Second, whole_rate
from kinedge.edge.measures.wear import Books, is_still
from kinedge.errors import SignalError

__all__ = ["LegColumns", "LegsUse", "LegsUseState", "legs_estimates"]

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

_ENOUGH: Final = 0.8
_OFF_BODY_S: Final = 1800
_IMPACT_HZ: Final = 200
_LOAD_HZ: Final = 100
_STANCE_EDGES: Final = np.linspace(0.1, 2.0, 191)
_PEAK_EDGES: Final = np.linspace(0.0, 32.0, 129)
_STRIDE_EDGES: Final = np.linspace(0.4, 2.5, 211)
_REGULARITY_EDGES: Final = np.linspace(0.0, 1.0, 51)
_LONGEST_STRIDE_S: Final = 2.5
_STRIDES: Final = 15
_SETTLED_S: Final = 2  # a step is told so long after its swing
_TRUNK_S: Final = 40  # 15 strides of 2.5 s, and what is not settled
_STEPS, _BINS, _CLIPPED, _LOAD, _LOADED = slice(4, 6), slice(6, 9), 9, 10, 11


@dataclass(frozen=True)
class LegColumns:
    """Columns of one leg's sensor, six of them; which side and place it is on."""

    side: str
    columns: slice
    place: Place = "shank"


@dataclass(frozen=True, eq=False)
class LegsTotals(Totals):
    """Sums over part of a day.

    The columns of ``blocks`` are seconds worn, not worn, missing and walking, steps of each leg, low, medium and high
    impacts, clipped ones, load, and seconds of load. ``stance`` (8, 2, 192) and ``peak`` (8, 2, 130) are histograms by
    leg, ``stride`` (8, 212) of the first leg, ``regular`` (8, 2, 52) of step and stride, all by groups of hours.
    """

    stance: I32
    peak: I32
    stride: I32
    regular: I32

    @classmethod
    def zero(cls) -> LegsTotals:
        """Return the totals of nothing."""
        return cls(
            blocks=np.zeros((N_BLOCKS, 12)),
            stance=np.zeros((N_GROUPS, 2, len(_STANCE_EDGES) + 1), np.int32),
            peak=np.zeros((N_GROUPS, 2, len(_PEAK_EDGES) + 1), np.int32),
            stride=np.zeros((N_GROUPS, len(_STRIDE_EDGES) + 1), np.int32),
            regular=np.zeros((N_GROUPS, 2, len(_REGULARITY_EDGES) + 1), np.int32),
        )


def legs_estimates(blocks: F64, sides: Sequence[str], *, rate_hz: int) -> dict[str, Estimate]:
    """Return what sums (n_groups, 12) tell: the day's hours, or the ten minutes of an hour.

    ``steps_*`` and ``impacts_*`` are numbers, ``load_per_min`` the PlayerLoad of a minute worn; the intervals of
    numbers are those of their rate per hour worn.
    """
    worn = blocks[:, WORN].sum()

    def number(column: int) -> Callable[[F64], float | None]:
        return lambda s: float(s[column] / s[WORN] * worn) if s[WORN] > 0 else None

    found = {f"steps_{side}": estimate(number(_STEPS.start + i), blocks) for i, side in enumerate(sides)}
    if rate_hz >= _IMPACT_HZ:
        for i, size in enumerate(("low", "medium", "high")):
            found[f"impacts_{size}"] = estimate(number(_BINS.start + i), blocks)
        found["impacts_clipped"] = estimate(number(_CLIPPED), blocks)
    if blocks[:, _LOADED].any():
        found["load_per_min"] = estimate(
            lambda s: float(s[_LOAD] / s[_LOADED] * 60) if s[_LOADED] > 0 else None, blocks, unit="1/min"
        )
    return found


@dataclass(frozen=True, eq=False)
class LegState:
    """The last sample (6,) for gaps, the events, the last contact in s, and the still time so far."""

    last: F64
    gait: GaitState
    contact_s: F64
    still_s: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrunkState:
    """The last sample (3,), the load, the last 40 s of the acceleration's size (n,), and strides without a pause."""

    last: F64
    load: PlayerLoadState
    size: F64
    n_seconds: NDArray[np.int64]
    strides_s: F64
    n_strides: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LegsUseState:
    """Everything between two seconds; ``second`` and ``trunk`` mean nothing where there is no such sensor."""

    first: LegState
    second: LegState
    trunk: TrunkState
    day: NDArray[np.int64]
    books: Books[LegsTotals]


class LegsUse:
    """Gait of one person, a second at a time.

    Parameters
    ----------
    rate_hz
        Of the grid.
    legs
        One or two; the first is the one whose strides are counted.
    trunk
        Three columns of acceleration of a sensor on the trunk.

    Raises
    ------
    SignalError
        The rate is not whole, or legs or columns are too few or too many.
    """

    def __init__(self, rate_hz: float, *, legs: Sequence[LegColumns], trunk: slice | None = None) -> None:
        self._rate = whole_rate(rate_hz)
        if not 1 <= len(legs) <= 2 or any(leg.columns.stop - leg.columns.start != 6 for leg in legs):
            raise SignalError("gait needs acceleration and angular rate, six columns, of one leg or of two")
        if trunk is not None and trunk.stop - trunk.start != 3:
            raise SignalError("a trunk sensor gives three columns of acceleration")
        self._legs = tuple(legs)
        self.sides = tuple(leg.side for leg in legs)
        self._events = [GaitEvents(self._rate, place=leg.place) for leg in legs]
        self._trunk = trunk
        self._load = PlayerLoad(self._rate) if trunk is not None and self._rate >= _LOAD_HZ else None

    def initial_state(self) -> LegsUseState:
        """Return the state before the first second."""
        legs = [self._fresh_leg() for _ in range(2)]
        return LegsUseState(legs[0], legs[1], self._fresh_trunk(), np.asarray(-1), Books.of(LegsTotals.zero()))

    def _fresh_leg(self) -> LegState:
        return LegState(np.zeros(6), self._events[0].initial_state(), np.asarray(-1e9), np.zeros((), np.int64))

    def _fresh_trunk(self) -> TrunkState:
        load = (self._load or PlayerLoad(_LOAD_HZ)).initial_state()
        n = _TRUNK_S * self._rate if self._trunk is not None else 0
        zero = np.zeros((), np.int64)
        return TrunkState(np.zeros(3), load, np.zeros(n), zero, np.zeros(_STRIDES), zero)

    def step(self, second: Second, state: LegsUseState, *, local_s: int) -> tuple[MeasuredDay | None, LegsUseState]:
        """Take one second; return the day that ended with it, if one did (parameters as of ``ArmUse.step``)."""
        day, of_day = divmod(local_s, 86400)
        ended: MeasuredDay | None = None
        if day != int(state.day):
            ended = self.day(state)
            state = replace(state, day=np.asarray(day), books=Books.of(LegsTotals.zero()))
        before = (state.first, state.second)[: len(self._legs)]
        held = [second.held(leg.columns, b.last) for leg, b in zip(self._legs, before, strict=True)]
        if min(share for _, share in held) < _ENOUGH:
            return ended, self.unheard(state, of_day, of_day + 1)
        part = LegsTotals.zero()
        part.blocks[of_day // BLOCK_S, WORN] = 1
        legs, strides = [], []
        for i, (events, b, (values, _)) in enumerate(zip(self._events, before, held, strict=True)):
            clipped: NDArray[np.bool_] = np.zeros(self._rate, bool)
            if second.saturated is not None:
                clipped = np.asarray(second.saturated[:, self._legs[i].columns].any(axis=1))
            steps, gait = events.step(second.index, values, clipped, b.gait)
            contact_s, took = self._book_steps(part, steps, i, float(b.contact_s), of_day)
            strides.append(took)
            still = np.asarray(int(b.still_s) + 1 if is_still(values[:, :3]) else 0)
            legs.append(LegState(values[-1], gait, np.asarray(contact_s), still))
        trunk = self._trunk_second(part, second, state.trunk, strides[0], of_day)
        books = state.books.with_second(
            part,
            before=_pair([int(b.still_s) for b in before]),
            still_s=_pair([int(leg.still_s) for leg in legs]),
            off_body_s=_OFF_BODY_S,
        )
        return ended, replace(
            state, first=legs[0], second=legs[1] if len(legs) > 1 else state.second, trunk=trunk, books=books
        )

    def day(self, state: LegsUseState) -> MeasuredDay | None:
        """Return the day under way; None before the first second."""
        if int(state.day) < 0:
            return None
        totals = state.books.total()
        hours = by_hour(totals.blocks)
        worn, unworn, missing, walking = (float(hours[:, c].sum()) / 3600 for c in (WORN, UNWORN, MISSING, WALKING))
        measures = legs_estimates(hours, self.sides, rate_hz=self._rate)
        stride = estimate(lambda h: median_of(_STRIDE_EDGES, h), totals.stride, unit="s")
        measures["stride_s"] = stride
        told: dict[str, tuple[F64, I32, str]] = {"contact": (_STANCE_EDGES, totals.stance, "s")}
        if self._rate >= _IMPACT_HZ:
            told["impact"] = (_PEAK_EDGES, totals.peak, "g")
        for name, (edges, histogram, unit) in told.items():
            measures |= self._by_side(name, edges, histogram, unit)
        if self._trunk is not None:
            for i, name in enumerate(("step", "stride")):
                measures[f"{name}_regularity"] = estimate(
                    lambda h: median_of(_REGULARITY_EDGES, h), totals.regular[:, i]
                )
        return MeasuredDay("gait", int(state.day), worn, unworn, missing, walking, measures)

    def estimates(self, blocks: F64) -> dict[str, Estimate]:
        """Return what the ten-minute sums of one hour tell."""
        return legs_estimates(blocks, self.sides, rate_hz=self._rate)

    def unheard(self, state: LegsUseState, first_s: int, end_s: int) -> LegsUseState:
        """Account for seconds ``[first_s, end_s)`` of the day that were not received."""
        first, second = (
            replace(self._fresh_leg(), last=b.last, still_s=b.still_s) for b in (state.first, state.second)
        )
        books = replace(state.books, sure=state.books.sure.without(first_s, end_s))
        return replace(state, first=first, second=second, trunk=self._fresh_trunk(), books=books)

    def _book_steps(
        self, part: LegsTotals, steps: Sequence[Step], leg: int, contact_s: float, of_day: int
    ) -> tuple[float, list[float]]:
        """Add a leg's steps to the totals; return its last contact, and the strides that ended."""
        row, group = part.blocks[of_day // BLOCK_S], group_of(of_day)
        row[_STEPS.start + leg] += len(steps)
        row[_BINS] += impact_bins(np.array([s.peak_g for s in steps]))
        row[_CLIPPED] += sum(s.clipped for s in steps)
        strides = []
        for step in steps:
            if step.stance_s is not None:
                part.stance[group, leg, np.searchsorted(_STANCE_EDGES, step.stance_s)] += 1
            part.peak[group, leg, np.searchsorted(_PEAK_EDGES, step.peak_g)] += 1
            took = step.contact_s - contact_s
            strides.append(took if took <= _LONGEST_STRIDE_S else float("inf"))
            if leg == 0 and took <= _LONGEST_STRIDE_S:
                part.stride[group, np.searchsorted(_STRIDE_EDGES, took)] += 1
                row[WALKING] += took
            contact_s = step.contact_s
        return contact_s, strides

    def _trunk_second(
        self, part: LegsTotals, second: Second, state: TrunkState, strides_s: Sequence[float], of_day: int
    ) -> TrunkState:
        """Add load and regularity of one second; a pause or a gap begins the count of strides anew."""
        if self._trunk is None:
            return state
        acc, share = second.held(self._trunk, state.last)
        if share < _ENOUGH:
            return self._fresh_trunk()
        row, group = part.blocks[of_day // BLOCK_S], group_of(of_day)
        load = state.load
        if self._load is not None:
            amount, load = self._load.step(acc, load)
            row[_LOAD] += amount
            row[_LOADED] += 1
        size = np.append(state.size[self._rate :], np.linalg.norm(acc, axis=1))
        n_seconds, n, kept = int(state.n_seconds) + 1, int(state.n_strides), state.strides_s.copy()
        for took in strides_s:
            n = 0 if took == float("inf") else n + 1
            if n:
                kept[n - 1] = took
            if n == _STRIDES:
                stride_s, end = float(np.median(kept)), len(size) - _SETTLED_S * self._rate
                wanted = round(_STRIDES * stride_s * self._rate) + 1
                if wanted <= min((n_seconds - _SETTLED_S) * self._rate, end):
                    found = regularity(size[end - wanted : end], self._rate, stride_s=stride_s)
                    for histogram, r in zip(part.regular[group], found, strict=True):
                        histogram[np.searchsorted(_REGULARITY_EDGES, r)] += 1
                n = 0
        return TrunkState(acc[-1], load, size, np.asarray(n_seconds), kept, np.asarray(n))

    def _by_side(self, name: str, edges: F64, histogram: I32, unit: str) -> dict[str, Estimate]:
        """Return a median of each leg, and how unlike they are."""
        found = {
            f"{name}_{unit}_{side}": estimate(lambda h: median_of(edges, h), histogram[:, i], unit=unit)
            for i, side in enumerate(self.sides)
        }
        if len(self.sides) < 2:
            return found
        order = [self.sides.index(s) if s in self.sides else i for i, s in enumerate(("left", "right"))]

        def compared(index: Callable[[float, float], float]) -> Callable[[I32], float | None]:
            def of(h: I32) -> float | None:
                left, right = (median_of(edges, h[i]) for i in order)
                return None if left is None or right is None or left + right <= 0 else index(left, right)

            return of

        found[f"{name}_symmetry_index"] = estimate(compared(symmetry_index_percent), histogram, unit="%")
        found[f"{name}_symmetry_angle"] = estimate(compared(symmetry_angle_percent), histogram, unit="%")
        return found


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1] if len(values) > 1 else 0
