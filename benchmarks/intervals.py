"""How much b is of a, with an interval: bootstrap over pairs of runs that were made in turns.

A pair is one run of a and one of b, one straight after the other, so that what the machine does meets both alike. The
unit that is drawn again is the pair, never a single round: rounds within a process resemble each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["Ratio", "ratio_of_pairs"]

_N_DRAWS: Final = 10_000
_FEWEST: Final = 5
_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Ratio:
    """``b / a``: the geometric mean over pairs, its interval, and how many pairs there were."""

    value: float
    low: float
    high: float
    n_pairs: int
    level: float

    @property
    def says(self) -> str:
        """``more`` or ``less`` when the interval leaves 1 out, else ``no difference seen``."""
        return "more" if self.low > 1 else "less" if self.high < 1 else "no difference seen"


def ratio_of_pairs(a: Sequence[float], b: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Ratio:
    """Estimate ``b / a`` from pairs.

    The interval is the bootstrap-t of the mean logarithm: each draw is divided by its own standard error, which keeps
    the interval honest with the few pairs that one has the patience for (a plain percentile interval is too short).

    Parameters
    ----------
    a, b : (n_pairs,)
        Above 0, at least five of each.
    level
        Of the interval.
    seed
        Of the draws.

    Raises
    ------
    SignalError
        Fewer than five pairs, not as many of a as of b, or a value that is not above 0.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < _FEWEST:
        raise SignalError(f"a ratio needs {_FEWEST} pairs or more, got {first.shape} of a and {second.shape} of b")
    if not (np.isfinite(first).all() and np.isfinite(second).all() and (first > 0).all() and (second > 0).all()):
        raise SignalError("a ratio needs numbers above 0 in every pair")
    logs = np.log(second / first)
    n, mean = len(logs), float(logs.mean())
    error = float(logs.std(ddof=1)) / np.sqrt(n)
    if error < 1e-12:
        return Ratio(float(np.exp(mean)), float(np.exp(mean)), float(np.exp(mean)), n, level)
    rng = np.random.default_rng(seed)
    t = np.concatenate([_studentised(logs, mean, rng) for _ in range(_N_DRAWS // _AT_ONCE)])
    low_t, high_t = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    low, high = mean - high_t * error, mean - low_t * error
    return Ratio(float(np.exp(mean)), float(np.exp(low)), float(np.exp(high)), n, level)


def _studentised(logs: NDArray[np.float64], mean: float, rng: np.random.Generator) -> NDArray[np.float64]:
    n = len(logs)
    drawn = logs[rng.integers(0, n, (_AT_ONCE, n))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    kept = errors > 1e-12 * max(1.0, float(np.abs(logs).max()))  # a draw of one pair n times has none
    return np.asarray((drawn.mean(axis=1)[kept] - mean) / errors[kept])
