"""The numbers of many clock maps in arrays, and what all of them do with arrivals of one moment, in one step.

A ``ClockMap`` works on one row of such a table. The steps here are those of ``ClockMap.update``, operation by
operation and with the same bits; what is rare (a clock's first arrival, a restart, two-way exchanges, absurd times) is
left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.clock_lines import edge_below, edges_below
from kinedge.units import NS_PER_S

__all__ = ["FOREVER", "SANE", "ClockTable", "Mappings"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

BIN_NS: Final = NS_PER_S
WINDOW_NS: Final = 120 * NS_PER_S
WARM_UP_NS: Final = 10 * NS_PER_S
MAX_SKEW: Final = 200e-6
MAX_SLEW: Final = 500e-6
MAX_SLEW_WARM_UP: Final = 0.05
FOREVER: Final = 1 << 62
N_BINS: Final = 160  # 122 are used; the rest is where they move to, second by second, before they move back
EXACT: Final = 1 << 52  # up to here a float holds every nanosecond, and Python and numpy compare alike
SANE: Final = 1 << 60  # sums of three such times do not overflow

# columns of the integers: the first three are those of a side's bins
SECOND, START, END, N_UPDATES, DEVICE_ORIGIN, OFFSET_ORIGIN, NOW, LINE_AT = range(8)
EDGE_LEFT, EDGE_RIGHT, HAS_EDGE, ALONE, SHIFT, N_INTS = range(8, 14)
# and of the floats
LINE_RESIDUAL, SLOPE, PUBLISHED, PUBLISHED_SLOPE, N_FLOATS = range(5)

_FEW: Final = 16  # arrivals that are taken one by one, as a step of numpy calls costs more


class Mappings(NamedTuple):
    """``Mapping`` of several clocks without the slope behind ``base_ns``, each (n,)."""

    base_ns: I64
    offset_ns: I64
    published: F64
    before: F64


class ClockTable:
    """Rows of clock maps.

    Parameters
    ----------
    n
        How many.
    """

    def __init__(self, n: int) -> None:
        self.ints = np.zeros((n, N_INTS), np.int64)
        self.floats = np.zeros((n, N_FLOATS))
        self.at = np.zeros((n, N_BINS), np.int64)
        self.residual = np.zeros((n, N_BINS), np.int64)
        arrays: tuple[NDArray[Any], ...] = (self.ints, self.floats, self.at, self.residual)
        self._whole = tuple((a.reshape(-1).data, a.shape[1]) for a in arrays)

    def __len__(self) -> int:
        return len(self.ints)

    def views(self, row: int) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """Return the ints, floats, times and residuals of one row, to read and write number by number.

        Parts of one view of all rows: a view of its own, with the array that it is of, takes twice as much memory.
        """
        ints, floats, at, residual = (whole[row * n : (row + 1) * n] for whole, n in self._whole)
        return ints, floats, at, residual

    def update(self, rows: Rows, device_ns: I64, host_ns: I64, alone: Callable[[int, int, int], None]) -> Mappings:
        """Take in arrivals, and return what maps the times of each chunk as of its own arrival.

        Parameters
        ----------
        rows : (n,) intp
            Whose arrivals; those of one clock in their order.
        device_ns, host_ns : (n,) int64
            As ``ClockMap.update`` takes them.
        alone
            Takes in one arrival of a row: its ``ClockMap.update``.
        """
        n = len(rows)
        found = Mappings(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), np.empty(n))
        sane = bool((np.abs(device_ns) < SANE).all() and (np.abs(host_ns) < SANE).all())
        for turn in _turns(rows):
            left = np.arange(n)[turn]
            if sane and len(left) >= _FEW:
                left = left[~self._update(rows[left], device_ns[left], host_ns[left])]
            for k in left.tolist():
                alone(int(rows[k]), int(device_ns[k]), int(host_ns[k]))
            now = rows[turn]
            ints, floats = self.ints[now], self.floats[now]
            found.base_ns[turn] = ints[:, DEVICE_ORIGIN] + ints[:, NOW]
            found.offset_ns[turn] = ints[:, OFFSET_ORIGIN] + ints[:, SHIFT]
            found.published[turn] = floats[:, PUBLISHED]
            found.before[turn] = floats[:, PUBLISHED_SLOPE]
        return found

    def mapping(self, row: int) -> tuple[int, int, float, float]:
        """Return what maps the times of one clock, as ``update`` does for many."""
        ints, floats = self.ints[row], self.floats[row]
        base_ns, offset_ns = int(ints[DEVICE_ORIGIN] + ints[NOW]), int(ints[OFFSET_ORIGIN] + ints[SHIFT])
        return base_ns, offset_ns, float(floats[PUBLISHED]), float(floats[PUBLISHED_SLOPE])

    def _update(self, rows: Rows, device_ns: I64, host_ns: I64) -> NDArray[np.bool_]:
        """Take in one arrival of each of some clocks; return (n,) for which it was done."""
        ints = self.ints[rows]
        at = device_ns - ints[:, DEVICE_ORIGIN]
        residual = host_ns - device_ns
        residual -= ints[:, OFFSET_ORIGIN]
        plain: NDArray[np.bool_] = (ints[:, N_UPDATES] > 0) & (ints[:, ALONE] == 0)
        plain &= at >= ints[:, NOW] - WINDOW_NS
        plain &= np.abs(residual) < EXACT
        if not plain.all():
            rows, at, residual, ints = rows[plain], at[plain], residual[plain], ints[plain]
            if not len(rows):
                return plain
        second = at // BIN_NS
        fresh = second > ints[:, SECOND]
        lower = second == ints[:, SECOND]
        lower &= residual < self.residual[rows, ints[:, END] - 1]
        if fresh.any():
            self._begin_second(rows[fresh], at[fresh], second[fresh])
        changed = np.flatnonzero(fresh | lower)
        if len(changed):
            of = rows[changed]
            newest = self.ints[of, END] - 1
            self.at[of, newest], self.residual[of, newest] = at[changed], residual[changed]
            self._fit(of[~self._still_fits(of, at[changed], residual[changed])])
        self._slew(rows, at)
        return plain

    def _begin_second(self, rows: Rows, at: I64, second: I64) -> None:
        """Make room for the minimum of a new second, and forget those that are too old."""
        ints = self.ints[rows]
        start, end = ints[:, START], ints[:, END]
        for k in np.flatnonzero(end == N_BINS).tolist():
            row, n = rows[k], N_BINS - start[k]
            for bins in (self.at, self.residual):
                bins[row, :n] = bins[row, start[k] :].copy()
            start[k], end[k] = 0, n
        oldest = at - WINDOW_NS
        old = np.flatnonzero((start < end) & (self.at[rows, np.minimum(start, N_BINS - 1)] < oldest))
        while len(old):
            start[old] += 1
            old = old[start[old] < end[old]]
            old = old[self.at[rows[old], start[old]] < oldest[old]]
        ints[:, SECOND], ints[:, START], ints[:, END] = second, start, end + 1
        self.ints[rows] = ints

    def _still_fits(self, rows: Rows, newest: I64, residual: I64) -> NDArray[np.bool_]:
        ints, floats = self.ints[rows], self.floats[rows]
        first, right = self.at[rows, ints[:, START]], ints[:, EDGE_RIGHT]
        fits: NDArray[np.bool_] = ints[:, HAS_EDGE] > 0
        fits &= first <= ints[:, EDGE_LEFT]
        fits &= (first + newest) // 2 < right
        fits &= right // BIN_NS < ints[:, SECOND]
        fits &= residual >= floats[:, LINE_RESIDUAL] + floats[:, SLOPE] * (newest - ints[:, LINE_AT])
        return fits

    def _fit(self, rows: Rows) -> None:
        """Lay lines under the minima."""
        if not len(rows):
            return
        ints, floats = self.ints[rows], self.floats[rows]
        start, n = ints[:, START], ints[:, END] - ints[:, START]
        slots = np.arange(int(n.max()))
        used = slots < n[:, None]
        slots = np.minimum(start[:, None] + slots, N_BINS - 1)
        each = np.arange(len(rows))
        at, residual = self.at[rows[:, None], slots], self.residual[rows[:, None], slots]
        first, last = at[:, 0], at[each, n - 1]
        middle = (first + last) // 2
        ints[:, HAS_EDGE] = 0
        warm = np.flatnonzero(last - first >= WARM_UP_NS)
        if len(warm):
            left, right, known = edges_below(at[warm], residual[warm], middle[warm], used[warm])
            for k in np.flatnonzero(~known).tolist():
                row = warm[k]
                left[k], right[k] = edge_below(at[row, : n[row]], residual[row, : n[row]], int(middle[row]))
            rise = residual[warm, right] - residual[warm, left]
            slope = rise / (at[warm, right] - at[warm, left])
            floats[warm, SLOPE] = believed = np.minimum(np.maximum(slope, -MAX_SKEW), MAX_SKEW)
            ints[warm, HAS_EDGE] = slope == believed
            ints[warm, EDGE_LEFT], ints[warm, EDGE_RIGHT] = at[warm, left], at[warm, right]
        ints[:, LINE_AT] = middle
        above = residual - floats[:, SLOPE, None] * (at - middle[:, None])
        floats[:, LINE_RESIDUAL] = np.where(used, above, np.inf).min(axis=1)
        self.ints[rows], self.floats[rows] = ints, floats

    def _slew(self, rows: Rows, at: I64) -> None:
        """Move published times towards their lines."""
        ints, floats = self.ints[rows], self.floats[rows]
        ints[:, N_UPDATES] += 1
        elapsed = at - ints[:, NOW]
        on = elapsed > 0
        warm = self.at[rows, ints[:, END] - 1] - self.at[rows, ints[:, START]] >= WARM_UP_NS
        most = np.where(warm, MAX_SLEW, MAX_SLEW_WARM_UP) * elapsed
        change = floats[:, LINE_RESIDUAL] + floats[:, SLOPE] * (at - ints[:, LINE_AT])
        change -= floats[:, PUBLISHED]
        np.minimum(change, most, out=change)
        np.maximum(change, -most, out=change)
        if on.all():
            ints[:, NOW] = at
            floats[:, PUBLISHED] += change
            floats[:, PUBLISHED_SLOPE] = change / elapsed
        else:
            ints[on, NOW] = at[on]
            floats[on, PUBLISHED] += change[on]
            floats[on, PUBLISHED_SLOPE] = change[on] / elapsed[on]
        self.ints[rows], self.floats[rows] = ints, floats


def _turns(rows: Rows) -> list[Rows | slice]:
    """Return which arrivals may be taken in at once, one of each clock: the first of each, then the second."""
    n = len(rows)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(again):
        return [slice(0, n)]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = np.maximum.accumulate(np.where(begins, np.arange(n), 0))
    turn = np.arange(n) - first
    by_turn = np.argsort(turn, kind="stable")
    ends = np.cumsum(np.bincount(turn))
    return [order[part] for part in np.split(by_turn, ends[:-1])]
