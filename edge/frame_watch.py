"""How the sensors of a board's people sit, learned from walking hop by hop, of all who are in a step at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.orientation import MAX_WINDOWS, WINDOW_S, Frames, Walking
from kinedge.signals import SensorSpec

__all__ = ["FrameWatch"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]


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
        self._n_going = 0
        self._n_held = np.zeros(n_people, np.intp)
        self._held: F32 = np.zeros((n_people, 0, self._n_channels), np.float32)
        self._found: dict[int, dict[int, deque[F64]]] = {}

    def __bool__(self) -> bool:
        return self._n_going > 0

    def begin(self, row: int) -> None:
        """Learn of somebody from the next hop on; nothing changes where it is learned already."""
        if not self.going[row]:
            self.going[row], self._n_held[row] = True, 0
            self._n_going += 1
            self._found[row] = {i: deque(maxlen=MAX_WINDOWS) for i in self._walking.sensors}

    def end(self, row: int) -> None:
        """Learn no more of somebody, and forget what was learned."""
        if self.going[row]:
            self.going[row], self.walked_s[row] = False, 0.0
            self._n_going -= 1
            del self._found[row]
            if not self._n_going:
                self._held = self._held[:, :0].copy()

    def clear(self, rows: Rows, sensors: Mask) -> None:
        """Forget what was seen of these sensors (n_rows, n_sensors): they were put on anew."""
        seen = sensors & (self.walked_s[rows] > 0)
        for k, sensor in np.argwhere(seen).tolist():
            self._found[int(rows[k])][sensor].clear()
        self.walked_s[rows] = np.where(sensors, 0.0, self.walked_s[rows])

    def add(self, rows: Rows, values: F32, valid: Mask) -> None:
        """Take the next samples (n_rows, n, n_channels) of some people of whom it is learned."""
        n, window = values.shape[1], self._walking.window
        if self._held.shape[1] < window - 1 + n:
            # pages that nobody writes to take no memory
            longer = np.zeros((len(self.going), window - 1 + n, self._n_channels), np.float32)
            longer[:, : self._held.shape[1]] = self._held
            self._held = longer
        held = self._n_held[rows]
        seen = values if valid.all() else np.where(valid, values, np.float32(np.nan))
        if len(rows) and (held == held[0]).all():  # they began together
            self._held[rows, held[0] : held[0] + n] = seen
        else:
            self._held[rows[:, None], held[:, None] + np.arange(n)] = seen
        held += n
        while (full := held >= window).any():
            self._look(rows[full])
            held[full] -= window
        self._n_held[rows] = held

    def _look(self, rows: Rows) -> None:
        window = self._walking.window
        held = self._held[rows]
        people, sensors, moments = self._walking.look(held[:, :window])
        self._held[rows, :-window] = held[:, window:]
        for row, sensor, found in zip(rows[people].tolist(), sensors.tolist(), moments, strict=True):
            # a copy, or all of the step would be kept as long as it is
            self._found[row][sensor].append(found.copy())
            self.walked_s[row, sensor] = len(self._found[row][sensor]) * WINDOW_S

    def frames(self, row: int) -> Frames:
        """Return what is known now of somebody of whom it is learned."""
        return self._walking.frames(self._found[row])
