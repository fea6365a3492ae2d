"""The linear baseline: a vector-autoregressive model in closed form, with Student-t residuals.

It starts every training run and stands beside every result: a network that does not beat it is not worth its cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearFit", "fit_linear", "fit_student_t"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_MAX_ROWS: Final = 120_000  # more change nothing in a few thousand coefficients per target
_CHUNK_ROWS: Final = 8_192
_NU: Final = (2.1, 2.3, 2.6, 3.0, 3.5, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0)
_EM_STEPS: Final = 25
_MIN_SIGMA: Final = 2e-3


@dataclass(frozen=True, eq=False)
class LinearFit:
    """VAR coefficients and the scale of their residuals.

    Parameters
    ----------
    weight : (H * C, p * C), bias : (H * C,)
        Targets horizon-major; columns are taps, oldest first, then channel.
    sigma, nu : (H, C)
        Student-t scale and degrees of freedom.
    """

    weight: F32
    bias: F32
    sigma: F32
    nu: F32


def fit_linear(
    x: F32,
    mask: F32,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    *,
    horizons: tuple[int, ...],
    var_order: int,
    ridge: float,
    seed: int = 0,
) -> LinearFit:
    """Fit by ridge least squares; a missing input counts as what is shown for it, a missing target does not count.

    Parameters
    ----------
    x, mask : (n, C)
        Normalised pieces, one behind the other; ``x`` as a network is shown it.
    starts, ends
        Of the pieces; no row reaches over an edge.
    ridge
        Added to the diagonal per row: the penalty grows with the data, as its mean square would.
    """
    rows = np.concatenate(
        [np.arange(a + var_order - 1, b - horizons[-1]) for a, b in zip(starts, ends, strict=True)]
    ).astype(np.int64)
    if len(rows) > _MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MAX_ROWS, replace=False))
    n_channels = x.shape[1]
    target_mask = np.concatenate([mask[rows + h] > 0 for h in horizons], axis=1)
    # Channels of one sensor are lost together: targets with the same mask share one system of equations.
    groups: dict[bytes, list[int]] = {}
    for k in range(target_mask.shape[1]):
        groups.setdefault(np.packbits(target_mask[:, k]).tobytes(), []).append(k)
    n_features = var_order * n_channels + 1
    gram = np.zeros((len(groups), n_features, n_features))
    moment = np.zeros((n_features, target_mask.shape[1]))
    for part in np.array_split(np.arange(len(rows)), max(1, math.ceil(len(rows) / _CHUNK_ROWS))):
        features = _features(x, rows[part], var_order)
        targets = np.concatenate([x[rows[part] + h] for h in horizons], axis=1).astype(np.float64)
        moment += features.T @ np.where(target_mask[part], targets, 0.0)
        whole = None
        for g, columns in enumerate(groups.values()):
            counts = target_mask[part, columns[0]]
            if counts.all():
                whole = features.T @ features if whole is None else whole
                gram[g] += whole
            else:
                gram[g] += features[counts].T @ features[counts]
    coefficients = np.zeros((n_features, target_mask.shape[1]))
    for g, columns in enumerate(groups.values()):
        n_rows = max(int(target_mask[:, columns[0]].sum()), 1)
        penalty = np.full(n_features, ridge * n_rows)
        penalty[-1] = 1e-9 * n_rows  # the bias is free; this only keeps an empty group solvable
        coefficients[:, columns] = np.linalg.solve(gram[g] + np.diag(penalty), moment[:, columns])

    sample = rows[:: max(1, len(rows) // 20_000)]
    residual = (
        np.concatenate([x[sample + h] for h in horizons], axis=1) - _features(x, sample, var_order) @ coefficients
    )
    present = np.concatenate([mask[sample + h] > 0 for h in horizons], axis=1)
    sigma, nu = fit_student_t(residual, present)
    shape = (len(horizons), n_channels)
    return LinearFit(
        weight=np.ascontiguousarray(coefficients[:-1].T, dtype=np.float32),
        bias=coefficients[-1].astype(np.float32),
        sigma=sigma.reshape(shape).astype(np.float32),
        nu=nu.reshape(shape).astype(np.float32),
    )


def _features(x: F32, rows: NDArray[np.int64], var_order: int) -> F64:
    """Return (n_rows, p * C + 1): taps oldest first, then a one for the bias."""
    taps = x[rows[:, None] + np.arange(1 - var_order, 1)].reshape(len(rows), -1)
    return np.concatenate([taps, np.ones((len(rows), 1))], axis=1, dtype=np.float64)


def fit_student_t(residual: F64, present: NDArray[np.bool_]) -> tuple[F64, F64]:
    """Return scale and degrees of freedom of each column (n, K): EM for the scale, a grid for the rest.

    A column without any present residual gets 1 and 10. Source: Lange, Little & Taylor 1989, section 3.
    """
    weight = present.astype(np.float64)
    count = np.maximum(weight.sum(axis=0), 1.0)
    square = np.where(present, residual, 0.0) ** 2
    best = np.full(residual.shape[1], -np.inf)
    sigma, nu = np.ones(residual.shape[1]), np.full(residual.shape[1], 10.0)
    for candidate in _NU:
        variance = np.maximum((square * weight).sum(axis=0) / count, _MIN_SIGMA**2)
        for _ in range(_EM_STEPS):
            pull = (candidate + 1) / (candidate + square / variance)
            variance = np.maximum((pull * square).sum(axis=0) / count, _MIN_SIGMA**2)
        constant = math.lgamma((candidate + 1) / 2) - math.lgamma(candidate / 2) - 0.5 * math.log(candidate * math.pi)
        density = constant - 0.5 * np.log(variance) - (candidate + 1) / 2 * np.log1p(square / variance / candidate)
        likelihood = (density * weight).sum(axis=0) / count
        better = (likelihood > best) & (weight.sum(axis=0) > 0)
        best = np.where(better, likelihood, best)
        sigma, nu = np.where(better, np.sqrt(variance), sigma), np.where(better, candidate, nu)
    return sigma, nu
