"""Freezing of gait, patient by patient: unsupervised detectors beside simple baselines, none ever shown a freeze.

Each method sees the same samples, the same scored part, and one rule from score to alarm
(:mod:`kinedge.benchmarks.alarms`). Three ways to know what is ordinary:

``others``
    Model and threshold from the freeze-free parts of the other patients.
``own threshold``
    Model from the others, threshold from the patient's own first freeze-free minutes.
``own``
    Model and threshold from these minutes alone.

The threshold is the 95 % quantile of the score there: a specificity of .95 is expected, and what is reached is told.
The own minutes are cut out of what is scored, for all three ways; a freeze among them is skipped, as somebody who
attends an enrolment would, and counts neither as found nor as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms import alarms_above, roc_auc, spread
from kinedge.benchmarks.harness import result
from kinedge.errors import BackendError, SignalError
from kinedge.recording import Recording, Region
from kinedge.training.datasets import load_daphnet, load_fog_stanford
from kinedge.training.detectors.bands import BandConfig, BandRatioDetector
from kinedge.training.detectors.fusion import Branch, FusedDetector
from kinedge.training.detectors.interface import Detector, score_series
from kinedge.training.detectors.var import VarConfig, VarDetector
from kinedge.training.evaluate import EpisodeMetrics, match_events, poisson_interval

__all__ = ["METHODS", "WAYS", "bench_freezing_detectors"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Score = Callable[[F64], F64]

WAYS: Final = ("others", "own threshold", "own")
_HZ, _HOP = 64.0, 16  # a score every quarter of a second
_QUANTILE: Final = 0.95
_MARGIN_S: Final = 2.0  # before and after a freeze that is not ordinary either
_WINDOW_S: Final = 2.0
_FLOOR_M_S2: Final = 0.981  # of the freeze index: a tenth of gravity, as in the preset


@dataclass(frozen=True, eq=False)
class _Walk:
    """One recording at 64 Hz: samples (n, C) with NaN for what is missing, labels, and what it may be used for."""

    subject: str
    x: F64
    freeze: Mask
    inside: Mask  # part of the experiment
    enrolled: Mask  # the patient's own first freeze-free minutes
    scored: Mask

    @property
    def ordinary(self) -> Mask:
        """Where nothing freezes, nor did or will within two seconds."""
        return self.inside & ~_widened(self.freeze, round(_MARGIN_S * _HZ))


def bench_freezing_detectors(
    *,
    daphnet: Path | None = None,
    stanford: Path | None = None,
    enrol_s: Mapping[str, float] | None = None,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure every method on every patient.

    Parameters
    ----------
    daphnet, stanford
        The data sets; at least one.
    enrol_s
        Freeze-free seconds of one's own at the start of each recording, by data set; 120 s of Daphnet and 15 s of a
        walk of Stanford, which lasts less than a minute.
    seed
        Of the forests.
    shuffle_labels
        Move the freezes of each recording to other times: figures must then be those of chance.

    Raises
    ------
    SignalError
        Data are missing or hold fewer than two patients.
    BackendError
        scikit-learn or river is not installed and its method is asked for.
    """
    seconds = {"daphnet": 120.0, "stanford": 15.0, **(enrol_s or {})}
    chosen = tuple(methods or METHODS)
    rows: list[dict[str, Any]] = []
    for name, path, load in (("daphnet", daphnet, _daphnet), ("stanford", stanford, _stanford)):
        if path is None:
            continue
        rng = np.random.default_rng(seed)
        walks = [_walk(r, label_rng=rng if shuffle_labels else None, enrol_s=seconds[name]) for r in load(path)]
        rows += _rows(name, walks, chosen, seed, progress)
    if not rows:
        raise SignalError("no data: give the file of daphnet or of fog_stanford")
    return result(
        "freezing",
        rows,
        settings={
            "threshold": f"{_QUANTILE:.0%} quantile of the reference",
            "alarm": "1 s above, dated to its first instant",
            **{f"{k}_enrolment_s": v for k, v in seconds.items()},
            "seed": seed,
        },
    )


def _daphnet(path: Path) -> list[Recording]:
    return load_daphnet(path)


def _stanford(path: Path) -> list[Recording]:
    return load_fog_stanford(path, sensors=("lumbar", "ankle_left", "ankle_right"))


def _walk(recording: Recording, *, label_rng: np.random.Generator | None, enrol_s: float) -> _Walk:
    step = round(recording.rate_hz / _HZ)
    if step < 1 or abs(recording.rate_hz - step * _HZ) > 1e-6:
        raise SignalError(f"{recording.source}: {recording.rate_hz} Hz is no multiple of {_HZ:g} Hz")
    n = len(recording) // step
    whole = np.where(recording.valid, recording.values, np.nan).astype(np.float64)[: n * step]
    x = whole.reshape(n, step, -1).mean(axis=1)  # a mean with a gap in it is a gap
    freeze, outside = (
        np.asarray(recording.label_mask(label)[: n * step].reshape(n, step).any(axis=1))
        for label in ("freeze", "outside")
    )
    if label_rng is not None:
        at = np.flatnonzero(~outside)
        freeze[at] = np.roll(freeze[at], int(label_rng.integers(len(at) // 4, 3 * len(at) // 4)))
    inside = ~outside
    usable = inside & ~_widened(freeze, round(_MARGIN_S * _HZ))
    count = np.cumsum(usable)
    end = int(np.searchsorted(count, min(enrol_s * _HZ, count[-1] if n else 0), side="left")) + 1 if n else 0
    before = np.arange(n) < end
    return _Walk(recording.subject, x, freeze, inside, usable & before, inside & ~before)


def _widened(mask: Mask, n: int) -> Mask:
    count = np.concatenate([[0], np.cumsum(mask)])
    at = np.arange(len(mask))
    near = count[np.minimum(at + n + 1, len(mask))] - count[np.maximum(at - n, 0)]
    wide: Mask = near > 0
    return wide


# --- methods: learn from pieces without a freeze, return what scores samples (n, C) every hop


def _hops(x: F64) -> F64:
    """Take the last of every hop of a score per sample."""
    return x[_HOP - 1 :: _HOP]


def _of_detector(make: Callable[[], Detector]) -> Callable[[list[F64], int], Score]:
    def fit(pieces: list[F64], seed: int) -> Score:
        del seed
        detector = make()
        detector.fit(np.concatenate(pieces))
        start = detector.state

        def score(x: F64) -> F64:
            detector.restore(start)
            return _hops(score_series(detector, x))

        return score

    return fit


def _index() -> Branch:
    return Branch(BandRatioDetector(BandConfig(rate_hz=_HZ, floor=_FLOOR_M_S2)), weight=2.0, floor=0.05)


def _linear() -> Branch:
    return Branch(VarDetector(VarConfig(forget=0.0)))


def _features(x: F64) -> F64:
    """Return (n_hops, C) log deviations of each channel in the trailing two seconds; gaps stand still."""
    n_window = round(_WINDOW_S * _HZ)
    present = np.isfinite(x)
    known = np.where(present, x, 0.0)
    moments = []
    for values in (present.astype(np.float64), known, known**2):
        total = np.cumsum(np.concatenate([np.zeros((n_window, x.shape[1])), values]), axis=0)
        moments.append(_hops(total[n_window:] - total[:-n_window]))
    count = np.maximum(moments[0], 1.0)
    variance = np.maximum(moments[2] / count - (moments[1] / count) ** 2, 0.0)
    return np.asarray(0.5 * np.log(variance + 1e-4))


def _energy(pieces: list[F64], seed: int) -> Score:
    """Distance of the log energy from its usual one, either way: a freeze may tremble or stand."""
    del seed
    usual = np.concatenate([_features(p) for p in pieces]).mean(axis=1)
    center, scale = float(np.median(usual)), float(usual.std()) + 1e-9
    return lambda x: np.abs(_features(x).mean(axis=1) - center) / scale


def _isolation_forest(pieces: list[F64], seed: int) -> Score:
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as e:
        raise BackendError("the isolation forest needs scikit-learn: pip install 'kinedge[bench]'") from e
    forest = IsolationForest(n_estimators=100, random_state=seed)
    forest.fit(np.concatenate([_features(p) for p in pieces]))
    return lambda x: np.asarray(-forest.score_samples(_features(x)), dtype=np.float64)


def _half_space_trees(pieces: list[F64], seed: int) -> Score:
    """Learn from the reference only; what is scored is never learned, or it would learn freezes."""
    try:
        from river.anomaly import HalfSpaceTrees
    except ImportError as e:
        raise BackendError("half-space trees need river: pip install 'kinedge[bench]'") from e
    known = np.concatenate([_features(p) for p in pieces])
    low, high = known.min(axis=0), known.max(axis=0)
    names = list(range(known.shape[1]))
    trees: Any = HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=seed)

    def told(features: F64) -> list[dict[int, float]]:
        unit = np.clip((features - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
        return [dict(zip(names, row, strict=True)) for row in unit.tolist()]

    for one in told(known):
        trees.learn_one(one)
    return lambda x: np.array([trees.score_one(one) for one in told(_features(x))])


METHODS: Final[Mapping[str, Callable[[list[F64], int], Score]]] = {
    "energy": _energy,
    "freeze index": _of_detector(lambda: FusedDetector([_index()], smoothing=1)),
    "isolation forest": _isolation_forest,
    "half-space trees": _half_space_trees,
    "kinedge linear": _of_detector(lambda: FusedDetector([_linear()], smoothing=50)),
    "kinedge gait preset": _of_detector(lambda: FusedDetector([_linear(), _index()], smoothing=32)),
}


# --- figures


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Of one patient: episodes against freezes, specificity over time, area under the curve over time."""

    metrics: EpisodeMetrics
    specificity: float
    auc: float


def _rows(
    name: str, walks: Sequence[_Walk], methods: Sequence[str], seed: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    patients = sorted({w.subject for w in walks})
    if len(patients) < 2:
        raise SignalError(f"{name}: leaving one patient out needs at least two, here {', '.join(patients) or 'none'}")
    rows = []
    for method in methods:
        found: dict[str, dict[str, _Outcome]] = {way: {} for way in WAYS}
        for patient in patients:
            progress(f"{name}: {method}, {patient}")
            others = [w for w in walks if w.subject != patient]
            own = [w for w in walks if w.subject == patient]
            for way, outcome in _measure(METHODS[method], others, own, seed).items():
                found[way][patient] = outcome
        for way in WAYS:
            rows.append(_row(f"{name}, {method}, {way}", found[way]))
    return rows


def _pieces(walks: Sequence[_Walk], which: Callable[[_Walk], Mask]) -> list[F64]:
    pieces = []
    for walk in walks:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], which(walk), [False]]).astype(np.int8)))
        pieces += [walk.x[a:b] for a, b in edges.reshape(-1, 2) if b - a >= 4 * _HZ]
    if not pieces:
        raise SignalError("no four seconds without a freeze are left to learn from")
    return pieces


def _measure(
    fit: Callable[[list[F64], int], Score], others: Sequence[_Walk], own: Sequence[_Walk], seed: int
) -> dict[str, _Outcome]:
    general = fit(_pieces(others, lambda w: w.ordinary), seed)
    personal = fit(_pieces(own, lambda w: w.enrolled), seed)
    reference = [(general(w.x), w) for w in others]
    by_others = [(general(w.x), w) for w in own]
    by_own = [(personal(w.x), w) for w in own]
    limits = {
        "others": _limit(reference, lambda w: w.ordinary),
        "own threshold": _limit(by_others, lambda w: w.enrolled),
        "own": _limit(by_own, lambda w: w.enrolled),
    }
    return {way: _outcome(by_own if way == "own" else by_others, limits[way]) for way in WAYS}


def _limit(scored: Sequence[tuple[F64, _Walk]], which: Callable[[_Walk], Mask]) -> float:
    return float(np.quantile(np.concatenate([s[_hop_mask(which(w))] for s, w in scored]), _QUANTILE))


def _hop_mask(mask: Mask) -> Mask:
    return mask[_HOP - 1 :: _HOP]


def _outcome(scored: Sequence[tuple[F64, _Walk]], limit: float) -> _Outcome:
    total = EpisodeMetrics()
    usual, frozen, quiet = [], [], []
    for score, walk in scored:
        counted, freeze = _hop_mask(walk.scored), _hop_mask(walk.freeze)
        rate = _HZ / _HOP
        edges = np.flatnonzero(np.diff(np.concatenate([[False], freeze & counted, [False]]).astype(np.int8)))
        events = [Region(int(a), int(b), "freeze") for a, b in edges.reshape(-1, 2)]
        alarms = alarms_above(score, limit, rate_hz=rate, scored=counted)
        metrics = match_events(alarms, events, rate_hz=rate, duration_s=len(score) / rate)
        metrics.hours = float((counted & ~freeze).sum()) / rate / 3600
        total += metrics
        flagged = np.zeros(len(score), bool)
        for alarm in alarms:
            flagged[round(alarm.start_s * rate) : round(alarm.end_s * rate)] = True
        usual.append(score[counted & ~freeze])
        frozen.append(score[counted & freeze])
        quiet.append(~flagged[counted & ~freeze])
    ordinary, odd = np.concatenate(usual), np.concatenate(frozen)
    auc = roc_auc(ordinary, odd) if len(odd) and len(ordinary) else float("nan")
    return _Outcome(total, float(np.concatenate(quiet).mean()), auc)


def _row(what: str, outcomes: Mapping[str, _Outcome]) -> dict[str, Any]:
    total = EpisodeMetrics()
    for outcome in outcomes.values():
        total += outcome.metrics
    low, high = (n / total.hours for n in poisson_interval(total.n_false))
    return {
        "what": what,
        "found": f"{total.n_found} of {total.n_events}",
        "sensitivity": round(total.n_found / total.n_events, 3) if total.n_events else None,
        "specificity": spread([o.specificity for o in outcomes.values()]),
        "false_per_hour": f"{total.n_false / total.hours:.0f} ({low:.0f}-{high:.0f})",
        "median_delay_s": total.summary()["median_delay_s"],
        "auc": spread([o.auc for o in outcomes.values()]),
        "hours": round(total.hours, 3),
        "patients": {
            patient: {
                "found": f"{o.metrics.n_found} of {o.metrics.n_events}",
                "false_per_hour": o.metrics.summary()["false_per_hour"],
                "specificity": round(o.specificity, 3),
                "auc": round(o.auc, 3) if np.isfinite(o.auc) else None,
            }
            for patient, o in outcomes.items()
        },
    }
