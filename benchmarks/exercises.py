"""Physiotherapy exercises: too fast or too small executions against right ones, with right ones alone as model.

Two splits. ``new person``: what is right is learned from the templates of the others, one right execution each, and
everybody's own template session (one right, one fast, one small execution) is scored, and the labelled repetitions of
test sessions where there are some. ``own template``: what is right is the person's own one right execution, and the
repetitions of the test session are scored. An area under the curve belongs to one exercise; the figure is their mean
with the deviation between exercises.

Methods give one number per execution, the same for every way of being wrong:

``duration``, ``size``
    Distance of the logarithm of length or of root mean square movement from the reference's mean: the simple baselines.
``both``
    The larger of the two, each in units of a factor of 1.5.
``memory``
    Mean distance of half-second patches to the nearest patch of the reference.
``linear surprise``
    Distance of the logarithm of the mean surprise from that of the reference: too small surprises too little.
``time-warped memory``
    Distance after the best warping of time (dynamic time warping), as Yurtman & Barshan 2014 use it: blind to pace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.alarms import roc_auc, spread
from kinedge.benchmarks.harness import result
from kinedge.errors import SignalError
from kinedge.training.datasets import load_rehab_exercises
from kinedge.training.detectors.interface import score_series
from kinedge.training.detectors.patches import PatchConfig, PatchDetector
from kinedge.training.detectors.var import VarConfig, VarDetector

__all__ = ["METHODS", "bench_exercises"]

F64 = NDArray[np.float64]
Score = Callable[[F64], float]

_KINDS: Final = ("right", "fast", "small")
_PATCH: Final = 12  # samples: half a second
_ORDER: Final = 4
_WARP_STEP: Final = 3  # samples per step of the warping: 8 Hz is enough for these movements
_FACTOR: Final = float(np.log(1.5))


@dataclass(frozen=True, eq=False)
class _Execution:
    """One execution (n, 30) of an exercise by a person; NaN where missing."""

    subject: str
    exercise: str
    part: str
    kind: str
    x: F64


def bench_exercises(
    path: Path,
    *,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure every method on every exercise.

    Parameters
    ----------
    path
        As :func:`~kinedge.training.datasets.load_rehab_exercises` wants it.
    shuffle_labels
        Exchange the kinds of executions within each session: figures must then be those of chance.

    Raises
    ------
    SignalError
        Data are missing or of fewer than two people.
    """
    executions = _executions(path, rng=np.random.default_rng(seed) if shuffle_labels else None)
    people = sorted({e.subject for e in executions})
    if len(people) < 2:
        raise SignalError(f"{path}: leaving one person out needs at least two, here {', '.join(people)}")
    exercises = sorted({e.exercise for e in executions})
    rows = []
    for method in methods or METHODS:
        progress(method)
        for split, part in (("new person", "template"), ("new person", "test"), ("own template", "test")):
            areas: dict[str, list[float]] = {kind: [] for kind in ("fast", "small", "either")}
            counts = dict.fromkeys(_KINDS, 0)
            for exercise in exercises:
                told: dict[str, list[float]] = {kind: [] for kind in _KINDS}
                for person in people:
                    scored = [e for e in executions if (e.subject, e.exercise, e.part) == (person, exercise, part)]
                    right = [
                        e.x
                        for e in executions
                        if (e.exercise, e.part, e.kind) == (exercise, "template", "right")
                        and (e.subject == person) == (split == "own template")
                    ]
                    if not (scored and right):
                        continue
                    score = METHODS[method](right)
                    for e in scored:
                        told[e.kind].append(score(e.x))
                        counts[e.kind] += 1
                if not all(told.values()):
                    continue
                right_scores = np.array(told["right"])
                for kind in ("fast", "small"):
                    areas[kind].append(roc_auc(right_scores, np.array(told[kind])))
                areas["either"].append(roc_auc(right_scores, np.array(told["fast"] + told["small"])))
            if not areas["either"]:
                continue
            rows.append(
                {
                    "what": f"{method}, {split}, {part}",
                    "executions": ", ".join(f"{n} {kind}" for kind, n in counts.items()),
                    **{f"auc_{kind}": spread(values) for kind, values in areas.items()},
                }
            )
    return result("exercises", rows, settings={"people": len(people), "exercises": len(exercises), "seed": seed})


def _executions(path: Path, *, rng: np.random.Generator | None) -> list[_Execution]:
    found = []
    for recording in load_rehab_exercises(path):
        subject, exercise, part = recording.session.split("-")
        whole = np.where(recording.valid, recording.values, np.nan).astype(np.float64)
        kinds = [r.label.partition(":")[2] for r in recording.labels]
        if rng is not None:
            kinds = [kinds[i] for i in rng.permutation(len(kinds))]
        for region, kind in zip(recording.labels, kinds, strict=True):
            if region.end - region.start >= 2 * _PATCH + 16:
                found.append(_Execution(subject, exercise, part, kind, whole[region.start : region.end]))
    return found


def _size(x: F64) -> float:
    """Return the mean logarithm of the channels' deviations; what is missing does not count."""
    present = np.isfinite(x)
    count = np.maximum(present.sum(axis=0), 1)
    known = np.where(present, x, 0.0)
    variance = (known**2).sum(axis=0) / count - (known.sum(axis=0) / count) ** 2
    return float(0.5 * np.log(np.maximum(variance, 1e-4)).mean())


def _by(number: Callable[[F64], float]) -> Callable[[Sequence[F64]], Score]:
    def fit(right: Sequence[F64]) -> Score:
        usual = float(np.mean([number(x) for x in right]))
        return lambda x: abs(number(x) - usual) / _FACTOR

    return fit


def _length(x: F64) -> float:
    return float(np.log(len(x)))


def _both(right: Sequence[F64]) -> Score:
    length, size = _by(_length)(right), _by(_size)(right)
    return lambda x: max(length(x), size(x))


def _memory(right: Sequence[F64]) -> Score:
    detector = PatchDetector(PatchConfig(length=_PATCH, delay=_PATCH, stride=1, budget=2_000_000, learns=False))
    detector.fit(np.concatenate(right))
    start = detector.state

    def score(x: F64) -> float:
        detector.restore(start)
        return float(score_series(detector, x)[_PATCH - 1 :].mean())

    return score


def _linear(right: Sequence[F64]) -> Score:
    detector = VarDetector(VarConfig(order=_ORDER, ridge=30.0, forget=0.0))
    detector.fit(np.concatenate(right))
    start = detector.state

    def surprise(x: F64) -> float:
        detector.restore(start)
        return float(np.log(score_series(detector, x)[_ORDER:].mean() + 1e-9))

    usual = float(np.mean([surprise(x) for x in right]))
    return lambda x: abs(surprise(x) - usual)


def _warped(right: Sequence[F64]) -> Score:
    pooled = np.concatenate(right)
    center, scale = np.nanmean(pooled, axis=0), np.nanstd(pooled, axis=0) + 1e-3

    def ready(x: F64) -> F64:
        return np.asarray(np.nan_to_num((x - center) / scale)[::_WARP_STEP], dtype=np.float64)

    known = [ready(x) for x in right]
    return lambda x: min(_warping_distance(ready(x), k) for k in known)


def _warping_distance(a: F64, b: F64) -> float:
    """Return the least cost of walking through both, over the length of the path; one row of the table at a time."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    cost = np.sqrt(np.maximum(square, 0.0) / a.shape[1])
    row = np.cumsum(cost[0])
    for i in range(1, len(a)):
        above = np.minimum(row, np.concatenate([[np.inf], row[:-1]]))
        # row[j] = cost[j] + min(above[j], row[j-1]), as a running minimum over cumulative costs
        total = np.cumsum(cost[i])
        row = total + np.minimum.accumulate(above - total + cost[i])
    return float(row[-1] / (len(a) + len(b)))


METHODS: Final[Mapping[str, Callable[[Sequence[F64]], Score]]] = {
    "duration": _by(_length),
    "size": _by(_size),
    "both": _both,
    "memory": _memory,
    "linear surprise": _linear,
    "time-warped memory": _warped,
}
