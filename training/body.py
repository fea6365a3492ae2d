"""A moving body: angles of pelvis, arms and legs over time, and from them orientation and acceleration of each sensor.

World: x forward at the start, y left, z up. A segment's own frame agrees with it when the body stands and the limb
hangs. Limbs flex forward: the direction of a limb with flexion f and turn w is (sin f cos w, sin f sin w, -cos f).

Deviations from a real body: rigid segments, no stance constraint (feet may slide by centimetres), pelvis waves and
knee course are sinusoids and two von Mises bumps after textbook curves (Perry & Burnfield 2010, chapters 3-7).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.recording import Region
from kinedge.training.courses import acceleration, limb, min_jerk, moves, ring, wander
from kinedge.training.perturb import SIDES, Drive
from kinedge.training.rotations import about, multiply

__all__ = ["ACTIVITIES", "BLEND_S", "Motion", "Subject", "move", "stream"]

Array = NDArray[np.float64]
ACTIVITIES: Final = ("rest", "gait", "arm")
BLEND_S: Final = 1.0  # from one activity to the next
_SIGN: Final = {"left": 1.0, "right": -1.0}
# Peak of the heel strike at the sensor, share of that at the ankle (same leg); higher up the body damps it.
_IMPACT_SHARE: Final = {"ankle": 1.0, "lower_back": 0.2, "wrist": 0.06}


def stream(tag: str, *seeds: int) -> np.random.Generator:
    """Return a generator of its own for each purpose: adding a sensor or an anomaly changes no other draw."""
    return np.random.default_rng([*seeds, zlib.crc32(tag.encode())])


@dataclass(frozen=True)
class Motion:
    """What a sensor's mounting point does, free of any sensor error.

    Parameters
    ----------
    orientation : (n, 4)
        Unit quaternions, segment to world.
    acc_world : (n, 3)
        Linear acceleration in m/s^2, without gravity.
    """

    orientation: Array
    acc_world: Array


@dataclass(frozen=True)
class Subject:
    """How one person moves; angles in rad, lengths in m."""

    stride_hz: float
    speed_m_s: float
    swing: dict[str, float]
    elbow: float
    elbow_swing: float
    thigh: float
    knee: float
    bounce_m: float
    sway_m: float
    impact_m_s2: float
    unevenness: float
    dominant: str
    reach_s: float
    upper_arm_m: float
    forearm_m: float
    thigh_m: float
    shank_m: float

    @classmethod
    def draw(cls, seed: int) -> Subject:
        """Draw a healthy adult; ranges are those of textbooks for self-chosen speed."""
        rng = stream("subject", seed)
        height_m = rng.normal(1.71, 0.09)
        stride_hz = rng.uniform(0.82, 1.02)
        swing = np.deg2rad(rng.uniform(9, 22))
        skew = rng.uniform(-0.2, 0.2)
        return cls(
            stride_hz=stride_hz,
            speed_m_s=stride_hz * 0.78 * height_m * rng.uniform(0.95, 1.05),
            swing={"left": swing * (1 + skew), "right": swing * (1 - skew)},
            elbow=np.deg2rad(rng.uniform(12, 30)),
            elbow_swing=np.deg2rad(rng.uniform(6, 16)),
            thigh=np.deg2rad(rng.uniform(16, 23)),
            knee=np.deg2rad(rng.uniform(46, 58)),
            bounce_m=rng.uniform(0.012, 0.022),
            sway_m=rng.uniform(0.012, 0.025),
            impact_m_s2=rng.uniform(18, 38),
            unevenness=rng.uniform(-0.08, 0.08),
            dominant="right" if rng.random() < 0.9 else "left",
            reach_s=rng.uniform(0.7, 1.1),
            upper_arm_m=0.186 * height_m,
            forearm_m=0.13 * height_m,
            thigh_m=0.245 * height_m,
            shank_m=0.2 * height_m,
        )


def _weights(t: Array, bouts: tuple[Region, ...]) -> dict[str, Array]:
    """Share of each activity at each sample: sums to one, blends over :data:`BLEND_S` from the start of a bout."""
    weights = {activity: np.zeros(len(t)) for activity in ACTIVITIES}
    for bout in bouts:
        weights[bout.label][bout.start : bout.end] = 1.0
    for before, bout in pairwise(bouts):
        blend = slice(bout.start, min(bout.end, int(np.searchsorted(t, t[bout.start] + BLEND_S))))
        rise = min_jerk((t[blend] - t[bout.start]) / BLEND_S)
        weights[before.label][blend] += 1 - rise
        weights[bout.label][blend] += rise - 1
    return weights


def _arm_movements(rng: np.random.Generator, clock: Array, subject: Subject, *, duration_s: float) -> dict[str, Array]:
    """Return (n, 4) per side: shoulder flexion, elbow flexion, turn inward, pronation of reaches and their returns."""
    n_moves = int(np.ceil(duration_s / (0.6 * subject.reach_s))) + 1
    durations = subject.reach_s * rng.uniform(0.7, 1.5, n_moves)
    starts = np.cumsum(rng.gamma(2.0, 0.35, n_moves)) + np.cumsum(durations) - durations
    who = rng.choice(3, n_moves, p=[0.5, 0.22, 0.28])  # dominant arm, other arm, both
    home = np.deg2rad([10.0, 75.0, 15.0, 60.0])
    spread = np.deg2rad([22.0, 28.0, 22.0, 30.0])
    shared = rng.normal(0, 1, (n_moves, 4))
    courses = {}
    for side in SIDES:
        own = rng.normal(0, 1, (n_moves, 4))
        goals = home + spread * np.where(who[:, None] == 2, 0.9 * shared + 0.3 * own, own)
        goals[:, 0] = np.abs(goals[:, 0])
        goals[:, 1] = np.clip(goals[:, 1], np.deg2rad(5), np.deg2rad(140))
        goals = np.where(rng.random(n_moves)[:, None] < 0.35, home, goals)
        takes_part = (who == 2) | (who == (0 if side == subject.dominant else 1))
        # An arm that rests keeps its goal; its next own movement starts there.
        last = np.maximum.accumulate(np.where(takes_part, np.arange(n_moves), -1))
        goals = np.where(last[:, None] >= 0, goals[np.maximum(last, 0)], home)
        courses[side] = np.stack(
            [moves(clock, starts, durations, goals[:, j], initial=float(home[j])) for j in range(4)], axis=1
        )
    return courses


def _turns(rng: np.random.Generator, clock: Array, gait: Array, *, duration_s: float) -> Array:
    """Return the heading: turns of 45 to 180 degrees every 8 s or so, while walking."""
    starts = np.cumsum(rng.uniform(5.0, 12.0, int(duration_s / 5.0) + 2))
    angles = rng.choice([-1, 1], len(starts)) * np.deg2rad(rng.choice([45, 90, 180], len(starts), p=[0.3, 0.4, 0.3]))
    walking = np.interp(starts, clock, gait) > 0.5
    durations = 1.0 + np.abs(angles) / 2.0
    headings: Array = np.cumsum(angles * walking)
    return moves(clock, starts, durations, headings, initial=0.0)


def _knee(phase: Array, subject: Subject) -> Array:
    """Knee flexion over the gait cycle (0 is heel strike): a small bump in stance, a large one in swing."""
    stance = np.deg2rad(13.0) * np.exp(8.0 * (np.cos(phase - 2 * np.pi * 0.14) - 1))
    swing = subject.knee * np.exp(2.6 * (np.cos(phase - 2 * np.pi * 0.73) - 1))
    flexion: Array = np.deg2rad(5.0) + stance + swing
    return flexion


@dataclass(frozen=True)
class _Gait:
    """The gait cycle: phase per leg, and heel strikes as (times in s, relative peaks) per leg."""

    phase: dict[str, Array]
    strikes: dict[str, tuple[Array, Array]]


def _gait(rng: np.random.Generator, drive: Drive, subject: Subject, clock: Array, gait: Array, rate_hz: float) -> _Gait:
    stride_hz = subject.stride_hz * (1 + rng.normal(0, 0.02) + wander(rng, clock, every_s=2.5, sd=0.02))
    both = np.cumsum(2 * np.pi * stride_hz * drive.pace * drive.cadence) / rate_hz + rng.uniform(0, 2 * np.pi)
    shift = {"left": 0.0, "right": np.pi + subject.unevenness}
    phase = {side: both + shift[side] - drive.late[side] for side in SIDES}
    strikes = {}
    for side, own in zip(SIDES, rng.spawn(2), strict=True):
        strides = phase[side] / (2 * np.pi)
        hit = np.flatnonzero(np.floor(strides[1:]) > np.floor(strides[:-1]))
        share = (np.floor(strides[hit + 1]) - strides[hit]) / (strides[hit + 1] - strides[hit])
        effort = gait * drive.leg[side] ** 2
        strikes[side] = ((hit + share) / rate_hz, effort[hit] * own.lognormal(0.0, 0.15, len(hit)))
    return _Gait(phase, strikes)


def move(
    drive: Drive,
    subject: Subject,
    *,
    bouts: tuple[Region, ...],
    sensors: tuple[str, ...],
    rate_hz: float,
    seeds: tuple[int, int],
    reaches: dict[str, Array] | None = None,
    sits: Array | None = None,
) -> dict[str, Motion]:
    """Move the body through its bouts of activity.

    Parameters
    ----------
    drive
        With its perturbations applied.
    bouts
        Labelled with one of :data:`ACTIVITIES`, without gaps.
    seeds
        Of subject and session.
    reaches
        Arm movements (n, 4) per side in place of drawn ones: shoulder flexion, elbow flexion, turn inward, pronation.
    sits
        Per bout, 1 where the person sits, in place of drawn ones.

    Returns
    -------
    dict
        Motion of each sensor's segment.
    """
    t, n = drive.t, len(drive.t)
    weight = _weights(t, bouts)
    walk = weight["gait"]
    clock = np.cumsum(drive.pace) / rate_hz
    gait = _gait(stream("gait", *seeds), drive, subject, clock, walk, rate_hz)
    # Draws are counted in real time, not on the body's clock: an anomaly changes nothing before it begins.
    duration_s = n / rate_hz
    heading = _turns(stream("turns", *seeds), clock, walk, duration_s=duration_s)
    reaches = reaches or _arm_movements(stream("reaches", *seeds), clock, subject, duration_s=duration_s)
    rng = stream("posture", *seeds)
    starts = np.array([b.start / rate_hz for b in bouts])
    if sits is None:
        sits = np.array([b.label != "gait" and rng.random() < 0.6 for b in bouts], dtype=np.float64)
    sitting = moves(t, starts, np.full(len(starts), BLEND_S), sits, initial=float(sits[0]))
    zero = np.zeros(n)

    # The pelvis: waves of walking, a little sway, breathing.
    left, right = gait.phase["left"], gait.phase["right"]
    breath = np.deg2rad(0.5) * np.sin(2 * np.pi * 0.25 * clock)
    lean = np.deg2rad(3 + 5 * sitting) + breath + wander(rng, clock, every_s=3.0, sd=np.deg2rad(0.8)) + drive.pitch
    strength = walk * (drive.leg["left"] + drive.leg["right"]) / 2
    pelvis = {
        "yaw": np.deg2rad(4.0) * strength * np.sin(left),
        "pitch": lean + np.deg2rad(1.5) * strength * np.cos(2 * left),
        "roll": np.deg2rad(3.5) * walk * (drive.leg["left"] * np.sin(left) - drive.leg["right"] * np.sin(right)) / 2,
    }
    place = np.stack(
        [
            0.008 * strength * np.sin(2 * left),
            subject.sway_m * strength * np.sin(left),
            subject.bounce_m * strength * np.cos(2 * left - 0.8),
        ],
        axis=1,
    )
    speed = walk * subject.speed_m_s * drive.pace * drive.cadence
    velocity = np.stack([speed * np.cos(heading), speed * np.sin(heading), zero], axis=1)
    common = np.gradient(velocity, axis=0) * rate_hz if n > 1 else np.zeros((n, 3))
    common[:, 2] += drive.fall_m_s2

    motions = {}
    for sensor in sensors:
        side = sensor.rpartition("_")[2]
        own = stream(f"posture {sensor}", *seeds)
        if sensor == "lower_back":
            segment = multiply(
                multiply(about("z", pelvis["yaw"]), about("y", pelvis["pitch"])), about("x", pelvis["roll"])
            )
            position = place
        elif sensor.startswith("wrist"):
            segment, position = _arm(drive, subject, gait, reaches[side], weight, sitting, side, own, clock)
            position = position + place
        else:
            segment, position = _leg(drive, subject, gait, walk, sitting, side, own, clock)
            position = position + place
        upright = multiply(about("y", drive.lying * np.deg2rad(85.0)), segment)
        orientation = multiply(about("z", heading), upright)
        cos, sin = np.cos(heading), np.sin(heading)
        turned = np.stack(
            [cos * position[:, 0] - sin * position[:, 1], sin * position[:, 0] + cos * position[:, 1], position[:, 2]],
            axis=1,
        )
        acc = acceleration(turned, rate_hz) + common
        jolt = _jolt(drive, gait, subject, sensor, side, rate_hz)
        acc += np.stack([-0.4 * jolt * cos, -0.4 * jolt * sin, jolt], axis=1)
        motions[sensor] = Motion(orientation, acc)
    return motions


def _jolt(drive: Drive, gait: _Gait, subject: Subject, sensor: str, side: str, rate_hz: float) -> Array:
    """Return the impacts (n,) that reach a sensor, in m/s^2."""
    share = _IMPACT_SHARE[sensor if sensor == "lower_back" else sensor.partition("_")[0]]
    total = np.zeros(len(drive.t))
    for leg, (times, peaks) in gait.strikes.items():
        if sensor.startswith("ankle") and leg != side:
            continue  # the other foot's impact dies in the hips
        total += ring(drive.t, times, peaks * share * subject.impact_m_s2, rate_hz)
    if drive.impacts:
        times, peaks = (np.array(column) for column in zip(*drive.impacts, strict=True))
        total += ring(drive.t, times, peaks, rate_hz)
    return total


def _arm(
    drive: Drive,
    subject: Subject,
    gait: _Gait,
    reach: Array,
    weight: dict[str, Array],
    sitting: Array,
    side: str,
    rng: np.random.Generator,
    clock: Array,
) -> tuple[Array, Array]:
    other = gait.phase["right" if side == "left" else "left"]
    amplitude = weight["gait"] * drive.swing[side]
    calm = weight["rest"] * drive.reach[side]
    fidget = [wander(rng, clock, every_s=e, sd=np.deg2rad(sd)) for e, sd in ((4.0, 2.0), (3.0, 4.0), (5.0, 5.0))]
    # Reaches scale around their home posture: an arm that is not used stays there.
    home = np.deg2rad([10.0, 75.0, 15.0, 60.0])
    reach = home + (reach - home) * drive.reach[side][:, None]
    arm = weight["arm"]
    down = 1 - sitting  # resting arms hang when standing and lie on the lap when sitting
    variation = 1 + wander(rng, clock, every_s=2.0, sd=0.06)
    shoulder = (
        amplitude * subject.swing[side] * variation * np.cos(other + 0.2)
        + weight["rest"] * np.deg2rad(4 + 8 * sitting)
        + calm * fidget[0]
        + arm * reach[:, 0]
    )
    elbow = (
        weight["gait"] * subject.elbow
        + amplitude * subject.elbow_swing * variation * (0.5 + 0.5 * np.cos(other - 0.3))
        + weight["rest"] * (np.deg2rad(10) * down + np.deg2rad(70) * sitting)
        + calm * fidget[1]
        + arm * reach[:, 1]
        + drive.flexion[side]
    )
    inward = -_SIGN[side] * (arm * reach[:, 2] + weight["rest"] * np.deg2rad(20) * sitting + np.deg2rad(3))
    pronation = arm * reach[:, 3] + weight["rest"] * np.deg2rad(50) * sitting + calm * fidget[2] + np.deg2rad(20)
    shaking = drive.tremor[side]
    if shaking.any():
        angle = 2 * np.pi * 5.0 * drive.t + wander(rng, drive.t, every_s=0.7, sd=0.6)
        pronation = pronation + shaking * np.sin(angle)
        elbow = elbow + 0.5 * shaking * np.sin(angle + 0.9)
    forearm = shoulder + elbow
    segment = multiply(multiply(about("z", inward), about("y", -forearm)), about("z", _SIGN[side] * pronation))
    position = limb(shoulder, inward * 0.3, subject.upper_arm_m) + limb(forearm, inward, subject.forearm_m)
    return segment, position


def _leg(
    drive: Drive,
    subject: Subject,
    gait: _Gait,
    walk: Array,
    sitting: Array,
    side: str,
    rng: np.random.Generator,
    clock: Array,
) -> tuple[Array, Array]:
    phase = gait.phase[side]
    amplitude = walk * drive.leg[side]
    still = wander(rng, clock, every_s=5.0, sd=np.deg2rad(0.6))
    variation = 1 + wander(rng, clock, every_s=2.0, sd=0.03)
    thigh = amplitude * variation * (np.deg2rad(6.0) + subject.thigh * np.cos(phase + 0.3)) + still
    thigh = thigh + np.deg2rad(80.0) * sitting
    knee = amplitude * variation * _knee(phase, subject) + np.deg2rad(82.0) * sitting
    shank = thigh - knee
    if drive.shake.any():
        # Trembling in place wanders between 3 and 8 Hz, the freeze band (Moore 2008).
        hz = np.clip(5.5 + wander(rng, drive.t, every_s=1.0, sd=1.0), 3.0, 8.0)
        trembling = np.sin(np.cumsum(2 * np.pi * hz) * (drive.t[1] - drive.t[0] if len(drive.t) > 1 else 0.0))
        shank = shank + drive.shake * trembling
    toe_out = np.full(len(clock), _SIGN[side] * np.deg2rad(6.0))
    roll = _SIGN[side] * np.deg2rad(2.0) * amplitude * np.sin(phase)
    segment = multiply(multiply(about("z", toe_out), about("y", -shank)), about("x", roll))
    position = limb(thigh, toe_out, subject.thigh_m) + limb(shank, toe_out, subject.shank_m)
    return segment, position
