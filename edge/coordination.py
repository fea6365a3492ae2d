"""How much a sensor moves for how much the others do, and when: a limb that stays behind surprises no forecaster.

A forecaster tells a channel from its own last seconds, so a leg that steps half as far is forecast as well as before.
What gives it away is the rest of the body: over a cohort, the movement intensity of a sensor is a line in those of the
others, within a scatter that depends on how much they move. Beyond its 1 and 99 % quantiles is 1,

    v = (intensity - line - median) / (q99 - median)   above the median, and by (median - q01) below it; at most 3,

and what lies between that line and the one in the others' intensities of a hop ago is expected, else the nearer of both
counts: nobody sets off, or stops, with every limb at once. ``w`` is how late or early a sensor moves beside the others
(``kinedge.edge.timing``), beyond 0 and at most 3, where 1 is the 99 % quantile. What these say beside the surprise
``u`` of its channels is measured on injected changes: a sensor's statistic is ``u + weight (v - usual) + late_weight (w
- late_usual)``, each ``usual`` a mean on ordinary blocks. A block is ranked by that, less by how far its 99 % quantile
lies above that of ``u``, or by ``u`` where that is more: what is rare in one way is rare. As long as it is not known
how somebody's sensors move beside each other, ``w`` adds nothing.

Where one sensor of three or more was not heard, each line takes in its place what its own line makes of the rest. For
sensors whose intensities are normally distributed that is the line without it, and what is left scatters ``1 / sqrt(1 -
r^2)`` times as far, with ``r`` the partial correlation of both (``line_without``; Lauritzen, Graphical Models, 1996,
section 5.1). Where fewer were heard ``u`` stands alone, with a likelihood ratio and ranks of its own.

Whoever is enrolled has lines of their own (``own_lines``), weighed as is best of people who are; without them they are
not held against how others coordinate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.likelihood import LESSENS, terms_of, with_loss_terms
from kinedge.edge.scores import NO_STEP
from kinedge.edge.timing import UNTOLD
from kinedge.errors import BundleError

__all__ = [
    "MOST",
    "MOST_SHARED",
    "PREFIX",
    "Coordination",
    "Lines",
    "Weights",
    "by_level",
    "enough_told",
    "least_squares",
    "line",
    "line_without",
    "own_lines",
    "stack_coordinations",
    "stack_lines",
    "weight_shapes",
]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST: Final = 3.0
MOST_SHARED: Final = 0.99  # r^2: what two sensors that say the same leave is not divided by next to nothing
PREFIX: Final = "coordination_"
_LATE: Final = ("late_scale", "late_usual", "late_weight")
_OWN_LEVELS: Final = 3
_PRIOR_BLOCKS: Final = 100.0
_MIN_WIDTH: Final = 0.1  # log of power: whoever never varies must not make everything rare
_RIDGE: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Lines:
    """How much each sensor moves for how much the others do; of a cohort, of a person, or of several streams.

    Of several streams, the first axis of all is theirs.

    Parameters
    ----------
    mix : (n_sensors, n_sensors + 1)
        Of each sensor: weights of all intensities, its own 0, and what is added.
    levels : (n_levels, n_sensors)
        Increasing: of that line, where the quantiles are told.
    low, middle, high : (n_levels, n_sensors)
        1, 50 and 99 % quantile of the intensity less the line.
    """

    mix: F64
    levels: F64
    low: F64
    middle: F64
    high: F64

    def unusual(self, intensity: F64, told: Mask | None = None, *, before: F64 | None = None) -> F64:
        """Return ``v`` (n, n_sensors) of intensities (n, n_sensors): 0 is the median, 1 a quantile.

        Parameters
        ----------
        told : (n, n_sensors)
            Which of them were heard, all but one at least; all where it is left out.
        before : (n, n_sensors)
            The intensities a hop ago, if they are known: what lies between what the others let expect then and now is
            expected.
        """
        return np.abs(self.signed(intensity, told, before=before))

    def signed(self, intensity: F64, told: Mask | None = None, *, before: F64 | None = None) -> F64:
        """Return the same, below 0 where a sensor moves less than the others let expect."""
        told = np.ones(intensity.shape, bool) if told is None else told
        now = self._beyond(intensity, *self._expected(intensity, told))
        if before is None:
            return now
        known = np.logical_and.reduce((before > NO_STEP) | ~told, axis=1, keepdims=True)
        then = self._beyond(intensity, *self._expected(before, told))
        between = (now > 0) != (then > 0)
        least = np.where(between, 0.0, np.where(np.abs(then) < np.abs(now), then, now))
        return np.where(known, least, now)

    def _expected(self, intensity: F64, told: Mask) -> tuple[F64, F64]:
        """Return the line (n, n_sensors) of each sensor, and how many times as far what is left of it scatters."""
        if told.all():
            return line(self.mix, intensity), np.ones(intensity.shape)
        return line_without(self.mix, intensity, told)

    def _beyond(self, intensity: F64, level: F64, wider: F64) -> F64:
        """Return how far intensities lie from the median above a line, in what is to a quantile; with its sign."""
        into = (level[:, None] - self.levels[..., :-1, :]) / np.diff(self.levels, axis=-2)
        into = np.clip(into, 0.0, 1.0)

        def at(quantile: F64) -> F64:
            between: F64 = quantile[..., 0, :] + (into * np.diff(quantile, axis=-2)).sum(axis=1)
            return between

        middle = at(self.middle)
        beyond = intensity - level - middle
        v: F64 = beyond / (np.where(beyond > 0, at(self.high) - middle, at(self.low) - middle) * wider)
        return np.copysign(np.minimum(v, MOST), beyond)

    def rows(self, at: NDArray[np.intp] | slice) -> Lines:
        """Return those of some streams of several."""
        return Lines(**{f.name: getattr(self, f.name)[at] for f in fields(self)})

    def refuse_if_unfit(self, *, where: str) -> None:
        """Raise an error unless these can be lines.

        Raises
        ------
        BundleError
            They cannot.
        """
        _refuse_infinite(self, where)
        if len(self.levels) < 2 or (np.diff(self.levels, axis=0) <= 0).any():
            raise BundleError(f"{where}: coordination_levels must increase, and be at least 2")
        if (self.low >= self.middle).any() or (self.middle >= self.high).any():
            raise BundleError(f"{where}: coordination: low, middle and high must increase")


@dataclass(frozen=True, eq=False)
class Weights:
    """What is made of lines and lateness; of several streams, the first axis is theirs, but that of ``reference``.

    Parameters
    ----------
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
    likelihood : (n_sensors, 6)
        ``b0`` to ``b5`` by ``u`` alone, as a calibration has them; of two columns, loss does nothing.
    further : (1,)
        By how much the 99 % quantile of the statistic lies above that of ``u`` on ordinary blocks; 0 or more.
    """

    usual: F64
    weight: F64
    late_scale: F64
    late_usual: F64
    late_weight: F64
    reference: F64
    likelihood: F64
    further: F64

    def __post_init__(self) -> None:
        object.__setattr__(self, "likelihood", with_loss_terms(self.likelihood))

    def away(self, late: F64) -> F64:
        """Return ``w`` (n, n_sensors) of lateness (n, n_sensors); its usual where nothing is told of that."""
        w: F64 = np.where(late > UNTOLD, np.clip(late / self.late_scale, 0.0, MOST), self.late_usual)
        return w

    def added(self, v: F64, late: F64) -> F64:
        """Return (n, n_sensors): what is added to ``u`` where all sensors were heard."""
        more: F64 = self.weight * (v - self.usual)
        more = more + self.late_weight * (self.away(late) - self.late_usual)
        return more

    def refuse_if_unfit(self, *, where: str) -> None:
        """Raise an error unless these can be weights.

        Raises
        ------
        BundleError
            They cannot.
        """
        _refuse_infinite(self, where)
        if (self.late_scale <= 0).any():
            raise BundleError(f"{where}: coordination_late_scale must be positive")
        for name in ("weight", "late_weight", "further"):
            if (getattr(self, name) < 0).any():
                raise BundleError(f"{where}: coordination_{name} is negative")
        if (self.likelihood[:, LESSENS:] < 0).any():
            raise BundleError(f"{where}: coordination_likelihood: what loss makes blocks say less by is negative")
        if not len(self.reference) or (np.diff(self.reference) < 0).any():
            raise BundleError(f"{where}: coordination_reference must be sorted and not empty")


@dataclass(frozen=True, eq=False)
class Coordination:
    """Lines, and what is made of them; as stored in ``calibration.npz``, or of several streams.

    Parameters
    ----------
    lines, weights
    which : (n_streams,)
        Which row of ``weights.reference`` (n_references, n) is a stream's; None for one of all.
    """

    lines: Lines
    weights: Weights
    which: NDArray[np.intp] | None = None

    def added(self, intensity: F64, late: F64, told: Mask | None = None, *, before: F64 | None = None) -> F64:
        """Return (n, n_sensors): what is added to ``u`` of sensors that were heard, enough of them."""
        return self.weights.added(self.lines.unusual(intensity, told, before=before), late)

    def beside(
        self, intensity: F64, late: F64, told: Mask | None = None, *, before: F64 | None = None
    ) -> tuple[F64, F64]:
        """Return what ``added`` adds beyond what is usual, in its two parts (n, n_sensors) each.

        Parameters
        ----------
        intensity, late, told, before : (n, n_sensors)
            Of what was not heard both parts are 0.

        Returns
        -------
        moved
            By how much a sensor moves: below 0 where that is less than the others let expect.
        out_of_step
            By when; 0 or more.
        """
        signed, weights = self.lines.signed(intensity, told, before=before), self.weights
        beyond = np.maximum(np.abs(signed) - weights.usual, 0.0)
        late_beyond = np.maximum(weights.away(late) - weights.late_usual, 0.0)
        if told is not None:
            beyond, late_beyond = np.where(told, beyond, 0.0), np.where(told, late_beyond, 0.0)
        return np.copysign(weights.weight * beyond, signed), weights.late_weight * late_beyond

    def muted(self, reference: F64, likelihood: F64) -> Coordination:
        """Return one that adds nothing, of somebody who is ranked and judged by ``u`` alone."""
        nothing = np.zeros_like(self.weights.weight)
        alone = replace(
            self.weights,
            weight=nothing,
            late_weight=nothing,
            reference=reference,
            likelihood=likelihood,
            further=np.zeros(1),
        )
        return replace(self, weights=alone)

    @property
    def adds(self) -> bool:
        """Whether it weighs anything."""
        return bool(self.weights.weight.any() or self.weights.late_weight.any())

    def rows(self, at: NDArray[np.intp]) -> Coordination:
        """Return that of some streams of several."""
        if self.which is None:
            return self
        weights = {f.name: getattr(self.weights, f.name)[at] for f in fields(Weights) if f.name != "reference"}
        return Coordination(self.lines.rows(at), replace(self.weights, **weights), self.which[at])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {PREFIX + f.name: getattr(part, f.name) for part in (self.lines, self.weights) for f in fields(part)}

    @staticmethod
    def names(present: Collection[str]) -> tuple[str, ...]:
        """Return the names of the arrays that a bundle must have which has these: any, of timing or none."""
        timed = any(PREFIX + name in present for name in _LATE)
        every = (f.name for part in (Lines, Weights) for f in fields(part))
        return tuple(PREFIX + name for name in every if timed or name not in _LATE)

    @staticmethod
    def shapes(arrays: Mapping[str, NDArray[Any]], n_sensors: int) -> dict[str, tuple[int | None, ...]]:
        """Return the shape that each of these arrays must have."""
        levels = arrays[PREFIX + "levels"]
        table = (levels.shape[0] if levels.ndim else 0, n_sensors)
        shapes: dict[str, tuple[int | None, ...]] = {
            "mix": (n_sensors, n_sensors + 1),
            **{name: table for name in ("levels", "low", "middle", "high")},
            **weight_shapes(n_sensors, arrays[PREFIX + "likelihood"]),
        }
        return {PREFIX + name: shape for name, shape in shapes.items() if PREFIX + name in arrays}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, F64], *, where: str) -> Coordination:
        """Take the arrays of a bundle, whose shapes have been checked.

        Raises
        ------
        BundleError
            They cannot be a coordination.
        """
        nothing = np.zeros_like(arrays[PREFIX + "usual"])
        untimed = {"late_scale": nothing + 1, "late_usual": nothing, "late_weight": nothing}
        own = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
        found = untimed | own
        self = cls(
            Lines(**{f.name: found[f.name] for f in fields(Lines)}),
            Weights(**{f.name: found[f.name] for f in fields(Weights)}),
        )
        self.lines.refuse_if_unfit(where=where)
        self.weights.refuse_if_unfit(where=where)
        return self


def weight_shapes(n_sensors: int, likelihood: NDArray[Any]) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each array of ``Weights``, by its name; in some bundles ``likelihood`` has 2 columns."""
    return {
        **{name: (n_sensors,) for name in ("usual", "weight", *_LATE)},
        "reference": (None,),
        "likelihood": (n_sensors, terms_of(likelihood)),
        "further": (1,),
    }


def _refuse_infinite(part: Lines | Weights, where: str) -> None:
    if not all(np.isfinite(getattr(part, f.name)).all() for f in fields(part)):
        raise BundleError(f"{where}: coordination: a number is not finite")


def least_squares(center: F64, covariance: F64) -> F64:
    """Return ``mix`` (n_sensors, n_sensors + 1) of intensities with this mean and covariance."""
    n_sensors = len(center)
    mix = np.zeros((n_sensors, n_sensors + 1))
    for i in range(n_sensors):
        others = [j for j in range(n_sensors) if j != i]
        square = covariance[np.ix_(others, others)] + _RIDGE * np.eye(len(others))
        mix[i, others] = np.linalg.solve(square, covariance[others, i])
        mix[i, -1] = center[i] - mix[i, others] @ center[others]
    return mix


def line(mix: F64, intensity: F64) -> F64:
    """Return the line (n, n_sensors) of each sensor in the intensities (n, n_sensors) of the others."""
    level = np.broadcast_to(mix[..., -1], intensity.shape)
    for j, column in enumerate(intensity.T):
        level = level + mix[..., j] * column[:, None]
    return level


def line_without(mix: F64, intensity: F64, told: Mask) -> tuple[F64, F64]:
    """Return the line of each sensor in those of the others that were heard, where one was not.

    Parameters
    ----------
    mix : (n_sensors, n_sensors + 1), or (n, n_sensors, n_sensors + 1)
    intensity, told : (n, n_sensors)
        At most one of a row is not told; of a row without one this is ``line``.

    Returns
    -------
    level, wider : (n, n_sensors)
        The line, and how many times as far what is left of it scatters.
    """
    rows, sensors = np.arange(len(told)), np.arange(told.shape[1])
    silent, gone = told.argmin(axis=1), ~np.logical_and.reduce(told, axis=1, keepdims=True)
    of_each = np.broadcast_to(mix, (len(told), *mix.shape[-2:]))
    of_silent = of_each[rows, silent]
    level, expected = of_each[..., -1], np.broadcast_to(of_silent[:, [-1]], told.shape)
    for j, column in enumerate(intensity.T):
        heard = told[:, j, None]
        level = level + np.where(heard, of_each[..., j] * column[:, None], 0.0)
        expected = expected + np.where(heard & (sensors != j), of_silent[:, [j]] * column[:, None], 0.0)
    weight = of_each[rows, :, silent]
    shared = np.clip(weight * of_silent[:, :-1], 0.0, MOST_SHARED)
    level = np.where(gone, (level + weight * expected) / (1 - shared), level)
    return level, np.where(gone, 1 / np.sqrt(1 - shared), 1.0)


def enough_told(told: Mask) -> Mask:
    """Return (n,): whether coordination can be told by which sensors (n, n_sensors) were heard: all or all but one."""
    enough: Mask = told.sum(axis=1) >= max(2, told.shape[1] - 1)
    return enough


def by_level(level: F64, left: F64, n_levels: int) -> Lines:
    """Return where the quantiles of what is left (n, n_sensors) above a line lie, at so many levels of that line."""
    n_sensors = level.shape[1]
    levels, low, middle, high = (np.empty((n_levels, n_sensors)) for _ in range(4))
    for i in range(n_sensors):
        for k, rows in enumerate(np.array_split(np.argsort(level[:, i], kind="stable"), n_levels)):
            levels[k, i] = np.median(level[rows, i])
            low[k, i], middle[k, i], high[k, i] = np.quantile(left[rows, i], [0.01, 0.5, 0.99])
    levels += 1e-6 * np.arange(n_levels)[:, None]  # equal medians must not divide by zero
    wide = np.minimum(low, middle - _MIN_WIDTH), middle, np.maximum(high, middle + _MIN_WIDTH)
    return Lines(np.zeros((n_sensors, n_sensors + 1)), levels, *wide)


def own_lines(cohort: Lines, intensity: F64) -> Lines:
    """Learn how the sensors of one person move together.

    Both the line and the width of its quantiles lean on the cohort's, with the weight of 100 blocks.

    Parameters
    ----------
    cohort
        Of the model.
    intensity : (n, n_sensors)
        Of blocks of their ordinary movement, at least 30.
    """
    n, n_sensors = intensity.shape
    trust = n / (n + _PRIOR_BLOCKS)
    center = intensity.mean(axis=0)
    apart = intensity - center
    own = least_squares(center, apart.T @ apart / n)
    mix = np.zeros((n_sensors, n_sensors + 1))
    for i in range(n_sensors):
        others = [j for j in range(n_sensors) if j != i]
        mix[i, others] = trust * own[i, others] + (1 - trust) * cohort.mix[i, others]
        mix[i, -1] = center[i] - mix[i, others] @ center[others]
    level = line(mix, intensity)
    found = by_level(level, intensity - level, _OWN_LEVELS)
    into = np.clip((found.levels[:, None] - cohort.levels[:-1]) / np.diff(cohort.levels, axis=0), 0.0, 1.0)
    low, middle, high = (
        q[0] + (into * np.diff(q, axis=0)).sum(axis=1) for q in (cohort.low, cohort.middle, cohort.high)
    )
    below = trust * (found.middle - found.low) + (1 - trust) * (middle - low)
    above = trust * (found.high - found.middle) + (1 - trust) * (high - middle)
    return replace(found, mix=mix, low=found.middle - below, high=found.middle + above)


def stack_lines(found: Sequence[Lines]) -> Lines:
    """Return lines with a row per stream, from one each; to fewer levels more are added above their last."""
    most = max(len(x.levels) for x in found)

    def padded(values: F64, *, step: float) -> F64:
        return np.concatenate([values, values[-1] + step * np.arange(1, most - len(values) + 1)[:, None]])

    return Lines(
        mix=np.stack([x.mix for x in found]),
        levels=np.stack([padded(x.levels, step=1.0) for x in found]),
        **{name: np.stack([padded(getattr(x, name), step=0.0) for x in found]) for name in ("low", "middle", "high")},
    )


def stack_coordinations(found: Sequence[Coordination]) -> Coordination:
    """Return one with a row per stream, from one each of one model."""
    distinct: list[F64] = []
    which = []
    for c in found:
        known = [i for i, r in enumerate(distinct) if r is c.weights.reference]
        which.append(known[0] if known else len(distinct))
        if not known:
            distinct.append(c.weights.reference)
    longest = max(len(r) for r in distinct)
    weights = {f.name: np.stack([getattr(c.weights, f.name) for c in found]) for f in fields(Weights)[:5]}
    return Coordination(
        stack_lines([c.lines for c in found]),
        Weights(
            **weights,
            # what is missing in a shorter one stands below every statistic
            reference=np.stack([np.concatenate([np.full(longest - len(r), -np.inf), r]) for r in distinct]),
            likelihood=np.stack([c.weights.likelihood for c in found]),
            further=np.stack([c.weights.further for c in found]),
        ),
        np.array(which, np.intp),
    )
