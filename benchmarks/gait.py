"""Healthy gait and soccer: what is flagged though nothing is wrong, and how small a one-sided deficit is seen.

A linear forecaster is fitted on the other people; a score is the logarithm of its mean surprise over two seconds,
told every half second. Two ways to know what is ordinary: ``others`` (99 % quantile of the training people) and
``own`` (99 % quantile of the person's own first walks, which are not scored; of so few blocks that is about their
maximum). Alarms follow the rule of :mod:`kinedge.benchmarks.alarms`.

Radio loss was recorded with the walks; whole recordings are scored, standing included. ``mask`` keeps it as such;
``held`` and ``zero`` fill gaps by the last value and by zero and call them measured. Whole walks are those that lost
under 1 %; the loss of other walks is imposed on them, so that the same walk is seen with and without.

Deficits are put into real walks: rotation and acceleration of one foot around its median shrink by 5 to 30 %, and
come late by a third of that share of a second. That is what an affected foot would report to first order; the other
foot stays as it was. Whole walks are compared: an area under the curve over walks with and without, at the walk's
mean score, and the share of walks flagged at a threshold that flags 5 % of walks without a deficit of *other* people.
``side ratio`` is the simple baseline: the ratio of the feet's root mean square rotation, against the person's own
first walks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms import alarms_above, roc_auc, spread
from kinedge.benchmarks.harness import result
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.datasets import load_gait_healthy, load_soccer
from kinedge.training.detectors.interface import score_series
from kinedge.training.detectors.var import VarConfig, VarDetector
from kinedge.training.evaluate import poisson_interval
from kinedge.training.splits import subjects_of

__all__ = ["bench_gait"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_QUANTILE: Final = 0.99
_BLOCK_S, _HOP_S = 2.0, 0.5
_OWN_WALKS: Final = 2
_WHOLE: Final = 0.01  # lost share of a walk that counts as whole
_SHARES: Final = (0.05, 0.1, 0.15, 0.2, 0.3)
_LATE_S: Final = 1 / 3  # times the share
_FLAGGED: Final = 0.05
_FEET: Final = (slice(6, 12), slice(12, 18))
_ROTATION: Final = (slice(9, 12), slice(15, 18))
_SOCCER: Final = ("pelvis", "shank_left", "shank_right", "foot_left", "foot_right")


@dataclass(frozen=True, eq=False)
class _Walk:
    """One walk at half the source's rate; NaN where missing."""

    subject: str
    name: str
    x: F64
    rate_hz: float

    @property
    def lost(self) -> float:
        """Share that is missing."""
        return float(np.isnan(self.x).mean())


@dataclass(frozen=True, eq=False)
class _Fold:
    """A person, what is known of the others, and the person's own walks: first ones, then those that are scored."""

    subject: str
    detector: VarDetector
    limit: float
    first: list[_Walk]
    later: list[_Walk]

    def score(self, walk: _Walk, x: F64 | None = None) -> F64:
        """Return the score of whole blocks (n_blocks,)."""
        return _blocks(self.detector, walk.x if x is None else x, walk.rate_hz)


def bench_gait(
    *,
    gait: Path | None = None,
    soccer: Path | None = None,
    n_subjects: int | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure false alarms on healthy people, and synthetic deficits of one side.

    Parameters
    ----------
    gait, soccer
        The data sets; at least one.
    n_subjects
        Only so many people of each, for a short run.
    seed
        Of which walks' loss is put on which.
    shuffle_labels
        Forget which walks got a deficit: figures must then be those of chance.

    Raises
    ------
    SignalError
        Data are missing or of fewer than two people.
    """
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    if gait is not None:
        progress("gait")
        recordings = load_gait_healthy(gait)
        folds = _folds(_walks(recordings, n_subjects), progress)
        rows += _false_rows("gait", folds) + _loss_rows(folds, rng)
        folds = _folds(_walks(recordings, n_subjects, part="walk"), progress)
        rows += _false_rows("gait, walking only", folds) + _deficit_rows(folds, rng if shuffle_labels else None)
    if soccer is not None:
        progress("soccer")
        folds = _folds(_walks(load_soccer(soccer, sensors=_SOCCER), n_subjects), progress)
        rows += _false_rows("soccer", folds)
    if not rows:
        raise SignalError("no data: give the file of gait_healthy or of soccer")
    settings = {
        "threshold": f"{_QUANTILE:.0%} quantile of the reference",
        "own_walks": _OWN_WALKS,
        "flagged_walks_of_others": _FLAGGED,
        "split": "leave one person out",
        "seed": seed,
    }
    return result("gait", rows, settings=settings)


def _walks(recordings: Sequence[Recording], n_subjects: int | None, *, part: str | None = None) -> list[_Walk]:
    kept = set(subjects_of(recordings)[:n_subjects])
    walks = []
    for r in recordings:
        if r.subject not in kept:
            continue
        region = next((label for label in r.labels if label.label == part), None)
        cut = r.slice(region.start, region.end) if region is not None else r
        n = len(cut) // 2
        whole = np.where(cut.valid, cut.values, np.nan).astype(np.float64)[: 2 * n].reshape(n, 2, -1)
        there = np.isfinite(whole)
        x = np.where(there, whole, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        walks.append(_Walk(r.subject, r.session, np.where(there.any(axis=1), x, np.nan), r.rate_hz / 2))
    return walks


def _folds(walks: Sequence[_Walk], progress: Callable[[str], None]) -> list[_Fold]:
    people = sorted({w.subject for w in walks})
    if len(people) < 2:
        raise SignalError(f"leaving one person out needs at least two, here {', '.join(people) or 'none'}")
    folds = []
    for person in people:
        progress(person)
        others = [w for w in walks if w.subject != person]
        own = [w for w in walks if w.subject == person]
        detector = VarDetector(VarConfig(order=8, forget=0.0))
        detector.fit(np.concatenate([w.x for w in others]))
        pooled = np.concatenate([_blocks(detector, w.x, w.rate_hz) for w in others])
        folds.append(_Fold(person, detector, float(np.quantile(pooled, _QUANTILE)), own[:_OWN_WALKS], own[_OWN_WALKS:]))
    return folds


def _blocks(detector: VarDetector, x: F64, rate_hz: float) -> F64:
    """Return the logarithm of the mean surprise of each whole block; a sample without any value does not count."""
    state = detector.state
    detector.restore({name: np.zeros_like(v) if name != "square" else np.ones_like(v) for name, v in state.items()})
    surprise = score_series(detector, x)
    known = np.isfinite(x).any(axis=1).astype(np.float64)
    block, hop = round(_BLOCK_S * rate_hz), round(_HOP_S * rate_hz)
    if len(x) < block:
        return np.zeros(0)
    total, count = (
        np.diff(np.concatenate([[0.0], np.cumsum(v)])[_block_edges(len(x), block, hop)], axis=1)[:, 0]
        for v in (surprise * known, known)
    )
    return np.asarray(np.log(total / np.maximum(count, 1.0) + 1e-6), dtype=np.float64)


def _block_edges(n: int, block: int, hop: int) -> NDArray[np.int64]:
    starts = np.arange(0, n - block + 1, hop)
    return np.stack([starts, starts + block], axis=1)


def _false_rows(name: str, folds: Sequence[_Fold]) -> list[dict[str, Any]]:
    scored = [(fold, fold.score(walk)) for fold in folds for walk in fold.later]
    return [_false_row(f"{name}, {way}", scored, own=way == "own") for way in ("others", "own")]


def _own_limit(fold: _Fold) -> float:
    pooled = np.concatenate([fold.score(w) for w in fold.first] or [np.zeros(0)])
    return float(np.quantile(pooled, _QUANTILE)) if len(pooled) else fold.limit


def _false_row(what: str, scored: Sequence[tuple[_Fold, F64]], *, own: bool) -> dict[str, Any]:
    rate = 1 / _HOP_S
    limits = {fold.subject: _own_limit(fold) if own else fold.limit for fold, _ in scored}
    counts: dict[str, tuple[int, float, int, int]] = {}
    for fold, score in scored:
        if len(score) == 0:
            continue
        n, hours, over, blocks = counts.get(fold.subject, (0, 0.0, 0, 0))
        limit = limits[fold.subject]
        n += len(alarms_above(score, limit, rate_hz=rate))
        counts[fold.subject] = (
            n, hours + len(score) / rate / 3600, over + int((score > limit).sum()), blocks + len(score),
        )  # fmt: skip
    n_false, hours = sum(c[0] for c in counts.values()), sum(c[1] for c in counts.values())
    low, high = (n / hours for n in poisson_interval(n_false))
    return {
        "what": what,
        "hours": round(hours, 3),
        "false_per_hour": f"{n_false / hours:.0f} ({low:.0f}-{high:.0f})",
        "flagged_blocks": spread([c[2] / c[3] for c in counts.values()]),
        "auc": "",
        "flagged_walks": "",
        "people_without_alarm": f"{sum(c[0] == 0 for c in counts.values())} of {len(counts)}",
    }


def _held(x: F64) -> F64:
    last = np.maximum.accumulate(np.where(np.isfinite(x), np.arange(len(x))[:, None], 0), axis=0)
    return np.nan_to_num(np.take_along_axis(x, last, axis=0))


def _loss_rows(folds: Sequence[_Fold], rng: np.random.Generator) -> list[dict[str, Any]]:
    later = [(fold, walk) for fold in folds for walk in fold.later]
    lossy = [w for _, w in later if w.lost >= _WHOLE]
    whole = [(fold, w) for fold, w in later if w.lost < _WHOLE]
    rows = []
    fills: dict[str, Callable[[F64], F64]] = {"mask": lambda x: x, "held": _held, "zero": np.nan_to_num}
    for name, fill in fills.items():
        scored = [(fold, fold.score(w, fill(w.x))) for fold, w in later if w.lost >= _WHOLE]
        if scored:
            rows.append(_false_row(f"gait, lossy walks, {name}, others", scored, own=False))
    if not (whole and lossy):
        return rows
    rows.append(_false_row("gait, whole walks, others", [(f, f.score(w)) for f, w in whole], own=False))
    given = rng.integers(0, len(lossy), len(whole))
    lost = float(np.mean([lossy[g].lost for g in given]))
    for name, fill in fills.items():
        scored = []
        for (fold, walk), g in zip(whole, given, strict=True):
            x = walk.x.copy()
            n = min(len(x), len(lossy[g].x))
            x[:n][np.isnan(lossy[g].x[:n])] = np.nan
            scored.append((fold, fold.score(walk, fill(x))))
        rows.append(_false_row(f"gait, whole walks, {lost:.1%} imposed, {name}, others", scored, own=False))
    return rows


def _with_deficit(x: F64, share: float, foot: int, rate_hz: float) -> F64:
    columns = _FEET[foot]
    changed: F64 = x.copy()
    level = np.nanmedian(x[:, columns], axis=0)
    late = round(share * _LATE_S * rate_hz)  # whole samples: one between two would be smooth, and surprise less
    moved = x[np.maximum(np.arange(len(x)) - late, 0)][:, columns]
    changed[:, columns] = level + (moved - level) * (1 - share)
    return changed


def _side(x: F64) -> float:
    left, right = (float(np.sqrt(np.nanmean(x[:, c] ** 2))) for c in _ROTATION)
    return float(np.log(left / right))


def _deficit_rows(folds: Sequence[_Fold], rng: np.random.Generator | None) -> list[dict[str, Any]]:
    """Score each later walk as it is and with each deficit, the foot taking turns."""

    def surprise(fold: _Fold) -> Callable[[_Walk, F64], float]:
        return lambda walk, x: float(fold.score(walk, x).mean())

    def own_surprise(fold: _Fold) -> Callable[[_Walk, F64], float]:
        usual = np.array([fold.score(w).mean() for w in fold.first])
        return lambda walk, x: float(abs(fold.score(walk, x).mean() - usual.mean()))

    def side_ratio(fold: _Fold) -> Callable[[_Walk, F64], float]:
        usual = float(np.mean([_side(w.x) for w in fold.first]))
        return lambda walk, x: abs(_side(x) - usual)

    rows = []
    methods = {"surprise, others": surprise, "surprise, own": own_surprise, "side ratio, own": side_ratio}
    for name, make in methods.items():
        plain: dict[str, list[float]] = {}
        odd: dict[float, dict[str, list[float]]] = {share: {} for share in _SHARES}
        for fold in folds:
            score = make(fold)
            plain[fold.subject] = [score(w, w.x) for w in fold.later]
            for share in _SHARES:
                odd[share][fold.subject] = [
                    score(w, _with_deficit(w.x, share, i % 2, w.rate_hz)) for i, w in enumerate(fold.later)
                ]
        for share in _SHARES:
            if rng is not None:
                for subject, values in plain.items():
                    both = rng.permutation(np.array(values + odd[share][subject]))
                    odd[share][subject] = [float(v) for v in both[: len(odd[share][subject])]]
            caught = []
            for subject, values in odd[share].items():
                rest = np.concatenate([v for other, v in plain.items() if other != subject])
                limit = float(np.quantile(rest, 1 - _FLAGGED))
                caught += [v > limit for v in values]
            pooled = np.concatenate(list(plain.values())), np.concatenate(list(odd[share].values()))
            within = [roc_auc(np.array(plain[s]), np.array(v)) for s, v in odd[share].items() if v]
            rows.append(
                {
                    "what": f"gait, {share:.0%} deficit of one foot, {name}",
                    "hours": "",
                    "false_per_hour": "",
                    "flagged_blocks": "",
                    "auc": round(roc_auc(*pooled), 3),
                    "flagged_walks": f"{sum(caught)} of {len(caught)}",
                    "people_without_alarm": "",
                    "auc_within_people": spread(within),
                }
            )
    return rows
