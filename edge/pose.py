"""How a sensor sits, from still poses that a person takes, or is helped into: for people who do not walk.

Two poses in which a limb points otherwise give two directions of gravity in a sensor's own frame. The rotation that
takes today's pair to the pair of the same poses at enrolment is Wahba's problem; its covariance is that of QUEST. No
movement of the person's own is needed: somebody may lay the arm or the leg there. Which way the person faces does not
matter, and nothing but gravity is measured.

What limits it is how alike a pose is taken. That is estimated: six degrees per axis before anything was seen, brought
together with how far repetitions of a pose lie apart, and with whether the angle between the poses, which no mounting
can change, is that of the enrolment. Half of the variance is taken to be of the day, so that repeating helps only so
far.

Source: Shuster & Oh, "Three-axis attitude determination from vector observations", Journal of Guidance and Control 4
(1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.orientation import Alignment, angle_of, rotation_between
from kinedge.errors import SignalError
from kinedge.signals import Quantity, SensorSpec, quantity_of
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = [
    "HOLD_S",
    "MAX_POSE_ERROR_RAD",
    "POSES",
    "STEP_S",
    "Held",
    "PoseAlignment",
    "PoseFrames",
    "StillWatch",
    "Why",
    "align_poses",
    "frames_of_poses",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

Why: TypeAlias = Literal[
    "", "no_data", "moving", "drifting", "not_gravity", "same_direction", "other_pose", "not_enrolled", "uncertain"
]
"""Why a sensor was not held still, or could not be turned; empty where nothing is wrong."""

POSES: Final = ("down", "table")
"""Sitting: arms hang down, feet flat on the floor; forearms on the table, palms down, legs stretched on their heels."""

HOLD_S: Final = 5.0
STEP_S: Final = 0.5
_N_STEPS: Final = round(HOLD_S / STEP_S)
_GRAVITY_OFF_M_S2: Final = 0.6  # of an accelerometer that nobody calibrated
_MAX_SD_M_S2: Final = 0.4  # of each axis within half a second
_MAX_SD_RAD_S: Final = 0.2
_MAX_DRIFT_RAD: Final = float(np.deg2rad(4.0))  # of any half second from the mean of all
_FLOOR_RAD: Final = float(np.deg2rad(0.7))  # bias and gain of an accelerometer
_POSE_SD_RAD: Final = float(np.deg2rad(6.0))  # per axis, of one taking of a pose, before anything was seen
_PRIOR_WEIGHT: Final = 4.0
_MIN_APART_RAD: Final = float(np.deg2rad(20.0))
_MAX_DISAGREEMENT_RAD: Final = float(np.deg2rad(25.0))
MAX_POSE_ERROR_RAD: Final = float(np.deg2rad(15.0))


@dataclass(frozen=True, eq=False)
class Held:
    """What the sensors of one person showed while a pose was held.

    Parameters
    ----------
    gravity : (n_sensors, 3)
        Unit vectors in the sensors' own frames; NaN where a sensor was not still.
    scatter_rad : (n_sensors,)
        How far half seconds lie from their mean.
    why : n_sensors codes
        Why a sensor was not still; empty where it was.
    """

    gravity: F64
    scatter_rad: F64
    why: tuple[Why, ...]

    @property
    def ok(self) -> Mask:
        """(n_sensors,): which sensors were still."""
        return np.asarray(np.isfinite(self.gravity).all(axis=1), bool)


@dataclass(frozen=True, eq=False)
class PoseFrames:
    """Gravity in each pose, in the sensors' own frames.

    Parameters
    ----------
    gravity : (n_poses, n_sensors, 3)
        Unit vectors; zeros where a pose was not held.
    error_rad : (n_poses, n_sensors)
        Standard error per axis; infinite where it was not held.
    n_held : (n_poses, n_sensors)
        How often it was held.
    """

    gravity: F64
    error_rad: F64
    n_held: F64

    @property
    def usable(self) -> Mask:
        """(n_sensors,): which sensors were held in poses that lie far enough apart."""
        return np.array([_apart(self, i) >= _MIN_APART_RAD for i in range(self.gravity.shape[1])], bool)

    def apart_rad(self, sensor: int) -> float:
        """Return the widest angle between two poses of a sensor; 0 where fewer than two were held."""
        return _apart(self, sensor)


@dataclass(frozen=True, eq=False)
class PoseAlignment:
    """From today's poses to those of an enrolment, with the reason where a sensor could not be turned."""

    alignment: Alignment
    why: tuple[Why, ...]


class StillWatch:
    """Looks whether sensors are held still, half second by half second; what they show then is gravity.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the samples.

    Raises
    ------
    SignalError
        Half a second has fewer than four samples.
    """

    def __init__(self, sensors: Sequence[SensorSpec], *, rate_hz: float) -> None:
        self._n = round(STEP_S * rate_hz)
        if self._n < 4:
            raise SignalError(f"poses need at least 8 samples a second, got {rate_hz:g}")
        self._columns: list[tuple[list[int], list[int]]] = []
        start = 0
        for spec in sensors:
            by: dict[Quantity, list[int]] = {Quantity.ACC: [], Quantity.GYR: []}
            for j, channel in enumerate(spec.channels):
                if (quantity := quantity_of(channel)) in by:
                    by[quantity].append(start + j)
            self._columns.append((by[Quantity.ACC], by[Quantity.GYR]))
            start += spec.n_channels
        self._rows: list[F32] = []
        self._n_rows = 0
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        n = len(self._columns)
        self._rows, self._n_rows = [], 0
        self._means: list[list[F64]] = [[] for _ in range(n)]
        self._best: list[tuple[float, F64] | None] = [None] * n
        self._why: list[Why] = ["no_data"] * n

    @property
    def still_s(self) -> F64:
        """(n_sensors,): how long each has been still on end, up to now, at most ``HOLD_S``."""
        return np.array([len(means) * STEP_S for means in self._means])

    @property
    def why(self) -> tuple[Why, ...]:
        """What is wrong with each sensor just now."""
        return tuple(self._why)

    @property
    def all_held(self) -> bool:
        """Whether every sensor was still for ``HOLD_S``; False where none can be."""
        return bool(self._best) and all(best is not None for best in self._best)

    def add(self, values: F32, valid: Mask) -> None:
        """Take consecutive samples (n, n_channels), as the sensors sit."""
        self._rows.append(np.where(valid, values, np.float32(np.nan)))
        self._n_rows += len(values)
        while self._n_rows >= self._n:
            rows = np.concatenate(self._rows)
            self._look_at(rows[: self._n].astype(np.float64))
            self._rows, self._n_rows = [rows[self._n :]], self._n_rows - self._n

    def held(self) -> Held:
        """Return the quietest ``HOLD_S`` of each sensor so far."""
        known = [b is not None for b in self._best]
        gravity = np.array([np.full(3, np.nan) if b is None else b[1] for b in self._best]).reshape(-1, 3)
        scatter = np.array([np.nan if b is None else b[0] for b in self._best])
        why: tuple[Why, ...] = tuple("" if ok else w or "moving" for ok, w in zip(known, self._why, strict=True))
        return Held(gravity, scatter, why)

    def _look_at(self, rows: F64) -> None:
        for i, (acc, gyr) in enumerate(self._columns):
            self._why[i] = why = _step_fault(rows[:, acc], rows[:, gyr])
            if why:
                self._means[i].clear()
                continue
            means = self._means[i]
            means.append(rows[:, acc].mean(axis=0))
            del means[:-_N_STEPS]
            if len(means) < _N_STEPS:
                continue
            mean = _unit(np.mean(means, axis=0))
            off = np.array([angle_of(_unit(m), mean) for m in means])
            if off.max() > _MAX_DRIFT_RAD:
                self._why[i] = "drifting"
                del means[0]
                continue
            scatter, best = float(np.sqrt(np.mean(off**2))), self._best[i]
            if best is None or scatter < best[0]:
                self._best[i] = (scatter, mean)


def _step_fault(acc: F64, gyr: F64) -> Why:
    """Say what is wrong with half a second of one sensor."""
    if acc.shape[1] != 3 or not np.isfinite(acc).all() or not np.isfinite(gyr).all():
        return "no_data"
    if acc.std(axis=0).max() > _MAX_SD_M_S2 or (gyr.size and gyr.std(axis=0).max() > _MAX_SD_RAD_S):
        return "moving"
    if abs(float(np.linalg.norm(acc.mean(axis=0))) - STANDARD_GRAVITY_M_S2) > _GRAVITY_OFF_M_S2:
        return "not_gravity"
    return ""


def frames_of_poses(held: Sequence[tuple[int, Held]], *, n_poses: int = len(POSES)) -> PoseFrames:
    """Bring repetitions together.

    Parameters
    ----------
    held
        Number of the pose, and what was seen; in any order.
    n_poses
        How many poses there are.

    Raises
    ------
    SignalError
        Nothing was held, or a number is of no pose.
    """
    if not held or any(not 0 <= pose < n_poses for pose, _ in held):
        raise SignalError(f"poses 0 to {n_poses - 1} are needed, got {sorted({pose for pose, _ in held})}")
    n_sensors = len(held[0][1].gravity)
    gravity, count = np.zeros((n_poses, n_sensors, 3)), np.zeros((n_poses, n_sensors))
    apart, within = np.zeros(n_sensors), np.zeros((n_poses, n_sensors))
    for p in range(n_poses):
        for i in range(n_sensors):
            own = [(h.gravity[i], h.scatter_rad[i]) for pose, h in held if pose == p and h.ok[i]]
            if not own:
                continue
            gravity[p, i], count[p, i] = _unit(np.mean([g for g, _ in own], axis=0)), len(own)
            within[p, i] = float(np.mean([s**2 for _, s in own])) / (2 * len(own))
            apart[i] += sum(angle_of(g, gravity[p, i]) ** 2 for g, _ in own)
    freedom = 2 * np.maximum(count - 1, 0).sum(axis=0)  # two axes of each repetition but the first
    variance = (_PRIOR_WEIGHT * _POSE_SD_RAD**2 + apart) / (_PRIOR_WEIGHT + freedom)
    with np.errstate(divide="ignore"):
        error = np.sqrt(variance * (1 + 1 / count) / 2 + within + _FLOOR_RAD**2)
    return PoseFrames(gravity, error, count)


def align_poses(today: PoseFrames, enrolled: PoseFrames) -> PoseAlignment:
    """Find the rotations that take today's poses to those of the enrolment.

    Raises
    ------
    SignalError
        They are of different poses or sensors.
    """
    if today.gravity.shape != enrolled.gravity.shape:
        raise SignalError(f"poses of shape {today.gravity.shape} cannot be held against {enrolled.gravity.shape}")
    n = today.gravity.shape[1]
    rotation, angle, error = np.tile(np.eye(3), (n, 1, 1)), np.zeros(n), np.full(n, np.inf)
    why: list[Why] = []
    for i in range(n):
        fault = _misfit(today, enrolled, i)
        if not fault:
            rotation[i], error[i] = _turn(today, enrolled, i)
            angle[i] = float(np.arccos(np.clip((np.trace(rotation[i]) - 1) / 2, -1.0, 1.0)))
            fault = "" if error[i] <= MAX_POSE_ERROR_RAD else "uncertain"
        why.append(fault)
    usable = np.array([not w for w in why], bool)
    rotation[~usable] = np.eye(3)
    return PoseAlignment(Alignment(rotation, angle, error, usable), tuple(why))


def _misfit(today: PoseFrames, enrolled: PoseFrames, i: int) -> Why:
    """Say why a sensor's poses of two sessions cannot be held against each other."""
    if (enrolled.n_held[:, i] > 0).sum() < 2 or _apart(enrolled, i) < _MIN_APART_RAD:
        return "not_enrolled"
    both = np.flatnonzero((today.n_held[:, i] > 0) & (enrolled.n_held[:, i] > 0))
    if len(both) < 2:
        return "moving"
    if _apart(today, i) < _MIN_APART_RAD:
        return "same_direction"
    off = [
        abs(
            angle_of(today.gravity[a, i], today.gravity[b, i])
            - angle_of(enrolled.gravity[a, i], enrolled.gravity[b, i])
        )
        for a, b in combinations(both.tolist(), 2)
    ]
    return "other_pose" if max(off) > _MAX_DISAGREEMENT_RAD else ""


def _turn(today: PoseFrames, enrolled: PoseFrames, i: int) -> tuple[F64, float]:
    """Return the rotation (3, 3) of one sensor and its error: the root of the mean square of the angle it is off by."""
    both = np.flatnonzero((today.n_held[:, i] > 0) & (enrolled.n_held[:, i] > 0)).tolist()
    sd = {p: float(np.hypot(today.error_rad[p, i], enrolled.error_rad[p, i])) for p in both}
    turn = rotation_between([(enrolled.gravity[p, i], today.gravity[p, i], sd[p]) for p in both])
    information, misfit = np.zeros((3, 3)), 0.0
    for p in both:
        there, here = enrolled.gravity[p, i], turn @ today.gravity[p, i]
        information += (np.eye(3) - np.outer(there, there)) / sd[p] ** 2
        misfit += (angle_of(there, here) / sd[p]) ** 2
    # whether poses agree with the enrolment says how alike they were taken: 2 n - 3 more facts beside the prior
    scale = (_PRIOR_WEIGHT + misfit) / (_PRIOR_WEIGHT + 2 * len(both) - 3)
    return turn, float(np.sqrt(scale * np.trace(np.linalg.inv(information))))


def _apart(frames: PoseFrames, i: int) -> float:
    known = frames.gravity[frames.n_held[:, i] > 0, i]
    return max((angle_of(a, b) for a, b in combinations(known, 2)), default=0.0)


def _unit(v: F64) -> F64:
    unit: F64 = v / max(float(np.linalg.norm(v)), 1e-12)
    return unit
