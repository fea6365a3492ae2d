"""Slow courses over days and hours: recovery after a stroke or an injury, and fatigue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kinedge.errors import ConfigError

__all__ = ["Fatigue", "Recovery"]


@dataclass(frozen=True)
class Recovery:
    """A deficit (0 none, 1 complete) that shrinks exponentially, and differs a little from day to day.

    Parameters
    ----------
    start, plateau
        The deficit on day 0, and what stays.
    tau_days
        After so many days, 63 % of the way is done.
    day_sd
        Standard deviation of a day around its course.
    setback_day, setback
        On this day and after, so much more deficit (a relapse into non-use); None: never.

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    start: float = 0.6
    plateau: float = 0.2
    tau_days: float = 40.0
    day_sd: float = 0.02
    setback_day: int | None = None
    setback: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.plateau <= 1 and 0 <= self.setback <= 1):
            raise ConfigError(f"deficits must lie in [0, 1], got {self}")
        if not (0 < self.tau_days < math.inf and 0 <= self.day_sd <= 0.5):
            raise ConfigError(f"tau_days must be positive and day_sd between 0 and 0.5, got {self}")

    def mean(self, day: float) -> float:
        """Return the course without its daily differences."""
        course = self.plateau + (self.start - self.plateau) * math.exp(-day / self.tau_days)
        if self.setback_day is not None and day >= self.setback_day:
            course += self.setback
        return min(max(course, 0.0), 1.0)

    def deficit(self, day: int, rng: np.random.Generator) -> float:
        """Draw the deficit of one day."""
        return float(np.clip(self.mean(day) + rng.normal(0, self.day_sd), 0.0, 1.0))


@dataclass(frozen=True)
class Fatigue:
    """What tires: a share lost that rises towards ``most`` with time, and is slept off.

    Parameters
    ----------
    most
        Share lost in the end.
    half_hours
        After so many hours, half of it is lost.

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    most: float = 0.15
    half_hours: float = 6.0

    def __post_init__(self) -> None:
        if not (0 <= self.most < 1 and 0 < self.half_hours < math.inf):
            raise ConfigError(f"most must lie in [0, 1) and half_hours be positive, got {self}")

    def lost(self, hours: float) -> float:
        """Return the share lost after so many hours awake or at work."""
        return self.most * (1 - 2 ** (-max(0.0, hours) / self.half_hours))
