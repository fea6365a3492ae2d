"""Device time to host time, from arrival times alone.

A packet never arrives before it was sent: (arrival - device time) is the clock offset plus a delay that is
small now and then. The map keeps the smallest one of every second over 120 s and lays a line under them, the
edge of their lower convex hull below the middle of the window (the one-way method of Moon, Skelly and Towsley,
INFOCOM 1999, with a sliding window). A two-way exchange, where a device answers one, bounds the delay that
one-way data cannot see: the line is then the one with the widest margin between what may not be exceeded (arrivals)
and what may not be undercut (questions).

What is published never jumps: it moves towards the line by at most 500 ppm (5 % in the first 10 s, when the
line still moves by milliseconds), so that mapped time is continuous and strictly increasing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock_lines import lines_between, lower_hull
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
_WANDER: Final = 2e-6  # of a crystal's rate within the window, as its temperature changes


class Clock(Protocol):
    """What turns the time of one device into host time."""

    @property
    def error_bounds_ns(self) -> tuple[int, int]:
        """By how much mapped times near the last update may be early, and by how much late; neither is negative."""
        ...

    @property
    def uncertainty_ns(self) -> int:
        """How far mapped times near the last update may be off, the greater of both bounds."""
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
    def error_bounds_ns(self) -> tuple[int, int]:
        """0, 0: the offset is known."""
        return 0, 0

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


@dataclass(slots=True)
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
            self.drop_before(at - _WINDOW_NS)
            return True
        if self._sign * residual < self._sign * bins[-1].residual:
            bins[-1].at, bins[-1].residual = at, residual
            return True
        return False

    def drop_before(self, at: int) -> None:
        """Forget what is older."""
        while self.bins and self.bins[0].at < at:
            self.bins.popleft()


@dataclass(frozen=True)
class _TwoWay:
    """What exchanges leave open: the offset at ``at`` lies from ``low`` to ``high``."""

    at: int
    low: float
    high: float


class ClockMap:
    """Device clock to host clock of one device.

    Parameters
    ----------
    delay_floor_ns
        Longest delay that even the fastest packets may have: some ms on a wire; over BLE up to a connection
        interval and some ms, where packets and connection events keep step. One-way data cannot tell it from a clock
        offset: until a two-way exchange bounds it, mapped times are late by the true one.
    shift_ns, shift_uncertainty_ns
        Added to all mapped times, and to the bounds of their error: what is known of the device's own delay from
        elsewhere.

    Notes
    -----
    From one-way data mapped times are late by at most the delay floor, as the line is below all minima. They are early
    by at most what the line is below the least of the minima of the last 15 s, each taken as higher by 400 ppm of its
    age: no packet arrives before it was sent, but the line may run away from all of them.

    Exchanges bound the offset from both sides at other times than now; both bounds now are those of all straight lines
    between them, of at most 200 ppm, when each bound is taken as looser by 2 ppm of its age. Mapped times are in their
    middle, and wrong by at most half of what is between.

    What the published time still has to move to reach the line adds to each bound. None holds before the first of the
    fastest packets has come: give it a second.

    All arithmetic on time is on integers; floats see only differences. State is bounded: 120 bins a side.
    """

    def __init__(self, *, delay_floor_ns: int = 10_000_000, shift_ns: int = 0, shift_uncertainty_ns: int = 0) -> None:
        if delay_floor_ns < 0 or shift_uncertainty_ns < 0:
            raise SignalError(
                f"delay_floor_ns and shift_uncertainty_ns must not be negative, got {delay_floor_ns} and "
                f"{shift_uncertainty_ns}"
            )
        self._delay_floor_ns = delay_floor_ns
        self._shift_ns = shift_ns
        self._shift_uncertainty_ns = shift_uncertainty_ns
        self.reset()

    def reset(self) -> None:
        """Forget everything: the device started anew."""
        self.n_updates = 0
        self._latest = _Bins(sign=1)
        self._earliest = _Bins(sign=-1)
        self._device_origin = 0
        self._offset_origin = 0
        self._line_at, self._line_residual, self._slope = 0, 0.0, 0.0
        self._two_way: _TwoWay | None = None
        self._edge: tuple[int, int] | None = None  # of the hull, on which the line lies
        self._now = 0
        self._published = 0.0
        self._published_slope = 0.0

    @property
    def skew_ppm(self) -> float:
        """How much faster than the host clock the device clock runs."""
        return -self._slope * 1e6

    @property
    def bounded(self) -> bool:
        """Whether two-way exchanges bound the delay."""
        return self._two_way is not None

    @property
    def error_bounds_ns(self) -> tuple[int, int]:
        """By how much mapped times near the last update may be early, and by how much late; see the notes of the class.

        Raises
        ------
        SignalError
            Nothing has arrived yet.
        """
        self._require_update()
        more = abs(self._target() - self._published) + self._shift_uncertainty_ns
        if self._two_way is not None:
            since = max(self._now - self._two_way.at, 0)
            half = (self._two_way.high - self._two_way.low) / 2 + 2 * _MAX_SKEW * since
            return round(half + more), round(half + more)
        bins = self._latest.bins
        recent = [bins[i] for i in range(-min(len(bins), _RECENT_BINS), 0)]
        # what arrived least late bounds the truth then; since then both may have gone apart by all that is possible
        fit = min(b.residual - self._line(b.at) + 2 * _MAX_SKEW * abs(self._now - b.at) for b in recent)
        early = round(max(fit, 0.0) + more)
        return early, round(self._delay_floor_ns + more)

    @property
    def uncertainty_ns(self) -> int:
        """How far mapped times near the last update may be off, the greater of both bounds.

        Raises
        ------
        SignalError
            Nothing has arrived yet.
        """
        return max(self.error_bounds_ns)

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
        if self._latest.add(at, host_time_ns - device_time_ns - self._offset_origin) and not self._still_fits():
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
        if len(since) and since[-1] > 0:
            since *= np.where(since > 0, self._slope, self._published_slope)
        else:  # a chunk whose arrival has just been taken in
            since *= self._published_slope
        since += self._published
        host_time_ns: NDArray[np.int64] = np.rint(since, out=since).astype(np.int64)
        host_time_ns += device_time_ns
        host_time_ns += self._offset_origin + self._shift_ns
        return host_time_ns

    def _require_update(self) -> None:
        if not self.n_updates:
            raise SignalError("the clock map has seen no arrival yet: call update first, or use FixedClock in a replay")

    def _line(self, at: int) -> float:
        return self._line_residual + self._slope * (at - self._line_at)

    def _target(self) -> float:
        return self._line(self._now)

    def _still_fits(self) -> bool:
        """Whether the newest minimum leaves the line what it is: above it, and the edge it lies on not left behind."""
        bins = self._latest.bins
        if self._edge is None or self._earliest.bins:
            return False
        newest, (left, right) = bins[-1], self._edge
        inside = bins[0].at <= left and (bins[0].at + newest.at) // 2 < right
        # a corner in the newest second is gone as soon as that second has a new minimum
        return inside and right // _BIN_NS < newest.index and newest.residual >= self._line(newest.at)

    def _fit(self) -> None:
        """Lay the line under the minima, or between them and what exchanges bound from below."""
        bins = self._latest.bins
        self._earliest.drop_before(bins[-1].at - _WINDOW_NS)
        if self._earliest.bins:
            self._fit_between()
            return
        self._two_way = None
        self._edge = None
        first, last = bins[0].at, bins[-1].at
        hull = lower_hull([(b.at, b.residual) for b in bins])
        middle = (first + last) // 2
        if last - first >= _WARM_UP_NS and len(hull) > 1:
            right = max(1, bisect_left(hull, (middle,)))
            (x0, y0), (x1, y1) = hull[right - 1], hull[right]
            slope = (y1 - y0) / (x1 - x0)
            self._slope = min(max(slope, -_MAX_SKEW), _MAX_SKEW)
            self._edge = (x0, x1) if slope == self._slope else None
        # else the slope known from before: 0 at the start, the old one after a long silence
        self._line_at = middle
        self._line_residual = min(y - self._slope * (x - middle) for x, y in hull)

    def _fit_between(self) -> None:
        """Lay the line between the bounds of both sides."""
        now = max(self._latest.bins[-1].at, self._earliest.bins[-1].at)
        between = lines_between(
            [(b.at - now, -b.residual + _WANDER * (now - b.at)) for b in self._earliest.bins],
            [(b.at - now, b.residual + _WANDER * (now - b.at)) for b in self._latest.bins],
            max_slope=_MAX_SKEW,
        )
        self._slope = between.slope
        self._line_at, self._line_residual = now, (between.low + between.high) / 2
        self._two_way = _TwoWay(now, between.low, between.high)

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
