"""What a cautious answer is worth: utilities of set answers, risk against coverage, right reasons, and plain rivals.

An answer is one of two classes or the set of both, "unsure". A right single answer is worth 1, a wrong one 0, and the
set ``u65`` = .65 or ``u80`` = .80 (Zaffalon, Corani, Maua, "Evaluating credal classifiers by utility-discounted
predictive accuracy", IJAR 2012): whoever always says "unsure" gets just that. Ordinary and changed blocks count half
each, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.caution import Decision

__all__ = ["Answers", "Seen", "area_under_risk", "band", "plain", "tune_band", "tune_plain", "utility"]

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

UNSURE_WORTH: Final = {"u65": 0.65, "u80": 0.80}


@dataclass(frozen=True, eq=False)
class Seen:
    """Scored blocks of one condition; all arrays are (n,).

    Parameters
    ----------
    changed : bool
        The truth about the person.
    subject
        Index of the person.
    session, hop
        Which block: the same under every condition.
    score, p_value
        What plain rivals go by.
    decision
        Of ``Decision``.
    confidence
        How far from undecided the belief lies, and on which side: above 0 speaks for a change.
    code, place
        Of the first reason where the answer is unsure, else empty.
    named : bool
        The first reason names the fault, and a sensor it struck.
    others
        The decision if sensors that are out may be left out by name.
    """

    changed: NDArray[np.bool_]
    subject: Ints
    session: Ints
    hop: Ints
    score: F64
    p_value: F64
    decision: Ints
    normal: F64
    anomalous: F64
    confidence: F64
    code: NDArray[np.str_]
    named: NDArray[np.bool_]
    others: Ints

    def __len__(self) -> int:
        return len(self.changed)

    def take(self, rows: NDArray[np.bool_] | Ints) -> Seen:
        """Return some blocks."""
        return Seen(**{k: v[rows] for k, v in vars(self).items()})


@dataclass(frozen=True)
class Answers:
    """Three-way answers in figures.

    Parameters
    ----------
    u65, u80
        Utilities.
    missed, false_calls
        Share of changed blocks called normal, and of ordinary ones called anomalous.
    unsure
        Share of blocks without an answer, each class counting half.
    """

    u65: float
    u80: float
    missed: float
    false_calls: float
    unsure: float


def utility(decision: Ints, changed: NDArray[np.bool_]) -> Answers:
    """Weigh answers; ordinary and changed blocks count half each.

    Parameters
    ----------
    decision : (n,)
        Of ``Decision``.
    changed : (n,) bool
        The truth.
    """
    shares = []
    for truth in (False, True):
        own = decision[changed == truth]
        right = Decision.ANOMALOUS if truth else Decision.NORMAL
        n = max(len(own), 1)
        unsure = float((own == Decision.UNSURE).sum() / n)
        shares.append((float((own == right).sum() / n), unsure))
    (normal, calm_unsure), (found, odd_unsure) = shares
    both, unsure = (normal + found) / 2, (calm_unsure + odd_unsure) / 2
    return Answers(
        u65=both + UNSURE_WORTH["u65"] * unsure,
        u80=both + UNSURE_WORTH["u80"] * unsure,
        missed=max(0.0, 1 - found - odd_unsure),
        false_calls=max(0.0, 1 - normal - calm_unsure),
        unsure=unsure,
    )


def area_under_risk(confidence: F64, changed: NDArray[np.bool_]) -> float:
    """Return the area under the curve of risk against coverage (AURC).

    Every block gets its likelier answer, the sign of ``confidence``; blocks are answered in order of its size, and of
    equal ones in no order. Classes are weighted to half each.
    """
    weight = np.where(changed, 0.5 / max(changed.sum(), 1), 0.5 / max((~changed).sum(), 1))
    wrong = np.where(confidence == 0, 0.5, (confidence > 0) != changed)
    _, tied = np.unique(-np.abs(confidence), return_inverse=True)
    w, e = np.bincount(tied, weight), np.bincount(tied, weight * wrong)
    covered = np.cumsum(w)
    # within a tie the risk goes from what was before to what is after: the mean of both ends
    risk = np.cumsum(e) / covered
    before = np.concatenate([[e[0] / w[0]], risk[:-1]])
    return min(float((w * (risk + before) / 2).sum() / covered[-1]), 1.0)  # the last bit of a sum may lie beyond


def plain(score: F64, *, above: float) -> Ints:
    """Answer by one threshold on the score: never unsure."""
    return np.where(score > above, int(Decision.ANOMALOUS), int(Decision.NORMAL))


def band(p_value: F64, *, rare: float, common: float) -> Ints:
    """Answer by a band of p-values: anomalous up to ``rare``, normal above ``common``, unsure between."""
    return np.where(
        p_value <= rare,
        int(Decision.ANOMALOUS),
        np.where(p_value > common, int(Decision.NORMAL), int(Decision.UNSURE)),
    )


def tune_plain(conditions: list[Seen]) -> float:
    """Return the threshold with the most right answers over all conditions, each counting the same."""
    limits = np.unique(np.quantile(np.concatenate([c.score for c in conditions]), np.linspace(0.02, 0.998, 80)))
    worth = [np.mean([utility(plain(c.score, above=x), c.changed).u65 for c in conditions]) for x in limits]
    return float(limits[int(np.argmax(worth))])


def tune_band(conditions: list[Seen], *, worth: str = "u65") -> tuple[float, float]:
    """Return the band of the greatest utility over all conditions, each counting the same."""
    grid = np.array([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 0.9])
    best = (-1.0, 0.01, 0.1)
    for i, rare in enumerate(grid):
        for common in grid[i:]:
            found = [getattr(utility(band(c.p_value, rare=rare, common=common), c.changed), worth) for c in conditions]
            best = max(best, (float(np.mean(found)), float(rare), float(common)))
    return best[1], best[2]
