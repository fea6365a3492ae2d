"""Cohort calibration: how a model scores ordinary movement of people it never saw, and synthetic anomalies in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, SubjectScores, fit_calibration, fit_likelihood_ratio
from kinedge.edge.offline import score_recording
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject

__all__ = ["calibrate_cohort"]

F64 = NDArray[np.float64]

_MAX_RESIDUALS: Final = 200_000
_NOT_FOR_LIKELIHOOD: Final = frozenset({"dropout", "flat_line", "saturation"})  # those are told by the mask, not by z
_INJECT_S: Final = (12.0, 8.0)  # of ordinary movement before, and of anomaly
_STRENGTHS: Final = (0.4, 1.0)


def _ordinary(recording: Recording, exclude: Sequence[str], *, look_back: int) -> NDArray[np.bool_]:
    """Return (n,) bool: no excluded label within what a block that ends here looks back."""
    bad = np.zeros(len(recording), bool)
    for region in recording.labels:
        if any(region.label == e or (e.endswith("*") and region.label.startswith(e[:-1])) for e in exclude):
            bad[region.start : region.end + look_back] = True
    return ~bad


def calibrate_cohort(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]], *, exclude_labels: Sequence[str], seed: int = 0
) -> Calibration:
    """Calibrate on ordinary movement, and on synthetic anomalies in it.

    Parameters
    ----------
    scorers
        Recordings on the model's grid, each with a model that was not trained on their subjects. The models share
        one manifest but for their weights.
    exclude_labels
        Regions that are no ordinary movement; a trailing ``*`` stands for any ending.
    seed
        Of what is injected where.

    Raises
    ------
    SignalError
        Too little ordinary movement.
    """
    by_subject: dict[str, list[tuple[F64, F64]]] = {}
    residuals = []
    for recordings, scorer in scorers:
        look_back = scorer.manifest.block + scorer.manifest.receptive_field
        for recording in recordings:
            good = _ordinary(recording, exclude_labels, look_back=look_back)
            for end, scores, surprise in score_recording(scorer, recording):
                if not (good[end - 1] and scores.full[0] and scores.scored[0].all()):
                    continue
                by_subject.setdefault(recording.subject, []).append((scores.channel[0], scores.intensity[0]))
                rows = surprise.valid[0, :, 0].all(axis=1)
                residuals.append(surprise.z[0, rows, 0])
    if not by_subject:
        raise SignalError("no ordinary movement is left to calibrate on: check labels and missing data")
    normal = [
        SubjectScores(subject, np.array([c for c, _ in rows]), np.array([i for _, i in rows]))
        for subject, rows in sorted(by_subject.items())
    ]
    manifest = scorers[0][1].manifest
    pooled = np.concatenate(residuals).astype(np.float64)
    pooled = pooled[:: max(1, math.ceil(len(pooled) / _MAX_RESIDUALS))]
    first = fit_calibration(manifest, normal, pooled)
    likelihood, additive = _fit_likelihood(scorers, first, exclude_labels=exclude_labels, seed=seed)
    return replace(first, likelihood=likelihood, additive=np.array([float(additive)]))


def _fit_likelihood(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    calibration: Calibration,
    *,
    exclude_labels: Sequence[str],
    seed: int,
) -> tuple[F64, bool]:
    """Inject synthetic anomalies into ordinary movement; fit each sensor's ratio, and choose the attribution."""
    rng = np.random.default_rng(seed)
    names = sorted(n for n, a in ANOMALIES.items() if a.level == "signal" and n not in _NOT_FOR_LIKELIHOOD)
    n_sensors = len(scorers[0][1].sensors)
    normal: list[list[float]] = [[] for _ in range(n_sensors)]
    anomalous: list[list[float]] = [[] for _ in range(n_sensors)]
    hits = {"drop": 0, "additive": 0}
    for recordings, scorer in scorers:
        judge = Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration)
        before, during = (round(s * scorer.manifest.rate_hz) for s in _INJECT_S)
        look_back = scorer.manifest.block + scorer.manifest.receptive_field
        pieces = list(_ordinary_pieces(recordings, exclude_labels, before + during, look_back=look_back))
        if not pieces:
            continue
        for i, sensor in enumerate(scorer.sensors):
            for name in names:
                for strength in _STRENGTHS:
                    piece = pieces[int(rng.integers(len(pieces)))]
                    changed = inject(
                        piece,
                        name,
                        before,
                        before + during,
                        sensor=sensor,
                        seed=int(rng.integers(2**31)),
                        strength=strength,
                    )
                    for end, scores, _ in score_recording(judge, changed):
                        if not (scores.full[0] and scores.scored[0].all()):
                            continue
                        unusual = calibration.assess(scores, judge.groups)
                        u = unusual.sensor[0, i]
                        if end <= before:
                            normal[i].append(float(u))
                        elif end >= before + scorer.manifest.block:
                            anomalous[i].append(float(u))
                            for method, energy in (
                                ("drop", scores.drop[0]),
                                ("additive", np.maximum(unusual.excess[0], 0)),
                            ):
                                share = [energy[g].sum() for g in judge.groups]
                                hits[method] += int(np.argmax(share)) == i
    ratios = []
    for i in range(n_sensors):
        if min(len(normal[i]), len(anomalous[i])) < 5:
            raise SignalError(
                f"too little ordinary movement for a likelihood ratio: {sum(_INJECT_S):.0f} s in one piece are needed"
            )
        ratios.append(fit_likelihood_ratio(np.array(normal[i]), np.array(anomalous[i])))
    return np.array(ratios), hits["additive"] > hits["drop"]


def _ordinary_pieces(
    recordings: Sequence[Recording], exclude: Sequence[str], n: int, *, look_back: int
) -> Iterable[Recording]:
    for recording in recordings:
        good = _ordinary(recording, exclude, look_back=look_back)
        start = 0
        while start + n <= len(recording):
            bad = np.flatnonzero(~good[start : start + n])
            if len(bad):
                start += int(bad[-1]) + 1
                continue
            yield recording.slice(start, start + n)
            start += n
