"""Weeks of the ISO calendar, as local days and as moments."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Final
from zoneinfo import ZoneInfo

from kinedge.errors import ConfigError

__all__ = ["EPOCH", "Week", "local_time"]

EPOCH: Final = date(1970, 1, 1)
_FORM: Final = re.compile(r"(\d{4})-?W(\d{1,2})", re.IGNORECASE)


@dataclass(frozen=True)
class Week:
    """A week from Monday to Sunday.

    Parameters
    ----------
    year, number
        Of the ISO calendar: the week belongs to the year of its Thursday.
    """

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Week:
        """Read ``2026-W47``.

        Raises
        ------
        ConfigError
            It is no week, or the year has no such week.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"week {text!r}: write it as 2026-W47, the ISO year and week")
        year, number = int(found[1]), int(found[2])
        try:
            date.fromisocalendar(year, number, 1)
        except ValueError as e:
            raise ConfigError(f"week {text!r}: {year} has no week {number}") from e
        return cls(year, number)

    @classmethod
    def of(cls, day: date) -> Week:
        """Return the week of a day."""
        year, number, _ = day.isocalendar()
        return cls(year, number)

    def __str__(self) -> str:
        return f"{self.year}-W{self.number:02d}"

    @property
    def days(self) -> tuple[date, ...]:
        """Monday to Sunday."""
        monday = date.fromisocalendar(self.year, self.number, 1)
        return tuple(monday + timedelta(days=i) for i in range(7))

    @property
    def first_day(self) -> int:
        """Monday in days since 1970-01-01, as measures count them."""
        return (self.days[0] - EPOCH).days

    def utc_ns(self, zone: str) -> tuple[int, int]:
        """Return ``[start, end)`` of the week at a place: 167 to 169 hours where the clock is changed.

        Parameters
        ----------
        zone
            Such as ``Europe/Paris``; empty: this machine's.
        """
        monday = self.days[0]
        start, end = (_midnight_utc_s(day, zone) for day in (monday, monday + timedelta(days=7)))
        return start * 10**9, end * 10**9


def local_time(utc_ns: int, zone: str) -> datetime:
    """Return a moment as the clock of a place shows it; empty: this machine's."""
    utc_s = utc_ns // 10**9  # whole seconds: as floating point the last moment of a day would be the next day's
    if zone:
        return datetime.fromtimestamp(utc_s, ZoneInfo(zone))
    return datetime.fromtimestamp(utc_s, timezone(timedelta(seconds=time.localtime(utc_s).tm_gmtoff)))


def _midnight_utc_s(day: date, zone: str) -> int:
    if zone:
        return round(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp())
    return round(time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, -1)))
