"""Does what is promised for the cohort hold for this person? Asked at enrolment, answered in words with the numbers.

The promise on false episodes rests on one assumption: given how often a detector exceeded in the last four blocks, it
is not more likely to do so again than it is in 90 % of the cohort. Here the person's own chances are counted: each half
of the enrolment is held against a baseline learned from the other half, so nothing is judged by itself. Blocks depend
on each other and so do detectors; the standard error of each chance is therefore that of a ratio over ten consecutive
batches, with all detectors of a batch together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinedge.config import Config
from kinedge.edge.calibration import Calibration
from kinedge.edge.history import N_BACK, effective_size, history_of
from kinedge.edge.personal import Blocks, Detectors, fit_baseline, of_all

__all__ = ["Audit", "HistoryLevel", "audit_person", "worse_than"]

F64 = NDArray[np.float64]

_LEVEL: Final = 1.0  # of u
_BATCHES: Final = 10
_T_99: Final = 2.82  # one-sided 99 % of Student's t with 9 degrees of freedom: five levels are looked at
_MIN_VISITS: Final = 30
_MIN_EFFECTIVE: Final = 100.0  # independent blocks, for a 99 % quantile to be of anything
_T_99_DRIFT: Final = 3.36  # two-sided, 8 degrees of freedom
_MIN_DRIFT: Final = 0.1  # of the way from the median to the 99 % quantile: less does not matter
_MIN_AUDITED: Final = 60  # blocks: 30 for the baseline of each half
_N_QUANTILES: Final = 101


class HistoryLevel(Config):
    """What happened after ``h`` of the last blocks exceeded."""

    h: int = Field(ge=0, le=N_BACK)
    visits: int = Field(ge=0)
    hits: int = Field(ge=0)
    error: float = Field(ge=0, description="standard error of hits / visits")
    limit: float | None = Field(description="the cohort's; None: the bundle does not say")
    found: Literal["below", "above", "far above", "seldom seen"]


class Audit(Config):
    """Whether the cohort's assumption holds for one person."""

    verdict: Literal["holds", "doubtful", "does not hold"]
    reasons: tuple[str, ...] = Field(max_length=16, description="what speaks against it; empty when it holds")
    levels: tuple[HistoryLevel, ...] = Field(max_length=N_BACK + 1)
    n_blocks: int = Field(ge=0)
    effective_blocks: float = Field(ge=0, description="independent blocks that this is worth")
    share_over: float = Field(ge=0, le=1, description="of detectors and blocks above the 99 % quantile; 0.01 is meant")
    drift: float = Field(description="median of the second half against the first half's baseline, in u")
    drift_error: float = Field(ge=0, description="its standard error")
    quantiles: tuple[float, ...] = Field(max_length=_N_QUANTILES, description="0 to 100 %, of the largest u of a block")

    def reasons_in(self, language: Literal["en", "fr"]) -> tuple[str, ...]:
        """Say the reasons in a language; in English as they were kept."""
        return self.reasons if language == "en" else _reasons(self, language)

    def sentence(self) -> str:
        """Say it in words."""
        if self.verdict == "holds":
            return (
                "The cohort's assumption holds for this person: after each history, a block exceeds no more often than "
                "in 90 % of the cohort."
            )
        says = "is doubtful" if self.verdict == "doubtful" else "does not hold"
        return f"The cohort's assumption {says} for this person: {'; '.join(self.reasons)}."


def worse_than(audit: Audit) -> F64:
    """Return (N_BACK + 1,) by how much a person exceeds more often than the cohort's limit; 1 where they do not.

    Where the audit found a level above the limit, the person's own rate and a standard error take its place.
    """
    worse = np.ones(N_BACK + 1)
    for level in audit.levels:
        if level.found in ("above", "far above") and level.limit:
            worse[level.h] = max(1.0, (level.hits / level.visits + level.error) / level.limit)
    return worse


def audit_person(
    blocks: Blocks, covariance: F64, *, cohort: Calibration, groups: Sequence[slice], stride: int
) -> tuple[Audit, F64]:
    """Hold each half of an enrolment against the other.

    Parameters
    ----------
    blocks
        All usable ones, in order.
    covariance : (n_channels, n_channels)
        Of the residuals.
    cohort
        Of the model.
    groups
        Columns of each sensor.
    stride
        Hops to a block: of overlapping blocks every so many-th counts.

    Returns
    -------
    audit
        What was found.
    held_out : (n_blocks,)
        The largest ``u`` of each block, sorted; empty when there are too few to tell.
    """
    if len(blocks) < _MIN_AUDITED:
        nothing = Audit(
            verdict="doubtful",
            reasons=(),
            levels=(),
            n_blocks=len(blocks),
            effective_blocks=0.0,
            share_over=0.0,
            drift=0.0,
            drift_error=0.0,
            quantiles=(),
        )
        return nothing.model_copy(update={"reasons": _reasons(nothing, "en")}), np.zeros(0)
    middle = len(blocks) // 2
    halves = [blocks.take(slice(0, middle)), blocks.take(slice(middle, None))]
    parts, largest = [], []
    for own, other in (halves, halves[::-1]):
        baseline = fit_baseline(other, covariance, cohort=cohort, groups=groups)
        center, spread = baseline.calibration(cohort, groups).usual(own.intensity, groups)
        channel_u = (own.channel - center) / spread
        parts.append(Detectors([baseline], groups).assess(channel_u, own.intensity, own.before)[0])
        largest.append(channel_u.max(axis=1))
    detectors = np.concatenate(parts)
    apart = blocks.hop % stride == 0
    limits = _limits(cohort)
    levels = _levels(detectors[apart] > _LEVEL, blocks.hop[apart] // stride, limits)
    body = of_all(groups)
    effective = effective_size(detectors[:, body])
    drift, drift_error = _drift(parts[0][:, body], parts[1][:, body])
    broken = any(level.found == "far above" for level in levels)
    held_out = np.sort(np.concatenate(largest))
    audit = Audit(
        verdict="does not hold" if broken else "holds",
        reasons=(),
        levels=levels,
        n_blocks=len(blocks),
        effective_blocks=round(effective, 1),
        share_over=round(float((detectors > _LEVEL).mean()), 5),
        drift=round(drift, 4),
        drift_error=round(drift_error, 4),
        quantiles=tuple(np.quantile(held_out, np.linspace(0, 1, _N_QUANTILES)).round(4).tolist()),
    )
    if reasons := _reasons(audit, "en"):
        audit = audit.model_copy(update={"verdict": "does not hold" if broken else "doubtful", "reasons": reasons})
    return audit, held_out


def _reasons(audit: Audit, language: Literal["en", "fr"]) -> tuple[str, ...]:
    """Say what speaks against the assumption, from the numbers that are kept: the same in each language."""
    french = language == "fr"
    n = audit.n_blocks
    if n < _MIN_AUDITED:
        return (f"{n} blocs ne suffisent pas pour en juger" if french else f"{n} blocks are too few to tell",)
    reasons = []
    for level in audit.levels:
        if level.found not in ("above", "far above") or level.limit is None:
            continue
        rate = level.hits / level.visits
        reasons.append(
            f"après {level.h} dépassements sur {N_BACK} blocs, le suivant a dépassé {level.hits} fois sur "
            f"{level.visits} ({_percent_fr(rate)}), contre {_percent_fr(level.limit)} au plus dans la cohorte"
            if french
            else f"after {level.h} of {N_BACK} blocks had exceeded, the next one did so {level.hits} of {level.visits} "
            f"times ({rate:.1%}), which in the cohort is at most {level.limit:.1%}"
        )
    if all(level.limit is None for level in audit.levels):
        reasons.append(
            "le modèle ne dit pas ce que fait la cohorte ; il faut l'entraîner de nouveau"
            if french
            else "the bundle does not say what the cohort does; train it again"
        )
    drift, error = audit.drift, audit.drift_error
    if abs(drift) > max(_T_99_DRIFT * error, _MIN_DRIFT):
        if french:
            side, by, give = "plus" if drift > 0 else "moins", _number_fr(drift), _number_fr(error)
            reasons.append(f"la seconde moitié était {side} inhabituelle que la première (de {by} ± {give})")
        else:
            side = "more" if drift > 0 else "less"
            reasons.append(f"the second half was {side} unusual than the first (by {drift:.2f} +- {error:.2f})")
    if audit.effective_blocks < _MIN_EFFECTIVE:
        worth = f"{audit.effective_blocks:.0f}"
        reasons.append(
            f"les blocs n'en valent que {worth} indépendants"
            if french
            else f"the blocks are worth only {worth} independent ones"
        )
    return tuple(reasons)


def _percent_fr(share: float) -> str:
    return f"{share * 100:.1f}\u00a0%".replace(".", ",")  # no line ends before the sign


def _number_fr(value: float) -> str:
    return f"{value:.2f}".replace(".", ",").replace("-", "−")


def _limits(cohort: Calibration) -> F64 | None:
    if cohort.enrolled is None:
        return None
    at = np.flatnonzero(cohort.enrolled.levels == _LEVEL)
    return cohort.enrolled.limits[at[0]] if len(at) else None


def _levels(exceeds: NDArray[np.bool_], block: NDArray[np.int64], limits: F64 | None) -> tuple[HistoryLevel, ...]:
    batches = [
        history_of(exceeds[rows], block[rows]) for rows in np.array_split(np.arange(len(block)), _BATCHES) if len(rows)
    ]
    visits = np.stack([b.visits for b in batches])
    hits = np.stack([b.hits for b in batches])
    n, rate = visits.sum(axis=0), hits.sum(axis=0) / np.maximum(visits.sum(axis=0), 1)
    error = np.sqrt(np.square(hits - rate * visits).sum(axis=0) * _BATCHES / (_BATCHES - 1)) / np.maximum(n, 1)
    levels = []
    for h in range(N_BACK + 1):
        limit = None if limits is None else float(limits[h])
        found: Literal["below", "above", "far above", "seldom seen"] = "below"
        if n[h] < _MIN_VISITS:
            found = "seldom seen"
        elif limit is not None and rate[h] > limit:
            found = "far above" if rate[h] - _T_99 * error[h] > limit else "above"
        levels.append(
            HistoryLevel(
                h=h,
                visits=int(n[h]),
                hits=int(hits.sum(axis=0)[h]),
                error=round(float(error[h]), 6),
                limit=None if limit is None else round(limit, 6),
                found=found,
            )
        )
    return tuple(levels)


def _drift(first: F64, second: F64) -> tuple[float, float]:
    """Return how far the second half's median lies from the first's, and its standard error from batch to batch.

    Each half is given against the other's baseline: what is asked is how far ``second`` lies from 0.
    """
    medians = [np.array([np.median(b) for b in np.array_split(half, _BATCHES // 2)]) for half in (first, second)]
    error = np.sqrt(sum(m.var(ddof=1) / len(m) for m in medians))
    return float(medians[1].mean()), float(error)
