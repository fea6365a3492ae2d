"""All sensors of all people onto one grid: linear between neighbours, a mask elsewhere, never across a gap.

Tick ``k`` stands at host time ``k * period_ns``, for every person and every restart, so that all people on a
board share one grid and can be scored in one step.

* A sensor that is faster than the grid is averaged over ``round(sensor rate / grid rate)`` consecutive samples
  first (a short low-pass against aliasing), stamped with their middle.
* A tick gets a value when it lies between two samples not further apart than 1.5 nominal intervals.
* A tick is final when every sensor has a sample behind it, or when the newest data (or the clock) is
  ``max_delay_s`` ahead; what comes later for it is not used.

Each tick depends on its two neighbours alone, so any chunking of the input, and any company, gives the same bits.

``kinedge.edge.grid`` does this for many people at once; here is the grid of one person, tick by tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.grid import Grid
from kinedge.signals import SensorSpec

__all__ = ["AlignedBlock", "Aligner"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_BUFFER_S: Final = 30.0


@dataclass(frozen=True, eq=False)
class AlignedBlock:
    """Consecutive ticks of the common grid.

    Parameters
    ----------
    first_tick
        Host time of the first row is ``first_tick * period_ns``.
    values, valid, saturated : (n, n_channels)
        Columns in the order of the sensors; a value where ``valid`` is False is 0 and means nothing.
    """

    first_tick: int
    values: F32
    valid: Mask
    saturated: Mask

    def __len__(self) -> int:
        return int(self.values.shape[0])


class Aligner:
    """Bring the sensors of one person onto the common grid, tick by tick.

    Parameters
    ----------
    sensors, rate_hz, max_delay_s
        See ``Grid``.

    Raises
    ------
    SignalError
        No sensor, one twice, or an impossible rate.
    """

    def __init__(self, sensors: Sequence[SensorSpec], *, rate_hz: float, max_delay_s: float = 0.25) -> None:
        none = np.zeros(1, np.int64)
        self._grid = Grid(sensors, none, rate_hz=rate_hz, max_delay_s=max_delay_s, buffer_s=_BUFFER_S)
        self.sensors, self.period_ns = self._grid.sensors, self._grid.period_ns

    @property
    def n_late(self) -> dict[str, int]:
        """How many samples of each sensor came too late to be used."""
        return self._grid.n_late(0)

    def push(
        self, sensor: str, host_time_ns: I64, values: F32, valid: Mask, saturated: Mask, *, interval_ns: int
    ) -> None:
        """Take samples of one sensor; see ``Grid.push``.

        Raises
        ------
        SignalError
            The sensor is unknown, or has another number of channels.
        """
        self._grid.push(0, sensor, host_time_ns, values, valid, saturated, interval_ns=interval_ns)

    def reset_sensor(self, sensor: str) -> None:
        """Forget what is buffered of a sensor: it restarted, its times may jump."""
        self._grid.reset_sensor(0, sensor)

    def pull(self, *, now_ns: int | None = None, flush: bool = False) -> AlignedBlock:
        """Return the ticks that are final and not yet returned, see ``Grid.n_final``; there may be none."""
        one = np.zeros(1, np.intp)
        parts = []
        n = int(self._grid.n_final(now_ns=now_ns, flush=flush)[0])
        first_tick = max(int(self._grid.next_tick[0]), 0)
        while True:
            parts.append(self._grid.take(one, n))
            n = int(self._grid.n_final(now_ns=now_ns, flush=flush)[0])
            if not n:
                break
        values, valid, saturated = (np.concatenate([p[i][0] for p in parts]) for i in range(3))
        return AlignedBlock(first_tick, values, valid, saturated)
