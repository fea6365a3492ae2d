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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock_bins import Bins
from kinedge.firmware_bridge.clock_lines import edge_below, lines_between
from kinedge.firmware_bridge.clock_table import (
    ALONE,
    BIN_NS,
    DEVICE_ORIGIN,
    EDGE_LEFT,
    EDGE_RIGHT,
    END,
    EXACT,
    FOREVER,
    HAS_EDGE,
    LINE_AT,
    LINE_RESIDUAL,
    MAX_SKEW,
    MAX_SLEW,
    MAX_SLEW_WARM_UP,
    N_UPDATES,
    NOW,
    OFFSET_ORIGIN,
    PUBLISHED,
    PUBLISHED_SLOPE,
    SANE,
    SECOND,
    SHIFT,
    SLOPE,
    START,
    WARM_UP_NS,
    WINDOW_NS,
    ClockTable,
)
from kinedge.units import NS_PER_S

__all__ = ["Clock", "ClockMap", "FixedClock", "Mapping"]

I64 = NDArray[np.int64]
Mapping: TypeAlias = tuple[int, int, float, float, float]
"""``base_ns, offset_ns, published, before, after``: device time ``d`` is host time ``d + offset_ns + rint(published +
slope * (d - base_ns))``; the slope is ``before`` up to ``base_ns``, and ``after`` behind it."""

_RECENT_BINS: Final = 15
_MAX_SYNC_DISTANCE_NS: Final = 10 * NS_PER_S
_REACH: Final = 1 << 63  # of what is kept in 64 bits
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
        self._shift_uncertainty_ns = shift_uncertainty_ns
        self._settle: Callable[[], None] | None = None
        self._use(ClockTable(1), 0)
        self._ints[SHIFT] = shift_ns
        self._forget()

    def _use(self, table: ClockTable, row: int) -> None:
        self._table, self._row = table, row
        self._ints, floats, at, residual = table.views(row)
        self._floats = cast("memoryview[float]", floats)
        self._latest = Bins(1, self._ints, at, residual)

    def move_to(self, table: ClockTable, row: int, *, settle: Callable[[], None] | None = None) -> None:
        """Keep all numbers in a row of a table from here on, where those of many clocks are updated at once.

        Parameters
        ----------
        table, row
            Where; what is there is written over.
        settle
            Takes in arrivals that wait to be taken in by the table: called before anybody reads or writes here.
        """
        self._settled()
        before, old = self._table, self._row
        for name in ("ints", "floats", "at", "residual"):
            getattr(table, name)[row] = getattr(before, name)[old]
        self._use(table, row)
        self._settle = settle

    def row_of(self, table: ClockTable) -> int | None:
        """Return the row of a table in which all numbers are kept; None where they are not there."""
        return self._row if self._table is table else None

    def _settled(self) -> None:
        if self._settle is not None:
            self._settle()

    def reset(self) -> None:
        """Forget everything: the device started anew."""
        self._settled()
        self._forget()

    def _forget(self) -> None:
        ints, shift_ns = self._ints, self._ints[SHIFT]
        for i in range(len(ints)):
            ints[i] = 0
        for i in range(len(self._floats)):
            self._floats[i] = 0.0
        ints[SHIFT] = shift_ns
        self._latest.clear()
        self._earliest: Bins | None = None  # before the first exchange
        self._two_way: _TwoWay | None = None

    @property
    def n_updates(self) -> int:
        """Arrivals taken in since the last reset."""
        self._settled()
        return self._ints[N_UPDATES]

    @property
    def skew_ppm(self) -> float:
        """How much faster than the host clock the device clock runs."""
        self._settled()
        return -self._floats[SLOPE] * 1e6

    @property
    def bounded(self) -> bool:
        """Whether two-way exchanges bound the delay."""
        self._settled()
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
        now = self._ints[NOW]
        more = abs(self._line(now) - self._floats[PUBLISHED]) + self._shift_uncertainty_ns
        if self._two_way is not None:
            since = max(now - self._two_way.at, 0)
            half = (self._two_way.high - self._two_way.low) / 2 + 2 * MAX_SKEW * since
            return round(half + more), round(half + more)
        recent, bins = slice(-_RECENT_BINS, None), self._latest
        # what arrived least late bounds the truth then; since then both may have gone apart by all that is possible
        start, slope, line_at = self._floats[LINE_RESIDUAL], self._floats[SLOPE], self._ints[LINE_AT]
        most = 2 * MAX_SKEW
        fit = min(
            [
                residual - (start + slope * (at - line_at)) + most * abs(now - at)
                for at, residual in zip(bins.at[recent], bins.residual[recent], strict=True)
            ]
        )
        early = round(max(fit, 0.0) + more)
        return early, round(self._delay_floor_ns + more)

    @property
    def known_ns(self) -> tuple[int, int]:
        """What the map was told of the device's delay: the delay floor, and the uncertainty of the shift."""
        return self._delay_floor_ns, self._shift_uncertainty_ns

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
        if self._settle is not None:
            self._settle()
        ints, bins = self._ints, self._latest
        at = device_time_ns - ints[DEVICE_ORIGIN]
        residual = host_time_ns - device_time_ns - ints[OFFSET_ORIGIN]
        if not ints[N_UPDATES] or at < ints[NOW] - WINDOW_NS or not -FOREVER < residual < FOREVER > at:
            self._begin(device_time_ns, host_time_ns)
            at = residual = 0
        elif not -EXACT < residual < EXACT:
            ints[ALONE] = 1
        ints[N_UPDATES] += 1
        # nearly every arrival is later than the earliest of its second: asked here, without a call
        unneeded = at // BIN_NS == ints[SECOND] and residual >= bins._residual[ints[END] - 1]
        if not unneeded and bins.add(at, residual) and not self._still_fits():
            self._fit()
        self._slew(at)

    def _begin(self, device_time_ns: int, host_time_ns: int) -> None:
        offset_ns = host_time_ns - device_time_ns
        if not (-_REACH <= device_time_ns < _REACH and -_REACH <= offset_ns + self._ints[SHIFT] < _REACH > offset_ns):
            raise SignalError(f"device time {device_time_ns} ns, host time {host_time_ns} ns: beyond 64 bits")
        self._forget()
        self._ints[DEVICE_ORIGIN], self._ints[OFFSET_ORIGIN] = device_time_ns, offset_ns
        self._ints[ALONE] = not self._is_sane()

    def update_two_way(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Take in a TIME_SYNC exchange: sent at host ``t1``, received at device ``t2``, sent ``t3``, received ``t4``.

        That the device received it after ``t1`` bounds the offset from below, as arrivals bound it from above; the map
        then takes the middle. Ignored are an exchange before the first arrival, one that contradicts itself
        (``t4 < t1`` or ``t3 < t2``), and one whose device times are not within 10 s of the last arrival: it is
        of another device, or of another boot.
        """
        self._settled()
        ints = self._ints
        received, sent = t2_ns - ints[DEVICE_ORIGIN], t3_ns - ints[DEVICE_ORIGIN]
        if not ints[N_UPDATES] or t4_ns < t1_ns or sent < received:
            return
        if received < ints[NOW] - _MAX_SYNC_DISTANCE_NS or sent > ints[NOW] + _MAX_SYNC_DISTANCE_NS:
            return
        most, least = t4_ns - t3_ns - ints[OFFSET_ORIGIN], t1_ns - t2_ns - ints[OFFSET_ORIGIN]
        if least <= -FOREVER or most >= FOREVER:
            return
        if self._earliest is None:
            own = ClockTable(1)
            self._earliest = Bins(-1, *(memoryview(a[0]) for a in (own.ints, own.at, own.residual)))
            self._earliest.clear()
        above = self._latest.add(sent, most)
        below = self._earliest.add(received, least)
        ints[ALONE] = 1
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
        self._require_update()
        ints, floats = self._ints, self._floats
        return (
            ints[DEVICE_ORIGIN] + ints[NOW],
            ints[OFFSET_ORIGIN] + ints[SHIFT],
            floats[PUBLISHED],
            floats[PUBLISHED_SLOPE],
            floats[SLOPE],
        )

    def _require_update(self) -> None:
        if self._settle is not None:
            self._settle()
        if not self._ints[N_UPDATES]:
            raise SignalError("the clock map has seen no arrival yet: call update first, or use FixedClock in a replay")

    def _line(self, at: int) -> float:
        line: float = self._floats[LINE_RESIDUAL] + self._floats[SLOPE] * (at - self._ints[LINE_AT])
        return line

    def _still_fits(self) -> bool:
        """Whether the newest minimum leaves the line what it is: above it, and the edge it lies on not left behind."""
        ints, bins = self._ints, self._latest
        if not ints[HAS_EDGE] or self._earliest:
            return False
        right, end = ints[EDGE_RIGHT], ints[END] - 1
        first, newest = bins._at[ints[START]], bins._at[end]
        inside: bool = first <= ints[EDGE_LEFT] and (first + newest) // 2 < right
        # a corner in the newest second is gone as soon as that second has a new minimum
        return inside and right // BIN_NS < ints[SECOND] and bins._residual[end] >= self._line(newest)

    def _fit(self) -> None:
        """Lay the line under the minima, or between them and what exchanges bound from below."""
        bins, ints, floats = self._latest, self._ints, self._floats
        at, residual = bins.arrays()
        first, last = bins.at[0], bins.at[-1]
        if self._earliest is not None:
            self._earliest.drop_before(last - WINDOW_NS)
            if len(self._earliest):
                self._fit_between(self._earliest)
                return
            self._earliest = self._two_way = None
            ints[ALONE] = bool((np.abs(residual) >= EXACT).any()) or not self._is_sane()
        ints[HAS_EDGE] = 0
        middle = (first + last) // 2
        if last - first >= WARM_UP_NS:
            i, k = edge_below(at, residual, middle)
            slope = (bins.residual[k] - bins.residual[i]) / (bins.at[k] - bins.at[i])
            floats[SLOPE] = believed = min(max(slope, -MAX_SKEW), MAX_SKEW)
            ints[HAS_EDGE], ints[EDGE_LEFT], ints[EDGE_RIGHT] = slope == believed, bins.at[i], bins.at[k]
        # else the slope known from before: 0 at the start, the old one after a long silence
        ints[LINE_AT] = middle
        floats[LINE_RESIDUAL] = float((residual - floats[SLOPE] * (at - middle)).min())

    def _is_sane(self) -> bool:
        return -SANE < self._ints[DEVICE_ORIGIN] < SANE and -SANE < self._ints[OFFSET_ORIGIN] < SANE

    def _fit_between(self, earliest: Bins) -> None:
        """Lay the line between the bounds of both sides."""
        now = max(self._latest.at[-1], earliest.at[-1])
        between = lines_between(
            [(at - now, -r + _WANDER * (now - at)) for at, r in zip(earliest.at, earliest.residual, strict=True)],
            [
                (at - now, r + _WANDER * (now - at))
                for at, r in zip(self._latest.at, self._latest.residual, strict=True)
            ],
            max_slope=MAX_SKEW,
        )
        self._ints[HAS_EDGE] = 0
        self._ints[LINE_AT] = now
        self._floats[SLOPE], self._floats[LINE_RESIDUAL] = between.slope, (between.low + between.high) / 2
        self._two_way = _TwoWay(now, between.low, between.high)

    def _slew(self, now: int) -> None:
        """Move the published time towards the line, along a straight piece from the last update to this one."""
        ints, floats = self._ints, self._floats
        elapsed = now - ints[NOW]
        target = floats[LINE_RESIDUAL] + floats[SLOPE] * (now - ints[LINE_AT])
        if ints[N_UPDATES] == 1:
            ints[NOW], floats[PUBLISHED] = now, target
        elif elapsed > 0:
            seen = self._latest._at
            warm = seen[ints[END] - 1] - seen[ints[START]] >= WARM_UP_NS
            most = (MAX_SLEW if warm else MAX_SLEW_WARM_UP) * elapsed
            change = target - floats[PUBLISHED]
            if change > most:
                change = most
            elif change < -most:
                change = -most
            ints[NOW] = now
            floats[PUBLISHED] += change
            floats[PUBLISHED_SLOPE] = change / elapsed
