"""A doubt, said once, where a device's acceleration at rest is not gravity's.

It goes to the log and the screen. What no body can explain changes answers, too: ``kinedge.edge.plausible``.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.signals import IMU6, SensorSpec
from kinedge.units import NS_PER_S, STANDARD_GRAVITY_M_S2

__all__ = ["GravityCheck", "feels_gravity"]

_ACC: Final = IMU6[:3]


def feels_gravity(spec: SensorSpec) -> bool:
    """Say whether a sensor's first channels are three axes of acceleration."""
    return spec.channels[:3] == _ACC


class GravityCheck:
    """Is the acceleration that of a body on Earth? Judged only where it rests.

    Windows of 2 s in which no axis moves by more than 0.5 m/s^2 from end to end are rest. Five windows of rest, with
    none between that is better, further than 15 % from 9.81 m/s^2 are a doubt, said once.
    """

    _WINDOW_NS: Final = 2 * NS_PER_S
    _STEADY_M_S2: Final = 0.5
    _TOLERANCE: Final = 0.15
    _WINDOWS: Final = 5
    _MIN_SAMPLES: Final = 10

    def __init__(self) -> None:
        self._low = self._high = [0.0, 0.0, 0.0]
        self._n = 0
        self._start_ns = 0
        self._off = 0
        self._said = False

    def feed(self, device_time_ns: NDArray[np.int64], acc_m_s2: NDArray[np.float32]) -> float | None:
        """Take valid samples (n, 3); return the implausible magnitude at rest in m/s^2 once it is sure, else None."""
        if self._said or not len(acc_m_s2):
            return None
        if len(acc_m_s2) == 1:
            low = high = acc_m_s2[0].tolist()
        else:
            low, high = acc_m_s2.min(axis=0).tolist(), acc_m_s2.max(axis=0).tolist()
        start, end = int(device_time_ns[0]), int(device_time_ns[-1])
        if self._n and start >= self._start_ns:
            low, high = [*map(min, self._low, low)], [*map(max, self._high, high)]
        else:
            self._n, self._start_ns = 0, start
        self._low, self._high = low, high
        self._n += len(acc_m_s2)
        if end - self._start_ns < self._WINDOW_NS:
            return None
        enough, self._n = self._n >= self._MIN_SAMPLES, 0
        if not enough or any(h - b > self._STEADY_M_S2 for b, h in zip(low, high, strict=True)):
            return None
        magnitude = math.dist(low, [-h for h in high]) / 2
        off = abs(magnitude - STANDARD_GRAVITY_M_S2) > self._TOLERANCE * STANDARD_GRAVITY_M_S2
        self._off = self._off + 1 if off else 0
        self._said = self._off >= self._WINDOWS
        return magnitude if self._said else None

    def doubt(
        self, device_time_ns: NDArray[np.int64], values: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> str | None:
        """Take samples (n, n_channels) of which the first three channels are acceleration; return what to say, once."""
        acc, there = values[:, :3], valid[:, :3]
        if not there.all():
            usable = there.all(axis=1)
            device_time_ns, acc = device_time_ns[usable], acc[usable]
        magnitude = self.feed(device_time_ns, acc)
        if magnitude is None:
            return None
        return f"the acceleration at rest is {magnitude:.2f} m/s^2, expected about 9.81"
