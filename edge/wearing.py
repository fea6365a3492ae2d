"""Whether sensors stay on the body: what was off may sit otherwise when it is on again, and nothing tells so by itself.

A sensor counts as off once it has lain still for five minutes, as no living body does, or was silent for ten: longer
than a radio that is out of reach for a moment, as long as a checkpoint may be old. Who takes it off for less and puts
it on otherwise has to say so (the guided poses, ``People.realign``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SILENT_S", "SILENT_SHARE", "STILL_S", "WearWatch"]

F64 = NDArray[np.float64]

STILL_S: Final = 300.0
SILENT_S: Final = 600.0
_NOW_AND_THEN: Final = 64  # hops without a silent sensor, after which all are looked at
SILENT_SHARE: Final = 0.9  # of a block missing


class WearWatch:
    """Follows the sensors of a board's people; rows are theirs.

    Parameters
    ----------
    n_streams, n_sensors
        How many.
    hop_s
        Of one look.

    Attributes
    ----------
    silent_s : (n_streams, n_sensors)
        For how long each sensor has been silent.
    some_silent
        False where it is known that none is.
    """

    def __init__(self, n_streams: int, n_sensors: int, *, hop_s: float) -> None:
        self._hop_s = hop_s
        self.silent_s: F64 = np.zeros((n_streams, n_sensors))
        self._n_off = np.zeros(n_streams, np.int64)
        self.some_silent, self._n_quiet = True, 0  # until somebody has looked

    def look(self, rows: NDArray[np.intp], gap_s: F64 | None, missing: F64, still_s: F64) -> NDArray[np.bool_] | None:
        """Take a hop of some streams; return (n_rows, n_sensors) which sensors are off, or were until this hop.

        None where it is none of them, which costs least.

        Parameters
        ----------
        rows
            Whose.
        gap_s : (n_rows,)
            Between the hop before and this one, in which nothing was heard at all; None for no time.
        missing : (n_rows, n_sensors)
            Share of the block that did not arrive.
        still_s : (n_rows, n_sensors)
            For how long each sensor has lain still.
        """
        if gap_s is None and missing.max() < SILENT_SHARE and still_s.max() < STILL_S and not self.silent_s[rows].any():
            self._n_quiet += 1
            if self._n_quiet % _NOW_AND_THEN == 1:
                self.some_silent = bool(self.silent_s.any())
            return None
        silent_s = self.silent_s[rows] if gap_s is None else self.silent_s[rows] + gap_s[:, None]
        off: NDArray[np.bool_] = (silent_s >= SILENT_S) | (still_s >= STILL_S)
        self.silent_s[rows] = np.where(missing >= SILENT_SHARE, silent_s + self._hop_s, 0.0)
        self.some_silent, self._n_quiet = True, 0
        self._n_off[rows] += off.any(axis=1)
        return off if off.any() else None

    def go_on_from(self, rows: NDArray[np.intp], silent_s: F64) -> None:
        """Take over for how long sensors of some streams have been silent."""
        self.silent_s[rows] = silent_s
        self.some_silent, self._n_quiet = True, 0

    def note_off(self, row: int) -> None:
        """Take it from somebody that a sensor is off."""
        self._n_off[row] += 1

    def seen_off(self, row: int) -> int:
        """Return a number that grows whenever a sensor of somebody is off."""
        return int(self._n_off[row])

    def rearranged(self, before: Sequence[int]) -> WearWatch:
        """Return the watch of other rows; ``before`` has the row that each was, -1 for who is new."""
        watch = WearWatch(len(before), self.silent_s.shape[1], hop_s=self._hop_s)
        now = [k for k, old in enumerate(before) if old >= 0]
        then = [before[k] for k in now]
        watch.silent_s[now], watch._n_off[now] = self.silent_s[then], self._n_off[then]
        return watch
