"""From a score to alarms, and how well a score separates: what the benchmarks on labelled recordings share.

The rule is the same for every method and was fixed before anything was scored: an alarm opens when the score has been
above its threshold for a second, is dated to the first of these instants, and ends when the score has been below for
two. Thresholds come from reference data that holds no event, never from what is scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.training.evaluate import FoundEpisode

__all__ = ["alarms_above", "roc_auc", "roc_point", "spread"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_OPEN_S, _CLOSE_S = 1.0, 2.0


def alarms_above(score: F64, threshold: float, *, rate_hz: float, scored: Mask | None = None) -> list[FoundEpisode]:
    """Return alarms of a score.

    Parameters
    ----------
    score : (n,)
        At ``rate_hz``.
    scored : (n,) bool
        Where an alarm may be; outside, nothing is above. None: everywhere.
    """
    above = score > threshold
    if scored is not None:
        above = above & scored
    n_open, n_close = max(1, round(_OPEN_S * rate_hz)), max(1, round(_CLOSE_S * rate_hz))
    found: list[FoundEpisode] = []
    run = quiet = 0
    start = opened = -1
    for i, high in enumerate(above):
        run, quiet = (run + 1, 0) if high else (0, quiet + 1)
        if opened < 0 and run >= n_open:
            start, opened = i + 1 - run, i
        elif opened >= 0 and quiet >= n_close:
            found.append(FoundEpisode(start / rate_hz, (i + 1 - quiet) / rate_hz, opened / rate_hz))
            opened = -1
    if opened >= 0:
        found.append(FoundEpisode(start / rate_hz, (len(above) - quiet) / rate_hz, opened / rate_hz))
    return found


def roc_auc(ordinary: F64, odd: F64) -> float:
    """Return the probability that an odd score exceeds an ordinary one, ties counting half.

    Raises
    ------
    SignalError
        One of them is empty, or holds no numbers.
    """
    if not (len(ordinary) and len(odd)) or np.isnan(ordinary).any() or np.isnan(odd).any():
        raise SignalError(f"an area needs numbers on both sides, got {len(ordinary)} ordinary and {len(odd)} odd ones")
    ranked = np.sort(ordinary)
    below = np.searchsorted(ranked, odd, side="left") + np.searchsorted(ranked, odd, side="right")
    return float(below.mean() / 2 / len(ordinary))


def roc_point(truth: Mask, told: Mask) -> tuple[float, float]:
    """Return sensitivity and specificity; NaN where one of the classes is absent."""
    with np.errstate(invalid="ignore"):
        found = np.float64((truth & told).sum()) / np.float64(truth.sum())
        quiet = np.float64((~truth & ~told).sum()) / np.float64((~truth).sum())
    return float(found), float(quiet)


def spread(values: list[float], digits: int = 3) -> str:
    """Return mean and standard deviation between subjects as text; NaN do not count."""
    known = np.array([v for v in values if np.isfinite(v)])
    if len(known) == 0:
        return "-"
    deviation = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{deviation}"
