"""How smooth a movement was, and the cutting of a wrist's angular speed into movements.

Sources: Balasubramanian et al., J NeuroEng Rehabil 2015, 12:112 (SPARC); Melendez-Calderon et al., Front Bioeng
Biotechnol 2021, 8:558771 (LDLJ-A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["Movements", "MovementsState", "ldlj_a", "sparc"]

F64 = NDArray[np.float64]

_CUTOFF_HZ: Final = 10.0
_AMPLITUDE: Final = 0.05
_PADDING: Final = 4
_MOVING_RAD_S: Final = 0.5
_SHORTEST_S: Final = 0.4
_LONGEST_S: Final = 8


def sparc(speed: F64, rate_hz: float) -> float:
    """Return the spectral arc length of a speed profile: negative, and nearer to 0 the smoother; no unit.

    Parameters
    ----------
    speed : (n,)
        Linear or angular speed of one movement, in any unit.
    rate_hz
        Samples a second.

    Raises
    ------
    SignalError
        Fewer than 4 samples, values that are not finite, or no movement at all.
    """
    if speed.ndim != 1 or len(speed) < 4 or not np.isfinite(speed).all() or not speed.any():
        raise SignalError("smoothness needs a speed profile of at least 4 finite samples with movement in it")
    n = 1 << (math.ceil(math.log2(len(speed))) + _PADDING)
    spectrum = np.abs(np.fft.rfft(speed, n))
    frequency = np.arange(len(spectrum)) * rate_hz / n
    below = frequency <= _CUTOFF_HZ
    frequency, spectrum = frequency[below], spectrum[below] / spectrum.max()
    loud = np.flatnonzero(spectrum >= _AMPLITUDE)
    frequency, spectrum = frequency[loud[0] : loud[-1] + 1], spectrum[loud[0] : loud[-1] + 1]
    if len(frequency) < 2:
        raise SignalError("the speed profile is too short for its spectrum; give a whole movement")
    width = frequency[-1] - frequency[0]
    return -float(np.hypot(np.diff(frequency) / width, np.diff(spectrum)).sum())


def ldlj_a(acc_m_s2: F64, rate_hz: float) -> float:
    """Return the log dimensionless jerk of one movement from its acceleration without gravity ``(n, 3)``.

    The peak is of the acceleration less its mean over the movement, since gravity cannot be taken out exactly.

    Raises
    ------
    SignalError
        Fewer than 4 samples, values that are not finite, or no movement at all.
    """
    if acc_m_s2.ndim != 2 or len(acc_m_s2) < 4 or not np.isfinite(acc_m_s2).all():
        raise SignalError("smoothness needs at least 4 finite samples (n, 3) of acceleration")
    peak = float(np.linalg.norm(acc_m_s2 - acc_m_s2.mean(axis=0), axis=1).max())
    jerk = np.diff(acc_m_s2, axis=0) * rate_hz
    total = float((jerk**2).sum()) / rate_hz
    if peak == 0 or total == 0:
        raise SignalError("no movement in this acceleration")
    return -math.log(len(acc_m_s2) / rate_hz / peak**2 * total)


@dataclass(frozen=True, eq=False)
class MovementsState:
    """The movement under way: its speeds so far (n_longest,) and how many; -1 while one that was too long goes on."""

    speed: F64
    length: NDArray[np.int64]


class Movements:
    """Cuts angular speed into movements between rests, and rates each as it ends.

    A movement is 0.4 to 8 s above 0.5 rad/s; what is longer is walking or exercise, and is not rated.

    Parameters
    ----------
    rate_hz
        Whole samples a second.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate = rate_hz
        self._longest = _LONGEST_S * rate_hz
        self._shortest = max(4, math.ceil(_SHORTEST_S * rate_hz))

    def initial_state(self) -> MovementsState:
        """Return the state before the first second."""
        return MovementsState(np.zeros(self._longest), np.zeros((), np.int64))

    def step(self, speed_rad_s: F64, state: MovementsState) -> tuple[list[float], MovementsState]:
        """Return the SPARC of every movement that ended in this second ``(rate_hz,)``."""
        found: list[float] = []
        kept, length = state.speed.copy(), int(state.length)
        moving = speed_rad_s > _MOVING_RAD_S
        edges = np.flatnonzero(np.diff(moving)) + 1
        for part, on in zip(np.split(speed_rad_s, edges), moving[np.append(0, edges)], strict=True):
            if on:
                if length >= 0 and length + len(part) <= self._longest:
                    kept[length : length + len(part)] = part
                    length += len(part)
                else:
                    length = -1
                continue
            if length >= self._shortest:
                found.append(sparc(kept[:length], self._rate))
            length = 0
        return found, MovementsState(kept, np.asarray(length))

    def interrupted(self, state: MovementsState) -> MovementsState:
        """Return the state after data was missing: half a movement is none."""
        return MovementsState(state.speed, np.zeros((), np.int64))
