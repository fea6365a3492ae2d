"""How well a wrist model finds synthetic anomalies on simulated people it never met, and how often it is wrong.

Each kind is put once into each of several sessions, alternately left and right; episodes are matched with
``kinedge.training.evaluate``. False episodes are counted on sessions without anomalies, clean and lossy, with a 95 %
interval (exact, Poisson). Subjects have seeds far from those of training and of the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording, Region
from kinedge.training.anomalies import ANOMALIES, inject, parse_label, perturb
from kinedge.training.evaluate import EpisodeMetrics, episodes_of, match_events, poisson_interval
from kinedge.training.simulate import RadioModel, SimulationConfig, simulate

__all__ = ["bench_anomalies"]

_WRISTS: Final = ("wrist_left", "wrist_right")
_FROM_S, _TO_S, _LENGTH_S = 25.0, 35.0, 50.0


def bench_anomalies(
    bundle: Path, *, n_subjects: int = 12, ordinary_minutes: float = 10.0, first_seed: int = 100_000
) -> dict[str, Any]:
    """Measure one row per kind of anomaly, and false episodes on ordinary movement.

    Parameters
    ----------
    bundle
        A model of two wrists.
    n_subjects
        Simulated people.
    ordinary_minutes
        Of ordinary movement per person, clean and lossy.
    first_seed
        Of the people.

    Raises
    ------
    BundleError, SignalError
        The model does not load, or is not one of two wrists.
    """
    scorer = Scorer(read_bundle(bundle))
    specs = scorer.manifest.sensor_specs
    rows: list[dict[str, Any]] = []
    for loss in (0.0, 0.1):
        total = EpisodeMetrics()
        for i in range(n_subjects):
            radio = RadioModel(loss_rate=loss)
            seed = first_seed + i
            config = SimulationConfig(
                duration_s=ordinary_minutes * 60, subject_seed=seed, session_seed=seed, radio=radio
            )
            total += _measure(scorer, simulate(config).select(specs), ())
        rate, low, high = (n / total.hours for n in (total.n_false, *poisson_interval(total.n_false)))
        rows.append(
            {
                "what": f"ordinary movement, {loss:.0%} loss",
                "sessions": n_subjects,
                "found": "",
                "median_delay_s": "",
                "right_sensor": "",
                "false_per_hour": f"{rate:.2f} ({low:.2f}-{high:.2f})",
                "unsure": f"{total.n_unsure / total.n_verdicts:.0%}",
            }
        )
    for name, anomaly in ANOMALIES.items():
        if anomaly.sensors and not set(_WRISTS) & set(anomaly.sensors):
            continue
        total = EpisodeMetrics()
        for i in range(n_subjects):
            recording = _with_anomaly(name, _WRISTS[i % 2], first_seed + i).select(specs)
            events = [r for r in recording.labels if parse_label(r.label) is not None]
            total += _measure(scorer, recording, events)
        rows.append(
            {
                "what": name.replace("_", " ") + (f" ({anomaly.kind})" if anomaly.kind != "movement" else ""),
                "sessions": n_subjects,
                "found": f"{total.n_found} of {total.n_events}",
                "median_delay_s": total.summary()["median_delay_s"] if total.n_found else "",
                "right_sensor": f"{total.n_placed} of {total.n_placeable}",
                "false_per_hour": "",
                "unsure": f"{total.n_unsure / total.n_verdicts:.0%}",
            }
        )
    settings = {
        "model": scorer.manifest.name,
        "digest": scorer.bundle.digest[:16],
        "caution": scorer.caution.model_dump(mode="json"),
        "n_subjects": n_subjects,
        "ordinary_minutes": ordinary_minutes,
        "first_seed": first_seed,
    }
    return result("anomalies", rows, settings=settings)


def _with_anomaly(name: str, sensor: str, seed: int) -> Recording:
    anomaly = ANOMALIES[name]
    mix = {anomaly.activity: 1.0} if anomaly.activity else {"rest": 0.2, "gait": 0.4, "arm": 0.4}
    config = SimulationConfig(duration_s=_LENGTH_S, subject_seed=seed, session_seed=seed + 1, activity_mix=mix)
    if anomaly.level == "kinematic":
        return simulate(perturb(config, name, _FROM_S, _TO_S, sensor=sensor))
    start, end = round(_FROM_S * config.rate_hz), round(_TO_S * config.rate_hz)
    return inject(simulate(config), name, start, end, sensor=sensor, seed=seed)


def _place(region: Region) -> str | None:
    parsed = parse_label(region.label)
    return parsed[1][0] if parsed is not None and len(parsed[1]) == 1 else None


def _measure(scorer: Scorer, recording: Recording, events: list[Region] | tuple[()]) -> EpisodeMetrics:
    found, n_verdicts, n_unsure = episodes_of(scorer, recording)
    metrics = match_events(found, events, rate_hz=recording.rate_hz, duration_s=recording.duration_s, place_of=_place)
    metrics.n_verdicts, metrics.n_unsure = n_verdicts, n_unsure
    return metrics
