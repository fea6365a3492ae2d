"""The host's clock, in one place: monotonic ns for order, UTC ns for people; it can run faster for a replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["HostClock", "RecordedClock", "WallClock"]

_EARLIEST_UTC_NS: Final = 1_735_689_600 * 10**9  # 2025-01-01: an earlier clock was never set
_STEP_NS: Final = 500_000_000


class HostClock:
    """Monotonic host time and the UTC that goes with it.

    Parameters
    ----------
    speed
        1 in life. A replay at ``speed`` 10 lets this clock run ten times faster from the moment it was made, so
        that a device played ten times faster still has the rate it claims.
    wall_ns
        UTC in ns; the machine may step it at any time.
    """

    def __init__(self, *, speed: float = 1.0, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.speed = speed
        self._wall_ns = wall_ns
        self._start_ns = time.monotonic_ns()
        self._start_utc_ns = wall_ns()

    def now_ns(self) -> int:
        """Return monotonic host time."""
        real = time.monotonic_ns()
        return real if self.speed == 1.0 else self._start_ns + round((real - self._start_ns) * self.speed)

    def utc_ns(self, host_time_ns: int) -> int:
        """Return the UTC of a host time, by the wall clock of now (it may be stepped under us)."""
        if self.speed == 1.0:
            return self._wall_ns() + host_time_ns - time.monotonic_ns()
        return self._start_utc_ns + host_time_ns - self._start_ns


class RecordedClock(HostClock):
    """The host's clock as it was when a session was recorded: it stands until it is moved.

    Parameters
    ----------
    host_time_ns, utc_ns
        The same moment by both clocks.
    """

    def __init__(self, host_time_ns: int, utc_ns: int) -> None:
        super().__init__()
        self._start_ns = self._now_ns = host_time_ns
        self._start_utc_ns = utc_ns

    def move_to(self, host_time_ns: int) -> None:
        """Let it be as late as this, if it is not later."""
        self._now_ns = max(self._now_ns, host_time_ns)

    def now_ns(self) -> int:
        """Return the recorded monotonic time."""
        return self._now_ns

    def utc_ns(self, host_time_ns: int) -> int:
        """Return the UTC of a recorded host time."""
        return self._start_utc_ns + host_time_ns - self._start_ns


class WallClock:
    """UTC of host times by one offset, which follows the machine's clock when it is looked at, and tells its steps.

    Parameters
    ----------
    clock
        The host's.

    Attributes
    ----------
    offset_ns
        UTC less host time, as of the last look.
    """

    def __init__(self, clock: HostClock) -> None:
        self._clock = clock
        self.offset_ns = self._read()

    @property
    def is_set(self) -> bool:
        """False on a board that woke in 1970 and has not heard the time yet."""
        return self.was_set(self._clock.now_ns() + self.offset_ns)

    @staticmethod
    def was_set(utc_ns: int) -> bool:
        """Return whether a time is one that a clock which was set can show."""
        return utc_ns >= _EARLIEST_UTC_NS

    def look(self) -> int:
        """Follow the machine's clock; return by how many ns it was stepped since the last look, 0 for mere drift."""
        before, self.offset_ns = self.offset_ns, self._read()
        step = self.offset_ns - before
        return step if abs(step) >= _STEP_NS else 0

    def _read(self) -> int:
        host_time_ns = self._clock.now_ns()
        return self._clock.utc_ns(host_time_ns) - host_time_ns
