"""Running and cutting with impacts on the shanks: sessions of an athlete, healthy or on the way back from an injury.

A step is a contact, in which half a sine of vertical force carries the body, and a flight, in which the body falls
freely. Thigh and knee follow the step; each contact rings the shank (peak tibial acceleration), less the thigh and the
pelvis. A cut is a contact with more force and a turn of the heading. Ranges: stride 1.25 to 1.5 Hz, contact 0.2 to
0.28 s, peak tibial acceleration 5 to 12 g at 3.3 m/s (Sheerin et al. 2019, Milner et al. 2006).

Deviations from a real runner: rigid segments in the sagittal plane, sinusoidal thighs, no arms, the same ground.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.body import Motion, stream
from kinedge.training.courses import acceleration, limb, moves, ring, wander
from kinedge.training.donning import Donning, wear
from kinedge.training.loss_traces import LossModel
from kinedge.training.perturb import SIDES
from kinedge.training.rotations import about, multiply, rotate
from kinedge.training.simulate import ImuModel, sense
from kinedge.training.trends import Fatigue, Recovery
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["RUN_SENSORS", "RunConfig", "Runner", "Strikes", "simulate_run", "strikes"]

Array = NDArray[np.float64]
RUN_SENSORS: Final = ("shank_left", "shank_right", "thigh_left", "thigh_right", "lower_back")
_SHARE: Final = {"shank": 1.0, "thigh": 0.45, "lower": 0.2}  # of the shank's impact that comes through
_RING_HZ: Final = 22.0
_RING_DECAY_S: Final = 0.014
_CUT_FORCE: Final = 1.5


@dataclass(frozen=True)
class Runner:
    """How one person runs at 3.3 m/s; angles in rad."""

    stride_hz: float
    contact_s: float
    impact_g: float
    impact_sd: float
    thigh: float
    lean: float
    knee_swing: float
    unevenness: float
    thigh_m: float
    shank_m: float

    @classmethod
    def draw(cls, seed: int) -> Runner:
        """Draw an athlete; ``unevenness`` is the natural difference of the legs' impacts, as a share."""
        rng = stream("runner", seed)
        height_m = rng.normal(1.74, 0.09)
        return cls(
            stride_hz=rng.uniform(1.28, 1.48),
            contact_s=rng.uniform(0.21, 0.26),
            impact_g=rng.uniform(5, 12),
            impact_sd=rng.uniform(0.08, 0.15),
            thigh=np.deg2rad(rng.uniform(28, 38)),
            lean=np.deg2rad(rng.uniform(4, 10)),
            knee_swing=np.deg2rad(rng.uniform(75, 100)),
            unevenness=float(np.clip(rng.normal(0, 0.03), -0.08, 0.08)),
            thigh_m=0.245 * height_m,
            shank_m=0.2 * height_m,
        )


@dataclass(frozen=True)
class RunConfig:
    """One session of one athlete.

    Parameters
    ----------
    sensors
        Some of :data:`RUN_SENSORS`, in column order.
    day
        Of the recovery; another day has other fits of the sensors.
    speed_m_s
        Impacts and pace grow with it.
    cuts_per_min
        Sharp turns.
    injured
        ``left``, ``right``, or None. The injured leg's impacts are lower by the deficit as a share, its contacts
        shorter by a third of it.
    recovery, fatigue
        Courses of the deficit over days; of pace and, turned round, of the impacts over the hours of a session.
    imu
        Of thighs and back; the shanks' sensors have twice its acceleration range (+-32 g beside +-16 g).

    Raises
    ------
    ConfigError
        A number makes no sense.
    """

    sensors: tuple[str, ...] = RUN_SENSORS
    rate_hz: float = 400.0
    duration_s: float = 60.0
    subject_seed: int = 0
    day: int = 0
    session_seed: int = 0
    speed_m_s: float = 3.3
    cuts_per_min: float = 0.0
    injured: str | None = None
    recovery: Recovery = field(default_factory=lambda: Recovery(0.3, 0.03, 30.0, 0.01))
    fatigue: Fatigue = field(default_factory=lambda: Fatigue(0.1, 0.75))
    imu: ImuModel = field(default_factory=lambda: ImuModel(acc_range_m_s2=16 * STANDARD_GRAVITY_M_S2, donning_deg=0.0))
    donning: Donning = field(default_factory=Donning)
    loss: LossModel | None = None

    def __post_init__(self) -> None:
        if not self.sensors or len(set(self.sensors)) != len(self.sensors) or not set(self.sensors) <= set(RUN_SENSORS):
            raise ConfigError(f"sensors must be some of {', '.join(RUN_SENSORS)}, each once, got {self.sensors}")
        if not (50 <= self.rate_hz <= 2000 and 1 <= self.duration_s <= 7200):
            raise ConfigError(
                f"rate_hz must lie in [50, 2000], duration_s in [1, 7200], got {self.rate_hz}, {self.duration_s}"
            )
        if min(self.subject_seed, self.session_seed, self.day) < 0:
            raise ConfigError("seeds and day must not be negative")
        if not (1.8 <= self.speed_m_s <= 8 and 0 <= self.cuts_per_min <= 20):
            raise ConfigError(
                "speed must lie in [1.8, 8] m/s and cuts in [0, 20] a minute, "
                f"got {self.speed_m_s}, {self.cuts_per_min}"
            )
        if self.injured not in (None, *SIDES):
            raise ConfigError(f"injured must be left, right or None, got {self.injured!r}")


@dataclass(frozen=True, eq=False)
class Strikes:
    """What is true of every contact, in order of time.

    Parameters
    ----------
    time_s : (n,)
        Initial contact.
    contact_s : (n,)
        Until toe-off.
    peak_m_s2 : (n,)
        Of the impact at the shank, without what the movement of the leg adds.
    right : (n,) bool
    cut_rad : (n,)
        Turn of the heading in this contact; 0 in a straight step.
    deficit
        Of the injured leg on this day.
    """

    time_s: Array
    contact_s: Array
    peak_m_s2: Array
    right: NDArray[np.bool_]
    cut_rad: Array
    deficit: float


def strikes(config: RunConfig) -> Strikes:
    """Return the contacts of a session, without simulating it."""
    runner = Runner.draw(config.subject_seed)
    rng = stream("strikes", config.subject_seed, config.session_seed, config.day)
    deficit = 0.0
    if config.injured is not None:
        deficit = config.recovery.deficit(config.day, stream("deficit", config.subject_seed, config.day))
    speed = config.speed_m_s / 3.3
    n_max = int(config.duration_s * 2 * runner.stride_hz * speed**0.3 * 1.3) + 4
    tired = np.array([config.fatigue.lost(i / (2 * runner.stride_hz) / 3600) for i in range(n_max)])
    step_s = 1 / (2 * runner.stride_hz * speed**0.3) * (1 + 0.5 * tired) * (1 + rng.normal(0, 0.015, n_max))
    time = rng.uniform(0.05, 0.3) + np.cumsum(step_s) - step_s[0]
    right = (np.arange(n_max) + int(rng.integers(0, 2))) % 2 == 1
    hurt = right == (config.injured == "right") if config.injured else np.zeros(n_max, bool)
    contact = runner.contact_s / speed**0.5 * (1 + rng.normal(0, 0.02, n_max)) * (1 - deficit / 3 * hurt)
    peak = runner.impact_g * speed**1.2 * rng.lognormal(0, runner.impact_sd, n_max) * (1 + 1.5 * tired)
    peak *= 1 + np.where(right, runner.unevenness, -runner.unevenness) / 2
    peak *= 1 - deficit * hurt
    cutting = rng.random(n_max) < config.cuts_per_min / 60 * step_s
    # one turns away from the planted leg
    turn = np.deg2rad(rng.uniform(40, 90, n_max)) * np.where(right, 1, -1) * cutting
    peak *= np.where(cutting, _CUT_FORCE, 1.0)
    contact = np.minimum(contact * np.where(cutting, 1.25, 1.0), 0.9 * step_s)
    inside = time < config.duration_s
    return Strikes(
        time[inside], contact[inside], peak[inside] * STANDARD_GRAVITY_M_S2, right[inside], turn[inside], deficit
    )


def simulate_run(config: RunConfig) -> Recording:
    """Simulate one session of running.

    Returns
    -------
    Recording
        Labels ``activity:run`` and, over it, ``activity:cut`` from contact to toe-off. ``notes`` tell the injured side
        and the deficit.
    """
    hits = strikes(config)
    n = round(config.duration_s * config.rate_hz)
    seeds = (config.subject_seed, config.session_seed * 10_000 + config.day)
    values = np.empty((n, 6 * len(config.sensors)), np.float32)
    valid = np.ones(values.shape, bool)
    trouble = config.loss.draw_trouble(stream("trouble", *seeds)) if config.loss else 0.0
    for i, (sensor, motion) in enumerate(_motions(config, hits, n).items()):
        wide = 2.0 if sensor.startswith("shank") else 1.0
        imu = replace(config.imu, acc_range_m_s2=wide * config.imu.acc_range_m_s2)
        worn = wear(motion, config.donning.draw(stream(f"donning {sensor}", *seeds)), rate_hz=config.rate_hz)
        columns = slice(6 * i, 6 * i + 6)
        values[:, columns] = sense(worn, imu, sensor=sensor, rate_hz=config.rate_hz, seeds=seeds)
        if config.loss is not None:
            arrived = config.loss.draw(stream(f"radio {sensor}", *seeds), n, trouble=trouble)
            valid[:, columns] = arrived[:, None]
    labels = [Region(0, n, "activity:run")]
    for at, contact, turn in zip(hits.time_s, hits.contact_s, hits.cut_rad, strict=True):
        start, end = round(at * config.rate_hz), min(n, round((at + contact) * config.rate_hz))
        if turn and start < end:
            labels.append(Region(start, end, "activity:cut"))
    return Recording(
        sensors=tuple(SensorSpec(name) for name in config.sensors),
        rate_hz=config.rate_hz,
        values=values,
        valid=valid,
        labels=tuple(labels),
        subject=f"run{config.subject_seed}",
        session=f"run{config.subject_seed}-{config.day}-{config.session_seed}",
        source="kinedge simulator: running",
        notes={"injured": config.injured or "none", "deficit": f"{hits.deficit:.3f}"},
    )


def _motions(config: RunConfig, hits: Strikes, n: int) -> dict[str, Motion]:
    """Return the motion of each sensor's segment, in a world with x forward at the start, z up."""
    runner, rate = Runner.draw(config.subject_seed), config.rate_hz
    t = np.arange(n) / rate
    rng = stream("run posture", config.subject_seed, config.session_seed, config.day)
    heading = moves(t, hits.time_s, hits.contact_s, np.cumsum(hits.cut_rad), initial=0.0)
    body = _carried(t, hits)
    phase = _phases(t, hits)
    lean = runner.lean + wander(rng, t, every_s=2.0, sd=np.deg2rad(0.8))
    yaw = np.deg2rad(6.0) * np.sin(phase["left"])
    cos, sin = np.cos(heading), np.sin(heading)
    motions = {}
    for sensor in config.sensors:
        place, _, side = sensor.partition("_")
        jolt = np.zeros(n)
        for leg in SIDES:
            own = hits.right == (leg == "right")
            if side in (leg, "back"):
                share = _SHARE[place]
                jolt += ring(t, hits.time_s[own], hits.peak_m_s2[own] * share, rate, hz=_RING_HZ, decay_s=_RING_DECAY_S)
        if place == "lower":
            segment = multiply(about("z", yaw), about("y", lean))
            local = np.zeros((n, 3))
        else:
            own_rng = stream(f"run leg {side}", config.subject_seed, config.session_seed, config.day)
            segment, local = _leg(runner, phase[side], t, place, own_rng)
        turned = np.stack(
            [cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1], local[:, 2]], 1
        )
        acc = acceleration(turned, rate) + body
        orientation = multiply(about("z", heading), segment)
        # the impact runs along the segment
        acc += rotate(orientation, np.stack([-0.3 * jolt, np.zeros(n), jolt], axis=1))
        motions[sensor] = Motion(orientation, acc)
    return motions


def _carried(t: Array, hits: Strikes) -> Array:
    """Return the body's acceleration (n, 3): half a sine of force in contact, free fall in flight, inward in a cut."""
    vertical = np.full(len(t), -STANDARD_GRAVITY_M_S2)
    side = np.zeros((len(t), 2))
    step_s = np.diff(hits.time_s, append=hits.time_s[-1] + np.median(np.diff(hits.time_s)))
    which = np.searchsorted(hits.time_s, t, side="right") - 1
    known = which >= 0
    at = np.maximum(which, 0)
    s = (t - hits.time_s[at]) / hits.contact_s[at]
    push = np.where(known & (s < 1), np.sin(np.pi * np.clip(s, 0, 1)), 0.0)
    # over a step, the force carries the weight exactly
    vertical += push * (np.pi / 2) * STANDARD_GRAVITY_M_S2 * (step_s / hits.contact_s)[at]
    vertical[~known] = 0.0
    turn = hits.cut_rad[at] * known
    before = np.concatenate([[0.0], np.cumsum(hits.cut_rad)])[at]
    inward = before + turn / 2 + np.sign(turn) * np.pi / 2
    strength = np.abs(np.sin(turn / 2)) * 2 * 3.3 / hits.contact_s[at] * (np.pi / 2) * push
    side[:, 0], side[:, 1] = strength * np.cos(inward), strength * np.sin(inward)
    return np.column_stack([side, vertical])


def _phases(t: Array, hits: Strikes) -> dict[str, Array]:
    """Return the gait phase of each leg: a multiple of 2 pi at each of its contacts, even in between."""
    phases = {}
    for leg in SIDES:
        own = hits.time_s[hits.right == (leg == "right")]
        if len(own) < 2:
            own = np.array([0.0, 0.75]) if not len(own) else np.array([own[0], own[0] + 0.75])
        stride = float(np.median(np.diff(own)))
        knots = np.concatenate([[own[0] - stride], own, [own[-1] + stride * 2]])
        turns = np.concatenate([[-1.0], np.arange(len(own)), [len(own) + 1.0]])
        phases[leg] = 2 * np.pi * np.interp(t, knots, turns)
    return phases


def _leg(runner: Runner, phase: Array, t: Array, place: str, rng: np.random.Generator) -> tuple[Array, Array]:
    vary = 1 + wander(rng, t, every_s=1.5, sd=0.02)
    thigh = np.deg2rad(8.0) + runner.thigh * vary * np.cos(phase + 0.6)
    stance = np.deg2rad(28.0) * np.exp(6.0 * (np.cos(phase - 2 * np.pi * 0.15) - 1))
    swing = runner.knee_swing * np.exp(2.2 * (np.cos(phase - 2 * np.pi * 0.66) - 1))
    shank = thigh - (np.deg2rad(12.0) + stance + swing)
    straight = np.zeros(len(t))
    flexion = thigh if place == "thigh" else shank
    local = limb(thigh, straight, runner.thigh_m * (0.6 if place == "thigh" else 1.0))
    if place == "shank":
        local = local + limb(shank, straight, 0.7 * runner.shank_m)
    return about("y", -flexion), local
