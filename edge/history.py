"""How likely a detector exceeds, given how often it just did: the condition under which alarms are promised.

Surprise comes in bursts: a block is far more likely to exceed when the last ones did. A promise on false episodes that
takes blocks for independent is off by orders of magnitude, so the chance is kept apart by ``h``, the number of the last
four blocks that exceeded. Blocks here do not overlap: of verdicts that come every hop, every ``block / hop``-th counts,
and ``h`` is known only where the four blocks before were all seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_BACK", "History", "effective_size", "history_of", "limits_of"]

F64 = NDArray[np.float64]

N_BACK: Final = 4
_MIN_VISITS: Final = 30  # of a level by a subject, for the subject to count in its quantile
_LIMIT_QUANTILE: Final = 0.9


@dataclass(frozen=True, eq=False)
class History:
    """Counts by ``h`` from 0 to ``N_BACK``.

    Parameters
    ----------
    visits, hits : (N_BACK + 1,)
        How often a detector had exceeded ``h`` times, and how often it then did so again; all detectors together.
    """

    visits: F64
    hits: F64

    def __add__(self, other: History) -> History:
        return History(self.visits + other.visits, self.hits + other.hits)

    @property
    def rate(self) -> F64:
        """(N_BACK + 1,) share of visits that were hits, 0 where nothing was seen."""
        share: F64 = self.hits / np.maximum(self.visits, 1)
        return share


def history_of(exceeds: NDArray[np.bool_], block: NDArray[np.int64], hits: NDArray[np.bool_] | None = None) -> History:
    """Count exceedances by what went before.

    Parameters
    ----------
    exceeds : (n, n_detectors)
        Of blocks that do not overlap.
    block : (n,)
        Increasing number of each block; where one is missing, the history begins anew.
    hits : (n, n_detectors)
        What is counted after each history, such as exceedances of a higher level; ``exceeds`` itself when None.
    """
    n = len(exceeds)
    counts = np.zeros((2, N_BACK + 1))
    if n > N_BACK:
        before = sum(exceeds[i : n - N_BACK + i].astype(np.int64) for i in range(N_BACK))
        known = block[N_BACK:] - block[:-N_BACK] == N_BACK
        h, now = np.asarray(before)[known], (exceeds if hits is None else hits)[N_BACK:][known]
        counts[0] = np.bincount(h.ravel(), minlength=N_BACK + 1)
        counts[1] = np.bincount(h[now], minlength=N_BACK + 1)
    return History(counts[0], counts[1])


def limits_of(subjects: Sequence[History]) -> F64:
    """Return ``pi_h`` (N_BACK + 1,): the 90 % quantile over subjects of the chance to exceed at each ``h``.

    A level that too few subjects reached takes the pooled rate, and never less than the level below it: who has
    exceeded more often is not taken for calmer.
    """
    pooled = sum(subjects, start=History(np.zeros(N_BACK + 1), np.zeros(N_BACK + 1)))
    limits = np.empty(N_BACK + 1)
    for h in range(N_BACK + 1):
        rates = [float(s.rate[h]) for s in subjects if s.visits[h] >= _MIN_VISITS]
        # one pseudo-visit of each outcome: a rate of exactly 0 or 1 would promise the impossible
        smooth = float((pooled.hits[h] + 1) / (pooled.visits[h] + 2))
        limits[h] = max(smooth, float(np.quantile(rates, _LIMIT_QUANTILE)) if rates else 0.0)
    increasing: F64 = np.maximum.accumulate(np.clip(limits, 1e-6, 1 - 1e-6))
    return increasing


def effective_size(series: F64) -> float:
    """Return how many independent samples a series (n,) is worth: ``n / (1 + 2 sum rho)``.

    The sum runs over pairs of lags as long as they stay positive. Source: Geyer, "Practical Markov chain Monte Carlo",
    Statistical Science 7 (1992), the initial positive sequence.
    """
    n = len(series)
    centered = series - series.mean() if n else series
    if n < 4 or not (variance := float((centered**2).mean())) > 0:
        return float(n)
    size = 1 << (2 * n - 1).bit_length()
    rho = np.fft.irfft(np.abs(np.fft.rfft(centered, size)) ** 2, size)[:n] / (n * variance)
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    total = float(pairs[: negative[0] if len(negative) else len(pairs)].sum())
    return float(min(n, n / max(2 * total - 1, 1e-9)))
