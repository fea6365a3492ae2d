"""Is the person walking? Seen from any sensor: the same shake comes back step after step.

Walking swings the arms without using them, so arm use keeps it apart. The regularity is the largest unbiased
autocorrelation of the acceleration's size over 6 s, at lags from 0.35 to 1.3 s (one step to one stride).

Source of the principle: Moe-Nilssen, Helbostad, J Biomech 2004, 37:121.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["Walking", "WalkingState", "autocorrelation"]

F64 = NDArray[np.float64]

_WINDOW_S: Final = 6
_POOLED_HZ: Final = 25
_LAGS_S: Final = (0.35, 1.3)
_REGULAR: Final = 0.5
_SHAKEN_G: Final = 0.04


def autocorrelation(x: F64, *, longest: int) -> F64:
    """Return the unbiased autocorrelation of each column of ``x`` (n, k) at lags 0 to ``longest``: (longest + 1, k).

    Lag 0 is 1; a column that never varies is 0 throughout.
    """
    n = len(x)
    x = x - x.mean(axis=0)
    size = 1 << (n + longest).bit_length()
    power = np.abs(np.fft.rfft(x, size, axis=0)) ** 2
    raw = np.fft.irfft(power, size, axis=0)[: longest + 1] / (n - np.arange(longest + 1))[:, None]
    scaled: F64 = np.divide(raw, raw[0], out=np.zeros_like(raw), where=raw[0] > 1e-12)
    return scaled


@dataclass(frozen=True, eq=False)
class WalkingState:
    """Size of the acceleration (150, n_sensors) in g at 25 Hz, and how many seconds of it are real."""

    size: F64
    n_seconds: NDArray[np.int64]


class Walking:
    """Tells walking from other movement, a second at a time.

    Parameters
    ----------
    rate_hz
        Whole samples a second.
    n_sensors
        Accelerometers looked at; their regularity is averaged.
    """

    def __init__(self, rate_hz: int, n_sensors: int) -> None:
        edges = np.linspace(0, rate_hz, _POOLED_HZ + 1).round().astype(int)
        self._starts, self._widths = edges[:-1], np.diff(edges)[:, None]
        self._n_sensors = n_sensors

    def initial_state(self) -> WalkingState:
        """Return the state before the first second."""
        return WalkingState(np.zeros((_WINDOW_S * _POOLED_HZ, self._n_sensors)), np.zeros((), np.int64))

    def step(self, acc_m_s2: F64, state: WalkingState) -> tuple[bool, WalkingState]:
        """Return whether the person walked through the last 6 s, given one more second ``(rate_hz, n_sensors, 3)``."""
        size = np.linalg.norm(acc_m_s2, axis=2) / STANDARD_GRAVITY_M_S2
        pooled = np.add.reduceat(size, self._starts, axis=0) / self._widths
        window = np.vstack([state.size[_POOLED_HZ:], pooled])
        state = WalkingState(window, np.minimum(state.n_seconds + 1, _WINDOW_S))
        if state.n_seconds < _WINDOW_S or window.std(axis=0).max() < _SHAKEN_G:
            return False, state
        first, last = (round(s * _POOLED_HZ) for s in _LAGS_S)
        r = autocorrelation(window, longest=last)[first:].mean(axis=1)
        return bool(r.max() > _REGULAR), state
