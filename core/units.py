"""Units: SI inside, conversions only at the edges.

Acceleration is m/s^2 and includes gravity (an axis pointing up at rest reads +9.81);
angular rate is rad/s; magnetic field is microtesla. Time is integer nanoseconds.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = [
    "NS_PER_S",
    "NS_PER_US",
    "STANDARD_GRAVITY_M_S2",
    "accel_from_counts",
    "period_ns",
    "rad_s_from_deg_s",
]

STANDARD_GRAVITY_M_S2: Final = 9.80665
NS_PER_S: Final = 1_000_000_000
NS_PER_US: Final = 1_000


def accel_from_counts(counts: NDArray[np.int16], *, full_scale_g: float) -> NDArray[np.float32]:
    """Convert accelerometer counts to m/s^2.

    Parameters
    ----------
    counts : (n_samples, 3) int16
        Raw x, y, z in the sensor frame.
    full_scale_g
        Configured range, in g. Count 32768 is ``full_scale_g``.

    Returns
    -------
    acc_m_s2 : (n_samples, 3) float32
        An axis pointing up at rest reads +9.81.

    Raises
    ------
    SignalError
        ``counts`` is not ``(n_samples, 3)``, or the range is not positive.
    """
    if counts.ndim != 2 or counts.shape[1] != 3:
        raise SignalError(f"accelerometer counts must be (n_samples, 3), got {counts.shape}")
    if not (math.isfinite(full_scale_g) and full_scale_g > 0):
        raise SignalError(f"full_scale_g must be a positive number of g, got {full_scale_g}")
    acc_m_s2: NDArray[np.float32] = counts.astype(np.float32) * np.float32(full_scale_g * STANDARD_GRAVITY_M_S2 / 32768)
    return acc_m_s2


def rad_s_from_deg_s(deg_s: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert angular rate from deg/s to rad/s (any shape)."""
    rad_s: NDArray[np.float32] = np.deg2rad(deg_s).astype(np.float32)
    return rad_s


def period_ns(rate_hz: float) -> int:
    """Return the sample period of a rate as whole nanoseconds.

    Raises
    ------
    SignalError
        The rate is not between 1 Hz and 10 kHz.
    """
    if not (math.isfinite(rate_hz) and 1.0 <= rate_hz <= 10_000.0):
        raise SignalError(f"a rate must lie between 1 and 10000 Hz, got {rate_hz}")
    return round(NS_PER_S / rate_hz)
