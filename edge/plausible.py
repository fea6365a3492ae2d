"""What no body shows: acceleration or turning that must be in another unit, or of another range than was said.

Whoever keeps their place is held against gravity, so that over some seconds the mean of what a sensor on them feels is
9.8 m/s^2, whatever they do, and the root mean square is no less; no limb turns on and on faster than a sprinter's
shank. What breaks that is no movement, but a sensor read in g, mg, counts or degrees a second, set to another range
than its driver believes, or one that has taken gravity off by itself. The forecaster would call all of it a change of
movement.

* **At rest** (three axes spread by less than 0.3 m/s^2 within a hop) the mean must be gravity's within 30 per cent; if
  not for 4 s on end, nothing of the sensor is believed until one rest shows gravity. In the air of a jump it is quiet,
  too, but not for so long.
* **In the mean of some 10 s**, moving or not, root mean squares must lie between 6.5 and 120 m/s^2, and below 25 rad/s.

Of all real recordings tried (healthy walking, patients, exercises, football) the means lay between 7.7 and 31 m/s^2,
below 6 rad/s, and the worst calibrated sensor showed 7.7 m/s^2 at rest. A range that doubles what is read is seen at
rest alone, turning in degrees a second once the limb moves; turning too small by as much is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["LIMITS", "MOST_RAD_S", "Plausibility"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_QUIET_M_S2: Final = 0.3
_OFF: Final = 0.3  # of gravity
_OFF_S: Final = 4.0
_FADES_S: Final = 10.0
_ACC_M_S2: Final = (6.5, 120.0)
_FIRST_M_S2: Final = 8.0  # what is taken for shown before anything is: a sensor in g is told after 5 s
MOST_RAD_S: Final = 25.0
_HOP_M_S2: Final = 250.0  # one absurd sample is no absurd sensor: a hop counts for no more
_HOP_RAD_S: Final = 60.0
_AXES: Final = 3

LIMITS: Final = {
    "quiet": _QUIET_M_S2**2,
    "rest_low": (1 - _OFF) * STANDARD_GRAVITY_M_S2,
    "rest_high": (1 + _OFF) * STANDARD_GRAVITY_M_S2,
    "least_acc": _ACC_M_S2[0] ** 2,
    "most_acc": _ACC_M_S2[1] ** 2,
    "most_gyr": MOST_RAD_S**2,
    "hop_acc": _HOP_M_S2**2,
    "hop_gyr": _HOP_RAD_S**2,
}


class Plausibility:
    """Looks whether sensors show what a body can.

    Parameters
    ----------
    acc, gyr
        Columns of each sensor's channels of acceleration and of turning; only three axes are looked at.
    hop_s
        Of a hop.
    """

    def __init__(self, acc: Sequence[NDArray[np.intp]], gyr: Sequence[NDArray[np.intp]], hop_s: float) -> None:
        self._n_sensors = len(acc)
        self._felt, self._turned = (_with_three(of) for of in (acc, gyr))
        self.keep = math.exp(-hop_s / _FADES_S)
        self.share = hop_s / _OFF_S

    def initial(self, n_streams: int) -> tuple[NDArray[np.int64], F64]:
        """Return ``n_strange`` and ``strength`` of streams that have seen nothing."""
        strength = np.zeros((n_streams, self._n_sensors, 2))
        strength[..., 0] = _FIRST_M_S2**2
        return np.zeros(strength.shape[:2], np.int64), strength

    def step(
        self, facts: HopFacts, heard: Mask, n_strange: NDArray[np.int64], strength: F64
    ) -> tuple[NDArray[np.int64], F64]:
        """Take in a hop.

        Parameters
        ----------
        facts
            Of the hop.
        heard : (n_streams, n_sensors)
            Whether enough of it arrived.
        n_strange : (n_streams, n_sensors)
            Hops of rest on end that showed no gravity; once they are enough, it stays until a rest shows some.
        strength : (n_streams, n_sensors, 2)
            Fading means of the squares of acceleration and turning.
        """
        n_strange, strength = n_strange.copy(), strength.copy()
        sensors, columns = self._felt
        if len(sensors):
            now, before = heard[:, sensors], n_strange[:, sensors]
            level, spread = _squares(facts, columns)
            strength[:, sensors, 0] = self._faded(strength[:, sensors, 0], level + spread, LIMITS["hop_acc"], now)
            length = np.sqrt(level)
            fits = (length >= LIMITS["rest_low"]) & (length <= LIMITS["rest_high"])
            rests = now & (spread < LIMITS["quiet"])
            kept = np.where(before * self.share >= 1, before, 0)
            n_strange[:, sensors] = np.where(now, np.where(rests, np.where(fits, 0, before + 1), kept), before)
        sensors, columns = self._turned
        if len(sensors):
            level, spread = _squares(facts, columns)
            strength[:, sensors, 1] = self._faded(
                strength[:, sensors, 1], level + spread, LIMITS["hop_gyr"], heard[:, sensors]
            )
        return n_strange, strength

    def _faded(self, mean: F64, square: F64, most: float, heard: Mask) -> F64:
        capped = np.where(square < most, square, most)  # what is no number is capped, too
        return np.where(heard, self.keep * mean + (1 - self.keep) * capped, mean)

    def against(self, n_strange: NDArray[np.int64], strength: F64) -> tuple[F64, F64, F64]:
        """Return how sure it is that no body shows that, 0 to 1, and the root mean squares in m/s^2 and rad/s."""
        acc, gyr = strength[..., 0], strength[..., 1]
        absurd = (acc < LIMITS["least_acc"]) | (acc > LIMITS["most_acc"]) | (gyr > LIMITS["most_gyr"])
        at_rest = np.minimum(np.maximum(1.5 * (n_strange * self.share) - 0.5, 0), 1)
        return np.where(absurd, 1.0, at_rest), np.sqrt(acc), np.sqrt(gyr)


def _with_three(columns: Sequence[NDArray[np.intp]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the sensors that have three axes, and these (n, 3)."""
    sensors = [i for i, c in enumerate(columns) if len(c) == _AXES]
    return np.array(sensors, np.intp), np.array([columns[i] for i in sensors], np.intp).reshape(-1, _AXES)


def _squares(facts: HopFacts, columns: NDArray[np.intp]) -> tuple[F64, F64]:
    """Return (n, n_sensors): the square of the mean of three axes, and what the samples spread around it."""
    level, power, n = (part[:, columns].astype(np.float64) for part in (facts.level, facts.power, facts.n_valid))
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = level * level, power / np.maximum(n, 1)
        return a[..., 0] + a[..., 1] + a[..., 2], b[..., 0] + b[..., 1] + b[..., 2]
