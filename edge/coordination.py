"""How much a sensor moves for how much the others do, and when: a limb that stays behind surprises no forecaster.

A forecaster tells a channel from its own last seconds, so a leg that steps half as far is forecast as well as before.
What gives it away is the rest of the body: over a cohort, the movement intensity of a sensor is a line in those of the
others, within a scatter that depends on how much they move. Beyond its 1 and 99 % quantiles is 1,

    v = (intensity - line - median) / (q99 - median)   above the median, and by (median - q01) below it; at most 3,

and ``w`` is how late or early it moves beside them (``kinedge.edge.timing``), beyond 0 and at most 3, where 1 is the 99
% quantile. What these say beside the surprise ``u`` of its channels is measured on injected changes: a sensor's
statistic is ``u + weight (v - usual) + late_weight (w - late_usual)``, each ``usual`` a mean on ordinary blocks. A
block is ranked by that, less by how far its 99 % quantile lies above that of ``u``, or by ``u`` where that is more:
what is rare in one way is rare. As long as it is not known how somebody's sensors move beside each other, ``w`` adds
nothing. Where a sensor was not heard the others cannot be held against it: ``u`` stands alone, with a likelihood ratio
and ranks of its own, as of people who are enrolled, who are not held against how others coordinate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.timing import UNTOLD
from kinedge.errors import BundleError

__all__ = ["MOST", "PREFIX", "Coordination"]

F64 = NDArray[np.float64]

MOST: Final = 3.0
_LATE: Final = ("late_scale", "late_usual", "late_weight")
PREFIX: Final = "coordination_"


@dataclass(frozen=True, eq=False)
class Coordination:
    """How the sensors of a cohort move together, as stored in ``calibration.npz``.

    Parameters
    ----------
    mix : (n_sensors, n_sensors + 1)
        Of each sensor: weights of all intensities, its own 0, and what is added.
    levels : (n_levels, n_sensors)
        Increasing: of that line, where the quantiles are told.
    low, middle, high : (n_levels, n_sensors)
        1, 50 and 99 % quantile of the intensity less the line.
    usual : (n_sensors,)
        Mean of ``v`` on ordinary blocks.
    weight : (n_sensors,)
        Of ``v`` beside ``u``, 0 or more.
    late_scale : (n_sensors,)
        ``late`` at which ``w`` is 1.
    late_usual, late_weight : (n_sensors,)
        Of ``w``, as of ``v``. In bundles made before timing was watched it weighs nothing.
    reference : (n,)
        Sorted statistics of ordinary blocks by ``u`` alone.
    likelihood : (n_sensors, 2)
        ``b0`` and ``b1`` by ``u`` alone.
    further : (1,)
        By how much the 99 % quantile of the statistic lies above that of ``u`` on ordinary blocks; 0 or more.
    """

    mix: F64
    levels: F64
    low: F64
    middle: F64
    high: F64
    usual: F64
    weight: F64
    late_scale: F64
    late_usual: F64
    late_weight: F64
    reference: F64
    likelihood: F64
    further: F64

    def unusual(self, intensity: F64) -> F64:
        """Return ``v`` (n, n_sensors) of intensities (n, n_sensors): 0 is the median of the cohort, 1 a quantile."""
        level = np.repeat(self.mix[None, :, -1], len(intensity), axis=0)
        for j, column in enumerate(intensity.T):
            level = level + self.mix[:, j] * column[:, None]
        into = np.clip((level[:, None] - self.levels[:-1]) / np.diff(self.levels, axis=0), 0.0, 1.0)

        def at(quantile: F64) -> F64:
            between: F64 = quantile[0] + (into * np.diff(quantile, axis=0)).sum(axis=1)
            return between

        middle = at(self.middle)
        beyond = intensity - level - middle
        v: F64 = np.where(beyond > 0, beyond / (at(self.high) - middle), beyond / (at(self.low) - middle))
        return np.minimum(v, MOST)

    def away(self, late: F64) -> F64:
        """Return ``w`` (n, n_sensors) of lateness (n, n_sensors); its usual where nothing is told of that."""
        w: F64 = np.where(late > UNTOLD, np.clip(late / self.late_scale, 0.0, MOST), self.late_usual)
        return w

    def added(self, intensity: F64, late: F64) -> F64:
        """Return (n, n_sensors): what is added to ``u`` where all sensors were heard."""
        more: F64 = self.weight * (self.unusual(intensity) - self.usual)
        more = more + self.late_weight * (self.away(late) - self.late_usual)
        return more

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {PREFIX + f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def names(cls, *, timed: bool) -> tuple[str, ...]:
        """Return the names of the arrays, with those of timing or without."""
        return tuple(PREFIX + f.name for f in fields(cls) if timed or f.name not in _LATE)

    @staticmethod
    def is_timed(names: Collection[str]) -> bool:
        """Whether any array of timing is among these."""
        return any(PREFIX + name in names for name in _LATE)

    @staticmethod
    def shapes(arrays: Mapping[str, NDArray[Any]], n_sensors: int) -> dict[str, tuple[int | None, ...]]:
        """Return the shape that each array must have."""
        n_levels = arrays[PREFIX + "levels"].shape[0] if arrays[PREFIX + "levels"].ndim else 0
        timed = Coordination.is_timed(arrays)
        table = (n_levels, n_sensors)
        return {
            PREFIX + "mix": (n_sensors, n_sensors + 1),
            **{PREFIX + name: table for name in ("levels", "low", "middle", "high")},
            **{PREFIX + name: (n_sensors,) for name in ("usual", "weight", *(_LATE if timed else ()))},
            PREFIX + "reference": (None,),
            PREFIX + "likelihood": (n_sensors, 2),
            PREFIX + "further": (1,),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, F64], *, where: str) -> Coordination:
        """Take the arrays of a bundle, whose shapes have been checked.

        Raises
        ------
        BundleError
            They cannot be a coordination.
        """
        blank = np.zeros(arrays[PREFIX + "usual"].shape)
        untimed = {"late_scale": blank + 1, "late_usual": blank, "late_weight": blank}
        self = cls(**{f.name: arrays.get(PREFIX + f.name, untimed.get(f.name, blank)) for f in fields(cls)})
        if not all(np.isfinite(getattr(self, f.name)).all() for f in fields(cls)):
            raise BundleError(f"{where}: coordination: a number is not finite")
        if len(self.levels) < 2 or (np.diff(self.levels, axis=0) <= 0).any():
            raise BundleError(f"{where}: coordination_levels must increase, and be at least 2")
        if (self.low >= self.middle).any() or (self.middle >= self.high).any():
            raise BundleError(f"{where}: coordination: low, middle and high must increase")
        if (self.late_scale <= 0).any():
            raise BundleError(f"{where}: coordination_late_scale must be positive")
        for name in ("weight", "late_weight", "further"):
            if (getattr(self, name) < 0).any():
                raise BundleError(f"{where}: coordination_{name} is negative")
        if not len(self.reference) or (np.diff(self.reference) < 0).any():
            raise BundleError(f"{where}: coordination_reference must be sorted and not empty")
        return self
