"""Calibration: what is rare for this model on normal movement of people it was not trained on.

Vigorous movement is harder to predict, so each score is compared with its like: the median and the 99 % quantile of
a channel's score are given at several movement intensities of its sensor, linear in between, and
``u = (score - median) / (q99 - median)``. A sensor's statistic is the largest ``u`` of its channels, and what it moves
more or less than the other sensors let expect (``kinedge.edge.coordination``); a person's is the largest of their
sensors. That is ranked among the cohort's blocks: the conformal p-value
``(1 + #{reference >= now}) / (n + 1)``, which is valid as far as the person's blocks are exchangeable with the
cohort's. New people and new days stretch that; it is stated wherever the number is shown.

A calibration may carry one row per stream (``stack_calibrations``): people who are enrolled are compared with
themselves, in the same step and by the same code (``kinedge.edge.personal``).

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.coordination import PREFIX, Coordination, Weights, enough_told, stack_coordinations, weight_shapes
from kinedge.edge.likelihood import LESSENS, terms_of, with_loss_terms
from kinedge.edge.scores import NO_STEP, BlockScores
from kinedge.errors import BundleError, SignalError

__all__ = [
    "MAX_REFERENCE",
    "UNSCORED",
    "Calibration",
    "EnrolledCohort",
    "Unusualness",
    "is_told",
    "precision_of",
    "stack_calibrations",
    "thin",
]

F64 = NDArray[np.float64]

MAX_REFERENCE: Final = 4096
UNSCORED: Final = -1e6  # a statistic nothing can be below: a missing sensor never looks unusual
_RIDGE: Final = 0.02
MOVEMENT_LIMIT: Final = 99.0
BELOW: Final = 3.0  # segments that the center goes on in a line below the cohort's intensities


@dataclass(frozen=True, eq=False)
class Unusualness:
    """How far from the cohort's normal movement each block was.

    Parameters
    ----------
    excess : (n_streams, n_channels)
        Nats above the cohort's median at this intensity, 0 where unscored.
    sensor : (n_streams, n_sensors)
        Largest ``u`` of the sensor's channels: 0 is the median, 1 the 99 % quantile; and what coordination adds.
    score : (n_streams,)
        What the block is ranked by, 0 where nothing could be scored: the largest ``u``; or the largest statistic of a
        sensor, less by how much further these reach on ordinary blocks.
    p_value : (n_streams,)
        Conformal, 1 where nothing could be scored.
    channel : (n_streams, n_channels)
        ``u`` of each channel, ``UNSCORED`` where it was not scored.
    """

    excess: F64
    sensor: F64
    score: F64
    p_value: F64
    channel: F64


@dataclass(frozen=True, eq=False)
class EnrolledCohort:
    """The cohort once each of its subjects is compared with their own enrolment instead of with the others.

    Parameters
    ----------
    reference : (n,)
        Sorted statistics of normal blocks, each against a baseline from other recordings of the same subject.
    likelihood : (n_sensors, 6)
        As that of the cohort, on these statistics.
    levels : (n_levels,)
        Increasing ``g``: a detector exceeds where its ``u > g``.
    limits : (n_levels, n_history)
        90 % quantile over subjects of the chance that a detector exceeds, given that it did so in 0, 1, 2 ... of its
        last blocks (``kinedge.edge.history``).
    n_subjects : (1,)
        How many subjects that is a quantile of.
    tail_levels : (n_tails,)
        Increasing, all above 1; empty in bundles made before they were counted.
    tails : (n_tails, n_history)
        As ``limits``, of the chance that ``u`` lies above a tail level, given in how many of the last blocks ``u > 1``.
    weights
        What their own lines of coordination tell; None in bundles made before these were learned, and of one sensor.
    """

    reference: F64
    likelihood: F64
    levels: F64
    limits: F64
    n_subjects: F64
    tail_levels: F64 = field(default_factory=lambda: np.zeros(0))
    tails: F64 = field(default_factory=lambda: np.zeros((0, 0)))
    weights: Weights | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "likelihood", with_loss_terms(self.likelihood))


_ENROLLED: Final = "enrolled_"
_OWN_ARRAYS: Final = ("knots", "center", "spread", "reference", "likelihood", "precision", "additive")
_ENROLLED_ARRAYS: Final = ("reference", "likelihood", "levels", "limits", "n_subjects")
_BY_STREAM: Final = ("knots", "center", "spread", "likelihood", "precision", "own_knots", "of_one")
_TAIL_ARRAYS: Final = ("tail_levels", "tails")  # both or neither
_WEIGHTS: Final = _ENROLLED + PREFIX


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of one model, as stored in ``calibration.npz``; of a cohort, or of several streams.

    With several streams, ``knots``, ``center``, ``spread``, ``likelihood`` and ``precision`` have them as their first
    axis, ``reference`` is ``(n_references, n)``, and ``which`` says which row of it ranks a stream.

    Parameters
    ----------
    knots : (n_knots, n_sensors)
        Increasing movement intensities.
    center, spread : (n_knots, n_channels)
        Median, and 99 % quantile less median, of the channel scores at the knots of their sensor.
    reference : (n,)
        Sorted statistics of normal blocks.
    likelihood : (n_sensors, 6)
        ``log LR = (b0 + b1 u + b2 sqrt(own) + b3 sqrt(others)) / (1 + b4 own + b5 others)`` of each sensor: ``own`` is
        the share of its data that is missing, ``others`` the mean of that of the other sensors. ``b2`` and ``b3`` take
        off what loss adds to ``u`` by itself, and what it scatters ``u`` by makes a block say less. Of two columns, as
        bundles made before have them, loss does nothing.
    precision : (n_channels, n_channels)
        Inverse covariance of the residuals, for attribution.
    additive : (1,)
        1 if the excess in nats attributed better than the counterfactual drop on validation data.
    enrolled
        What an enrolment needs to know of the cohort; None in bundles made before there was one.
    which : (n_streams,)
        None for one calibration of all streams.
    own_knots : (n_streams,)
        How many knots are a stream's own, before those that make all equally long; None for one calibration of all.
    of_one : () or (n_streams,)
        1 where it is one person's own, from their enrolment; 0 where it is the cohort's.
    coordination
        How the sensors move together, of the cohort or of one person; None in bundles made before it was told, and of a
        single sensor.
    """

    knots: F64
    center: F64
    spread: F64
    reference: F64
    likelihood: F64
    precision: F64
    additive: F64
    enrolled: EnrolledCohort | None = None
    which: NDArray[np.intp] | None = None
    own_knots: NDArray[np.int64] | None = None
    of_one: F64 = field(default_factory=lambda: np.zeros(()))
    coordination: Coordination | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "likelihood", with_loss_terms(self.likelihood))

    @classmethod
    def blank(cls, manifest: Manifest) -> Calibration:
        """Return a calibration that says nothing, for a model whose scores are still to be collected."""
        c, s = manifest.n_channels, len(manifest.sensors)
        return cls(
            knots=np.array([[0.0], [1.0]]) * np.ones(s),
            center=np.zeros((2, c)),
            spread=np.ones((2, c)),
            reference=np.zeros(1),
            likelihood=np.zeros((s, 2)),
            precision=np.eye(c),
            additive=np.zeros(1),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _OWN_ARRAYS}
        if self.enrolled is not None:
            names = (*_ENROLLED_ARRAYS, *(_TAIL_ARRAYS if self.enrolled.tails.size else ()))
            arrays |= {_ENROLLED + name: getattr(self.enrolled, name) for name in names}
            if (weights := self.enrolled.weights) is not None:
                arrays |= {_WEIGHTS + f.name: getattr(weights, f.name) for f in fields(Weights)}
        return arrays | (self.coordination.to_arrays() if self.coordination is not None else {})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> Calibration:
        """Read the arrays of a bundle.

        Raises
        ------
        BundleError
            An array is missing, unused, of a wrong shape, or cannot be a calibration.
        """
        c, s = manifest.n_channels, len(manifest.sensors)
        has_enrolled = any(name.startswith(_ENROLLED) for name in arrays)
        has_tails = has_enrolled and any(_ENROLLED + name in arrays for name in _TAIL_ARRAYS)
        enrolled_arrays = (*_ENROLLED_ARRAYS, *(_TAIL_ARRAYS if has_tails else ()))
        has_coordination = any(name.startswith(PREFIX) for name in arrays)
        has_weights = any(name.startswith(_WEIGHTS) for name in arrays)
        expected = {*_OWN_ARRAYS, *(_ENROLLED + name for name in enrolled_arrays if has_enrolled)}
        expected |= set(Coordination.names(arrays) if has_coordination else ())
        expected |= {_WEIGHTS + f.name for f in fields(Weights) if has_weights}
        if set(arrays) != expected:
            odd = ", ".join(sorted(set(arrays) ^ expected))
            raise BundleError(f"bundle {manifest.name}: calibration arrays missing or unused: {odd}")
        k = arrays["knots"].shape[0] if arrays["knots"].ndim else 0
        shapes: dict[str, tuple[int | None, ...]] = {
            "knots": (k, s),
            "center": (k, c),
            "spread": (k, c),
            "reference": (None,),
            "likelihood": (s, terms_of(arrays["likelihood"])),
            "precision": (c, c),
            "additive": (1,),
        }
        if has_enrolled:
            g = arrays["enrolled_levels"].size
            shapes |= {
                "enrolled_reference": (None,),
                "enrolled_likelihood": (s, terms_of(arrays["enrolled_likelihood"])),
                "enrolled_levels": (g,),
                "enrolled_limits": (g, None),
                "enrolled_n_subjects": (1,),
            }
        if has_tails:
            history = arrays["enrolled_limits"].shape[-1:]
            shapes |= {
                "enrolled_tail_levels": (None,),
                "enrolled_tails": (arrays["enrolled_tail_levels"].size, *history),
            }
        if has_coordination:
            shapes |= Coordination.shapes(arrays, s)
        if has_weights:
            shapes |= {_WEIGHTS + n: x for n, x in weight_shapes(s, arrays[_WEIGHTS + "likelihood"]).items()}
        for name, shape in shapes.items():
            found = arrays[name].shape
            if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
                raise BundleError(f"bundle {manifest.name}: calibration array {name} is {found}, expected {shape}")
            if not np.issubdtype(arrays[name].dtype, np.floating):
                raise BundleError(
                    f"bundle {manifest.name}: calibration array {name} is {arrays[name].dtype}, not float"
                )
        plain = {name: array.astype(np.float64) for name, array in arrays.items()}
        for prefix, beside in ((PREFIX, "likelihood"), (_WEIGHTS, _ENROLLED + "likelihood")):
            alone = prefix + "likelihood"
            if alone in plain:  # in bundles made before, what loss does was not measured apart
                plain[alone] = with_loss_terms(plain[alone], with_loss_terms(plain[beside]))
        own: dict[str, Any] = {name: plain[name] for name in _OWN_ARRAYS}
        self = cls(**own)
        if has_enrolled:
            own = {name: plain[_ENROLLED + name] for name in enrolled_arrays}
            enrolled = EnrolledCohort(**own)
            if not enrolled.limits.size or (np.diff(enrolled.levels) <= 0).any():
                raise BundleError(f"bundle {manifest.name}: calibration enrolled_levels must increase, with limits")
            if min(enrolled.limits.min(), 1 - enrolled.limits.max()) < 0:
                raise BundleError(f"bundle {manifest.name}: calibration enrolled_limits must lie between 0 and 1")
            if has_tails and not (
                enrolled.tails.size
                and enrolled.tails.min() >= 0
                and enrolled.tails.max() <= 1
                and (np.diff(enrolled.tail_levels, prepend=1.0) > 0).all()
            ):
                raise BundleError(
                    f"bundle {manifest.name}: calibration enrolled_tail_levels must increase from above 1, and "
                    "enrolled_tails lie between 0 and 1"
                )
            if has_weights:
                weights = Weights(**{f.name: plain[_WEIGHTS + f.name] for f in fields(Weights)})
                weights.refuse_if_unfit(where=f"bundle {manifest.name}: calibration: enrolled")
                enrolled = replace(enrolled, weights=weights)
            self = replace(self, enrolled=enrolled)
        if has_coordination:
            where = f"bundle {manifest.name}: calibration"
            self = replace(self, coordination=Coordination.from_arrays(plain, where=where))
        references = [self.reference, *([self.enrolled.reference] if self.enrolled is not None else [])]
        if k < 2 or (np.diff(self.knots, axis=0) <= 0).any():
            raise BundleError(f"bundle {manifest.name}: a calibration needs increasing knots, at least 2")
        if any(not len(r) or (np.diff(r) < 0).any() for r in references):
            raise BundleError(f"bundle {manifest.name}: the calibration reference must be sorted and not empty")
        if any((r.likelihood[:, LESSENS:] < 0).any() for r in (self, self.enrolled) if r is not None):
            raise BundleError(f"bundle {manifest.name}: calibration: what loss makes blocks say less by is negative")
        if min(self.spread.min(), np.diag(self.precision).min()) <= 0:
            raise BundleError(f"bundle {manifest.name}: calibration spreads and precisions must be positive")
        return self

    def usual(self, intensity: F64, groups: Sequence[slice]) -> tuple[F64, F64]:
        """Return center and spread (n, n_channels) at the intensities (n, n_sensors), linear between knots.

        Below them the center goes on in a line for a while, since a person who moves more softly than the cohort is
        also easier to predict. Above them it stays, as the spread does: a shaking or broken sensor is intense too, and
        must not be excused by it.
        """
        # how far into each segment the intensity lies, 0 to 1: the sum over segments interpolates without a loop
        into = (intensity[:, None, :] - self.knots[..., :-1, :]) / np.diff(self.knots, axis=-2)
        into = np.clip(into, 0.0, 1.0, where=np.arange(into.shape[1])[:, None] > 0, out=into)
        into[:, 0] = np.clip(into[:, 0], -BELOW, 1.0)
        widths = [g.stop - g.start for g in groups]
        per_channel = np.repeat(into, widths, axis=2)
        center: F64 = self.center[..., 0, :] + (per_channel * np.diff(self.center, axis=-2)).sum(axis=1)
        within = np.clip(per_channel, 0.0, 1.0)
        spread: F64 = self.spread[..., 0, :] + (within * np.diff(self.spread, axis=-2)).sum(axis=1)
        return center, spread

    def movement(self, intensity: F64) -> F64:
        """Return how much each sensor (n, n_sensors) moved: 0 as the median, 1 a step of the usual range more."""
        n = np.array([self.knots.shape[-2]]) if self.own_knots is None else self.own_knots
        knots, rows = self.knots.reshape(len(n), -1, self.knots.shape[-1]), np.arange(len(n))
        low, high = np.maximum(n // 2 - 1, 0), np.minimum(n // 2 + 1, n - 1)
        step = (knots[rows, high] - knots[rows, low]) / (high - low)[:, None]
        moved: F64 = np.clip((intensity - knots[rows, n // 2]) / step, -MOVEMENT_LIMIT, MOVEMENT_LIMIT)
        return moved

    def assess(self, scores: BlockScores, groups: Sequence[slice]) -> Unusualness:
        """Rank block scores of any number of streams; of as many as ``which`` has, if it is given."""
        center, spread = self.usual(scores.intensity, groups)
        excess = np.where(scores.scored, scores.channel - center, 0.0)
        channel_u = np.where(scores.scored, excess / spread, UNSCORED)
        sensor = self.by_sensor(channel_u, scores.intensity, scores.late, groups, before=scores.before)
        score = self.rankable(channel_u, sensor)
        n, below = _ranks(self.reference, self.which, score)
        if self.coordination is not None:
            apart, rest = self.apart(sensor, scores.intensity), self.coordination
            n_apart, below_apart = _ranks(rest.weights.reference, rest.which, score)
            n, below = np.where(apart, n_apart, n), np.where(apart, below_apart, below)
        p_value = (1 + n - below) / (n + 1)
        score = np.where(score > UNSCORED, score, 0.0)
        return Unusualness(excess=excess, sensor=sensor, score=score, p_value=p_value, channel=channel_u)

    def by_sensor(
        self, channel_u: F64, intensity: F64, late: F64, groups: Sequence[slice], *, before: F64 | None = None
    ) -> F64:
        """Return the statistic of each sensor (n, n_sensors), of its channels' ``u`` and of how all sensors moved."""
        largest: F64 = np.maximum.reduceat(channel_u, [g.start for g in groups], axis=1)
        if self.coordination is None:
            return largest
        told = is_told(largest, intensity)
        enough = told & enough_told(told)[:, None]
        more = self.coordination.added(intensity, late, told, before=before)
        return np.where(enough, largest + more, largest)

    def rankable(self, channel_u: F64, sensor: F64) -> F64:
        """Return what blocks (n,) are ranked by: the largest ``u``, or the largest statistic of a sensor, set back."""
        largest: F64 = sensor.max(axis=1)
        if self.coordination is not None:
            largest = np.maximum(channel_u.max(axis=1), largest - self.coordination.weights.further[..., 0])
        return largest

    def apart(self, sensor: F64, intensity: F64) -> NDArray[np.bool_]:
        """Return (n,): whose coordination cannot be told, as of too few sensors a step was heard."""
        return ~enough_told(is_told(sensor, intensity))

    def rows(self, at: NDArray[np.intp]) -> Calibration:
        """Return the calibration of some streams; itself when it is one of all."""
        if self.which is None:
            return self
        parts = {name: getattr(self, name)[at] for name in _BY_STREAM}
        coordination = None if self.coordination is None else self.coordination.rows(at)
        return replace(self, which=self.which[at], coordination=coordination, **parts)


def is_told(sensor: F64, intensity: F64) -> NDArray[np.bool_]:
    """Return (n, n_sensors): of which sensors it is known how they moved, from their statistics and intensities."""
    told: NDArray[np.bool_] = (sensor > UNSCORED) & (intensity > NO_STEP)
    return told


def stack_calibrations(calibrations: Sequence[Calibration]) -> Calibration:
    """Return one calibration with a row per stream, from one calibration each.

    Those with fewer knots get more of them above their last, where nothing changes any more.

    Raises
    ------
    SignalError
        There is none, or they are of different models.
    """
    if not calibrations or len({(c.knots.shape[1], c.center.shape[1], float(c.additive[0])) for c in calibrations}) > 1:
        raise SignalError("calibrations to be stacked must be of one model, and at least one")
    n_knots = max(len(c.knots) for c in calibrations)

    def padded(values: F64, *, step: float) -> F64:
        return np.concatenate([values, values[-1] + step * np.arange(1, n_knots - len(values) + 1)[:, None]])

    distinct: list[F64] = []
    which = []
    for c in calibrations:
        known = [i for i, r in enumerate(distinct) if r is c.reference]
        which.append(known[0] if known else len(distinct))
        if not known:
            distinct.append(c.reference)
    longest = max(len(r) for r in distinct)
    together = [c.coordination for c in calibrations]
    return Calibration(
        knots=np.stack([padded(c.knots, step=1.0) for c in calibrations]),
        center=np.stack([padded(c.center, step=0.0) for c in calibrations]),
        spread=np.stack([padded(c.spread, step=0.0) for c in calibrations]),
        # what is missing in a shorter one stands below every statistic
        reference=np.stack([np.concatenate([np.full(longest - len(r), -np.inf), r]) for r in distinct]),
        likelihood=np.stack([c.likelihood for c in calibrations]),
        precision=np.stack([c.precision for c in calibrations]),
        additive=calibrations[0].additive,
        enrolled=calibrations[0].enrolled,
        coordination=None if any(t is None for t in together) else stack_coordinations([t for t in together if t]),
        which=np.array(which, np.intp),
        own_knots=np.array([len(c.knots) for c in calibrations], np.int64),
        of_one=np.array([float(c.of_one) for c in calibrations]),
    )


def precision_of(covariance: F64) -> F64:
    """Invert a covariance of residuals (n_channels, n_channels), with a ridge of 0.02 of their mean power."""
    ridge = _RIDGE * max(1.0, float(np.trace(covariance)) / len(covariance))
    return np.linalg.inv(covariance + ridge * np.eye(len(covariance))).astype(np.float64)


def _ranks(reference: F64, which: NDArray[np.intp] | None, score: F64) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return of how many each score (n,) is ranked among, and how many of them lie below; ``which`` tells the row."""
    if which is None:
        return np.full(len(score), len(reference)), np.searchsorted(reference, score, side="left")
    n: NDArray[np.intp] = np.isfinite(reference).sum(axis=1)[which]
    return n, _rank_by_row(reference, which, score) - (reference.shape[1] - n)


def _rank_by_row(sorted_rows: F64, row: NDArray[np.intp], value: F64) -> NDArray[np.intp]:
    """Return how many entries of its row lie below each value (n,): a binary search of all at once."""
    low = np.zeros(len(value), np.intp)
    high = np.full(len(value), sorted_rows.shape[1], np.intp)
    for _ in range(int(sorted_rows.shape[1]).bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (sorted_rows[row, np.minimum(middle, sorted_rows.shape[1] - 1)] < value)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def thin(ordered: F64, n: int) -> F64:
    """Take at most ``n`` of sorted values, evenly, always with the largest: thinning must not make alarms easier."""
    if len(ordered) <= n:
        return ordered
    positions = np.linspace(0, len(ordered) - 1, n) if n > 1 else np.array([len(ordered) - 1.0])
    thinned: F64 = ordered[np.ceil(positions).astype(int)]
    return thinned
