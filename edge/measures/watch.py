"""A person's days against their own trend: when something changed, since when, and what it is called.

Of each part two numbers are watched, both so that only getting worse counts: of the arms the use ratio and the share of
time that both are active (the ratio of hours hides that both do less; the hours hide which arm does); of the gait how
unlike left and right contact times and impacts are. A recovery moves the expectation along and is told by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.day import Estimate, MeasuredDay, Part
from kinedge.edge.measures.trend import DailyTrend, DailyTrendConfig, DailyTrendState, TrendDay, arm_trend

__all__ = ["Change", "ChangeKind", "DayWatch", "DayWatchState", "WatchedDay"]

I64 = NDArray[np.int64]
ChangeKind = Literal["one_arm_lower", "arms_less_even", "both_arms_lower", "contact_less_even", "impacts_less_even"]

_MIN_STEPS: Final = 200.0  # of each leg, for a day to be compared


@dataclass(frozen=True)
class _Number:
    """One watched number: its name, what of a day it is, how its trend is followed, and how the number is told."""

    measure: str
    of: Callable[[MeasuredDay], Estimate]
    kind: ChangeKind
    config: DailyTrendConfig
    tell: Callable[[float], float] = float


@dataclass(frozen=True)
class WatchedDay:
    """What a day says.

    Parameters
    ----------
    state
        ``learning``, ``unsure``, ``as_usual``, or what changed.
    trends
        Of each watched number.
    """

    state: Literal["learning", "unsure", "as_usual"] | ChangeKind
    trends: Mapping[str, TrendDay]


@dataclass(frozen=True)
class Change:
    """A day on which a change is told for the first time.

    Parameters
    ----------
    part, kind, measure
        What changed.
    since_day, day
        The day the shortfall began to add up, and the day it was told, in days since 1970-01-01, local.
    value
        Of the day, with its interval. Of ``arms_less_even`` it is the weaker arm's share of the other, of legs the size
        of the symmetry index.
    expected, spread
        What was expected of the day from the person's own trend, and how much their days usually differ (of
        ``arms_less_even`` as a logarithm).
    shortfall, threshold
        Sum of the shortfalls since then, in spreads, and what tells a change.
    worn_h
        Of the day.
    """

    part: Part
    kind: ChangeKind
    measure: str
    since_day: int
    day: int
    value: Estimate
    expected: float
    spread: float
    shortfall: float
    threshold: float
    worn_h: float


@dataclass(frozen=True, eq=False)
class DayWatchState:
    """Both trends, since which day each falls short (2,), and which of them was told already (2,)."""

    first: DailyTrendState
    second: DailyTrendState
    since: I64
    told: NDArray[np.bool_]


class DayWatch:
    """Follows the days of one part of one person.

    Parameters
    ----------
    part
        ``arm`` or ``gait``.
    affected
        Whether one arm is known to be the weaker; then only less of it counts, else any growing difference.
    config
        Of the trends; wear time and spread are those of the part where left out.
    """

    def __init__(self, part: Part, *, affected: bool = False, config: DailyTrendConfig | None = None) -> None:
        self.part = part
        config = config or DailyTrendConfig()
        if part == "arm":
            ratio = _Number("use_ratio", _ratio, "one_arm_lower", config)
            if not affected:
                ratio = _Number("use_ratio", _evenness, "arms_less_even", config, math.exp)
            self._numbers = (ratio, _Number("active_share", _plain("active_share"), "both_arms_lower", config))
        else:
            # an index in percent; a training of half an hour is a day's gait
            legs = replace(config, min_worn_h=min(config.min_worn_h, 0.5), min_spread=1.0)
            self._numbers = (
                _Number("contact_symmetry_index", _likeness("contact"), "contact_less_even", legs, _minus),
                _Number("impact_symmetry_index", _likeness("impact"), "impacts_less_even", legs, _minus),
            )
        self._trends = [DailyTrend(n.config) for n in self._numbers]

    def initial_state(self) -> DayWatchState:
        """Return the state before the first day."""
        first, second = (t.initial_state() for t in self._trends)
        return DayWatchState(first, second, np.full(2, -1, np.int64), np.zeros(2, bool))

    def step(self, day: MeasuredDay, state: DayWatchState) -> tuple[WatchedDay, list[Change], DayWatchState]:
        """Take a day that is over; return what it says, and the changes that it is the first to tell."""
        found: list[TrendDay] = []
        after: list[DailyTrendState] = []
        for number, trend, before in zip(self._numbers, self._trends, (state.first, state.second), strict=True):
            value = number.of(day)
            said, then = trend.step(value.value, before, worn_h=day.worn_h, error=value.error)
            found.append(said)
            after.append(then)
        short = np.array([t.short > 0 for t in found])
        since = np.where(short, np.where(state.since < 0, day.day, state.since), -1)
        lower = np.array([t.state == "lower" for t in found])
        tellable = lower.copy()
        word = self._word(found)
        if self.part == "arm" and lower[0]:
            tellable[1] = False  # less of one arm is less of both together, too
        changes = [
            self._change(i, day, found[i], int(since[i])) for i in np.flatnonzero(tellable & ~state.told).tolist()
        ]
        unsure = np.array([t.state == "unsure" for t in found])  # says nothing, and ends nothing
        told = np.where(unsure, state.told, (state.told | tellable) & lower)
        watched = WatchedDay(word, {n.measure: t for n, t in zip(self._numbers, found, strict=True)})
        return watched, changes, DayWatchState(after[0], after[1], since.astype(np.int64), told)

    def _word(self, found: list[TrendDay]) -> Literal["learning", "unsure", "as_usual"] | ChangeKind:
        first, second = found
        kinds = [n.kind for n in self._numbers]
        if self.part == "arm":
            said = arm_trend(first, second)
            if said == "paretic_lower":
                return kinds[0]
            return kinds[1] if said == "both_lower" else said
        for trend, kind in zip(found, kinds, strict=True):
            if trend.state == "lower":
                return kind
        states = {first.state, second.state}
        if "as_usual" in states:
            return "as_usual"
        return "learning" if "learning" in states else "unsure"

    def _change(self, i: int, day: MeasuredDay, trend: TrendDay, since: int) -> Change:
        number = self._numbers[i]
        value = number.of(day)
        unit = day.measures[number.measure].unit
        ends = sorted(number.tell(x) for x in (value.low, value.high) if x is not None)
        low, high = ends if ends else (None, None)
        return Change(
            part=self.part,
            kind=number.kind,
            measure=number.measure,
            since_day=since,
            day=day.day,
            value=Estimate(None if value.value is None else number.tell(value.value), low, high, unit),
            expected=number.tell(trend.expected or 0.0),
            spread=trend.spread or 0.0,
            shortfall=trend.short,
            threshold=number.config.threshold,
            worn_h=day.worn_h,
        )


def _minus(x: float) -> float:
    return -x


def _plain(name: str) -> Callable[[MeasuredDay], Estimate]:
    return lambda day: day.measures.get(name, Estimate(None))


def _ratio(day: MeasuredDay) -> Estimate:
    return day.measures.get("use_ratio", Estimate(None))


def _evenness(day: MeasuredDay) -> Estimate:
    """Minus the size of the ratio's logarithm: 0 when both arms do the same."""
    found = _ratio(day)
    if found.value is None or found.value <= 0:
        return Estimate(None)
    value = -abs(math.log(found.value))
    if found.low is None or found.high is None or found.low <= 0:
        return Estimate(value)
    half = (math.log(found.high) - math.log(found.low)) / 2
    return Estimate(value, value - half, value + half)


def _likeness(what: str) -> Callable[[MeasuredDay], Estimate]:
    """Minus the size of a symmetry index: 0 when both legs do the same."""

    def of(day: MeasuredDay) -> Estimate:
        found = day.measures.get(f"{what}_symmetry_index", Estimate(None))
        steps = [e.value or 0.0 for name, e in day.measures.items() if name.startswith("steps_")]
        if found.value is None or not steps or min(steps) < _MIN_STEPS:
            return Estimate(None)
        half = 0.0 if found.low is None or found.high is None else (found.high - found.low) / 2
        value = -abs(found.value)
        return Estimate(value, value - half, value + half) if half else Estimate(value)

    return of
