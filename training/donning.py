"""How differently a sensor sits from day to day: turned, twisted about its limb, and shifted along it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.training.body import Motion
from kinedge.training.rotations import about, angular_rate, multiply, rotate, small_rotation

__all__ = ["Donning", "Worn", "wear"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Worn:
    """How a sensor sits on its segment: turned by (1, 4), and shifted by (3,) m in the segment's own frame."""

    turn: Array
    shift_m: Array


@dataclass(frozen=True)
class Donning:
    """How much one day's fit differs from another's; standard deviations.

    Parameters
    ----------
    tilt_deg
        Per axis, any direction.
    twist_deg
        About the long axis of the limb (the segment's z), which a strap hardly holds.
    along_m, across_m
        Shift along the limb and to its sides.

    Raises
    ------
    ConfigError
        A number is negative, or too large for a strap.
    """

    tilt_deg: float = 6.0
    twist_deg: float = 12.0
    along_m: float = 0.02
    across_m: float = 0.005

    def __post_init__(self) -> None:
        fits = 0 <= self.tilt_deg <= 90 and 0 <= self.twist_deg <= 180
        if not (fits and 0 <= self.along_m <= 0.3 and 0 <= self.across_m <= 0.1):
            raise ConfigError(f"tilt, twist and shifts must be those of a strap on a limb, got {self}")

    def draw(self, rng: np.random.Generator) -> Worn:
        """Put the sensor on once."""
        twist = about("z", math.radians(self.twist_deg) * float(rng.normal()))
        turn = multiply(twist, small_rotation(rng, sd_deg=self.tilt_deg))
        return Worn(turn, rng.normal(0, 1, 3) * [self.across_m, self.across_m, self.along_m])


def wear(motion: Motion, worn: Worn, *, rate_hz: float) -> Motion:
    """Return what a sensor worn so goes through on a segment that moves like this.

    A point at ``r`` from the place it should be at is accelerated by ``w x (w x r) + dw/dt x r`` more, ``w`` being the
    segment's angular rate.
    """
    rate = angular_rate(motion.orientation, rate_hz=rate_hz)
    # the rate is a mean over the interval before each sample: bring it to the sample
    at_sample = np.concatenate([(rate[:-1] + rate[1:]) / 2, rate[-1:]])
    change = np.gradient(at_sample, axis=0) * rate_hz if len(rate) > 1 else np.zeros_like(rate)
    shift = np.broadcast_to(worn.shift_m, rate.shape)
    extra = np.cross(at_sample, np.cross(at_sample, shift)) + np.cross(change, shift)
    return Motion(multiply(motion.orientation, worn.turn), motion.acc_world + rotate(motion.orientation, extra))
