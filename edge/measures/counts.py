"""Activity counts and gross movement of one wrist, a second at a time.

Sources: Neishabouri et al., Sci Rep 2022, 12:11958 (counts); Subash, David et al., IEEE TNSRE 2024, 32:2513 (GMAC).

Deviations: counts are resampled to 30 Hz by a windowed sinc; the high-pass of GMAC is of first order, and its
threshold of 0.1 is read as g. All windows are causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.filters import BlockFilter, Resampler, high_pass, trailing_mean
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["ActivityCounts", "CountsState", "GrossMovement", "GrossMovementState"]

F64 = NDArray[np.float64]

_COUNTS_HZ: Final = 30
# the band-pass, 0.29 to 1.63 Hz at 30 Hz, of the published algorithm
_B: Final = (
    -0.009341062898525, -0.025470289659360, -0.004235264826105, 0.044152415456420, 0.036493718347760,
    -0.011893961934740, -0.022917390623150, -0.006788163862310,
)  # fmt: skip
_A: Final = (
    1.0, -3.63367395910957, 5.03689812757486, -3.09612247819666, 0.50620507633883, 0.32421701566682,
    -0.15685485875559, 0.0194913020589,
)  # fmt: skip
_SCALE: Final = (3.0 / 4096.0) / (2.6 / 256.0) * 237.5
_DEAD_BAND: Final = 4.0
_LARGEST: Final = 128.0

_ON_RAD: Final = math.radians(10.0)
_OFF_RAD: Final = math.radians(-30.0)
_MOVING_G: Final = 0.1
_DRIFT_HZ: Final = 0.01


@dataclass(frozen=True, eq=False)
class CountsState:
    """History of the resampler (n_history, 3), state of the band-pass (7, 3), and whether it has begun."""

    history: F64
    band: F64
    begun: NDArray[np.bool_]


class ActivityCounts:
    """Open activity counts of a three-axis accelerometer.

    Parameters
    ----------
    rate_hz
        Whole samples a second.
    """

    def __init__(self, rate_hz: int) -> None:
        self._resampler = Resampler.between(rate_hz, _COUNTS_HZ)
        self._band = BlockFilter.of(np.array(_B), np.array(_A), length=_COUNTS_HZ)

    def initial_state(self) -> CountsState:
        """Return the state before the first second."""
        return CountsState(np.zeros((self._resampler.n_history, 3)), np.zeros((7, 3)), np.zeros((), bool))

    def step(self, acc_m_s2: F64, state: CountsState) -> tuple[float, CountsState]:
        """Return the counts (vector magnitude) of one second ``(rate_hz, 3)``."""
        acc_g = acc_m_s2 / STANDARD_GRAVITY_M_S2
        history, band = state.history, state.band
        if not state.begun:  # gravity must not look like a blow
            history = np.repeat(acc_g[:1], self._resampler.n_history, axis=0)
            band = self._band.resting_at(acc_g[0])
        at_30_hz, history = self._resampler.step(acc_g, history)
        passed, band = self._band.step(at_30_hz, band)
        size = np.abs(passed) * _SCALE
        size = np.floor(np.where(size < _DEAD_BAND, 0.0, np.minimum(size, _LARGEST)))
        at_10_hz = np.floor(size.reshape(-1, 3, 3).mean(axis=1))
        counts = float(np.sqrt((at_10_hz.sum(axis=0) ** 2).sum()))
        return counts, CountsState(history, band, np.ones((), bool))


@dataclass(frozen=True, eq=False)
class GrossMovementState:
    """Histories of the two means, state of the high-pass, the posture's hysteresis, and whether it has begun."""

    posture: F64
    size: F64
    drift: F64
    raised: NDArray[np.bool_]
    begun: NDArray[np.bool_]


class GrossMovement:
    """GMAC: a forearm that is raised and moves is in functional use; accelerometer only.

    Parameters
    ----------
    rate_hz
        Whole samples a second.
    forearm_axis, sign
        Column (0, 1, 2) of the axis along the forearm, and 1 if it points to the hand, -1 to the elbow.
    """

    def __init__(self, rate_hz: int, *, forearm_axis: int = 0, sign: int = 1) -> None:
        self._rate = rate_hz
        self._axis = forearm_axis
        self._sign = sign
        self._drift = high_pass(_DRIFT_HZ, rate_hz)
        self._width = max(1, rate_hz // 2)

    def initial_state(self) -> GrossMovementState:
        """Return the state before the first second."""
        return GrossMovementState(
            np.zeros((self._rate - 1, 3)),
            np.zeros((self._width - 1, 1)),
            np.zeros((1, 3)),
            np.zeros((), bool),
            np.zeros((), bool),
        )

    def step(self, acc_m_s2: F64, state: GrossMovementState) -> tuple[NDArray[np.bool_], GrossMovementState]:
        """Return at each sample of one second ``(rate_hz, 3)`` whether the arm is in use."""
        acc_g = acc_m_s2 / STANDARD_GRAVITY_M_S2
        posture, drift = state.posture, state.drift
        if not state.begun:
            posture, drift = np.repeat(acc_g[:1], self._rate - 1, axis=0), self._drift.resting_at(acc_g[0])
        mean, posture = trailing_mean(acc_g, posture, width=self._rate)
        along = self._sign * mean[:, self._axis] / np.maximum(np.linalg.norm(mean, axis=1), 1e-9)
        pitch = np.arcsin(np.clip(along, -1.0, 1.0))
        event = np.where(pitch > _ON_RAD, 1, np.where(pitch < _OFF_RAD, -1, 0))
        event = np.append(1 if state.raised else -1, event)
        last = np.maximum.accumulate(np.where(event != 0, np.arange(len(event)), 0))
        raised = event[last][1:] > 0
        moved, drift = self._drift.step(acc_g, drift)
        size, sizes = trailing_mean(np.linalg.norm(moved, axis=1)[:, None], state.size, width=self._width)
        use: NDArray[np.bool_] = raised & (size[:, 0] > _MOVING_G)
        return use, GrossMovementState(posture, sizes, drift, np.asarray(raised[-1]), np.ones((), bool))
