"""Freezing of gait with and without a baseline of the patient's own: never trained on a freeze, never enrolled on one.

Each walk is scored by a model of other patients, once against those patients and once against what is usual for this
one. The latter is learned from the ordinary parts of the patient's other walks alone: what an attended enrolment would
hold, but far shorter than the half hour that is meant, so the spread leans on the cohort's. Walks of another visit are
of another day; ``aligned`` turns the sensors of a walk into the frames of the enrolment where it shows enough walking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.offline import align_recording, frames_of, score_recording, turn_recording
from kinedge.edge.orientation import align
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.datasets import DATASETS
from kinedge.training.evaluate import EpisodeMetrics, episodes_of, match_events

__all__ = ["bench_freezing", "enrol_on_ordinary"]

_WAYS: Final = ("cohort", "enrolled", "enrolled, aligned")


def bench_freezing(
    bundles: Mapping[str, Path],
    data: Path,
    *,
    label: str = "freeze",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure patients by models that were not trained on them.

    Parameters
    ----------
    bundles
        A model for each patient, as ``kinedge train examples/freezing-of-gait.toml --leave-out PATIENT`` makes it.
    data
        The npz of fog_stanford.
    label
        Of the events.
    progress
        Called with what is being done.

    Raises
    ------
    BundleError, SignalError
        A bundle or the data cannot be read, or a bundle's patient is not in the data.
    """
    rows = []
    totals = {way: EpisodeMetrics() for way in _WAYS}
    for patient, path in bundles.items():
        progress(f"scoring {patient}")
        bundle = read_bundle(path)
        scorer = Scorer(bundle)
        manifest = scorer.manifest
        walks = [
            align_recording(r.select(manifest.sensor_specs), rate_hz=manifest.rate_hz)
            for r in DATASETS["fog_stanford"](data, sensors=scorer.sensors)
            if r.subject == patient
        ]
        if len(walks) < 2:
            raise SignalError(f"{data}: fewer than two walks of {patient}, whom {path.name} left out")
        found = {way: EpisodeMetrics() for way in _WAYS}
        seconds = []
        for i, walk in enumerate(walks):
            enrolment = enrol_on_ordinary(scorer, [w for j, w in enumerate(walks) if j != i], label=label)
            seconds.append(enrolment.manifest.usable_s)
            calibration = enrolment.baseline.calibration(scorer.calibration, scorer.groups)
            own = Scorer(bundle, backend=scorer.engine.backend, calibration=calibration)
            turned = turn_recording(walk, align(frames_of(walk), enrolment.frames))
            for way, judge, recording in zip(_WAYS, (scorer, own, own), (walk, walk, turned), strict=True):
                found[way] += _measure(judge, recording, label)
        for way, metrics in found.items():
            totals[way] += metrics
            enrolled_s = "" if way == "cohort" else round(float(np.mean(seconds)))
            rows.append({"what": f"{patient}, {way}", "enrolled_s": enrolled_s, **_figures(metrics)})
    rows += [{"what": f"all, {way}", "enrolled_s": "", **_figures(m)} for way, m in totals.items()]
    settings = {
        "data": data.stem,
        "bundles": ", ".join(f"{patient}: {read_bundle(path).digest[:8]}" for patient, path in bundles.items()),
    }
    return result("freezing_enrolled", rows, settings=settings)


def enrol_on_ordinary(scorer: Scorer, walks: Sequence[Recording], *, label: str) -> Enrolment:
    """Enrol on recordings on the model's grid, without what a labelled event reaches.

    Raises
    ------
    SignalError
        Too little is left.
    """
    manifest = scorer.manifest
    builder = EnrolmentBuilder(scorer)
    number = 0
    for walk in walks:
        reached = np.zeros(len(walk), bool)
        for region in walk.labels:
            if region.label == label:
                reached[region.start : region.end + manifest.block + manifest.receptive_field] = True
        for end, scores, surprise in score_recording(scorer, walk):
            number += 1
            rows = slice(end - manifest.hop, end)
            if not reached[rows].any():
                builder.add(scores, surprise, 0, hop=number, values=walk.values[rows], valid=walk.valid[rows])
        number += manifest.block
    data = builder.finish(walks[0].subject, source=", ".join(w.session for w in walks), allow_short=True)
    return read_enrolment(data)


def _measure(scorer: Scorer, recording: Recording, label: str) -> EpisodeMetrics:
    events = [r for r in recording.labels if r.label == label]
    found, n_verdicts, n_unsure = episodes_of(scorer, recording)
    metrics = match_events(found, events, rate_hz=recording.rate_hz, duration_s=recording.duration_s)
    return replace(metrics, n_verdicts=n_verdicts, n_unsure=n_unsure)


def _figures(metrics: EpisodeMetrics) -> dict[str, Any]:
    told = metrics.summary()
    return {
        "found": f"{metrics.n_found} of {metrics.n_events}",
        "false_per_hour": told["false_per_hour"],
        "flagged": f"{told['flagged_share_outside_events']:.0%}",
        "median_delay_s": told["median_delay_s"] if metrics.n_found else "",
        "unsure": f"{told['unsure_share']:.0%}",
    }
