"""How the sensors of a board's people sit, learned from walking hop by hop, of all who are in a step at once.

Thousands may be aligned at the same time, each morning. So samples are held for those alone of whom it is learned, and
until their window is whole; windows are looked at in pieces of 32 people, or what all of them need at once would stay
with the process; and of long walking neighbouring windows are kept as one (``Moments``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.moments import Moments
from kinedge.edge.orientation import WINDOW_S, Frames, Walking
from kinedge.signals import SensorSpec

__all__ = ["FrameWatch"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_AT_ONCE: Final = 32  # people


class FrameWatch:
    """Learns of each person, by themselves, what ``FrameEstimator`` learns of one.

    Parameters
    ----------
    sensors
        In column order.
    n_people
        Rows; of whom something is learned is said by ``begin`` and ``end``.
    rate_hz
        Of the grid.

    Attributes
    ----------
    going : (n_people,) bool
        Of whom it is learned.
    walked_s : (n_people, n_sensors)
        Walking seen so far, of each sensor; 0 where none can be used.
    """

    def __init__(self, sensors: Sequence[SensorSpec], n_people: int, *, rate_hz: float) -> None:
        self._walking = Walking(sensors, rate_hz=rate_hz)
        self._n_channels = sum(s.n_channels for s in sensors)
        self.going: Mask = np.zeros(n_people, bool)
        self.walked_s: F64 = np.zeros((n_people, len(sensors)))
        self._n_held = np.zeros(n_people, np.intp)
        self._n_going = 0
        # samples that wait for the rest of their window, and what others said, in a slot of each of whom it is learned
        self._slot = np.full(n_people, -1, np.intp)
        self._free: list[int] = []
        self._held: F32 = np.zeros((0, 0, self._n_channels), np.float32)
        self._moments = Moments(0, len(sensors))

    def __bool__(self) -> bool:
        return self._n_going > 0

    @property
    def nbytes(self) -> int:
        """Bytes of what is held and learned of everybody."""
        of_all = (self.going, self.walked_s, self._n_held, self._slot, self._held)
        return sum(a.nbytes for a in of_all) + self._moments.nbytes

    def begin(self, rows: Rows) -> None:
        """Learn of these people from the next hop on; nothing changes where it is learned already."""
        new = rows[~self.going[rows]]
        if len(new) > len(self._free):
            n = self._n_going + len(new)
            self._rebuild(max(n, min(2 * self._n_going, n + _AT_ONCE)), self._held.shape[1])
        for row in new.tolist():
            self._slot[row] = self._free.pop()
            self._moments.clear(int(self._slot[row]))
        self.going[new], self._n_held[new] = True, 0
        self._n_going += len(new)

    def end(self, row: int) -> None:
        """Learn no more of somebody, and forget what was learned."""
        if self.going[row]:
            self.going[row], self.walked_s[row] = False, 0.0
            self._free.append(int(self._slot[row]))
            self._slot[row] = -1
            self._n_going -= 1
            if 4 * self._n_going <= len(self._held) > _AT_ONCE or not self._n_going:
                self._rebuild(2 * self._n_going, self._held.shape[1] if self._n_going else 0)

    def clear(self, rows: Rows, sensors: Mask) -> None:
        """Forget what was seen of these sensors (n_rows, n_sensors): they were put on anew."""
        seen = sensors & (self.walked_s[rows] > 0)
        for k, sensor in np.argwhere(seen).tolist():
            self._moments.clear(int(self._slot[rows[k]]), sensor)
        self.walked_s[rows] = np.where(sensors, 0.0, self.walked_s[rows])

    def add(self, rows: Rows, values: F32, valid: Mask) -> None:
        """Take the next samples (n_rows, n, n_channels) of some people of whom it is learned."""
        whole, n, held = bool(valid.all()), values.shape[1], self._n_held[rows]
        for start in np.unique(held).tolist():  # one, where all began together
            at = np.flatnonzero(held == start)
            of_step = len(at) if start + n < self._walking.window else _AT_ONCE
            for k in range(0, len(at), of_step):
                some: slice | Rows = at[k : k + of_step]
                if len(at) == len(rows):
                    some = slice(k, k + of_step)
                seen = values[some] if whole else np.where(valid[some], values[some], np.float32(np.nan))
                self._take(rows[some], start, seen)

    def _take(self, rows: Rows, start: int, seen: F32) -> None:
        """Take samples of people of whom equally many are held."""
        window, slots, rest = self._walking.window, self._slot[rows], seen
        if start + seen.shape[1] >= window:
            rest = np.concatenate([self._held[slots, :start], seen], axis=1)
            start = 0
            while rest.shape[1] >= window:
                self._look(rows, rest[:, :window])
                rest = rest[:, window:]
        end = start + rest.shape[1]
        if self._held.shape[1] < end:
            self._rebuild(len(self._held), end)
            slots = self._slot[rows]
        self._held[slots, start:end] = rest
        self._n_held[rows] = end

    def _look(self, rows: Rows, windows: F32) -> None:
        people, sensors, moments = self._walking.look(windows)
        for row, sensor, found in zip(rows[people].tolist(), sensors.tolist(), moments, strict=True):
            self.walked_s[row, sensor] = self._moments.add(int(self._slot[row]), sensor, found) * WINDOW_S

    def _rebuild(self, n_slots: int, n_samples: int) -> None:
        """Make room for so many people of whom it is learned, and so many samples of each."""
        rows = np.flatnonzero(self.going)
        # pages that nobody writes to take no memory
        held = np.zeros((n_slots, n_samples, self._n_channels), np.float32)
        n = min(n_samples, self._held.shape[1])
        held[: len(rows), :n] = self._held[self._slot[rows], :n]
        self._moments = self._moments.moved(n_slots, self._slot[rows])
        self._held, self._slot[rows] = held, np.arange(len(rows))
        self._free = list(range(n_slots - 1, len(rows) - 1, -1))

    def frames(self, row: int) -> Frames:
        """Return what is known now of somebody of whom it is learned."""
        slot = int(self._slot[row])
        found = self._walking.frames({sensor: self._moments.told(slot, sensor) for sensor in self._walking.sensors})
        return replace(found, walking_s=self.walked_s[row].copy())
