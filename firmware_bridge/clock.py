"""Device time to host time, from arrival times alone.

A packet never arrives before it was sent: (arrival - device time) is the clock offset plus a delay that is
small now and then. The map keeps the smallest one of every second over 120 s and lays a line under them, the
edge of their lower convex hull below the middle of the window (the one-way method of Moon, Skelly and Towsley,
INFOCOM 1999, with a sliding window). A two-way exchange, where a device answers one, bounds the delay that
one-way data cannot see.

What is published never jumps: it moves towards the line by at most 500 ppm (5 % in the first 10 s, when the
line still moves by milliseconds), so that mapped time is continuous and strictly increasing.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.units import NS_PER_S

__all__ = ["Clock", "ClockMap", "FixedClock"]

_BIN_NS: Final = NS_PER_S
_WINDOW_NS: Final = 120 * NS_PER_S
_WARM_UP_NS: Final = 10 * NS_PER_S
_MAX_SKEW: Final = 200e-6
_MAX_SLEW: Final = 500e-6
_MAX_SLEW_WARM_UP: Final = 0.05
_RECENT_BINS: Final = 15
_MAX_SYNC_DISTANCE_NS: Final = 10 * NS_PER_S


class Clock(Protocol):
    """What turns the time of one device into host time."""

    @property
    def uncertainty_ns(self) -> int:
        """How far mapped times near the last update may be off."""
        ...

    @property
    def skew_ppm(self) -> float:
        """How much faster than the host clock the device clock runs."""
        ...

    @property
    def n_updates(self) -> int:
        """Arrivals taken in since the last reset."""
        ...

    def update(self, device_time_ns: int, host_time_ns: int) -> None:
        """Take in when what was measured at a device time arrived."""
        ...

    def update_two_way(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Take in a TIME_SYNC exchange: host sent, device received, device sent, host received."""
        ...

    def to_host_ns(self, device_time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map device times (n,) to host times (n,)."""
        ...

    def reset(self) -> None:
        """Forget everything: the device started anew."""
        ...


class FixedClock:
    """A known constant offset, for replays: host time is device time plus ``offset_ns``."""

    def __init__(self, offset_ns: int = 0) -> None:
        self.offset_ns = offset_ns
        self.n_updates = 0

    @property
    def uncertainty_ns(self) -> int:
        """0: the offset is known."""
        return 0

    @property
    def skew_ppm(self) -> float:
        """0.0: there is one clock."""
        return 0.0

    def update(self, device_time_ns: int, host_time_ns: int) -> None:
        """Count the arrival; it changes nothing."""
        self.n_updates += 1

    def update_two_way(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Count the exchange; it changes nothing."""
        self.n_updates += 1

    def to_host_ns(self, device_time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map device times (n,) to host times (n,)."""
        host_time_ns: NDArray[np.int64] = device_time_ns + np.int64(self.offset_ns)
        return host_time_ns

    def reset(self) -> None:
        """Forget the count."""
        self.n_updates = 0


@dataclass
class _Extreme:
    """The least (or greatest) residual of one second, and when it was."""

    index: int
    at: int
    residual: int


class _Bins:
    """One extreme per second of device time, of the last 120 s."""

    def __init__(self, *, sign: int) -> None:
        self._sign = sign
        self.bins: deque[_Extreme] = deque()

    def add(self, at: int, residual: int) -> bool:
        """Return whether any bin changed. Residuals older than the newest bin are not used."""
        bins, index = self.bins, at // _BIN_NS
        if bins and index < bins[-1].index:
            return False
        if not bins or index > bins[-1].index:
            bins.append(_Extreme(index, at, residual))
            while bins[0].at < at - _WINDOW_NS:
                bins.popleft()
            return True
        if self._sign * residual < self._sign * bins[-1].residual:
            bins[-1].at, bins[-1].residual = at, residual
            return True
        return False


class ClockMap:
    """Device clock to host clock of one device.

    Parameters
    ----------
    delay_floor_ns
        Longest delay that even the fastest packets may have: some ms on a wire; over BLE up to a connection
        interval, where packets and connection events keep step. One-way data cannot tell it from a clock offset:
        until a two-way exchange bounds it, mapped times are late by the true one, and ``uncertainty_ns``
        holds all of this.

    Notes
    -----
    ``uncertainty_ns`` is the sum of

    * the delay floor (or half of what the two-way bounds leave open),
    * the median of how far the minima of the last 15 s lie above the line: how well the line fits now,
    * what the published time still has to move to reach the line,
    * before 10 s have been seen, 200 ppm of the time seen so far.

    All arithmetic on time is on integers; floats see only differences. State is bounded: 120 bins.
    """

    def __init__(self, *, delay_floor_ns: int = 10_000_000) -> None:
        if delay_floor_ns < 0:
            raise SignalError(f"delay_floor_ns must not be negative, got {delay_floor_ns}")
        self._delay_floor_ns = delay_floor_ns
        self.reset()

    def reset(self) -> None:
        """Forget everything: the device started anew."""
        self.n_updates = 0
        self._latest = _Bins(sign=1)
        self._earliest = _Bins(sign=-1)
        self._device_origin = 0
        self._offset_origin = 0
        self._line_at, self._line_residual, self._slope = 0, 0.0, 0.0
        self._half_width: float | None = None
        self._now = 0
        self._published = 0.0
        self._published_slope = 0.0

    @property
    def skew_ppm(self) -> float:
        """How much faster than the host clock the device clock runs."""
        return -self._slope * 1e6

    @property
    def uncertainty_ns(self) -> int:
        """How far mapped times near the last update may be off; see the notes of the class.

        Raises
        ------
        SignalError
            Nothing has arrived yet.
        """
        self._require_update()
        bins = self._latest.bins
        recent = [bins[i] for i in range(-min(len(bins), _RECENT_BINS), 0)]
        spread = statistics.median(b.residual - self._line(b.at) for b in recent)
        floor = self._delay_floor_ns if self._half_width is None else self._half_width
        pending = abs(self._target() - self._published)
        span = bins[-1].at - bins[0].at
        unknown_skew = _MAX_SKEW * span if span < _WARM_UP_NS else 0.0
        return round(floor + spread + pending + unknown_skew)

    def update(self, device_time_ns: int, host_time_ns: int) -> None:
        """Take in when the sample measured at a device time arrived.

        Feed the last sample of every packet. A device time more than 120 s before the last one resets the map: the
        device started anew without saying so.
        """
        if self.n_updates and device_time_ns - self._device_origin < self._now - _WINDOW_NS:
            self.reset()
        if not self.n_updates:
            self._device_origin = device_time_ns
            self._offset_origin = host_time_ns - device_time_ns
        self.n_updates += 1
        at = device_time_ns - self._device_origin
        if self._latest.add(at, host_time_ns - device_time_ns - self._offset_origin):
            self._fit()
        self._slew(at)

    def update_two_way(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Take in a TIME_SYNC exchange: sent at host ``t1``, received at device ``t2``, sent ``t3``, received ``t4``.

        That the device received it after ``t1`` bounds the offset from below, as arrivals bound it from above; the map
        then takes the middle. Ignored are an exchange before the first arrival, one that contradicts itself
        (``t4 < t1`` or ``t3 < t2``), and one whose device times are not within 10 s of the last arrival: it is
        of another device, or of another boot.
        """
        received, sent = t2_ns - self._device_origin, t3_ns - self._device_origin
        if not self.n_updates or t4_ns < t1_ns or sent < received:
            return
        if received < self._now - _MAX_SYNC_DISTANCE_NS or sent > self._now + _MAX_SYNC_DISTANCE_NS:
            return
        above = self._latest.add(sent, t4_ns - t3_ns - self._offset_origin)
        below = self._earliest.add(received, t1_ns - t2_ns - self._offset_origin)
        if above or below:
            self._fit()

    def to_host_ns(self, device_time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map device times to host times.

        Parameters
        ----------
        device_time_ns : (n,) int64
            Near the last update; times up to the one before it keep the value they had.

        Returns
        -------
        host_time_ns : (n,) int64
            Increasing where the device times do, over any sequence of updates.

        Raises
        ------
        SignalError
            Nothing has arrived yet.
        """
        self._require_update()
        since = (device_time_ns - np.int64(self._device_origin + self._now)).astype(np.float64)
        slope = np.where(since > 0, self._slope, self._published_slope)
        correction = np.rint(self._published + slope * since).astype(np.int64)
        host_time_ns: NDArray[np.int64] = device_time_ns + np.int64(self._offset_origin) + correction
        return host_time_ns

    def _require_update(self) -> None:
        if not self.n_updates:
            raise SignalError("the clock map has seen no arrival yet: call update first, or use FixedClock in a replay")

    def _line(self, at: int) -> float:
        return self._line_residual + self._slope * (at - self._line_at)

    def _target(self) -> float:
        return self._line(self._now) - (self._half_width or 0.0)

    def _fit(self) -> None:
        """Lay the line under the minima, and measure how far the two-way bounds are below it."""
        bins = self._latest.bins
        first, last = bins[0].at, bins[-1].at
        hull: list[tuple[int, int]] = []
        for b in bins:
            while len(hull) > 1 and _not_below(hull[-2], hull[-1], (b.at, b.residual)):
                hull.pop()
            hull.append((b.at, b.residual))
        middle = (first + last) // 2
        if last - first >= _WARM_UP_NS and len(hull) > 1:
            right = max(1, bisect_left(hull, (middle,)))
            (x0, y0), (x1, y1) = hull[right - 1], hull[right]
            self._slope = min(max((y1 - y0) / (x1 - x0), -_MAX_SKEW), _MAX_SKEW)
        # else the slope known from before: 0 at the start, the old one after a long silence
        self._line_at = middle
        self._line_residual = min(y - self._slope * (x - middle) for x, y in hull)
        if self._earliest.bins:
            width = min(self._line(b.at) - b.residual for b in self._earliest.bins)
            self._half_width = max(width, 0.0) / 2

    def _slew(self, now: int) -> None:
        """Move the published time towards the line, along a straight piece from the last update to this one."""
        if self.n_updates == 1:
            self._now, self._published = now, self._target()
            return
        elapsed = now - self._now
        if elapsed <= 0:
            return
        bins = self._latest.bins
        warm = bins[-1].at - bins[0].at >= _WARM_UP_NS
        most = (_MAX_SLEW if warm else _MAX_SLEW_WARM_UP) * elapsed
        self._now = now
        change = min(max(self._target() - self._published, -most), most)
        self._published += change
        self._published_slope = change / elapsed


def _not_below(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether b lies on or above the straight line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
