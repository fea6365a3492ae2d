"""What no body shows: acceleration or turning that must be in another unit, or of another range than was said.

Whoever keeps their place is held against gravity, so that over some seconds the mean of what a sensor on them feels is
9.8 m/s^2, whatever they do, and the root mean square is no less; no limb turns on and on faster than a sprinter's
shank. What breaks that is no movement, but a sensor read in g, mg, counts or degrees a second, set to another range
than its driver believes, or one that has taken gravity off by itself. The forecaster would call all of it a change of
movement.

* **At rest** (three axes spread by less than 0.3 m/s^2 within a hop) the mean must be gravity's within a factor of 1.7;
  if not for 4 s on end, nothing of the sensor is believed until one rest shows gravity. In the air of a jump it is
  quiet, too, but not for so long. A sensor that clips or repeats itself is not asked.
* **In the mean of some 10 s**, moving or not, root mean squares must lie between 6.5 and 120 m/s^2, and below 25 rad/s.
* **From one rest to the next** a sensor must have turned by at least the angle between what it felt then and now. If it
  reads 25 degrees less, three times, without a time between that it does not, its turning is too small.

Of all real recordings tried (healthy walking, patients, exercises, football) the means lay between 7.7 and 31 m/s^2,
below 6 rad/s, and the worst calibrated sensor showed 7.7 m/s^2 at rest; of 108,000 times from rest to rest none had
turned by more than 3.4 degrees less than it felt. A range that doubles what is read is seen at rest alone, turning in
degrees a second once the limb moves, turning that is too small once it has rested in some other ways.
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
_OFF: Final = 1.7  # times gravity, or a part of it: ranges and units differ by two and more
_OFF_S: Final = 4.0
_FADES_S: Final = 10.0
_ACC_M_S2: Final = (6.5, 120.0)
_FIRST_M_S2: Final = 8.0  # what is taken for shown before anything is: a sensor in g is told after 5 s
MOST_RAD_S: Final = 25.0
_HOP_M_S2: Final = 250.0  # one absurd sample is no absurd sensor: a hop counts for no more
_HOP_RAD_S: Final = 60.0
_SLACK_RAD: Final = float(np.deg2rad(25))
_TIMES: Final = 3  # an injected change may begin and end with a jump
_UNKNOWN_RAD: Final = 1e6  # turned by nobody knows how much: samples were missing or clipped
_CLIPS_RAD_S: Final = 2.0  # no range ends below
_FEW: Final = 3  # samples at an extreme beyond that: the end of a range
_AXES: Final = 3

LIMITS: Final = {
    "quiet": _QUIET_M_S2**2,
    "rest_low": STANDARD_GRAVITY_M_S2 / _OFF,
    "rest_high": STANDARD_GRAVITY_M_S2 * _OFF,
    "least_acc": _ACC_M_S2[0] ** 2,
    "most_acc": _ACC_M_S2[1] ** 2,
    "most_gyr": MOST_RAD_S**2,
    "hop_acc": _HOP_M_S2**2,
    "hop_gyr": _HOP_RAD_S**2,
    "slack": _SLACK_RAD,
    "times": _TIMES,
    "unknown": _UNKNOWN_RAD,
    "clips": _CLIPS_RAD_S,
    "few_at_end": _FEW,
}


class Plausibility:
    """Looks whether sensors show what a body can.

    Parameters
    ----------
    acc, gyr
        Columns of each sensor's channels of acceleration and of turning; only three axes are looked at.
    hop, rate_hz
        Samples of a hop, and of a second.
    """

    def __init__(
        self, acc: Sequence[NDArray[np.intp]], gyr: Sequence[NDArray[np.intp]], *, hop: int, rate_hz: float
    ) -> None:
        self._n_sensors = len(acc)
        self._felt, self._turned = (_with_three(of) for of in (acc, gyr))
        both = [i for i in self._felt[0].tolist() if i in self._turned[0]]
        self._both = _with_three([a if i in both else a[:0] for i, a in enumerate(acc)])[1]
        self._turn = _with_three([g if i in both else g[:0] for i, g in enumerate(gyr)])
        self._hop, self._hop_s = hop, hop / rate_hz
        self.keep, self.share = math.exp(-self._hop_s / _FADES_S), self._hop_s / _OFF_S

    def initial(self, n_streams: int) -> tuple[NDArray[np.int64], F64, F64]:
        """Return ``n_strange``, ``strength`` and ``rested`` of streams that have seen nothing."""
        strength = np.zeros((n_streams, self._n_sensors, 2))
        strength[..., 0] = _FIRST_M_S2**2
        return np.zeros(strength.shape, np.int64), strength, np.zeros((n_streams, self._n_sensors, 4))

    def step(
        self,
        facts: HopFacts,
        heard: Mask,
        n_strange: NDArray[np.int64],
        strength: F64,
        rested: F64,
        *,
        comparable: Mask | None = None,
    ) -> tuple[NDArray[np.int64], F64, F64]:
        """Take in a hop.

        Parameters
        ----------
        facts
            Of the hop.
        heard : (n_streams, n_sensors)
            Whether enough of it arrived.
        n_strange : (n_streams, n_sensors, 2)
            Hops of rest on end that showed no gravity; once they are enough, it stays until a rest shows some. Times
            that it turned by less than it felt.
        strength : (n_streams, n_sensors, 2)
            Fading means of the squares of acceleration and turning.
        rested : (n_streams, n_sensors, 4)
            Direction of what was felt at the last rest, 0 before the first; by how much it turned since, at most.
        comparable : (n_streams, n_sensors)
            Whether its samples can be held against gravity: those of a sensor that repeats itself jump without turning,
            and clipped ones are less than what is felt. All can when None.
        """
        n_strange, strength, rested = n_strange.copy(), strength.copy(), rested.copy()
        comparable = heard if comparable is None else heard & comparable
        sensors, columns = self._felt
        rests, unit = np.zeros(heard.shape, bool), np.zeros((*heard.shape, _AXES))
        if len(sensors):
            now, before = heard[:, sensors], n_strange[:, sensors, 0]
            level, spread = _squares(facts, columns)
            strength[:, sensors, 0] = self._faded(strength[:, sensors, 0], level + spread, LIMITS["hop_acc"], now)
            length = np.sqrt(level)
            fits = (length >= LIMITS["rest_low"]) & (length <= LIMITS["rest_high"])
            asked = comparable[:, sensors] & (facts.n_saturated[:, columns].max(axis=2) <= 0)
            quiet = asked & (spread < LIMITS["quiet"])
            kept = np.where(before * self.share >= 1, before, 0)
            n_strange[:, sensors, 0] = np.where(asked, np.where(quiet, np.where(fits, 0, before + 1), kept), before)
            rests[:, sensors] = quiet & fits
            felt = facts.level[:, columns].astype(np.float64)
            with np.errstate(invalid="ignore"):
                unit[:, sensors] = felt / np.where(length > 0, length, 1)[..., None]
        sensors, columns = self._turned
        if len(sensors):
            level, spread = _squares(facts, columns)
            strength[:, sensors, 1] = self._faded(
                strength[:, sensors, 1], level + spread, LIMITS["hop_gyr"], heard[:, sensors]
            )
        sensors, columns = self._turn
        if len(sensors):
            of_turn = n_strange[:, sensors, 1], rested[:, sensors], rests[:, sensors], unit[:, sensors]
            n_strange[:, sensors, 1], rested[:, sensors] = self._turn_on(
                facts, columns, comparable[:, sensors], *of_turn
            )
        return n_strange, strength, rested

    def _turn_on(
        self,
        facts: HopFacts,
        columns: NDArray[np.intp],
        known: Mask,
        times: NDArray[np.int64],
        rested: F64,
        rests: Mask,
        unit: F64,
    ) -> tuple[NDArray[np.int64], F64]:
        """Add what was turned; hold it against what is felt, where a sensor rests."""
        level, spread = _squares(facts, columns)
        square = np.where(level + spread < LIMITS["hop_gyr"], level + spread, LIMITS["hop_gyr"])
        for of in (self._both, columns):
            known = known & (facts.n_valid[:, of].min(axis=2) >= self._hop)
            known = known & (facts.n_saturated[:, of].max(axis=2) <= 0)
        for n, end in ((facts.n_low, -facts.low), (facts.n_high, facts.high)):
            known = known & ~((n[:, columns] >= _FEW) & (end[:, columns] > _CLIPS_RAD_S)).any(axis=2)
        turned = np.where(known, rested[..., 3] + self._hop_s * np.sqrt(square), _UNKNOWN_RAD)
        turned = np.minimum(turned, _UNKNOWN_RAD)
        apart = unit - rested[..., :3]
        # the chord is shorter than the way, and needs no arc cosine
        chord = np.sqrt(apart[..., 0] ** 2 + apart[..., 1] ** 2 + apart[..., 2] ** 2)
        asked = rests & (rested[..., :3] != 0).any(axis=2) & (chord > _SLACK_RAD)
        less = chord > turned + _SLACK_RAD
        known_turn = asked & (less | (turned < _UNKNOWN_RAD))
        times = np.where(known_turn, np.where(less, np.minimum(times + 1, _TIMES), 0), times)
        after = np.concatenate([unit, np.zeros_like(turned)[..., None]], axis=2)
        going_on = np.concatenate([rested[..., :3], turned[..., None]], axis=2)
        return times, np.where(rests[..., None], after, going_on)

    def _faded(self, mean: F64, square: F64, most: float, heard: Mask) -> F64:
        capped = np.where(square < most, square, most)  # what is no number is capped, too
        return np.where(heard, self.keep * mean + (1 - self.keep) * capped, mean)

    def against(self, n_strange: NDArray[np.int64], strength: F64) -> tuple[F64, F64, F64, F64]:
        """Return how sure it is that no body shows that and that it turns too little, 0 to 1; m/s^2 and rad/s."""
        acc, gyr = strength[..., 0], strength[..., 1]
        unturned = np.where(n_strange[..., 1] >= _TIMES, 1.0, 0.0)
        absurd = (acc < LIMITS["least_acc"]) | (acc > LIMITS["most_acc"]) | (gyr > LIMITS["most_gyr"])
        at_rest = np.minimum(np.maximum(1.5 * (n_strange[..., 0] * self.share) - 0.5, 0), 1)
        return np.where(absurd | (unturned > 0), 1.0, at_rest), unturned, np.sqrt(acc), np.sqrt(gyr)


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
