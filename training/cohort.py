"""Cohort calibration: how a model scores ordinary movement of people it never saw, and synthetic anomalies in it.

Two yardsticks. Against each other: what a new person is compared with. And each against their own enrolment, learned
from other recordings of theirs (or from the other half of the only one): what an enrolled person is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.attribution import by_sensor, energies
from kinedge.edge.calibration import Calibration
from kinedge.edge.offline import score_recording
from kinedge.edge.personal import Blocks
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject
from kinedge.training.calibrating import SubjectScores, fit_calibration, ranked
from kinedge.training.coordination import fit_coordination, weighed
from kinedge.training.enrolled import ScoredRecording, enrol_each, of_subjects
from kinedge.training.likelihood import FEWEST, LossRows, fit_likelihood_ratio, limited, loss_rows, loss_terms

__all__ = ["calibrate_cohort", "ordinary_blocks"]

F64 = NDArray[np.float64]

_MAX_RESIDUALS: Final = 200_000
_NOT_FOR_LIKELIHOOD: Final = frozenset({"dropout", "flat_line", "saturation"})  # those are told by the mask, not by z
_INJECT_S: Final = (12.0, 8.0)  # of ordinary movement before, and of anomaly
_STRENGTHS: Final = (0.4, 1.0)
_TIMES: Final = 4  # each change of each strength at each sensor: one piece may be all rest, where little can be seen
_RARE: Final = 0.99
_LOSSY_PIECES: Final = 24  # of the cohort, shared out among the models that score it


@dataclass(frozen=True, eq=False)
class _Injected:
    """A scored block of a piece into which a change at a sensor was injected: before the change, or within it.

    ``personal`` is a calibration to the subject, where there is one.
    """

    sensor: int
    changed: bool
    scores: BlockScores
    personal: Calibration | None


def _ordinary(recording: Recording, exclude: Sequence[str], *, look_back: int) -> NDArray[np.bool_]:
    """Return (n,) bool: no excluded label within what a block that ends here looks back."""
    bad = np.zeros(len(recording), bool)
    for region in recording.labels:
        if any(region.label == e or (e.endswith("*") and region.label.startswith(e[:-1])) for e in exclude):
            bad[region.start : region.end + look_back] = True
    return ~bad


def ordinary_blocks(
    scorer: Scorer, recording: Recording, exclude: Sequence[str]
) -> tuple[Blocks, list[NDArray[np.float32]]]:
    """Score a recording; return its blocks of ordinary movement, and ``z`` (n, n_channels) of each one's last hop."""
    good = _ordinary(recording, exclude, look_back=scorer.manifest.block + scorer.manifest.receptive_field)
    channel, intensity, late, hop, residuals = [], [], [], [], []
    for i, (end, scores, surprise) in enumerate(score_recording(scorer, recording)):
        if not (good[end - 1] and scores.full[0] and scores.scored[0].all()):
            continue
        channel.append(scores.channel[0])
        intensity.append(scores.intensity[0])
        late.append(scores.late[0])
        hop.append(i)
        residuals.append(surprise.z[0, surprise.valid[0, :, 0].all(axis=1), 0])
    blocks = Blocks(
        np.reshape(channel, (-1, scorer.manifest.n_channels)),
        np.reshape(intensity, (-1, len(scorer.groups))),
        np.reshape(late, (-1, len(scorer.groups))),
        np.array(hop, np.int64),
    )
    return blocks, residuals


def calibrate_cohort(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    *,
    exclude_labels: Sequence[str],
    seed: int = 0,
    running: Scorer | None = None,
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
    running
        The model that will run, where the scorers are others: what loss does to its scores is measured on it. It may
        know the recordings, for each block is held against itself without loss.

    Raises
    ------
    SignalError
        Too little ordinary movement.
    """
    scored: list[ScoredRecording] = []
    residuals: list[NDArray[np.float32]] = []
    for recordings, scorer in scorers:
        for recording in recordings:
            blocks, found = ordinary_blocks(scorer, recording, exclude_labels)
            residuals += found
            scored.append(ScoredRecording(recording.subject, blocks))
    if not any(len(s.blocks) for s in scored):
        raise SignalError("no ordinary movement is left to calibrate on: check labels and missing data")
    normal = of_subjects(scored)
    manifest, groups = scorers[0][1].manifest, scorers[0][1].groups
    pooled = np.concatenate(residuals).astype(np.float64)
    pooled = pooled[:: max(1, math.ceil(len(pooled) / _MAX_RESIDUALS))]
    first = fit_calibration(manifest, normal, pooled)
    folds = enrol_each(scored, first, groups)
    own_of = [folds.of(i, first, groups) for i in range(len(scored))]
    blocks_with = _inject(scorers, first, own_of, exclude=exclude_labels, seed=seed)
    first = _with_coordination(first, normal, blocks_with, groups)
    tried = scorers if running is None else [([r for recordings, _ in scorers for r in recordings], running)]
    lossy = _with_loss(tried, first, own_of, exclude=exclude_labels, seed=seed)
    likelihood, own_likelihood, additive = _fit_likelihood(first, blocks_with, lossy, groups)
    enrolled = folds.cohort(scored, first, groups, own_likelihood, stride=manifest.block // manifest.hop)
    return replace(first, likelihood=likelihood, additive=np.array([float(additive)]), enrolled=enrolled)


def _with_loss(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    calibration: Calibration,
    own: Sequence[Calibration | None],
    *,
    exclude: Sequence[str],
    seed: int,
) -> LossRows:
    """Score some ordinary pieces as they are and with loss; ``own`` as ``_fit_likelihood`` takes it."""
    rng = np.random.default_rng([seed, 1])
    found = [np.zeros((0, calibration.likelihood.shape[0], 4))]
    remaining = list(own)
    for recordings, scorer in scorers:
        judge = Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration)
        pieces = _pieces_of(recordings, remaining, scorer, exclude)
        del remaining[: len(recordings)]
        for k in rng.permutation(len(pieces))[: max(1, _LOSSY_PIECES // len(scorers))]:
            piece, personal = pieces[k]
            found.append(loss_rows(judge, personal, piece, rng=rng))
    return np.concatenate(found)


def _pieces_of(
    recordings: Sequence[Recording], own: Sequence[Calibration | None], scorer: Scorer, exclude: Sequence[str]
) -> list[tuple[Recording, Calibration | None]]:
    n = sum(round(s * scorer.manifest.rate_hz) for s in _INJECT_S)
    look_back = scorer.manifest.block + scorer.manifest.receptive_field
    return [
        (piece, own[i])
        for i, recording in enumerate(recordings)
        for piece in _ordinary_pieces(recording, exclude, n, look_back=look_back)
    ]


def _inject(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    calibration: Calibration,
    own: Sequence[Calibration | None],
    *,
    exclude: Sequence[str],
    seed: int,
) -> list[_Injected]:
    """Inject synthetic anomalies into ordinary movement, and score it.

    ``own`` is a calibration to the subject of each recording, in order.
    """
    rng = np.random.default_rng(seed)
    names = sorted(n for n, a in ANOMALIES.items() if a.level == "signal" and n not in _NOT_FOR_LIKELIHOOD)
    found = []
    remaining = list(own)
    for recordings, scorer in scorers:
        judge = Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration)
        before, during = (round(s * scorer.manifest.rate_hz) for s in _INJECT_S)
        pieces = _pieces_of(recordings, remaining, scorer, exclude)
        del remaining[: len(recordings)]
        if not pieces:
            continue
        for i, sensor in enumerate(scorer.sensors):
            for name, strength, _time in product(names, _STRENGTHS, range(_TIMES)):
                piece, personal = pieces[int(rng.integers(len(pieces)))]
                one = int(rng.integers(2**31))
                changed = inject(piece, name, before, before + during, sensor=sensor, seed=one, strength=strength)
                for end, scores, _ in score_recording(judge, changed):
                    if not (scores.full[0] and scores.scored[0].all()):
                        continue
                    if end <= before:
                        found.append(_Injected(i, False, scores, personal))
                    elif end >= before + scorer.manifest.block:
                        found.append(_Injected(i, True, scores, personal))
    return found


def _with_coordination(
    calibration: Calibration,
    normal: Sequence[SubjectScores],
    blocks_with: Sequence[_Injected],
    groups: Sequence[slice],
) -> Calibration:
    """Return the calibration with how the sensors move together, weighed beside their channels' surprise."""
    coordination = fit_coordination(normal)
    if coordination is None:
        return calibration
    weights, alone = np.zeros((2, len(groups))), np.zeros((len(groups), 2))
    for i in range(len(groups)):
        of_sensor: list[list[F64]] = [[], []]
        for block in blocks_with:
            if block.sensor == i:
                u = calibration.assess(block.scores, groups).sensor[0, i]
                of_sensor[block.changed].append(np.array([u, *block.scores.intensity[0], *block.scores.late[0]]))
        if min(map(len, of_sensor)) >= FEWEST:
            weights[:, i], alone[i] = weighed(coordination, i, *(np.stack(blocks) for blocks in of_sensor))
    of_v, of_w = weights
    known = replace(coordination, weight=of_v, late_weight=of_w, reference=calibration.reference, likelihood=alone)
    # ranked so that a block may be rare in either way, both reach as far: first without, to see how far that is
    alike = ranked(replace(calibration, coordination=known), normal, groups)
    further = np.quantile(alike.reference, _RARE) - np.quantile(calibration.reference, _RARE)
    known = replace(known, further=np.maximum([further], 0.0))
    return ranked(replace(calibration, coordination=known), normal, groups)


def _fit_likelihood(
    calibration: Calibration, blocks_with: Sequence[_Injected], lossy: LossRows, groups: Sequence[slice]
) -> tuple[F64, F64 | None, bool]:
    """Fit each sensor's ratio, by the cohort's yardstick and by the subjects' own, and choose the attribution."""
    n_sensors = len(groups)
    normal: list[list[tuple[float, float]]] = [[] for _ in range(n_sensors)]
    anomalous: list[list[tuple[float, float]]] = [[] for _ in range(n_sensors)]
    hits = {"drop": 0, "excess": 0}
    for block in blocks_with:
        i, scores = block.sensor, block.scores
        unusual = calibration.assess(scores, groups)
        own_u = math.nan if block.personal is None else float(block.personal.assess(scores, groups).sensor[0, i])
        (anomalous if block.changed else normal)[i].append((float(unusual.sensor[0, i]), own_u))
        if block.changed and unusual.channel[0].max() > 1:  # what is not noticed is not explained either
            for method, energy in energies(scores, unusual).items():
                hits[method] += int(by_sensor(method, energy, groups)[0].argmax()) == i
    ratios, spread = np.zeros((2, n_sensors, 6)), np.ones((2, n_sensors))
    complete = True
    for i in range(n_sensors):
        if min(len(normal[i]), len(anomalous[i])) < FEWEST:
            raise SignalError(
                f"too little ordinary movement for a likelihood ratio: {sum(_INJECT_S):.0f} s in one piece are needed"
            )
        calm, odd = np.array(normal[i]), np.array(anomalous[i])
        spread[0, i] = limited(calm[:, 0]).std()
        ratios[0, i, :2] = fit_likelihood_ratio(calm[:, 0], odd[:, 0])
        calm, odd = (x[np.isfinite(x[:, 1]), 1] for x in (calm, odd))
        if min(len(calm), len(odd)) < FEWEST:
            complete = False
        else:
            ratios[1, i, :2] = fit_likelihood_ratio(calm, odd)
            spread[1, i] = limited(calm).std()
    for yardstick in range(2):
        slopes = ratios[yardstick, :, 1]
        ratios[yardstick, :, 2:] = loss_terms(lossy, slopes, spread[yardstick], own=bool(yardstick))
    return ratios[0], ratios[1] if complete else None, hits["excess"] > hits["drop"]


def _ordinary_pieces(recording: Recording, exclude: Sequence[str], n: int, *, look_back: int) -> Iterable[Recording]:
    good = _ordinary(recording, exclude, look_back=look_back)
    start = 0
    while start + n <= len(recording):
        bad = np.flatnonzero(~good[start : start + n])
        if len(bad):
            start += int(bad[-1]) + 1
            continue
        yield recording.slice(start, start + n)
        start += n
