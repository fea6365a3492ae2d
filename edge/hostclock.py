"""The host's clock, in one place: monotonic ns for order, UTC ns for people; it can run faster for a replay."""

from __future__ import annotations

import time

__all__ = ["HostClock", "RecordedClock"]


class HostClock:
    """Monotonic host time and the UTC that goes with it.

    Parameters
    ----------
    speed
        1 in life. A replay at ``speed`` 10 lets this clock run ten times faster from the moment it was made, so
        that a device played ten times faster still has the rate it claims.
    """

    def __init__(self, *, speed: float = 1.0) -> None:
        self.speed = speed
        self._start_ns = time.monotonic_ns()
        self._start_utc_ns = time.time_ns()

    def now_ns(self) -> int:
        """Return monotonic host time."""
        real = time.monotonic_ns()
        return real if self.speed == 1.0 else self._start_ns + round((real - self._start_ns) * self.speed)

    def utc_ns(self, host_time_ns: int) -> int:
        """Return the UTC of a host time, by the wall clock of now (it may be stepped under us)."""
        if self.speed == 1.0:
            return time.time_ns() + host_time_ns - time.monotonic_ns()
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
