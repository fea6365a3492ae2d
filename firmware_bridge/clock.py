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

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock_lines import edge_below, lines_between
from kinedge.units import NS_PER_S

__all__ = ["Clock", "ClockMap", "FixedClock", "Mapping"]

I64 = NDArray[np.int64]
Mapping: TypeAlias = tuple[int, int, float, float, float]
"""``base_ns, offset_ns, published, before, after``: device time ``d`` is host time ``d + offset_ns + rint(published +
slope * (d - base_ns))``; the slope is ``before`` up to ``base_ns``, and ``after`` behind it."""

_BIN_NS: Final = NS_PER_S
_WINDOW_NS: Final = 120 * NS_PER_S
_WARM_UP_NS: Final = 10 * NS_PER_S
_MAX_SKEW: Final = 200e-6
_MAX_SLEW: Final = 500e-6
_MAX_SLEW_WARM_UP: Final = 0.05
_RECENT_BINS: Final = 15
_MAX_SYNC_DISTANCE_NS: Final = 10 * NS_PER_S
_FOREVER: Final = 1 << 62
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


class _Bins:
    """One extreme per second of device time, of the last 120 s: when it was, and how large."""

    __slots__ = ("_sign", "at", "residual", "second")

    def __init__(self, *, sign: int) -> None:
        self._sign = sign
        self.second = -_FOREVER
        # thousands of sensors have 120 each: 16 bytes a bin, where objects would take 150
        self.at, self.residual = array("q"), array("q")

    def __len__(self) -> int:
        return len(self.at)

    def add(self, at: int, residual: int) -> bool:
        """Return whether any bin changed. Residuals older than the newest bin are not used."""
        second = at // _BIN_NS
        if second == self.second:
            if self._sign * residual >= self._sign * self.residual[-1]:
                return False
            self.at[-1], self.residual[-1] = at, residual
            return True
        if second < self.second:
            return False
        self.second = second
        self.at.append(at)
        self.residual.append(residual)
        if self.at[0] < at - _WINDOW_NS:
            self.drop_before(at - _WINDOW_NS)
        return True

    def drop_before(self, at: int) -> None:
        """Forget what is older."""
        if self.at and self.at[0] < at:
            gone = bisect_left(self.at, at)
            del self.at[:gone], self.residual[:gone]

    def arrays(self) -> tuple[I64, I64]:
        """Return both, as copies: an array that numpy looks at cannot grow."""
        return np.array(self.at), np.array(self.residual)


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
        recent, bins, now = slice(-_RECENT_BINS, None), self._latest, self._now
        # what arrived least late bounds the truth then; since then both may have gone apart by all that is possible
        start, line_at, slope, most = self._line_residual, self._line_at, self._slope, 2 * _MAX_SKEW
        fit = min(
            [
                residual - (start + slope * (at - line_at)) + most * abs(now - at)
                for at, residual in zip(bins.at[recent], bins.residual[recent], strict=True)
            ]
        )
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
        at = device_time_ns - self._device_origin
        residual = host_time_ns - device_time_ns - self._offset_origin
        if not self.n_updates or at < self._now - _WINDOW_NS or not -_FOREVER < residual < _FOREVER > at:
            self.reset()
            self._device_origin = device_time_ns
            self._offset_origin = host_time_ns - device_time_ns
            at = residual = 0
        self.n_updates += 1
        bins = self._latest
        # nearly every arrival is later than the earliest of its second: asked here, without a call
        unneeded = at // _BIN_NS == bins.second and residual >= bins.residual[-1]
        if not unneeded and bins.add(at, residual) and not self._still_fits():
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
        base, offset, published, before, after = self.mapping
        since = (device_time_ns - np.int64(base)).astype(np.float64)
        if len(since) and since[-1] > 0:
            since *= np.where(since > 0, after, before)
        else:  # a chunk whose arrival has just been taken in
            since *= before
        since += published
        host_time_ns: NDArray[np.int64] = np.rint(since, out=since).astype(np.int64)
        host_time_ns += device_time_ns
        host_time_ns += offset
        return host_time_ns

    @property
    def mapping(self) -> Mapping:
        """What ``to_host_ns`` does as of now, in numbers, for who maps the chunks of many sensors in one step.

        Raises
        ------
        SignalError
            Nothing has arrived yet.
        """
        if not self.n_updates:
            self._require_update()
        return (
            self._device_origin + self._now,
            self._offset_origin + self._shift_ns,
            self._published,
            self._published_slope,
            self._slope,
        )

    def _require_update(self) -> None:
        if not self.n_updates:
            raise SignalError("the clock map has seen no arrival yet: call update first, or use FixedClock in a replay")

    def _line(self, at: int) -> float:
        return self._line_residual + self._slope * (at - self._line_at)

    def _target(self) -> float:
        return self._line(self._now)

    def _still_fits(self) -> bool:
        """Whether the newest minimum leaves the line what it is: above it, and the edge it lies on not left behind."""
        if self._edge is None or self._earliest.at:
            return False
        bins, (left, right) = self._latest, self._edge
        newest = bins.at[-1]
        inside = bins.at[0] <= left and (bins.at[0] + newest) // 2 < right
        # a corner in the newest second is gone as soon as that second has a new minimum
        return inside and right // _BIN_NS < bins.second and bins.residual[-1] >= self._line(newest)

    def _fit(self) -> None:
        """Lay the line under the minima, or between them and what exchanges bound from below."""
        bins = self._latest
        self._earliest.drop_before(bins.at[-1] - _WINDOW_NS)
        if self._earliest.at:
            self._fit_between()
            return
        self._two_way = None
        self._edge = None
        first, last = bins.at[0], bins.at[-1]
        middle = (first + last) // 2
        at, residual = bins.arrays()
        if last - first >= _WARM_UP_NS:
            i, k = edge_below(at, residual, middle)
            slope = (bins.residual[k] - bins.residual[i]) / (bins.at[k] - bins.at[i])
            self._slope = min(max(slope, -_MAX_SKEW), _MAX_SKEW)
            self._edge = (bins.at[i], bins.at[k]) if slope == self._slope else None
        # else the slope known from before: 0 at the start, the old one after a long silence
        self._line_at = middle
        self._line_residual = float((residual - self._slope * (at - middle)).min())

    def _fit_between(self) -> None:
        """Lay the line between the bounds of both sides."""
        now = max(self._latest.at[-1], self._earliest.at[-1])
        between = lines_between(
            [
                (at - now, -r + _WANDER * (now - at))
                for at, r in zip(self._earliest.at, self._earliest.residual, strict=True)
            ],
            [
                (at - now, r + _WANDER * (now - at))
                for at, r in zip(self._latest.at, self._latest.residual, strict=True)
            ],
            max_slope=_MAX_SKEW,
        )
        self._slope = between.slope
        self._line_at, self._line_residual = now, (between.low + between.high) / 2
        self._two_way = _TwoWay(now, between.low, between.high)

    def _slew(self, now: int) -> None:
        """Move the published time towards the line, along a straight piece from the last update to this one."""
        elapsed = now - self._now
        target = self._line_residual + self._slope * (now - self._line_at)
        if self.n_updates == 1:
            self._now, self._published = now, target
        elif elapsed > 0:
            seen = self._latest.at
            most = (_MAX_SLEW if seen[-1] - seen[0] >= _WARM_UP_NS else _MAX_SLEW_WARM_UP) * elapsed
            change = target - self._published
            if change > most:
                change = most
            elif change < -most:
                change = -most
            self._now = now
            self._published += change
            self._published_slope = change / elapsed
