"""The least, or the greatest, of every second of a clock's last two minutes, in memory that a table of clocks holds."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.clock_table import BIN_NS, END, FOREVER, N_BINS, SECOND, START, WINDOW_NS

__all__ = ["Bins"]

I64 = NDArray[np.int64]


class Bins:
    """One extreme per second of device time, of the last 120 s: when it was, and how large.

    Parameters
    ----------
    sign
        1 for the least, -1 for the greatest.
    ends
        Where the latest second, the first bin and the place behind the last one are kept, in that order.
    at, residual
        Where the bins are kept: 16 bytes each, as thousands of sensors have 120 of them.
    """

    __slots__ = ("_at", "_ends", "_residual", "_sign")

    def __init__(self, sign: int, ends: memoryview, at: memoryview, residual: memoryview) -> None:
        self._sign = sign
        self._ends, self._at, self._residual = ends, at, residual

    def __len__(self) -> int:
        return self._ends[END] - self._ends[START]

    def clear(self) -> None:
        """Forget all."""
        self._ends[SECOND], self._ends[START], self._ends[END] = -FOREVER, 0, 0

    @property
    def at(self) -> memoryview:
        """When each was."""
        return self._at[self._ends[START] : self._ends[END]]

    @property
    def residual(self) -> memoryview:
        """How large each is."""
        return self._residual[self._ends[START] : self._ends[END]]

    def add(self, at: int, residual: int) -> bool:
        """Return whether any bin changed. Residuals older than the newest bin are not used."""
        ends, end = self._ends, self._ends[END]
        second, newest = at // BIN_NS, ends[SECOND]
        if second == newest:
            if self._sign * residual >= self._sign * self._residual[end - 1]:
                return False
            self._at[end - 1], self._residual[end - 1] = at, residual
            return True
        if second < newest:
            return False
        if end == N_BINS:
            end = self._move_back()
        self._at[end], self._residual[end] = at, residual
        ends[SECOND], ends[END] = second, end + 1
        if self._at[ends[START]] < at - WINDOW_NS:
            self.drop_before(at - WINDOW_NS)
        return True

    def drop_before(self, at: int) -> None:
        """Forget what is older."""
        self._ends[START] += bisect_left(self.at, at)

    def _move_back(self) -> int:
        n = len(self)
        self._at[:n], self._residual[:n] = self.at, self.residual
        self._ends[START], self._ends[END] = 0, n
        return n

    def arrays(self) -> tuple[I64, I64]:
        """Return both, as copies."""
        return np.array(self.at), np.array(self.residual)
