"""What an enrolment is worth: the same people and anomalies, compared with the cohort and with themselves.

Each simulated person is enrolled from half an hour and more of one day. Then ordinary movement and anomalies are scored
on the rest of that day, and on another day, when the sensors were put on anew: as they sit, and turned into the frames
of the enrolment. Subjects have seeds far from those of training, calibration and tests.

The anomalies of "the same day" share the seeds of the enrolment, and with them how the sensors sit, their bias, and
some of the randomness of the movement; ordinary movement is a later part of the very session.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.offline import frames_of, score_recording, turn_recording
from kinedge.edge.orientation import align
from kinedge.edge.people import ALIGN_AFTER_S
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject, parse_label, perturb
from kinedge.training.evaluate import EpisodeMetrics, episodes_of, match_events, poisson_interval
from kinedge.training.simulate import ImuModel, SimulationConfig, simulate

__all__ = ["bench_enrolment"]

_WRISTS: Final = ("wrist_left", "wrist_right")
_ANOMALY_S: Final = (25.0, 35.0, 50.0)
_ENROL_S: Final = 2100.0


@dataclass
class _Tally:
    ordinary: EpisodeMetrics
    anomalous: EpisodeMetrics
    over: list[float]


def bench_enrolment(
    bundle: Path,
    *,
    n_subjects: int = 12,
    ordinary_minutes: float = 10.0,
    first_seed: int = 400_000,
    donning_deg: float = 6.0,
) -> dict[str, Any]:
    """Measure one row per way of comparing.

    Parameters
    ----------
    bundle
        A model of two wrists.
    n_subjects
        Simulated people.
    ordinary_minutes
        Of ordinary movement per person and day.
    first_seed
        Of the people.
    donning_deg
        How differently sensors are put on: standard deviation of each component of the rotation vector.

    Raises
    ------
    BundleError, SignalError
        The model does not load, or is not one of two wrists.
    """
    loaded = read_bundle(bundle)
    cohort = Scorer(loaded)
    specs = cohort.manifest.sensor_specs
    ways = ("same day, cohort", "same day, enrolled", "new day, cohort", "new day, enrolled", "new day, aligned")
    tallies = {way: _Tally(EpisodeMetrics(), EpisodeMetrics(), []) for way in ways}
    verdicts: dict[str, int] = {}
    turned = []
    for i in range(n_subjects):
        seed = first_seed + i
        imu = ImuModel(donning_deg=donning_deg)
        config = SimulationConfig(
            duration_s=_ENROL_S + ordinary_minutes * 60, subject_seed=seed, session_seed=2 * seed, imu=imu
        )
        day = simulate(config).select(specs)
        split = round(_ENROL_S * config.rate_hz)
        enrolment = enrol_recordings(cohort, [day.slice(0, split)])
        verdicts[enrolment.manifest.audit.verdict] = verdicts.get(enrolment.manifest.audit.verdict, 0) + 1
        own = Scorer(
            loaded,
            backend=cohort.engine.backend,
            calibration=enrolment.baseline.calibration(cohort.calibration, cohort.groups),
        )
        later = simulate(
            SimulationConfig(duration_s=ordinary_minutes * 60, subject_seed=seed, session_seed=2 * seed + 1, imu=imu)
        ).select(specs)
        alignment = align(frames_of(later, walking_s=ALIGN_AFTER_S), enrolment.frames)
        turned.append(np.rad2deg(alignment.angle_rad))
        same = [day.slice(split, len(day)), *_anomalies(seed, 2 * seed, imu)]
        new = [later, *_anomalies(seed, 2 * seed + 1, imu)]
        _measure(tallies["same day, cohort"], cohort, same)
        _measure(tallies["same day, enrolled"], own, same)
        _measure(tallies["new day, cohort"], cohort, new)
        _measure(tallies["new day, enrolled"], own, new)
        _measure(tallies["new day, aligned"], own, [turn_recording(r.select(specs), alignment) for r in new])
    rows = [_row(way, tally) for way, tally in tallies.items()]
    settings = {
        "model": cohort.manifest.name,
        "digest": loaded.digest[:16],
        "caution": cohort.caution.model_dump(mode="json"),
        "n_subjects": n_subjects,
        "enrolment_minutes": _ENROL_S / 60,
        "ordinary_minutes": ordinary_minutes,
        "donning_deg": donning_deg,
        "first_seed": first_seed,
        "turned_deg": round(float(np.mean(turned)), 2),
        **{f"audit_{verdict.replace(' ', '_')}": n for verdict, n in sorted(verdicts.items())},
    }
    return result("enrolment", rows, settings=settings)


def _anomalies(subject: int, session: int, imu: ImuModel) -> list[Recording]:
    recordings = []
    for n, (name, anomaly) in enumerate(ANOMALIES.items()):
        if anomaly.sensors and not set(_WRISTS) & set(anomaly.sensors):
            continue
        sensor = _WRISTS[(n + subject) % 2]
        mix = {anomaly.activity: 1.0} if anomaly.activity else {"rest": 0.2, "gait": 0.4, "arm": 0.4}
        start_s, end_s, length_s = _ANOMALY_S
        config = SimulationConfig(
            duration_s=length_s, subject_seed=subject, session_seed=session, activity_mix=mix, imu=imu
        )
        if anomaly.level == "kinematic":
            recordings.append(simulate(perturb(config, name, start_s, end_s, sensor=sensor)))
        else:
            a, b = round(start_s * config.rate_hz), round(end_s * config.rate_hz)
            recordings.append(inject(simulate(config), name, a, b, sensor=sensor, seed=subject))
    return recordings


def _measure(tally: _Tally, scorer: Scorer, recordings: list[Recording]) -> None:
    for recording in recordings:
        events = [r for r in recording.labels if parse_label(r.label) is not None]
        found, n_verdicts, n_unsure = episodes_of(scorer, recording)
        metrics = match_events(found, events, rate_hz=recording.rate_hz, duration_s=recording.duration_s)
        metrics.n_verdicts, metrics.n_unsure = n_verdicts, n_unsure
        if events:
            tally.anomalous += metrics
            continue
        tally.ordinary += metrics
        for _, scores, _ in score_recording(scorer, recording):
            if scores.full[0] and scores.scored[0].all():
                tally.over.append(float((scorer.calibration.assess(scores, scorer.groups).channel > 1).mean()))


def _row(way: str, tally: _Tally) -> dict[str, Any]:
    ordinary, anomalous = tally.ordinary, tally.anomalous
    rate, low, high = (n / ordinary.hours for n in (ordinary.n_false, *poisson_interval(ordinary.n_false)))
    return {
        "what": way,
        "hours": round(ordinary.hours, 2),
        "over_99": f"{np.mean(tally.over):.2%}",
        "false_per_hour": f"{rate:.1f} ({low:.1f}-{high:.1f})",
        "unsure": f"{ordinary.n_unsure / ordinary.n_verdicts:.0%}",
        "found": f"{anomalous.n_found} of {anomalous.n_events}",
        "median_delay_s": anomalous.summary()["median_delay_s"] if anomalous.n_found else "",
    }
