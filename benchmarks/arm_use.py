"""Functional arm use of healthy and stroke wrists against labels from video, leaving one person out.

The source gives features of a quarter of a second, not samples. Methods, from the least that is learned to the most:

``movement threshold``
    Deviation of acceleration over the last second above a threshold: what activity counts do. Counts themselves need
    samples and cannot be had here.
``GMAC, published``
    A forearm raised (pitch above 10 degrees, until below -30) that moves (deviation above 0.1 g). How each wrist wore
    its sensor is not documented: the axis along the forearm and its sign are those that fit the training people best.
``GMAC, fitted``
    The same with the thresholds of pitch and movement that fit the training people best.
``logistic``
    Logistic regression on logarithms of the features and their trailing means.
``logistic, own baseline``
    The same, each feature relative to its median and quartiles in the wearer's own first two minutes, without labels.
``random forest``
    The peer: what David et al. 2021 found best, on the same features as ``logistic``.

Thresholds are those of the largest Youden index on the training people: everybody else, both groups and both wrists.
The first two minutes of each wrist are scored for no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms import roc_auc, roc_point, spread
from kinedge.benchmarks.harness import result
from kinedge.errors import BackendError, SignalError
from kinedge.training.datasets import ArmUse, load_arm_use

__all__ = ["METHODS", "bench_arm_use"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Score = Callable[["_Wrist"], F64]

_OWN_S: Final = 120.0
_PITCH_DEG: Final = (-30.0, -15.0, 0.0, 10.0, 20.0, 30.0)
_MOVING_G: Final = (0.01, 0.02, 0.04, 0.07, 0.1)
_VARIANCE_FLOOR: Final = 1e-5  # g^2
_PENALTY: Final = 1.0
_STEPS: Final = 30
_PLACES: Final = ("healthy, left", "healthy, right", "stroke, affected", "stroke, unaffected")


@dataclass(frozen=True, eq=False)
class _Wrist:
    """One wrist: mean acceleration (n, 3) in g, deviation (n,) in g, features (n, k), use (n,), what is scored (n,)."""

    subject: str
    place: str
    mean: F64
    size: F64
    features: F64
    own: F64
    use: Mask
    scored: Mask


@dataclass(frozen=True, eq=False)
class _Fitted:
    score: Score
    threshold: float


def bench_arm_use(
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure every method on every person by a model of the others.

    Parameters
    ----------
    folder
        As :func:`~kinedge.training.datasets.load_arm_use` wants it.
    seed
        Of the forest.
    shuffle_labels
        Move the labels of each wrist to other times: figures must then be those of chance.

    Raises
    ------
    SignalError
        Data are missing or of fewer than two people.
    BackendError
        scikit-learn is not installed and its method is asked for.
    """
    rng = np.random.default_rng(seed)
    wrists = [_wrist(a, label_rng=rng if shuffle_labels else None) for a in load_arm_use(folder)]
    people = sorted({w.subject for w in wrists})
    if len(people) < 2:
        raise SignalError(f"{folder}: leaving one person out needs at least two, here {', '.join(people)}")
    rows = []
    for method in methods or METHODS:
        told: dict[str, list[tuple[str, float, float, float]]] = {place: [] for place in _PLACES}
        for person in people:
            progress(f"{method}, {person}")
            fitted = METHODS[method]([w for w in wrists if w.subject != person], seed)
            for wrist in (w for w in wrists if w.subject == person):
                score, use = fitted.score(wrist)[wrist.scored], wrist.use[wrist.scored]
                sensitivity, specificity = roc_point(use, score > fitted.threshold)
                both = use.any() and not use.all()
                auc = roc_auc(score[~use], score[use]) if both else float("nan")
                told[wrist.place].append((person, sensitivity, specificity, auc))
        rows += [_row(f"{method}, {place}", figures) for place, figures in told.items() if figures]
    return result("arm use", rows, settings={"own_baseline_s": _OWN_S, "split": "leave one person out", "seed": seed})


def _wrist(arm: ArmUse, *, label_rng: np.random.Generator | None) -> _Wrist:
    column = {name: arm.values[:, i] for i, name in enumerate(arm.names)}
    mean = np.stack([column[f"a{axis}_mean"] for axis in "xyz"], axis=1)
    variance = np.maximum(np.stack([column[f"a{axis}_var"] for axis in "xyz"], axis=1), 0.0)
    size = np.sqrt(_trailing(variance.sum(axis=1), 4))
    use = arm.use
    if label_rng is not None:
        use = np.roll(use, int(label_rng.integers(len(use) // 4, 3 * len(use) // 4)))
    first = arm.time_s < _OWN_S
    mirrored = mean.copy()
    if np.median(mean[first, 1]) < 0:  # left and right wear mirrored axes; told from posture, without labels
        mirrored[:, 1] *= -1
    power = np.log(np.maximum(variance, _VARIANCE_FLOOR))
    whole = np.log(_VARIANCE_FLOOR + variance.sum(axis=1))
    parts = [mirrored, power, whole[:, None], column["entropy"][:, None]]
    parts += [_trailing(whole, n)[:, None] for n in (4, 16)] + [_trailing(mirrored[:, i], 8)[:, None] for i in range(3)]
    features = np.concatenate(parts, axis=1)
    low, center, high = np.quantile(features[first], [0.25, 0.5, 0.75], axis=0)
    place = {"control": {"left": "healthy, left", "right": "healthy, right"},
             "patient": {"left": "stroke, affected", "right": "stroke, unaffected"}}[arm.group][arm.side]  # fmt: skip
    own = (features - center) / np.maximum(high - low, 0.05)
    return _Wrist(arm.subject, place, mean, size, features, np.clip(own, -10, 10), use, ~first)


def _trailing(x: F64, n: int) -> F64:
    seen = np.concatenate([np.full(n - 1, x[0]), x])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(seen, n).mean(axis=1))


def _youden(score: F64, use: Mask) -> tuple[float, float]:
    """Return the threshold with the largest Youden index, and the index."""
    limits = np.unique(np.quantile(score, np.linspace(0, 1, 401)))
    used, rest = np.sort(score[use]), np.sort(score[~use])
    index = (1 - np.searchsorted(used, limits, side="right") / len(used)) - (
        1 - np.searchsorted(rest, limits, side="right") / len(rest)
    )
    best = int(np.argmax(index))
    return float(limits[best]), float(index[best])


def _with_threshold(score: Score, train: Sequence[_Wrist]) -> _Fitted:
    pooled = np.concatenate([score(w)[w.scored] for w in train])
    return _Fitted(score, _youden(pooled, np.concatenate([w.use[w.scored] for w in train]))[0])


def _movement(train: Sequence[_Wrist], seed: int) -> _Fitted:
    del seed
    return _with_threshold(lambda w: w.size, train)


def _raised(mean: F64, *, axis: int, sign: int, on_deg: float, off_deg: float) -> Mask:
    along = sign * mean[:, axis] / np.maximum(np.linalg.norm(mean, axis=1), 1e-9)
    pitch = np.rad2deg(np.arcsin(np.clip(along, -1.0, 1.0)))
    event = np.where(pitch > on_deg, 1, np.where(pitch < off_deg, -1, 0))
    last = np.maximum.accumulate(np.where(event != 0, np.arange(len(event)), 0))
    up: Mask = event[last] > 0
    return up


def _gross(train: Sequence[_Wrist], *, grid: Sequence[tuple[float, float]]) -> _Fitted:
    """Choose axis, sign for each place, pitch and size; the score is the size while raised, 0 otherwise."""
    best: tuple[float, dict[str, tuple[int, int]], float, float] | None = None
    for pitch, moving in grid:
        mounts, total = {}, 0.0
        for place in _PLACES:
            own = [w for w in train if w.place == place]
            if not own:
                continue
            trials = {}
            for axis, sign in product(range(3), (1, -1)):
                points = [roc_point(w.use[w.scored], _told(w, axis, sign, pitch, moving)[w.scored]) for w in own]
                trials[axis, sign] = float(np.nanmean([a + b - 1 for a, b in points]))
            mounts[place] = max(trials, key=lambda k: trials[k])
            total += trials[mounts[place]] * len(own)
        if best is None or total > best[0]:
            best = total, mounts, pitch, moving
    if best is None:
        raise SignalError("nobody is left to learn from")
    _, mounts, pitch, moving = best

    def score(w: _Wrist) -> F64:
        axis, sign = mounts.get(w.place, (0, 1))
        raised = _raised(w.mean, axis=axis, sign=sign, on_deg=pitch, off_deg=min(pitch, -30.0))
        return np.where(raised, w.size, 0.0)

    return _Fitted(score, moving)


def _told(w: _Wrist, axis: int, sign: int, pitch: float, moving: float) -> Mask:
    return _raised(w.mean, axis=axis, sign=sign, on_deg=pitch, off_deg=min(pitch, -30.0)) & (w.size > moving)


def _gmac(train: Sequence[_Wrist], seed: int) -> _Fitted:
    del seed
    return _gross(train, grid=[(10.0, 0.1)])


def _gmac_fitted(train: Sequence[_Wrist], seed: int) -> _Fitted:
    del seed
    return _gross(train, grid=list(product(_PITCH_DEG, _MOVING_G)))


def _logistic(train: Sequence[_Wrist], features: Callable[[_Wrist], F64]) -> _Fitted:
    """Fit by Newton's method with a ridge; every person weighs the same."""
    x = np.concatenate([features(w)[w.scored] for w in train])
    y = np.concatenate([w.use[w.scored] for w in train]).astype(np.float64)
    weight = np.concatenate([np.full(int(w.scored.sum()), 1000.0 / max(int(w.scored.sum()), 1)) for w in train])
    center, scale = x.mean(axis=0), x.std(axis=0) + 1e-9

    def design(values: F64) -> F64:
        return np.concatenate([(values - center) / scale, np.ones((len(values), 1))], axis=1)

    z = design(x)
    penalty = np.diag([_PENALTY] * x.shape[1] + [1e-6])
    beta = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -30, 30)))
        gradient = z.T @ (weight * (y - p)) - penalty @ beta
        step = np.linalg.solve((z * (weight * p * (1 - p))[:, None]).T @ z + penalty, gradient)
        beta += step
        if float(np.abs(step).max()) < 1e-6:
            break
    return _with_threshold(lambda w: design(features(w)) @ beta, train)


def _forest(train: Sequence[_Wrist], seed: int) -> _Fitted:
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as e:
        raise BackendError("the random forest needs scikit-learn: pip install 'kinedge[bench]'") from e
    forest = RandomForestClassifier(n_estimators=60, min_samples_leaf=20, random_state=seed, oob_score=True)
    x = np.concatenate([w.features[w.scored] for w in train])
    y = np.concatenate([w.use[w.scored] for w in train])
    forest.fit(x, y)
    # its own training scores are too good for a threshold: those of trees that did not see a row are taken
    unseen = np.nan_to_num(np.asarray(forest.oob_decision_function_)[:, 1], nan=0.5)
    threshold, _ = _youden(unseen, y)
    return _Fitted(lambda w: np.asarray(forest.predict_proba(w.features)[:, 1], dtype=np.float64), threshold)


METHODS: Final[Mapping[str, Callable[[Sequence[_Wrist], int], _Fitted]]] = {
    "movement threshold": _movement,
    "GMAC, published": _gmac,
    "GMAC, fitted": _gmac_fitted,
    "logistic": lambda train, seed: _logistic(train, lambda w: w.features),
    "logistic, own baseline": lambda train, seed: _logistic(train, lambda w: w.own),
    "random forest": _forest,
}


def _row(what: str, figures: list[tuple[str, float, float, float]]) -> dict[str, Any]:
    return {
        "what": what,
        "wrists": len(figures),
        "sensitivity": spread([f[1] for f in figures]),
        "specificity": spread([f[2] for f in figures]),
        "youden": spread([f[1] + f[2] - 1 for f in figures]),
        "auc": spread([f[3] for f in figures]),
        "people": {
            person: {"sensitivity": round(a, 3), "specificity": round(b, 3), "auc": round(c, 3)}
            for person, a, b, c in figures
        },
    }
