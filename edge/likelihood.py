"""The columns of likelihood ratios: those of a sensor's statistic, and those of what packet loss does to it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LESSENS", "N_TERMS", "terms_of", "with_loss_terms"]

F64 = NDArray[np.float64]

N_TERMS: Final = 6
LESSENS: Final = 4  # the terms from here on make a ratio smaller


def with_loss_terms(likelihood: F64, known: F64 | None = None) -> F64:
    """Return likelihood ratios (..., n_sensors, 6), of (..., n_sensors, 2) where nothing of loss was kept with them.

    Parameters
    ----------
    likelihood
    known : (n_sensors, 6)
        Ratios to take it from; where they are left out, loss does nothing.
    """
    if likelihood.shape[-1] == N_TERMS:
        return likelihood
    missing = np.zeros((*likelihood.shape[:-1], N_TERMS - likelihood.shape[-1])) if known is None else known[:, 2:]
    return np.concatenate([likelihood, missing], axis=-1)


def terms_of(likelihood: NDArray[Any]) -> int:
    """Return how many columns likelihood ratios of a bundle must have."""
    return 2 if likelihood.shape[-1:] == (2,) else N_TERMS
