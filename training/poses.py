"""A simulated person takes the guided poses: sitting, arms down; then forearms on the table and legs stretched.

Nobody takes a pose twice alike. Each time, each segment is turned away from the person's own way of taking it by a
rotation vector whose components have a standard deviation that differs between people, half of its variance common to
a day. While a pose is held the segment sways. The body moves from pose to pose; sensors, donning and errors are those
of ``simulate`` for the same seeds, so that a recording of poses belongs to a day of the same person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.pose import POSES
from kinedge.errors import ConfigError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.body import Motion, Subject, stream
from kinedge.training.courses import acceleration, limb, moves, wander
from kinedge.training.donning import wear
from kinedge.training.rotations import about, multiply
from kinedge.training.simulate import SimulationConfig, sense

__all__ = ["PoseHabit", "pose_recording"]

Array = NDArray[np.float64]

_PART: Final = 1_000  # of a session: its noise is another than that of the day
_SIGN: Final = {"left": 1.0, "right": -1.0}
_OWN_SD_RAD: Final = float(np.deg2rad(8.0))  # how people differ in the way they take a pose, the same each day
# degrees: shoulder, elbow, pronation; thigh, knee; trunk, of one who sits
_ANGLES: Final = {"down": (5.0, 10.0, 30.0, 80.0, 82.0, 8.0), "table": (25.0, 65.0, 85.0, 72.0, 22.0, 10.0)}


@dataclass(frozen=True)
class PoseHabit:
    """How a person takes poses.

    Parameters
    ----------
    repeat_deg
        Standard deviation of each component of the rotation vector by which a pose is off; drawn evenly from this range
        for each person.
    sway_deg
        While a pose is held, about each axis.
    move_s, hold_s
        To get into a pose, and to stay in it.
    rounds
        How often all poses are taken.

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    repeat_deg: tuple[float, float] = (3.0, 8.0)
    sway_deg: float = 0.3
    move_s: float = 4.0
    hold_s: float = 8.0
    rounds: int = 2

    def __post_init__(self) -> None:
        low, high = self.repeat_deg
        if not (0 <= low <= high <= 60 and 0 <= self.sway_deg <= 30):
            raise ConfigError(f"poses are repeated within 0 to 60 degrees, got {self.repeat_deg}, {self.sway_deg}")
        if not (1 <= self.move_s <= 60 and 1 <= self.hold_s <= 600 and 1 <= self.rounds <= 20):
            raise ConfigError(f"poses take seconds and a few rounds, got {self.move_s}, {self.hold_s}, {self.rounds}")


def pose_recording(config: SimulationConfig, habit: PoseHabit = PoseHabit()) -> Recording:
    """Simulate the guided poses of one person on one day.

    Parameters
    ----------
    config
        Whose, which day, which sensors and how imperfect they are; ``duration_s`` and activities do not matter.
    habit
        How alike poses are taken, and for how long.

    Returns
    -------
    Recording
        As of ``simulate``, with labels ``pose:<name>`` while a pose is held.
    """
    rate, seeds = config.rate_hz, (config.subject_seed, config.session_seed)
    each_s = habit.move_s + habit.hold_s
    names = POSES * habit.rounds
    n = round(each_s * len(names) * rate)
    t = np.arange(n) / rate
    starts = np.arange(len(names), dtype=np.float64) * np.float64(each_s)
    durations: Array = np.full(len(names), habit.move_s)

    def course(values: Array, initial: float) -> Array:
        return moves(t, starts, durations, values, initial=initial)

    angles: Array = np.deg2rad([_ANGLES[name] for name in names])
    shoulder, elbow, pronation, thigh, knee, trunk = (
        course(angles[:, j], float(np.deg2rad(_ANGLES["down"][j]))) for j in range(6)
    )
    subject = Subject.draw(config.subject_seed)
    values = np.empty((n, 6 * len(config.sensors)), np.float32)
    for i, sensor in enumerate(config.sensors):
        side = _SIGN.get(sensor.rpartition("_")[2], 1.0)
        zero = np.zeros(n)
        if sensor.startswith("wrist"):
            forearm = shoulder + elbow
            segment = multiply(about("y", -forearm), about("z", side * pronation))
            place = limb(shoulder, zero, subject.upper_arm_m) + limb(forearm, zero, subject.forearm_m)
        elif sensor == "lower_back":
            segment, place = about("y", trunk), np.zeros((n, 3))
        else:
            segment = about("y", knee - thigh)
            place = limb(thigh, zero, subject.thigh_m) + limb(thigh - knee, zero, subject.shank_m)
        off = _off(config, habit, sensor, names)
        away = np.stack([course(off[:, j], 0.0) for j in range(3)], axis=1)
        own = stream(f"sway {sensor}", *seeds)
        away += np.stack([wander(own, t, every_s=2.0, sd=np.deg2rad(habit.sway_deg)) for _ in range(3)], axis=1)
        motion = Motion(multiply(segment, _turns(away)), acceleration(place, rate))
        if config.donning is not None:
            motion = wear(motion, config.donning.draw(stream(f"donning {sensor}", *seeds)), rate_hz=rate)
        columns = slice(6 * i, 6 * i + 6)
        values[:, columns] = sense(motion, config.imu, sensor=sensor, rate_hz=rate, seeds=seeds, part=_PART)
    holds = [
        Region(round((start + habit.move_s) * rate), round((start + each_s) * rate), f"pose:{name}")
        for start, name in zip(starts.tolist(), names, strict=True)
    ]
    return Recording(
        sensors=tuple(SensorSpec(name) for name in config.sensors),
        rate_hz=rate,
        values=values,
        valid=np.ones(values.shape, bool),
        labels=tuple(holds),
        subject=f"sim{config.subject_seed}",
        session=f"sim{config.subject_seed}-{config.session_seed}-poses",
        source="kinedge simulator",
    )


def _off(config: SimulationConfig, habit: PoseHabit, sensor: str, names: tuple[str, ...]) -> Array:
    """Return the rotation vectors (n_holds, 3) by which a segment is off the textbook's pose, each time."""
    sd = np.deg2rad(stream("pose habit", config.subject_seed).uniform(*habit.repeat_deg)) / np.sqrt(2)
    off = np.empty((len(names), 3))
    today = stream(f"pose {sensor} today", config.subject_seed, config.session_seed)
    common = {pose: today.normal(0, sd, 3) for pose in POSES}
    for pose in POSES:
        usual = stream(f"pose {sensor} {pose}", config.subject_seed).normal(0, _OWN_SD_RAD, 3)
        for k, name in enumerate(names):
            if name == pose:
                off[k] = usual + common[pose] + today.normal(0, sd, 3)
    return off


def _turns(vectors: Array) -> Array:
    """Return quaternions (n, 4) of rotation vectors (n, 3)."""
    angle = np.linalg.norm(vectors, axis=1, keepdims=True)
    axis = vectors / np.maximum(angle, 1e-12)
    return np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * axis], axis=1)
