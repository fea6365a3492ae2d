"""Calibration: what is rare for this model on normal movement of people it was not trained on.

Scores of each channel and sensor become ``u = (score - median) / (q99 - median)`` of the cohort's normal
movement; a sensor's statistic is the largest ``u`` among it and its channels, a person's the largest among
their sensors. The person's statistic is ranked among the cohort's blocks: the conformal p-value
``(1 + #{reference >= now}) / (n + 1)``, which is valid as far as the person's blocks are exchangeable with the
cohort's. New people and new days stretch that; it is stated wherever the number is shown.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.scores import BlockScores, sensor_groups
from kinedge.errors import BundleError, SignalError

__all__ = ["Calibration", "SubjectScores", "Unusualness", "fit_calibration", "fit_likelihood_ratio"]

F64 = NDArray[np.float64]

_MIN_SPREAD: Final = 0.1  # of a score (in nats): a cohort that never varies must not make everything rare
_MAX_REFERENCE: Final = 4096
_UNSCORED: Final = -1e6  # a statistic nothing can be below: a missing sensor never looks unusual
_RIDGE: Final = 0.02


@dataclass(frozen=True, eq=False)
class Unusualness:
    """How far from the cohort's normal movement each block was.

    Parameters
    ----------
    sensor : (n_streams, n_sensors)
        Largest ``u`` of the sensor and its channels: 0 is the median, 1 the 99 % quantile.
    score : (n_streams,)
        The largest of them.
    p_value : (n_streams,)
        Conformal, 1 where nothing could be scored.
    """

    sensor: F64
    score: F64
    p_value: F64


@dataclass(frozen=True, eq=False)
class Calibration:
    """Cohort calibration of one model, as stored in ``calibration.npz``.

    Parameters
    ----------
    channel_center, channel_spread : (n_channels,)
        Median, and 99 % quantile less median, of the channel scores.
    sensor_center, sensor_spread : (n_sensors,)
        The same of the sensor scores.
    reference : (n,)
        Sorted statistics of normal blocks.
    likelihood : (n_sensors, 2)
        ``log LR = b0 + b1 u`` of each sensor.
    precision : (n_channels, n_channels)
        Inverse covariance of the residuals, for attribution.
    additive : (1,)
        1 if ``z^2`` attributed better than the counterfactual drop on validation data.
    """

    channel_center: F64
    channel_spread: F64
    sensor_center: F64
    sensor_spread: F64
    reference: F64
    likelihood: F64
    precision: F64
    additive: F64

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> Calibration:
        """Read the arrays of a bundle.

        Raises
        ------
        BundleError
            An array is missing, unused, of a wrong shape, or cannot be a calibration.
        """
        c, s = manifest.n_channels, len(manifest.sensors)
        shapes: dict[str, tuple[int | None, ...]] = {
            "channel_center": (c,),
            "channel_spread": (c,),
            "sensor_center": (s,),
            "sensor_spread": (s,),
            "reference": (None,),
            "likelihood": (s, 2),
            "precision": (c, c),
            "additive": (1,),
        }
        if set(arrays) != set(shapes):
            odd = ", ".join(sorted(set(arrays) ^ set(shapes)))
            raise BundleError(f"bundle {manifest.name}: calibration arrays missing or unused: {odd}")
        for name, shape in shapes.items():
            found = arrays[name].shape
            if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
                raise BundleError(f"bundle {manifest.name}: calibration array {name} is {found}, expected {shape}")
        self = cls(**{name: array.astype(np.float64) for name, array in arrays.items()})
        if not len(self.reference) or (np.diff(self.reference) < 0).any():
            raise BundleError(f"bundle {manifest.name}: the calibration reference must be sorted and not empty")
        if min(self.channel_spread.min(), self.sensor_spread.min(), np.diag(self.precision).min()) <= 0:
            raise BundleError(f"bundle {manifest.name}: calibration spreads and precisions must be positive")
        return self

    def assess(self, scores: BlockScores, groups: Sequence[slice]) -> Unusualness:
        """Rank block scores of any number of streams."""
        channel_u = np.where(scores.scored, (scores.channel - self.channel_center) / self.channel_spread, _UNSCORED)
        sensor_u = np.where(scores.sensor_scored, (scores.sensor - self.sensor_center) / self.sensor_spread, _UNSCORED)
        sensor = _largest_per_sensor(channel_u, sensor_u, groups)
        score = sensor.max(axis=1)
        n = len(self.reference)
        at_least = n - np.searchsorted(self.reference, score, side="left")
        return Unusualness(sensor=sensor, score=score, p_value=(1 + at_least) / (n + 1))


@dataclass(frozen=True, eq=False)
class SubjectScores:
    """Normal blocks of one subject: channel scores (n, n_channels), sensor scores (n, n_sensors)."""

    subject: str
    channel: F64
    sensor: F64


def fit_calibration(
    manifest: Manifest,
    normal: Sequence[SubjectScores],
    residuals: F64,
    *,
    likelihood: F64 | None = None,
    additive: bool = False,
) -> Calibration:
    """Fit a cohort calibration from blocks of normal movement of subjects the model was not trained on.

    Every subject counts the same: centers and spreads are medians over subjects, and each brings equally many
    blocks to the reference. The reference keeps the differences between subjects, since the next one will differ too.

    Parameters
    ----------
    manifest
        Of the model.
    normal
        One entry per subject, at least 20 blocks in all.
    residuals : (n, n_channels)
        Valid ``z`` of the first horizon on the same blocks, for the precision matrix.
    likelihood : (n_sensors, 2)
        From ``fit_likelihood_ratio``; a cautious default when None.
    additive
        Use ``z^2`` for the attribution instead of the counterfactual drop.

    Raises
    ------
    SignalError
        Too few blocks, or shapes that do not fit.
    """
    n_blocks = sum(len(s.channel) for s in normal)
    if n_blocks < 20:
        raise SignalError(f"calibration needs at least 20 blocks of normal movement, got {n_blocks}; record longer")
    if residuals.ndim != 2 or residuals.shape[1] != manifest.n_channels:
        raise SignalError(f"calibration residuals must be (n, {manifest.n_channels}), got {residuals.shape}")

    def center_and_spread(parts: list[F64]) -> tuple[F64, F64]:
        medians = np.array([np.median(p, axis=0) for p in parts])
        q99 = np.array([np.quantile(p, 0.99, axis=0) for p in parts])
        return np.median(medians, axis=0), np.maximum(np.median(q99 - medians, axis=0), _MIN_SPREAD)

    channel_center, channel_spread = center_and_spread([s.channel for s in normal])
    sensor_center, sensor_spread = center_and_spread([s.sensor for s in normal])
    groups = sensor_groups(manifest)
    per_subject = []
    for s in normal:
        channel_u = (s.channel - channel_center) / channel_spread
        sensor_u = (s.sensor - sensor_center) / sensor_spread
        per_subject.append(_largest_per_sensor(channel_u, sensor_u, groups).max(axis=1))
    share = max(1, min([_MAX_REFERENCE // len(per_subject), *(len(p) for p in per_subject)]))
    reference = np.sort(np.concatenate([_thin(np.sort(p), share) for p in per_subject]))

    covariance = np.cov(residuals, rowvar=False).reshape(manifest.n_channels, manifest.n_channels)
    precision = np.linalg.inv(
        covariance + _RIDGE * np.eye(manifest.n_channels) * max(1.0, np.trace(covariance) / len(covariance))
    )
    if likelihood is None:
        likelihood = np.tile([-3.0, 3.0], (len(manifest.sensors), 1))
    return Calibration(
        channel_center=channel_center,
        channel_spread=channel_spread,
        sensor_center=sensor_center,
        sensor_spread=sensor_spread,
        reference=reference,
        likelihood=likelihood,
        precision=precision,
        additive=np.array([float(additive)]),
    )


def _largest_per_sensor(channel_u: F64, sensor_u: F64, groups: Sequence[slice]) -> F64:
    """Return (n, n_sensors): the largest ``u`` of each sensor and its channels."""
    largest: F64 = np.maximum(sensor_u, np.stack([channel_u[:, group].max(axis=1) for group in groups], axis=1))
    return largest


def _thin(ordered: F64, n: int) -> F64:
    """Take ``n`` of the sorted values, evenly, always with the largest: thinning must not make alarms easier."""
    positions = np.linspace(0, len(ordered) - 1, n) if n > 1 else np.array([len(ordered) - 1.0])
    thinned: F64 = ordered[np.ceil(positions).astype(int)]
    return thinned


def fit_likelihood_ratio(normal_u: F64, anomalous_u: F64) -> tuple[float, float]:
    """Fit ``log LR = b0 + b1 u`` by logistic regression with balanced classes (Newton, ridge on the slope).

    Parameters
    ----------
    normal_u, anomalous_u : (n,)
        A sensor's statistic on normal blocks and on blocks with a synthetic anomaly at that sensor.

    Returns
    -------
    b0, b1
        ``b1`` is at least 0: more unusual never speaks for normal.

    Raises
    ------
    SignalError
        One of the two has fewer than 5 blocks.
    """
    if min(len(normal_u), len(anomalous_u)) < 5:
        raise SignalError("a likelihood ratio needs at least 5 normal and 5 anomalous blocks")
    # beyond a few spreads the tail must not bend the line where decisions are made
    u = np.clip(np.concatenate([normal_u, anomalous_u]), -3.0, 4.0)
    y = np.concatenate([np.zeros(len(normal_u)), np.ones(len(anomalous_u))])
    w = np.where(y > 0, 0.5 / len(anomalous_u), 0.5 / len(normal_u))
    design = np.stack([np.ones_like(u), u], axis=1)
    beta = np.zeros(2)
    ridge = np.diag([0.0, 1e-3])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (w * (p - y)) + ridge @ beta
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + ridge + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        beta -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(max(beta[1], 0.0))
