"""One number a day against a person's own trend: a slow decline is told, a recovery is not.

A slow mean follows the days; the expectation is the highest it has been, and sinks by no more than a small share of the
usual spread a day. So recovery moves it along, and a decline of weeks runs away from it instead of teaching it. A
one-sided CUSUM adds up how far the days fall short; an uncertain day weighs less, one with little wear time nothing.

Source: Page, Biometrika 1954, 41:100 (CUSUM). The bounded expectation is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError

__all__ = ["ArmTrend", "DailyTrend", "DailyTrendConfig", "DailyTrendState", "TrendDay", "arm_trend"]

F64 = NDArray[np.float64]

_MAX_Z: Final = 3.0  # one odd day must not alarm by itself
_MAD_TO_SD: Final = 1.4826
_ABS_TO_SD: Final = 1.2533


@dataclass(frozen=True)
class DailyTrendConfig:
    """How a person's days are watched.

    Parameters
    ----------
    learning_days
        Days with enough wear before anything is said; level and spread are learned from them.
    min_worn_h
        A day with less wear says nothing.
    gain
        Of the slow mean: the share that a day has in it.
    spread_gain
        Share that a day has in the usual spread.
    max_fall
        Spreads a day by which the expectation may sink.
    slack, threshold
        Of the CUSUM, in spreads: shortfalls below the slack are forgiven; the sum that tells a change.
    min_spread
        The spread is at least this, in the measure's unit: a person who never varies must not alarm by a hair.
    """

    learning_days: int = 10
    min_worn_h: float = 6.0
    gain: float = 0.1
    spread_gain: float = 0.05
    max_fall: float = 0.02
    slack: float = 1.0
    threshold: float = 5.0
    min_spread: float = 0.02

    def __post_init__(self) -> None:
        if (
            self.learning_days < 3
            or not (0 < self.gain <= 1 and 0 <= self.spread_gain <= 1)
            or min(self.max_fall, self.slack) < 0
        ):
            raise ConfigError("a trend needs at least 3 learning days, gains in (0, 1], and no negative slack or fall")
        if min(self.threshold, self.min_spread) <= 0 or not 0 <= self.min_worn_h <= 24:
            raise ConfigError("a trend needs a positive threshold and spread, and wear time between 0 and 24 h")


@dataclass(frozen=True, eq=False)
class DailyTrendState:
    """What is kept of all days so far: constant in size.

    ``first`` (learning_days,) holds the learning days, ``mean`` the slow mean, ``level`` and ``spread`` what is
    expected, ``short`` the CUSUM.
    """

    first: F64
    n_days: NDArray[np.int64]
    mean: F64
    level: F64
    spread: F64
    short: F64


@dataclass(frozen=True)
class TrendDay:
    """What a day says.

    Parameters
    ----------
    state
        ``learning``, ``unsure`` (too little wear, or no value), ``as_usual``, or ``lower`` than this person's trend.
    expected, spread
        What was expected of the day, None while learning.
    short
        The CUSUM after it, in spreads.
    """

    state: Literal["learning", "unsure", "as_usual", "lower"]
    expected: float | None
    spread: float | None
    short: float


class DailyTrend:
    """Watches one daily number of one person for a decline."""

    def __init__(self, config: DailyTrendConfig | None = None) -> None:
        self.config = config or DailyTrendConfig()

    def initial_state(self) -> DailyTrendState:
        """Return the state before the first day."""
        zero = np.zeros(())
        return DailyTrendState(np.zeros(self.config.learning_days), np.zeros((), np.int64), zero, zero, zero, zero)

    def step(
        self, value: float | None, state: DailyTrendState, *, worn_h: float, error: float = 0.0
    ) -> tuple[TrendDay, DailyTrendState]:
        """Take a day.

        Parameters
        ----------
        value
            The day's number, None where it could not be made.
        state
            After the day before.
        worn_h
            Wear time.
        error
            Standard error of the value, which widens the spread of this day.
        """
        c = self.config
        learned = int(state.n_days) >= c.learning_days
        expected, spread = (float(state.level), float(state.spread)) if learned else (None, None)
        if value is None or not math.isfinite(value) or not math.isfinite(error) or worn_h < c.min_worn_h:
            return TrendDay("unsure", expected, spread, float(state.short)), state
        n = int(state.n_days) + 1
        if not learned:
            first = state.first.copy()
            first[n - 1] = value
            level = float(np.median(first[:n]))
            # the median deviation of few days is too small
            deviation = float(np.median(np.abs(first[:n] - level))) * (1.0 + 1.2 / n)
            spread = max(c.min_spread, _MAD_TO_SD * deviation)
            known = np.asarray(level)
            return TrendDay("learning", None, None, 0.0), DailyTrendState(
                first, np.asarray(n), known, known, np.asarray(spread), np.zeros(())
            )
        mean, level_now, spread_now = float(state.mean), float(state.level), float(state.spread)
        z = (value - level_now) / math.hypot(spread_now, error)
        short = max(0.0, float(state.short) + min(-z, _MAX_Z) - c.slack)
        odd = min(_ABS_TO_SD * abs(value - mean), _MAX_Z * spread_now)
        mean += c.gain * (value - mean)
        after = DailyTrendState(
            state.first,
            np.asarray(n),
            np.asarray(mean),
            np.asarray(max(level_now - c.max_fall * spread_now, mean)),
            np.asarray(max(c.min_spread, spread_now + c.spread_gain * (odd - spread_now))),
            np.asarray(short),
        )
        return TrendDay("lower" if short > c.threshold else "as_usual", expected, spread, short), after


ArmTrend = Literal["learning", "unsure", "as_usual", "paretic_lower", "both_lower"]


def arm_trend(ratio: TrendDay, overall: TrendDay) -> ArmTrend:
    """Tell "the paretic arm does less than the other" from "both arms do less", which rest and illness bring too.

    Parameters
    ----------
    ratio
        The use ratio's day.
    overall
        The bilateral magnitude's, or the hours', day.
    """
    states = {ratio.state, overall.state}
    if "unsure" in states:
        return "unsure"
    if "learning" in states:
        return "learning"
    if ratio.state == "lower":
        return "paretic_lower"
    return "both_lower" if overall.state == "lower" else "as_usual"
