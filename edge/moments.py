"""What windows of walking said of the sensors of several people, in 3 kB a sensor however long somebody walks.

Their sum is kept as it is, so that means are those of all windows to the last bit. Single windows, which only tell how
much there is of scatter, are kept as they are up to 15: a minute of walking, after which most people are aligned. Of
those who are not, they are kept in single precision from there on, each by itself up to 31; then each two neighbours
become their mean, and the windows that come go together by as many, so that what is kept always stands for equally long
stretches. Windows that do not fill one yet wait, and of those older than 40 min nothing is kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.orientation import MAX_WINDOWS

__all__ = ["Moments"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

_WINDOW: Final = (7, 3)
_N: Final = 21  # numbers of one
_EXACT: Final = 16  # windows in double precision ...
_MOST: Final = 2 * _EXACT  # ... and in single, in the same place


class Moments:
    """The moments of walking of all sensors of some people.

    Parameters
    ----------
    n_rows, n_sensors
        How many.
    """

    def __init__(self, n_rows: int, n_sensors: int) -> None:
        of_all = (n_rows, n_sensors)
        # pages that nobody writes to take no memory
        self._kept: F64 = np.zeros((*of_all, _EXACT * _N))
        self._sum: F64 = np.zeros((*of_all, *_WINDOW))
        self._waiting: F64 = np.zeros((*of_all, *_WINDOW))
        self._n, self._n_waiting, self._n_seen = (np.zeros(of_all, np.int32) for _ in range(3))
        self._span = np.zeros(of_all, np.int32)  # windows that one of those kept stands for; 0: in double precision

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self._arrays())

    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        return self._kept, self._sum, self._waiting, self._n, self._n_waiting, self._n_seen, self._span

    def moved(self, n_rows: int, rows: Rows) -> Moments:
        """Return the moments of these rows as the first ones of others."""
        moved = Moments(n_rows, self._n.shape[1])
        walked = np.flatnonzero(self._n_seen[rows].any(axis=1))
        for to, of in zip(moved._arrays(), self._arrays(), strict=True):
            to[walked] = of[rows[walked]]
        return moved

    def clear(self, row: int, sensor: int | slice = slice(None)) -> None:
        """Forget what was seen of a sensor of a row, or of all."""
        for counts in (self._n, self._n_waiting, self._n_seen, self._span):
            counts[row, sensor] = 0

    def add(self, row: int, sensor: int, window: F64) -> int:
        """Take the moments (7, 3) of the next window of a sensor; return how many were seen, of the last 40 min."""
        at = row, sensor
        n_seen, n, span = (int(a[at]) for a in (self._n_seen, self._n, self._span))
        total = self._sum[at]
        total[:] = total + window if n_seen else window
        self._n_seen[at] = n_seen = min(n_seen + 1, MAX_WINDOWS)
        if not span:
            exact = self._kept[at].reshape(_EXACT, *_WINDOW)
            exact[n] = window
            n += 1
            if n == _EXACT:
                self._single(at)[:n] = exact.astype(np.float32)
                span = 1
        else:
            if span > 1:
                waiting, n_waiting = self._waiting[at], int(self._n_waiting[at]) + 1
                waiting[:] = window if n_waiting == 1 else waiting + window
                self._n_waiting[at] = n_waiting % span
                if n_waiting < span:
                    return n_seen
                window = waiting / span
            single = self._single(at)
            if (n + 1) * span > MAX_WINDOWS:
                total -= span * single[0].astype(np.float64)
                single[: n - 1] = single[1:n].copy()
                n -= 1
            single[n] = window
            n += 1
            if n == _MOST:
                n, span = n // 2, 2 * span
                single[:n] = (single[::2] + single[1::2]) / 2
        self._n[at], self._span[at] = n, span
        return n_seen

    def _single(self, at: tuple[int, int]) -> F32:
        single: F32 = self._kept[at].view(np.float32).reshape(_MOST, *_WINDOW)
        return single

    def told(self, row: int, sensor: int) -> tuple[F64, F64]:
        """Return the mean (7, 3) of the windows of a sensor, and what is kept of them one by one, (n, 7, 3)."""
        at = row, sensor
        n, span = int(self._n[at]), int(self._span[at])
        kept = self._single(at)[:n].astype(np.float64) if span else self._kept[at].reshape(_EXACT, *_WINDOW)[:n]
        return self._sum[at] / max(n * max(span, 1) + int(self._n_waiting[at]), 1), kept
