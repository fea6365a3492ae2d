"""A minute to show: one simulated person with two wrist sensors, and anomalies at known times."""

from __future__ import annotations

from dataclasses import dataclass

from kinedge.errors import ConfigError
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject, parse_label, perturb
from kinedge.training.simulate import SimulationConfig, simulate

__all__ = ["DEMO_EVENTS", "DemoEvent", "Event", "demo_recording", "events_of"]


@dataclass(frozen=True)
class DemoEvent:
    """An anomaly to put into a demonstration, in seconds."""

    name: str
    sensor: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Event:
    """A labelled anomaly of a recording, in seconds, with the sensors it touches."""

    name: str
    sensors: tuple[str, ...]
    start_s: float
    end_s: float


DEMO_EVENTS = (
    DemoEvent("rest_tremor", "wrist_right", 14.0, 21.0),
    DemoEvent("noise_burst", "wrist_left", 31.0, 37.0),
    DemoEvent("axis_swap", "wrist_right", 45.0, 52.0),
)


def demo_recording(
    *, seed: int = 0, duration_s: float = 66.0, events: tuple[DemoEvent, ...] = DEMO_EVENTS, rate_hz: float = 50.0
) -> Recording:
    """Simulate a person the shipped model has not seen, with anomalies at known times.

    Parameters
    ----------
    seed
        Another person and session for each.
    events
        Those that begin behind the end are left out.

    Raises
    ------
    ConfigError
        An event has an unknown name.
    """
    # far from the seeds any model was trained, calibrated or tested on
    config = SimulationConfig(
        rate_hz=rate_hz, duration_s=duration_s, subject_seed=900_000 + seed, session_seed=900_000 + seed
    )
    wanted = [e for e in events if e.end_s <= duration_s]
    for e in wanted:
        anomaly = ANOMALIES.get(e.name)
        if anomaly is None:
            raise ConfigError(f"no anomaly {e.name!r}; known are {', '.join(sorted(ANOMALIES))}")
        if anomaly.level == "kinematic":
            config = perturb(config, e.name, e.start_s, e.end_s, sensor=e.sensor)
    recording = simulate(config)
    for e in wanted:
        if ANOMALIES[e.name].level == "signal":
            start, end = round(e.start_s * rate_hz), round(e.end_s * rate_hz)
            recording = inject(recording, e.name, start, end, sensor=e.sensor, seed=seed)
    return recording


def events_of(recording: Recording) -> list[Event]:
    """Return the labelled anomalies of a recording, in order."""
    found = []
    for region in recording.labels:
        parsed = parse_label(region.label)
        if parsed is not None:
            name, sensors = parsed
            found.append(Event(name, sensors, region.start / recording.rate_hz, region.end / recording.rate_hz))
    return sorted(found, key=lambda e: e.start_s)
