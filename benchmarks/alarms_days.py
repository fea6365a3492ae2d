"""Simulated people and their days, for the benchmark of alarms: enrolled on one day, watched on it and on another.

Others do not walk at all: they rest and use their arms. They took the guided poses when they were enrolled, and take
them again on the new day, as badly as ``kinedge.training.poses`` has it.

On another day the sensors were put on anew, everything goes at another tempo, and the person tires. Anomalies last half
a minute and come every few minutes, each kind as often as the others, from a quarter of an hour into the day on. Where
a kind shows in walking alone, it begins a second into the next walk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.people import People
from kinedge.edge.pose import PoseFrames
from kinedge.edge.pose_marks import frames_of_labels
from kinedge.edge.scoring import Scorer
from kinedge.edge.watch import AlarmWatch
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.anomalies import ANOMALIES, inject, perturb
from kinedge.training.poses import pose_recording
from kinedge.training.simulate import ImuModel, RadioModel, SimulationConfig, mounting, schedule, simulate
from kinedge.training.trends import Fatigue

__all__ = ["ANOMALY_S", "Event", "Person", "Sitter", "Told", "kinds", "people_of", "sitters_of", "watch"]

WRISTS: Final = ("wrist_left", "wrist_right")
ANOMALY_S: Final = 30.0
_FIRST_S, _EVERY_S = 900.0, 180.0
_TEMPO: Final = (0.9, 1.1)
_NO_WALKING: Final = {"rest": 0.4, "arm": 0.6}
_FATIGUE: Final = Fatigue(most=0.12, half_hours=1.0)


@dataclass(frozen=True)
class Event:
    """An anomaly in ``[start_s, end_s)``."""

    kind: str
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Person:
    """One simulated person: the day of the enrolment and another, and what there is to be found on the latter."""

    subject: str
    enrolment: Enrolment
    same: Recording
    new: Recording
    lossy: Recording
    anomalous: Recording
    events: tuple[Event, ...]


@dataclass(frozen=True, eq=False)
class Sitter:
    """One who does not walk: the day of the enrolment and another, and the guided poses of the latter.

    ``turns`` (n_sensors, 3, 3) are the rotations that poses are there to find: from the frames of the new day to those
    of the enrolment, as they truly are.
    """

    subject: str
    enrolment: Enrolment
    same: Recording
    new: Recording
    poses: PoseFrames
    turns: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Told:
    """What one setting said of some people, block by block, (n_blocks, n_people)."""

    alarm: NDArray[np.bool_]
    valid: NDArray[np.bool_]


def kinds() -> tuple[str, ...]:
    """Return the kinds of anomaly that wrists can show; samples that are gone are a reason to be unsure instead."""
    return tuple(k for k, a in ANOMALIES.items() if k != "dropout" and (not a.sensors or set(WRISTS) & set(a.sensors)))


def people_of(
    scorer: Scorer, seeds: Sequence[int], *, donning_deg: float, enrol_s: float, same_s: float, new_s: float
) -> list[Person]:
    """Simulate and enrol people, one for each seed.

    Parameters
    ----------
    scorer
        A model of two wrists, comparing with its cohort.
    donning_deg
        How differently sensors are put on: standard deviation of each component of the rotation vector.
    enrol_s, same_s, new_s
        Of ordinary movement: enrolled on, later on the same day, and on the new day.
    """
    specs, split = scorer.manifest.sensor_specs, round(enrol_s * scorer.manifest.rate_hz)
    usual = _usual(scorer, seeds, donning_deg=donning_deg, duration_s=enrol_s + same_s)
    days = [simulate(c).select(specs) for c in usual]
    enrolments = _enrolled(scorer, [day.slice(0, split) for day in days])
    people = []
    for config, day, enrolment in zip(usual, days, enrolments, strict=True):
        rng = np.random.default_rng(config.subject_seed)
        other = _another_day(config, rng, duration_s=new_s)
        anomalous, events = _with_anomalies(other, rng)
        people.append(
            Person(
                f"sim{config.subject_seed}",
                enrolment,
                day.slice(split, len(day)),
                simulate(other).select(specs),
                simulate(replace(other, radio=RadioModel(loss_rate=0.1))).select(specs),
                anomalous.select(specs),
                events,
            )
        )
    return people


def sitters_of(
    scorer: Scorer, seeds: Sequence[int], *, donning_deg: float, enrol_s: float, same_s: float, new_s: float
) -> list[Sitter]:
    """Simulate and enrol people who do not walk, one for each seed; parameters as of ``people_of``."""
    specs, split = scorer.manifest.sensor_specs, round(enrol_s * scorer.manifest.rate_hz)
    usual = [
        replace(c, activity_mix=_NO_WALKING)
        for c in _usual(scorer, seeds, donning_deg=donning_deg, duration_s=enrol_s + same_s)
    ]
    days, poses = [simulate(c).select(specs) for c in usual], [_posed(scorer, c) for c in usual]
    enrolments = _enrolled(scorer, [day.slice(0, split) for day in days], poses)
    sitters = []
    for config, day, enrolment in zip(usual, days, enrolments, strict=True):
        other = _another_day(config, np.random.default_rng(config.subject_seed), duration_s=new_s)
        sitters.append(
            Sitter(
                f"sim{config.subject_seed}",
                enrolment,
                day.slice(split, len(day)),
                simulate(other).select(specs),
                _posed(scorer, other),
                np.stack([mounting(config, s).T @ mounting(other, s) for s in scorer.sensors]),
            )
        )
    return sitters


def _usual(scorer: Scorer, seeds: Sequence[int], *, donning_deg: float, duration_s: float) -> list[SimulationConfig]:
    return [
        SimulationConfig(
            rate_hz=scorer.manifest.rate_hz,
            duration_s=duration_s,
            subject_seed=seed,
            session_seed=2 * seed,
            imu=ImuModel(donning_deg=donning_deg),
        )
        for seed in seeds
    ]


def _another_day(config: SimulationConfig, rng: np.random.Generator, *, duration_s: float) -> SimulationConfig:
    return replace(
        config,
        duration_s=duration_s,
        session_seed=config.session_seed + 1,
        tempo=float(rng.uniform(*_TEMPO)),
        fatigue=_FATIGUE,
    )


def _posed(scorer: Scorer, config: SimulationConfig) -> PoseFrames:
    found = frames_of_labels([pose_recording(config).select(scorer.manifest.sensor_specs)])
    if found is None:
        raise SignalError("the simulated poses are not all there")
    return found


def _enrolled(scorer: Scorer, recordings: Sequence[Recording], poses: Sequence[PoseFrames] = ()) -> list[Enrolment]:
    """Enrol everybody in the same steps."""
    builders, hop = [EnrolmentBuilder(scorer) for _ in recordings], scorer.manifest.hop
    state = scorer.initial_state(len(recordings))
    for i in range(min(map(len, recordings)) // hop):
        rows = slice(i * hop, (i + 1) * hop)
        values = np.stack([r.values[rows] for r in recordings])
        valid = np.stack([r.valid[rows] for r in recordings])
        scores, surprise, state = scorer.score(values, valid, np.zeros_like(valid), state)
        for k, builder in enumerate(builders):
            builder.add(scores, surprise, k, hop=i, values=values[k], valid=valid[k])
    for builder, own in zip(builders, poses, strict=False):
        builder.take_poses(own)
    return [
        read_enrolment(b.finish(r.subject, source="simulated", allow_short=True, made_s=0))
        for b, r in zip(builders, recordings, strict=True)
    ]


def _with_anomalies(config: SimulationConfig, rng: np.random.Generator) -> tuple[Recording, tuple[Event, ...]]:
    starts = np.arange(_FIRST_S, config.duration_s - 2 * ANOMALY_S - 30, _EVERY_S)
    order = rng.permutation(len(kinds()))
    walks = [r for r in schedule(config) if r.label == "activity:gait"]
    signal: list[tuple[str, str, float]] = []
    events: list[Event] = []
    for i, begins in enumerate(starts):
        kind = kinds()[order[i % len(order)]]
        sensor, at = WRISTS[int(rng.integers(2))], float(begins + rng.uniform(0, 30))
        if ANOMALIES[kind].activity:
            next_walks = (r.start / config.rate_hz for r in walks if r.end - r.start >= 12 * config.rate_hz)
            at = next((s + 1 for s in next_walks if s >= begins), at)
        if at + ANOMALY_S > config.duration_s or (events and at < events[-1].end_s + 10):
            continue
        events.append(Event(kind, at, at + ANOMALY_S))
        if ANOMALIES[kind].level == "kinematic":
            config = perturb(config, kind, at, at + ANOMALY_S, sensor=sensor)
        else:
            signal.append((kind, sensor, at))
    recording = simulate(config)
    for kind, sensor, at in signal:
        rows = (round(at * config.rate_hz), round((at + ANOMALY_S) * config.rate_hz))
        recording = inject(recording, kind, *rows, sensor=sensor, seed=config.subject_seed)
    return recording, tuple(events)


def watch(
    scorer: Scorer,
    enrolments: Mapping[str, Enrolment],
    recordings: Sequence[Recording],
    settings: Mapping[str, AlarmConfig],
    *,
    aligned: bool = True,
    worn: bool = False,
    as_known: Collection[str] = (),
    poses: Mapping[str, PoseFrames] | None = None,
) -> dict[str, Told]:
    """Run recordings of enrolled people, one each, through scoring, alignment and alarms, as a gateway does.

    Parameters
    ----------
    scorer
        The model.
    enrolments
        By subject, in the order of the recordings.
    settings
        All of them watch the same scores.
    aligned
        Whether sensors are turned into the frames of the enrolment once a minute of walking was seen.
    worn
        Whether the sensors were not taken off since the enrolment, as when it is made on the running gateway.
    as_known
        Settings whose promise is taken to hold although nobody knows how the sensors sit: what that would cost.
    poses
        By subject, guided poses that were taken before the recording begins.
    """
    manifest, rows = scorer.manifest, np.arange(len(recordings))
    people = People(scorer, list(enrolments), enrolments)
    for subject in enrolments if worn else ():
        people.same_wearing(subject)
    for subject, own in (poses or {}).items():
        people.pose(subject, own)
    watches = {name: AlarmWatch(scorer, people, config) for name, config in settings.items()}
    n_hops, hop, every = min(map(len, recordings)) // manifest.hop, manifest.hop, manifest.block // manifest.hop
    said = {name: np.zeros((2, n_hops // every, len(recordings)), bool) for name in settings}
    state = scorer.initial_state(len(recordings))
    for i in range(n_hops):
        part = slice(i * hop, (i + 1) * hop)
        values = np.stack([r.values[part] for r in recordings])
        valid = np.stack([r.valid[part] for r in recordings])
        turned = people.turn(rows, values, valid, np.zeros_like(valid)) if aligned else (values, valid, ~valid & valid)
        scores, _, state = scorer.score(*turned, state, calibration=people.calibration)
        if (i + 1) % every == 0 and people.calibration is not None:
            unusual, block = people.calibration.assess(scores, scorer.groups), (i + 1) // every - 1
            for name, alarms in watches.items():
                known = None if name in as_known else people.known
                told = alarms.look(rows, i, unusual, scores, known=known)
                said[name][0, block] = [w is not None and w.alarm for w in told]
                said[name][1, block] = [w is not None and w.valid for w in told]
        if aligned:
            anew = np.flatnonzero(people.learn(rows, values, valid))
            if len(anew):
                state = state.put(anew, scorer.initial_state(len(anew)))
    return {name: Told(alarm, valid) for name, (alarm, valid) in said.items()}
