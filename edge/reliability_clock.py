"""How far the times of each sensor may be apart from another's, for all streams, looked at anew now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.alignment import pair_uncertainty_ns
from kinedge.firmware_bridge.clock import Clock

__all__ = ["ClockWatch", "spread_ms"]

F64 = NDArray[np.float64]

_EVERY: Final = 8  # hops between two looks at one person's clocks: bounds change slowly


def spread_ms(clocks: Mapping[str, Clock], sensors: Sequence[str]) -> NDArray[np.float64]:
    """Return (n_sensors,): by how much each sensor's times may be apart from those of the sensor it agrees with best.

    Of three sensors, one with a bad clock does not put the other two in doubt. 0 where no other has been heard.
    """
    heard = {name: clock for name, clock in clocks.items() if clock.n_updates}
    best: dict[str, int] = {}
    for (first, a), (second, b) in combinations(heard.items(), 2):
        apart_ns = pair_uncertainty_ns(a, b)
        best[first] = min(best.get(first, apart_ns), apart_ns)
        best[second] = min(best.get(second, apart_ns), apart_ns)
    return np.array([best.get(name, 0) / 1e6 for name in sensors])


class ClockWatch:
    """The figures of all streams of a pipeline.

    Parameters
    ----------
    n_streams
        How many there are.
    sensors
        Names, in the model's order.
    turns : (n_streams,) int64
        When each stream is looked at, in hops; in the order of streams when None.
    """

    def __init__(self, n_streams: int, sensors: Sequence[str], *, turns: NDArray[np.int64] | None = None) -> None:
        self._sensors = tuple(sensors)
        self._turns = np.arange(n_streams) if turns is None else turns
        self._ms = np.zeros((n_streams, len(self._sensors)))
        self._seen = np.zeros(n_streams, bool)

    def load(self, other: ClockWatch, rows: Mapping[int, int]) -> None:
        """Take over what another has seen of its rows (keys), that are rows here."""
        for old, new in rows.items():
            self._ms[new], self._seen[new] = other._ms[old], other._seen[old]

    def look(
        self,
        rows: NDArray[np.intp],
        hop: NDArray[np.int64],
        clocks: Sequence[Mapping[str, Clock]],
        bounds_ns: Callable[[NDArray[np.intp]], tuple[F64, F64] | None],
    ) -> F64:
        """Return (n_rows, n_sensors) for some streams, after a look at those whose turn it is at this hop.

        Parameters
        ----------
        rows
            Which streams are scored.
        hop : (n_rows,) int64
            Its number: people take turns, so that no hop pays for all.
        clocks
            By sensor, of every stream.
        bounds_ns
            Gives early and late bounds (n, n_sensors) of the clocks of some streams, NaN of those that must be asked;
            None where all must.
        """
        if len(self._sensors) == 1:  # it agrees with itself
            return np.zeros((len(rows), 1))
        due = rows[((self._turns[rows] + hop) % _EVERY == 0) | ~self._seen[rows]]
        if len(due):
            self._look(due, clocks, bounds_ns)
        ms: F64 = self._ms[rows]
        return ms

    def _look(
        self,
        due: NDArray[np.intp],
        clocks: Sequence[Mapping[str, Clock]],
        bounds_ns: Callable[[NDArray[np.intp]], tuple[F64, F64] | None],
    ) -> None:
        n, found = len(self._sensors), None
        self._seen[due] = True
        n_clocks = np.array([len(clocks[i]) for i in due.tolist()])
        self._ms[due] = 0.0
        due = due[n_clocks > 1]  # one agrees with itself
        if not len(due):
            return
        if n > 1 and (found := bounds_ns(due)) is not None:
            apart_ns = np.full((len(due), n, n), np.inf)
            early, late = found
            for a, b in combinations(range(n), 2):
                apart_ns[:, a, b] = apart_ns[:, b, a] = np.maximum(late[:, a] + early[:, b], late[:, b] + early[:, a])
            self._ms[due] = apart_ns.min(axis=2) / 1e6
            due = due[np.isnan(early).any(axis=1) | (n_clocks[n_clocks > 1] != n)]
        for i in due.tolist():
            self._ms[i] = spread_ms(clocks[i], self._sensors)
