"""Cohort calibration: how a model scores ordinary movement of people it never saw, and synthetic anomalies in it.

Two yardsticks. Against each other: what a new person is compared with. And each against their own enrolment, learned
from other recordings of theirs (or from the other half of the only one): what an enrolled person is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.attribution import by_sensor, energies
from kinedge.edge.calibration import Calibration, EnrolledCohort, Unusualness
from kinedge.edge.coordination import Weights
from kinedge.edge.likelihood import N_TERMS
from kinedge.edge.offline import score_recording
from kinedge.edge.personal import Blocks
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.calibrating import SubjectScores, fit_calibration, ranked
from kinedge.training.coordination import fit_coordination, told_of, weighed
from kinedge.training.enrolled import Folds, ScoredRecording, enrol_each, of_subjects
from kinedge.training.injected import INJECT_S, Injected, inject_all, is_ordinary, pieces_of
from kinedge.training.likelihood import FEWEST, LossRows, fit_likelihood_ratio, limited, loss_rows, loss_terms

__all__ = ["calibrate_cohort", "ordinary_blocks"]

F64 = NDArray[np.float64]

_MAX_RESIDUALS: Final = 200_000
_RARE: Final = 0.99
_LOSSY_PIECES: Final = 24  # of the cohort, shared out among the models that score it


def ordinary_blocks(
    scorer: Scorer, recording: Recording, exclude: Sequence[str]
) -> tuple[Blocks, list[NDArray[np.float32]]]:
    """Score a recording; return its blocks of ordinary movement, and ``z`` (n, n_channels) of each one's last hop."""
    good = is_ordinary(recording, exclude, look_back=scorer.manifest.block + scorer.manifest.receptive_field)
    channel, intensity, before, late, hop, residuals = [], [], [], [], [], []
    for i, (end, scores, surprise) in enumerate(score_recording(scorer, recording)):
        if not (good[end - 1] and scores.full[0] and scores.scored[0].all()):
            continue
        channel.append(scores.channel[0])
        intensity.append(scores.intensity[0])
        before.append(scores.before[0])
        late.append(scores.late[0])
        hop.append(i)
        residuals.append(surprise.z[0, surprise.valid[0, :, 0].all(axis=1), 0])
    blocks = Blocks(
        np.reshape(channel, (-1, scorer.manifest.n_channels)),
        np.reshape(intensity, (-1, len(scorer.groups))),
        np.reshape(before, (-1, len(scorer.groups))),
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
    first = replace(first, coordination=fit_coordination(normal))
    folds = enrol_each(scored, first, groups)
    blocks_with = inject_all(scorers, first, exclude=exclude_labels, seed=seed)
    weights = folds.weights(scored, first)
    if weights is not None:
        weights = _weigh(weights, _own(folds, len(scored), first, weights, groups), blocks_with, groups)
    first = _with_coordination(first, normal, blocks_with, groups)
    own = _own(folds, len(scored), first, weights, groups)
    tried = scorers if running is None else [([r for recordings, _ in scorers for r in recordings], running)]
    lossy = _with_loss(tried, first, own, exclude=exclude_labels, seed=seed)
    ratios = _fit_likelihood(first, own, blocks_with, lossy, groups, weights)
    if weights is not None and ratios.own_alone is not None:
        weights = replace(weights, likelihood=ratios.own_alone)
    enrolled = folds.cohort(scored, first, groups, ratios.own, weights, stride=manifest.block // manifest.hop)
    if (together := first.coordination) is not None and ratios.alone is not None:
        together = replace(together, weights=replace(together.weights, likelihood=ratios.alone))
        first = replace(first, coordination=together)
    return replace(first, likelihood=ratios.cohort, additive=np.array([float(ratios.additive)]), enrolled=enrolled)


def _own(
    folds: Folds, n: int, cohort: Calibration, weights: Weights | None, groups: Sequence[slice]
) -> list[Calibration | None]:
    """Return a calibration to the subject of each of ``n`` recordings, with these weights of coordination."""
    unknown = np.zeros((1, 1))
    nothing = EnrolledCohort(np.zeros(1), np.zeros((len(groups), 6)), np.ones(1), unknown, np.ones(1), weights=weights)
    known = replace(cohort, enrolled=nothing)
    return [None if (own := folds.of(i)) is None else own.calibration(known, groups) for i in range(n)]


def _weigh(
    start: Weights, judges: Sequence[Calibration | None], blocks_with: Sequence[Injected], groups: Sequence[slice]
) -> Weights:
    """Weigh how the sensors move together beside their channels' surprise; ``judges`` are one for each recording."""
    found: list[tuple[list[F64], list[F64]]] = [([], []) for _ in groups]
    for block in blocks_with:
        if (judge := judges[block.recording]) is not None:
            found[block.sensor][block.changed].append(told_of(judge, block.scores, block.sensor, groups))
    return weighed(start, found)


def _with_loss(
    scorers: Sequence[tuple[Sequence[Recording], Scorer]],
    calibration: Calibration,
    own: Sequence[Calibration | None],
    *,
    exclude: Sequence[str],
    seed: int,
) -> LossRows:
    """Score some ordinary pieces as they are and with loss; ``own`` is a calibration to each recording's subject."""
    rng = np.random.default_rng([seed, 1])
    found = [np.zeros((0, len(calibration.likelihood), 6))]
    first = 0
    for recordings, scorer in scorers:
        judge = Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration)
        pieces = pieces_of(recordings, scorer, exclude)
        for k in rng.permutation(len(pieces))[: max(1, _LOSSY_PIECES // len(scorers))]:
            piece, i = pieces[k]
            found.append(loss_rows(judge, own[first + i], piece, rng=rng))
        first += len(recordings)
    return np.concatenate(found)


def _with_coordination(
    calibration: Calibration,
    normal: Sequence[SubjectScores],
    blocks_with: Sequence[Injected],
    groups: Sequence[slice],
) -> Calibration:
    """Return the calibration with how the sensors move together, weighed beside their channels' surprise."""
    together = calibration.coordination
    if together is None:
        return calibration
    judges = [calibration] * (1 + max((block.recording for block in blocks_with), default=0))
    weights = replace(_weigh(together.weights, judges, blocks_with, groups), reference=calibration.reference)
    # ranked so that a block may be rare in either way, both reach as far: first without, to see how far that is
    alike = ranked(replace(calibration, coordination=replace(together, weights=weights)), normal, groups)
    further = np.quantile(alike.reference, _RARE) - np.quantile(calibration.reference, _RARE)
    weights = replace(weights, further=np.maximum([further], 0.0))
    return ranked(replace(calibration, coordination=replace(together, weights=weights)), normal, groups)


class _Ratios(NamedTuple):
    """Likelihood ratios (n_sensors, 6), and whether the excess in nats attributes better.

    Those of ``cohort`` and ``own`` are of the statistic, by either yardstick, the others of ``u`` alone; None where too
    little is known, or nothing weighs beside ``u``.
    """

    cohort: F64
    own: F64 | None
    alone: F64 | None
    own_alone: F64 | None
    additive: bool


def _fit_likelihood(
    calibration: Calibration,
    own: Sequence[Calibration | None],
    blocks_with: Sequence[Injected],
    lossy: LossRows,
    groups: Sequence[slice],
    weights: Weights | None,
) -> _Ratios:
    """Fit each sensor's ratios, by the cohort's yardstick and by the subjects' own, and choose the attribution.

    ``weights`` are those of coordination by the subjects' own, with their ratios of ``u`` alone.
    """
    n_sensors = len(groups)
    normal: list[list[F64]] = [[] for _ in range(n_sensors)]
    anomalous: list[list[F64]] = [[] for _ in range(n_sensors)]
    hits = {"drop": 0, "excess": 0}
    for block in blocks_with:
        i, scores = block.sensor, block.scores
        unusual = calibration.assess(scores, groups)
        personal = own[block.recording]
        of_own = None if personal is None else personal.assess(scores, groups)
        told = [(math.nan, math.nan) if u is None else _told(u, i, groups) for u in (unusual, of_own)]
        (anomalous if block.changed else normal)[i].append(np.array(told).T.ravel())
        if block.changed and unusual.channel[0].max() > 1:  # what is not noticed is not explained either
            for method, energy in energies(scores, unusual).items():
                hits[method] += int(by_sensor(method, energy, groups)[0].argmax()) == i
    ratios, spread = np.zeros((2, n_sensors, N_TERMS)), np.ones((4, n_sensors))
    complete = True
    for i in range(n_sensors):
        if min(len(normal[i]), len(anomalous[i])) < FEWEST:
            raise SignalError(
                f"too little ordinary movement for a likelihood ratio: {sum(INJECT_S):.0f} s in one piece are needed"
            )
        calm, odd = np.array(normal[i]), np.array(anomalous[i])
        for yardstick in range(2):
            one, other = (x[np.isfinite(x[:, yardstick])] for x in (calm, odd))
            if min(len(one), len(other)) < FEWEST:
                complete = False
                continue
            ratios[yardstick, i, :2] = fit_likelihood_ratio(one[:, yardstick], other[:, yardstick])
            spread[yardstick::2, i] = limited(one[:, yardstick::2]).std(axis=0)
    together = None if calibration.coordination is None else calibration.coordination.weights
    alone = [None if w is None else w.likelihood.copy() for w in (together, weights)]
    for yardstick, of_both in enumerate(ratios):
        for found, of_u in ((of_both, False), (alone[yardstick], True)):
            if found is not None:
                terms = {"own": bool(yardstick), "alone": of_u}
                found[:, 2:] = loss_terms(lossy, found[:, 1], spread[yardstick + 2 * of_u], **terms)
    return _Ratios(ratios[0], ratios[1] if complete else None, alone[0], alone[1], hits["excess"] > hits["drop"])


def _told(unusual: Unusualness, sensor: int, groups: Sequence[slice]) -> tuple[float, float]:
    """Return a sensor's statistic, and the largest ``u`` of its channels, of a single block."""
    return float(unusual.sensor[0, sensor]), float(unusual.channel[0, groups[sensor]].max())
