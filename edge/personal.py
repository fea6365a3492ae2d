"""A person's own baseline: what is usual for them, at three intensities of movement, and how to compare with it.

Contexts are the tertiles of the wearer's own movement intensity, each sensor's by itself. Between their medians center
and spread are linear, as in the cohort's calibration: with hard edges a verdict could flip because the intensity
crossed one. Detectors are numbered: each channel, the mean of each sensor's channels, the largest of each sensor's
channels, one over all channels, and how each sensor moves beside the others, where that is known
(``kinedge.edge.coordination``); all but the first work on the channels' ``u``, or on ``v``, with a center and spread of
their own.

A few abnormal minutes in an enrolment must not become usual: before quantiles are taken, blocks are left out in which
a channel lies further above its center than six times the distance from the median to the 90 % quantile, at most 5 %.
With Gaussian scores that is 7.7 standard deviations, with exponential ones 10 means: ordinary movement hardly gets
there.

The 99 % quantile of a short enrolment is little known: the spread leans on the cohort's, with the weight of 100 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import UNSCORED, Calibration, precision_of
from kinedge.edge.coordination import Coordination, Lines, enough_told, own_lines, stack_lines
from kinedge.edge.scores import NO_STEP
from kinedge.errors import SignalError

__all__ = [
    "CONTEXTS",
    "Baseline",
    "Blocks",
    "Detectors",
    "detector_names",
    "fit_baseline",
    "of_all",
]

F64 = NDArray[np.float64]

CONTEXTS: Final = ("calm", "moderate", "vigorous")
_ABNORMAL: Final = 6.0
_MAX_TRIMMED: Final = 0.05
_PRIOR_BLOCKS: Final = 100.0
_MIN_SPREAD: Final = 0.1  # nats for a channel, and of u for the others
_MIN_BLOCKS: Final = 30  # ten in each context, or their quantiles are of nothing
_BEYOND: Final = 2  # knots, a factor e of power apart, on either side of what the person was seen to do


def detector_names(sensors: Sequence[str], channels: Sequence[str], *, together: bool) -> tuple[str, ...]:
    """Return the detectors' names in order, with those of how each sensor moves beside the others or without."""
    of_channels = (*channels, *(f"{s} mean" for s in sensors), *(f"{s} largest" for s in sensors), "all")
    return (*of_channels, *(f"{s} beside the others" for s in sensors if together))


def of_all(groups: Sequence[slice]) -> int:
    """Return the number of the detector over all channels."""
    return int(groups[-1].stop) + 2 * len(groups)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Scored blocks of one person.

    Parameters
    ----------
    channel : (n, n_channels)
        Scores, all of them scored.
    intensity, before, late : (n, n_sensors)
        As ``BlockScores`` has them.
    hop : (n,)
        Number of the hop that ends the block: increasing, and never continued over a break.
    """

    channel: F64
    intensity: F64
    before: F64
    late: F64
    hop: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hop)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Blocks:
        """Return some of them."""
        return Blocks(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Baseline:
    """What is usual for one person.

    Parameters
    ----------
    knots : (3, n_sensors + 1)
        Median intensity in each context, of each sensor and, in the last column, of their mean.
    median, q95, q99 : (3, n_detectors)
        Of the detectors' scores at the knots: nats for channels, ``u`` of channels for the others.
    precision : (n_channels, n_channels)
        Inverse covariance of the residuals.
    n_blocks, n_trimmed : (1,)
        What it was learned from, and what was left out as abnormal.
    reference : (n,)
        Sorted statistics of the person's own blocks, each half against the other; empty when there were too few.
    mix, levels, low, middle, high
        Of the person's own ``lines``; without any level where the cohort has none.
    """

    knots: F64
    median: F64
    q95: F64
    q99: F64
    precision: F64
    n_blocks: F64
    n_trimmed: F64
    reference: F64
    mix: F64
    levels: F64
    low: F64
    middle: F64
    high: F64

    @property
    def lines(self) -> Lines | None:
        """How the person's sensors move together; None where that is not known."""
        return Lines(self.mix, self.levels, self.low, self.middle, self.high) if len(self.levels) else None

    def calibration(self, cohort: Calibration, groups: Sequence[slice]) -> Calibration:
        """Return the cohort's calibration with this person's center and spread in place of the cohort's.

        Where the person was never seen, softer than their calm or harder than their vigorous median, the center goes on
        as the cohort's does from there. The reference and the likelihood ratios are those of the cohort's subjects,
        each against their own enrolment. Where the bundle has none, blocks are ranked among the person's own: nothing
        can then be found rarer than the enrolment is long; and the ratios are the cohort's by surprise alone. So it is
        with how the sensors move together: unless the bundle knows what a person's own lines tell, they tell nothing.
        """
        n_channels, n_sensors = len(self.precision), self.knots.shape[1] - 1
        own = self.knots[:, :n_sensors]
        steps = np.arange(1, _BEYOND + 1)[:, None]
        knots = np.concatenate([own[:1] - steps[::-1], own, own[-1:] + steps])
        usual, _ = cohort.usual(knots, groups)
        center, spread = self.median[:, :n_channels], (self.q99 - self.median)[:, :n_channels]
        below = center[0] + usual[:_BEYOND] - usual[_BEYOND]
        above = center[-1] + usual[-_BEYOND:] - usual[-_BEYOND - 1]
        reference, likelihood, weights = cohort.reference, cohort.likelihood, None
        if cohort.enrolled is not None:
            reference, likelihood = cohort.enrolled.reference, cohort.enrolled.likelihood
            weights = cohort.enrolled.weights
        elif len(self.reference):
            reference = self.reference
        coordination = cohort.coordination
        if coordination is not None and cohort.enrolled is None:
            likelihood = coordination.weights.likelihood
        if coordination is not None and self.lines is not None and weights is not None:
            coordination = Coordination(self.lines, weights)
        elif coordination is not None:
            coordination = coordination.muted(reference, likelihood)
        return replace(
            cohort,
            knots=knots,
            center=np.concatenate([below, center, above]),
            spread=np.concatenate([spread[[0] * _BEYOND], spread, spread[[-1] * _BEYOND]]),
            precision=self.precision,
            of_one=np.ones(()),
            reference=reference,
            likelihood=likelihood,
            coordination=coordination,
        )


class Detectors:
    """All detectors of several streams at once, each stream against a baseline of its own.

    Parameters
    ----------
    baselines
        One per stream.
    groups
        Columns of each sensor.
    """

    def __init__(self, baselines: Sequence[Baseline], groups: Sequence[slice]) -> None:
        self._starts = [g.start for g in groups]
        lines = [b.lines for b in baselines]
        self._lines = None if None in lines else stack_lines([x for x in lines if x is not None])
        self._of = _knots_of(groups, together=self._lines is not None)
        n_channels = groups[-1].stop
        median = np.stack([b.median for b in baselines])
        spread = np.stack([b.q99 for b in baselines]) - median
        self._knots = np.stack([b.knots for b in baselines])
        self._median, self._spread = median[..., n_channels:], spread[..., n_channels:]
        self._u95 = (np.stack([b.q95 for b in baselines]) - median) / spread
        self._n_channels = n_channels

    @property
    def together(self) -> bool:
        """Whether there are detectors of how each sensor moves beside the others."""
        return self._lines is not None

    def assess(
        self, channel_u: F64, intensity: F64, before: F64, *, rows: NDArray[np.intp] | slice = slice(None)
    ) -> tuple[F64, F64]:
        """Compare the last blocks of some streams with their own baselines.

        Parameters
        ----------
        channel_u : (n_streams, n_channels)
            ``Unusualness.channel`` under the calibrations of these baselines.
        intensity, before : (n_streams, n_sensors)
            As ``BlockScores`` has them.
        rows
            Which of the baselines these are; all, in their order, by default.

        Returns
        -------
        u : (n_streams, n_detectors)
            0 is the wearer's median in this context, 1 their 99 % quantile; ``UNSCORED`` where nothing was scored.
        q95 : (n_streams, n_detectors)
            The 95 % quantile of the enrolment in this context, on the same scale.
        """
        weight = _context_weights(self._knots[rows], intensity)[..., self._of]
        pooled, usable = _pool(channel_u, self._starts)
        if self._lines is not None:
            beside, told = _beside(self._lines.rows(rows), usable, intensity, before)
            pooled, usable = np.concatenate([pooled, beside], axis=1), np.concatenate([usable, told], axis=1)
        of = weight[..., self._n_channels :]
        pooled = (pooled - _blend(of, self._median[rows])) / _blend(of, self._spread[rows])
        u = np.concatenate([channel_u, np.where(usable, pooled, UNSCORED)], axis=1)
        return u, _blend(weight, self._u95[rows])


def fit_baseline(
    blocks: Blocks,
    covariance: F64,
    *,
    cohort: Calibration,
    groups: Sequence[slice],
    n_contexts: int = len(CONTEXTS),
    trusted: NDArray[np.bool_] | None = None,
) -> Baseline:
    """Learn what is usual for a person from blocks of their ordinary movement.

    Parameters
    ----------
    blocks
        At least 30; half an hour is meant.
    covariance : (n_channels, n_channels)
        Of the residuals ``z`` of the first horizon on the same blocks.
    cohort
        Of the model.
    groups
        Columns of each sensor.
    trusted : (n,)
        Blocks that somebody has said to be ordinary: they are never left out as abnormal.

    Raises
    ------
    SignalError
        Too few blocks.
    """
    if len(blocks) < _MIN_BLOCKS:
        raise SignalError(f"a baseline needs at least {_MIN_BLOCKS} scored blocks, got {len(blocks)}; record longer")
    groups = tuple(groups)
    first = _fit(blocks, covariance, cohort, groups, n_contexts)
    center, _ = first.calibration(cohort, groups).usual(blocks.intensity, groups)
    abnormal = _abnormal(blocks.channel - center)
    kept = blocks.take(~abnormal if trusted is None else ~abnormal | trusted)
    found = _fit(kept, covariance, cohort, groups, n_contexts) if len(kept) < len(blocks) else first
    return replace(found, n_trimmed=np.array([float(len(blocks) - len(kept))]))


def _fit(kept: Blocks, covariance: F64, cohort: Calibration, groups: tuple[slice, ...], n_contexts: int) -> Baseline:
    everything = np.concatenate([kept.intensity, kept.intensity.mean(axis=1, keepdims=True)], axis=1)
    context = np.empty(everything.shape, np.intp)
    knots = np.empty((n_contexts, everything.shape[1]))
    for i, column in enumerate(everything.T):
        for k, rows in enumerate(np.array_split(np.argsort(column, kind="stable"), n_contexts)):
            context[rows, i] = k
            knots[k, i] = np.median(column[rows])
    knots += 1e-3 * np.arange(n_contexts)[:, None]  # of one who never changes their pace; and no division by zero
    lines = None
    # not with a bundle that knows of people who are enrolled, but not what their lines tell
    if cohort.coordination is not None and (cohort.enrolled is None or cohort.enrolled.weights is not None):
        lines = own_lines(cohort.coordination.lines, kept.intensity)
    of = _knots_of(groups, together=lines is not None)
    n_channels = groups[-1].stop
    n_detectors = len(of)
    precision = precision_of(covariance)
    prior = cohort.usual(knots[:, :-1], groups)[1]
    trust = len(kept) / (len(kept) + _PRIOR_BLOCKS)
    median, q95, q99 = (np.zeros((n_contexts, n_detectors)) for _ in range(3))

    together = _no_lines(len(groups)) if lines is None else lines

    def baseline() -> Baseline:
        n, nothing = np.array([float(len(kept))]), (np.zeros(1), np.zeros(0))
        return Baseline(knots, median.copy(), q95.copy(), q99.copy(), precision, n, *nothing, **vars(together))

    def usual() -> tuple[F64, F64]:
        return baseline().calibration(cohort, groups).usual(kept.intensity, groups)

    for c in range(n_channels):
        for k in range(n_contexts):
            median[k, c] = np.median(kept.channel[context[:, of[c]] == k, c])
    # what is left of each context once the line between the medians is taken away, twice: the line is no median
    for _ in range(2):
        left = kept.channel - usual()[0]
        for c in range(n_channels):
            for k in range(n_contexts):
                median[k, c] += np.median(left[context[:, of[c]] == k, c])
    left = kept.channel - usual()[0]
    for c in range(n_channels):
        for k in range(n_contexts):
            high, top = np.quantile(left[context[:, of[c]] == k, c], [0.95, 0.99])
            q95[k, c] = median[k, c] + high
            q99[k, c] = median[k, c] + max(trust * top + (1 - trust) * prior[k, c], _MIN_SPREAD)
    center, spread = usual()
    pooled, usable = _pool((kept.channel - center) / spread, [g.start for g in groups])
    if lines is not None:
        pooled = np.concatenate([pooled, _beside(lines, usable, kept.intensity, kept.before)[0]], axis=1)
    for d in range(n_channels, n_detectors):
        for k in range(n_contexts):
            values = pooled[context[:, of[d]] == k, d - n_channels]
            median[k, d], q95[k, d], q99[k, d] = np.quantile(values, [0.5, 0.95, 0.99])
            q99[k, d] = max(q99[k, d], median[k, d] + _MIN_SPREAD)
    return baseline()


def _abnormal(left: F64) -> NDArray[np.bool_]:
    """Return (n,) bool: blocks to leave out by what is left above their center, at most the most extreme 5 %."""
    middle, high = np.quantile(left, [0.5, 0.9], axis=0)
    far = ((left - middle) / np.maximum(high - middle, _MIN_SPREAD / 2)).max(axis=1)
    limit = max(_ABNORMAL, float(np.quantile(far, 1 - _MAX_TRIMMED)))
    out: NDArray[np.bool_] = far > limit
    return out


def _no_lines(n_sensors: int) -> Lines:
    return Lines(np.zeros((n_sensors, n_sensors + 1)), *(np.zeros((0, n_sensors)) for _ in range(4)))


def _beside(lines: Lines, usable: NDArray[np.bool_], intensity: F64, before: F64) -> tuple[F64, NDArray[np.bool_]]:
    """Return how each sensor moves beside the others that were heard, (n, n_sensors), and where that is known."""
    told = usable[:, : intensity.shape[1]] & (intensity > NO_STEP)
    return lines.unusual(intensity, told, before=before), told & enough_told(told)[:, None]


def _knots_of(groups: Sequence[slice], *, together: bool) -> NDArray[np.intp]:
    """Return (n_detectors,): which column of ``knots`` each detector goes by."""
    sensors, body = np.arange(len(groups)), len(groups)
    channels = np.repeat(sensors, [g.stop - g.start for g in groups])
    return np.concatenate([channels, sensors, sensors, [body], [body] * (body if together else 0)]).astype(np.intp)


def _pool(channel_u: F64, starts: Sequence[int]) -> tuple[F64, NDArray[np.bool_]]:
    """Return mean and largest ``u`` of each sensor and the mean of all, (n, 2 n_sensors + 1), with where any is."""
    scored = channel_u > UNSCORED
    n = np.add.reduceat(scored, starts, axis=1, dtype=np.int64)
    sums = np.add.reduceat(np.where(scored, channel_u, 0.0), starts, axis=1)
    largest = np.maximum.reduceat(channel_u, starts, axis=1)
    total, n_total = sums.sum(axis=1, keepdims=True), n.sum(axis=1, keepdims=True)
    pooled = np.concatenate([sums / np.maximum(n, 1), largest, total / np.maximum(n_total, 1)], axis=1)
    return pooled, np.concatenate([n > 0, n > 0, n_total > 0], axis=1)


def _context_weights(knots: F64, intensity: F64) -> F64:
    """Return (n, n_contexts, n_sensors + 1): how much each context counts at intensities (n, n_sensors); sums to 1."""
    everything = np.concatenate([intensity, intensity.mean(axis=1, keepdims=True)], axis=1)
    into = np.clip((everything[:, None] - knots[..., :-1, :]) / np.diff(knots, axis=-2), 0.0, 1.0)
    one = np.ones_like(into[:, :1])
    weight: F64 = np.concatenate([one, into], axis=1) - np.concatenate([into, 0 * one], axis=1)
    return weight


def _blend(weight: F64, by_context: F64) -> F64:
    blended: F64 = (weight * by_context).sum(axis=1)
    return blended
