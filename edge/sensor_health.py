"""What is known about the sensors of streams, and what is remembered to know it (``kinedge.edge.reliability``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLIPPED_POWER", "FINE", "MOST_BITS", "N_FOUND", "HealthState", "SensorHealth", "channels_of"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

CLIPPED_POWER: Final = 6  # a clipped sample misleads about its neighbours, too
_OUT: Final = 0.5  # trust below which a sensor is kept from the model
N_FOUND: Final = 11  # parts of a sensor's health that are numbers
MOST_BITS: Final = 52  # of a sensor's channels: so many are whole numbers of double precision
FINE: Final = 0.05  # of each thing that may be wrong: together they leave more than that


def channels_of(held: F64, widths: NDArray[np.int64]) -> Mask:
    """Return which channels (n_streams, n_channels) the bits of sensors (n_streams, n_sensors) so wide stand for."""
    place = np.minimum(np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths), MOST_BITS)
    bits = np.repeat(np.abs(held).astype(np.int64), widths, axis=1)
    return np.asarray(bits >> place & 1, bool)


@dataclass(frozen=True, eq=False)
class SensorHealth:
    """What stands against trusting a sensor; all (n_streams, n_sensors).

    Parameters
    ----------
    repeated, clipped
        Share of samples, in the block and of late.
    off_body, units, swapped, shifted
        0 (no sign of it) to 1 (certain). ``units``: no body shows what it reads.
    still_s
        How long the sensor has been still.
    unturned
        1 where that is for turning by less than it felt.
    acc_m_s2, gyr_rad_s
        Root mean square of late.
    held
        Which of its channels stand at one number while the sensor moves, as bits (1 for the first, 2, 4 ..); 0 where
        none does. Negative where all of the sensor is kept from the model, not that axis alone: more than one stands,
        its samples are turned, so that the axis is in three, or the model has not learned to be without one.
    twin
        Index of the sensor that gives the same signal, -1 without one.
    copy : bool
        It has a twin, and is not known to be the original.
    """

    repeated: F64
    clipped: F64
    off_body: F64
    units: F64
    swapped: F64
    shifted: F64
    still_s: F64
    unturned: F64
    acc_m_s2: F64
    gyr_rad_s: F64
    held: F64
    twin: NDArray[np.int64]
    copy: Mask
    _is_fine: ClassVar[bool] = False

    @classmethod
    def fine(cls, n_streams: int, n_sensors: int) -> SensorHealth:
        """Return the health of sensors against which nothing speaks."""
        found = np.zeros((N_FOUND, n_streams, n_sensors))
        return cls.of(found, np.full(found.shape[1:], -1, np.int64), np.zeros(found.shape[1:], bool))

    @classmethod
    def of(cls, found: F64, twin: NDArray[np.int64], copy: Mask) -> SensorHealth:
        """Return the health of which the first parts are ``found`` (``N_FOUND``, n_streams, n_sensors)."""
        repeated, clipped, off_body, units, swapped, shifted, still_s, unturned, acc_m_s2, gyr_rad_s, held = found
        health = cls(
            repeated,
            clipped,
            off_body,
            units,
            swapped,
            shifted,
            still_s,
            unturned,
            acc_m_s2,
            gyr_rad_s,
            held,
            twin=twin,
            copy=copy,
        )
        if found[:4].max(initial=0.0) < FINE and not held.any() and not copy.any():
            object.__setattr__(health, "_is_fine", True)
        return health

    @property
    def is_fine(self) -> bool:
        """Whether it is known that none is ``out``; False where nobody has looked."""
        return self._is_fine

    @property
    def out(self) -> Mask:
        """Which sensors the model must not see at all."""
        trust = (1 - self.repeated) * (1 - self.clipped) ** CLIPPED_POWER * (1 - self.off_body) * ~self.copy
        trust = trust * (1 - self.units) * (self.held >= 0)
        kept_out: Mask = trust < _OUT
        return kept_out

    def hidden(self, widths: NDArray[np.int64]) -> Mask:
        """Return which channels (n_streams, n_channels) of sensors so wide the model must not see."""
        hidden: Mask = np.repeat(self.out, widths, axis=1) | channels_of(self.held, widths)
        return hidden

    def first_held(self, stream: int, sensor: int) -> int:
        """Return the first channel of a sensor that is held, counted from 1; 0 where none is."""
        bits = int(self.held[stream, sensor])
        return (bits & -bits).bit_length()


@dataclass(frozen=True, eq=False)
class HealthState:
    """What the monitor remembers; streams are the first axis of every array.

    Parameters
    ----------
    marks : (n, n_sensors, block) uint64
        One number per sample of the last block, 0 where missing; equal samples have equal numbers.
    clipped : (n, n_sensors)
        Share of samples at an extreme, the largest of late, decaying.
    reach : (n, 4, n_channels) float32
        How far each channel has reached up and down, decaying towards where it is, and in the last hop.
    held : (n, n_sensors)
        Which axes were held when they were last heard, as bits; 0 where none was.
    coarse : (n, n_channels)
        In which share of the hops of late some samples on end were equal, but not all, decaying; 1 at first.
    likeness : (n, n_hops of 4 s, n_pairs, 2)
        Power of the difference of two sensors, and of both.
    n_still, n_lone : (n, n_sensors)
        Hops for which the sensor has been still; of these, with another one moving (four each if it moves strongly).
    n_strange, strength : (n, n_sensors, 2)
    rested : (n, n_sensors, 4)
        What is known for whether a body shows that: ``kinedge.edge.plausible``.
    side, side_weight : (n, n_pairs)
        Decaying sums: how much nearer both sensors of a pair are to their own usual levels than to the other's.
    belongs : (n, n_pairs)
        The same of the first sensor's signal alone; 1 where it is the first one's, -1 the second's.
    gravity, usual_gravity, last : (n, n_sensors, 3)
        Mean acceleration: decaying and recent, decaying and of usual movement, of the last hop.
    usual_weight, unusual : (n, n_sensors)
        Decaying sums of hops that were usual, and of those that were not.
    """

    marks: NDArray[np.uint64]
    clipped: F64
    reach: F32
    held: F64
    coarse: F64
    likeness: F64
    n_still: NDArray[np.int64]
    n_lone: NDArray[np.int64]
    n_strange: NDArray[np.int64]
    strength: F64
    rested: F64
    side: F64
    side_weight: F64
    belongs: F64
    gravity: F64
    usual_gravity: F64
    last: F64
    usual_weight: F64
    unusual: F64
