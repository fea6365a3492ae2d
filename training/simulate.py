"""Recordings of a simulated person: the body moves, and imperfect sensors with lossy radios watch it.

Orientation drives gyroscope and gravity alike, so the two agree as they do on a body. Everything is drawn from
``subject_seed`` and ``session_seed``: equal configurations give equal samples, and a sensor's samples do not depend
on which other sensors are worn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.body import ACTIVITIES, BLEND_S, Motion, Subject, move, stream
from kinedge.training.donning import Donning, wear
from kinedge.training.loss_traces import LossModel
from kinedge.training.perturb import ALL, SIDES, Drive, Perturbation
from kinedge.training.rotations import angular_rate, conjugate, matrix, multiply, rotate, small_rotation
from kinedge.training.trends import Fatigue
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["ImuModel", "RadioModel", "SimulationConfig", "motions", "mounting", "schedule", "sense", "simulate"]

_MAX_SAMPLES: Final = 20_000_000
_BOUT_S: Final = {"rest": (6.0, 20.0), "gait": (12.0, 45.0), "arm": (10.0, 40.0)}


@dataclass(frozen=True)
class ImuModel:
    """Errors of a consumer MEMS sensor; standard deviations unless said otherwise.

    ``bias_drift`` is a random walk per square root of a minute, as a share of the initial bias. ``range`` is where
    the sensor saturates.
    """

    acc_noise_m_s2_per_sqrt_hz: float = 150e-6 * STANDARD_GRAVITY_M_S2
    gyr_noise_rad_s_per_sqrt_hz: float = math.radians(0.008)
    acc_bias_m_s2: float = 0.06
    gyr_bias_rad_s: float = math.radians(0.4)
    bias_drift: float = 0.1
    scale_error: float = 0.005
    acc_range_m_s2: float = 8 * STANDARD_GRAVITY_M_S2
    gyr_range_rad_s: float = math.radians(2000.0)
    donning_deg: float = 6.0

    @classmethod
    def perfect(cls) -> ImuModel:
        """Return a sensor without any error, mounted exactly."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, math.inf, math.inf, 0.0)


@dataclass(frozen=True)
class RadioModel:
    """Packet loss in bursts (Gilbert-Elliott with a good state that loses nothing and a bad one that loses all)."""

    loss_rate: float = 0.0
    burst_packets: float = 4.0
    packet_samples: int = 5

    def __post_init__(self) -> None:
        if not (0 <= self.loss_rate <= 0.95 and self.burst_packets >= 1 and self.packet_samples >= 1):
            raise ConfigError(
                "loss_rate must lie in [0, 0.95], burst_packets and packet_samples from 1 on, got "
                f"{self.loss_rate}, {self.burst_packets}, {self.packet_samples}"
            )


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate.

    Parameters
    ----------
    sensors
        Any of ``wrist_left``, ``wrist_right``, ``lower_back``, ``ankle_left``, ``ankle_right``, in column order.
    activity_mix
        Relative share of time of ``rest``, ``gait`` and ``arm``.
    perturbations
        Kinematic anomalies; :func:`kinedge.training.anomalies.perturb` adds one.
    tempo
        Pace of everything on this day: 1 as the person usually has it.
    fatigue
        What is lost of pace and reach in the hours of this session.
    donning
        How differently each session's sensors sit; None leaves that to ``imu.donning_deg`` alone.
    loss
        A fitted model of radio loss, in place of ``radio``.

    Raises
    ------
    ConfigError
        A sensor or activity is unknown, or a number makes no sense.
    """

    sensors: tuple[str, ...] = ("wrist_left", "wrist_right")
    rate_hz: float = 50.0
    duration_s: float = 60.0
    subject_seed: int = 0
    session_seed: int = 0
    activity_mix: Mapping[str, float] = field(default_factory=lambda: {"rest": 0.25, "gait": 0.4, "arm": 0.35})
    perturbations: tuple[Perturbation, ...] = ()
    tempo: float = 1.0
    fatigue: Fatigue | None = None
    imu: ImuModel = ImuModel()
    radio: RadioModel = RadioModel()
    donning: Donning | None = None
    loss: LossModel | None = None

    def __post_init__(self) -> None:
        if not self.sensors or len(set(self.sensors)) != len(self.sensors) or not set(self.sensors) <= set(ALL):
            raise ConfigError(f"sensors must be some of {', '.join(ALL)}, each once, got {self.sensors}")
        if not (math.isfinite(self.rate_hz) and 10 <= self.rate_hz <= 2000):
            raise ConfigError(f"rate_hz must lie between 10 and 2000, got {self.rate_hz}")
        if not (math.isfinite(self.duration_s) and 1 / self.rate_hz <= self.duration_s <= _MAX_SAMPLES / self.rate_hz):
            raise ConfigError(f"duration_s must give 1 to {_MAX_SAMPLES} samples, got {self.duration_s}")
        if self.subject_seed < 0 or self.session_seed < 0:
            raise ConfigError(f"seeds must not be negative, got {self.subject_seed} and {self.session_seed}")
        if not 0.2 <= self.tempo <= 5:
            raise ConfigError(f"tempo must lie between 0.2 and 5 times the usual, got {self.tempo}")
        shares = list(self.activity_mix.values())
        if (
            not set(self.activity_mix) <= set(ACTIVITIES)
            or not all(s >= 0 for s in shares)
            or not 0 < sum(shares) < 1e9
        ):
            raise ConfigError(f"activity_mix must give shares to some of {', '.join(ACTIVITIES)}: {self.activity_mix}")

    @property
    def n_samples(self) -> int:
        """Length of the recording."""
        return max(1, round(self.duration_s * self.rate_hz))


def _bouts(config: SimulationConfig) -> tuple[Region, ...]:
    """Draw bouts of activity without gaps; no activity follows itself unless it is the only one."""
    rng = stream("schedule", config.subject_seed, config.session_seed)
    names = [name for name in ACTIVITIES if config.activity_mix.get(name, 0) > 0]
    # The share asked for is one of time: bouts of a kind that lasts longer are drawn less often.
    odds = np.array([config.activity_mix[name] / sum(_BOUT_S[name]) for name in names])
    bouts: list[Region] = []
    start = 0
    while start < config.n_samples:
        allowed = np.array([not bouts or len(names) == 1 or name != bouts[-1].label for name in names])
        name = names[int(rng.choice(len(names), p=odds * allowed / (odds * allowed).sum()))]
        low, high = _BOUT_S[name]
        end = min(config.n_samples, start + max(1, round(rng.uniform(low, high) * config.rate_hz)))
        if len(names) == 1:
            end = config.n_samples
        bouts.append(Region(start, end, name))
        start = end
    return tuple(bouts)


def schedule(config: SimulationConfig) -> tuple[Region, ...]:
    """Return the activities of a simulation as labelled regions, without simulating it.

    ``activity:rest``, ``activity:gait``, ``activity:arm``, and ``activity:transition`` for the second in which one
    becomes the next.
    """
    blend = round(BLEND_S * config.rate_hz)
    labels = []
    for n, bout in enumerate(_bouts(config)):
        settled = bout.start if n == 0 else min(bout.start + blend, bout.end)
        if settled > bout.start:
            labels.append(Region(bout.start, settled, "activity:transition"))
        if bout.end > settled:
            labels.append(Region(settled, bout.end, f"activity:{bout.label}"))
    return tuple(labels)


def motions(config: SimulationConfig) -> dict[str, Motion]:
    """Return the true motion of each sensor's segment: what a perfect sensor, mounted exactly, would see."""
    drive = Drive.usual(np.arange(config.n_samples) / config.rate_hz)
    drive.pace *= config.tempo
    if config.fatigue is not None:
        minutes = np.arange(math.ceil(config.n_samples / config.rate_hz / 60) + 1)
        vigour = 1 - np.interp(drive.t / 60, minutes, [config.fatigue.lost(m / 60) for m in minutes.tolist()])
        drive.pace *= vigour
        for side in SIDES:
            drive.reach[side] *= vigour
    for p in config.perturbations:
        drive.apply(p)
    return move(
        drive,
        Subject.draw(config.subject_seed),
        bouts=_bouts(config),
        sensors=config.sensors,
        rate_hz=config.rate_hz,
        seeds=(config.subject_seed, config.session_seed),
    )


def simulate(config: SimulationConfig) -> Recording:
    """Simulate one session of one person.

    Returns
    -------
    Recording
        Accelerometer with gravity (m/s^2) and gyroscope (rad/s) of each sensor; lost packets are invalid samples.
        Labels: those of :func:`schedule` and, for each perturbation that a worn sensor sees,
        ``anomaly:<name>@<sensor>[+<sensor>...]``.
    """
    n = config.n_samples
    values = np.empty((n, 6 * len(config.sensors)), dtype=np.float32)
    valid = np.empty(values.shape, dtype=bool)
    for i, (sensor, motion) in enumerate(motions(config).items()):
        columns = slice(6 * i, 6 * i + 6)
        seeds = (config.subject_seed, config.session_seed)
        if config.donning is not None:
            motion = wear(motion, config.donning.draw(stream(f"donning {sensor}", *seeds)), rate_hz=config.rate_hz)
        values[:, columns] = sense(motion, config.imu, sensor=sensor, rate_hz=config.rate_hz, seeds=seeds)
        valid[:, columns] = _received(config, sensor)[:, None]
    labels = [*schedule(config)]
    for p in config.perturbations:
        seen = [s for s in config.sensors if s in p.touches]
        start, end = round(p.start_s * config.rate_hz), min(n, round(p.end_s * config.rate_hz))
        if seen and start < end:
            labels.append(Region(start, end, f"anomaly:{p.name}@{'+'.join(seen)}"))
    return Recording(
        sensors=tuple(SensorSpec(name) for name in config.sensors),
        rate_hz=config.rate_hz,
        values=values,
        valid=valid,
        labels=tuple(labels),
        subject=f"sim{config.subject_seed}",
        session=f"sim{config.subject_seed}-{config.session_seed}",
        source="kinedge simulator",
    )


def sense(
    motion: Motion, imu: ImuModel, *, sensor: str, rate_hz: float, seeds: tuple[int, int], part: int = 0
) -> NDArray[np.float64]:
    """Return readings (n, 6) of an imperfect sensor that moves like this: acc in m/s^2, gyr in rad/s.

    Parameters
    ----------
    sensor
        Its name: each has errors of its own.
    seeds
        Of subject and session.
    part
        Which piece of a session this is: pieces share gain and bias, and have noise of their own.
    """
    n = len(motion.acc_world)
    rng = stream(f"imu {sensor}", *seeds)
    orientation = multiply(motion.orientation, _mount(rng, imu))
    specific_force = motion.acc_world + np.array([0.0, 0.0, STANDARD_GRAVITY_M_S2])
    readings = np.empty((n, 6))
    readings[:, :3] = rotate(conjugate(orientation), specific_force)
    readings[:, 3:] = angular_rate(orientation, rate_hz=rate_hz)

    bias_sd = np.repeat([imu.acc_bias_m_s2, imu.gyr_bias_rad_s], 3)
    noise_density = np.repeat([imu.acc_noise_m_s2_per_sqrt_hz, imu.gyr_noise_rad_s_per_sqrt_hz], 3)
    limit = np.repeat([imu.acc_range_m_s2, imu.gyr_range_rad_s], 3)
    readings *= 1 + rng.normal(0, imu.scale_error, 6)
    readings += rng.normal(0, 1, 6) * bias_sd
    if part:
        rng = stream(f"imu {sensor} part {part}", *seeds)
    # The walk is drawn once a second: what it does in between is far below the noise.
    n_seconds = math.ceil(n / rate_hz) + 1
    walk = np.cumsum(rng.normal(0, imu.bias_drift / math.sqrt(60.0), (n_seconds, 6)), axis=0) * bias_sd
    seconds = np.arange(n) / rate_hz
    for c in range(6):
        readings[:, c] += np.interp(seconds, np.arange(n_seconds), walk[:, c])
    readings += rng.normal(0, 1, (n, 6)) * noise_density * math.sqrt(rate_hz / 2)
    return np.clip(readings, -limit, limit)


def mounting(config: SimulationConfig, sensor: str) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from a sensor's own frame to that of its segment, as ``imu.donning_deg`` has it."""
    rng = stream(f"imu {sensor}", config.subject_seed, config.session_seed)
    turn: NDArray[np.float64] = matrix(_mount(rng, config.imu))[0]
    return turn


def _mount(rng: np.random.Generator, imu: ImuModel) -> NDArray[np.float64]:
    return small_rotation(rng, sd_deg=imu.donning_deg)


def _received(config: SimulationConfig, sensor: str) -> NDArray[np.bool_]:
    """Return (n,) bool: which samples arrived. Sojourn times in both states are geometric."""
    radio, n = config.radio, config.n_samples
    seeds = (config.subject_seed, config.session_seed)
    if config.loss is not None:
        trouble = config.loss.draw_trouble(stream("trouble", *seeds))
        return config.loss.draw(stream(f"radio {sensor}", *seeds), n, trouble=trouble)
    if radio.loss_rate == 0:
        return np.ones(n, dtype=bool)
    rng = stream(f"radio {sensor}", *seeds)
    n_packets = math.ceil(n / radio.packet_samples)
    # A mean good run below one packet is impossible: bursts grow instead, so that the loss rate holds.
    bad = max(radio.burst_packets, radio.loss_rate / (1 - radio.loss_rate))
    good = min(max(bad * (1 - radio.loss_rate) / radio.loss_rate, 1.0), 1e9)  # 1 but for rounding
    n_runs = math.ceil(2 * n_packets / (good + bad)) + 16
    while True:
        runs = np.stack([rng.geometric(1 / good, n_runs), rng.geometric(1 / bad, n_runs)], axis=1).ravel()
        runs = np.minimum(runs, n_packets)  # a run may be drawn as long as the age of the universe
        if runs.sum() >= n_packets:
            break
        n_runs *= 2
    states = np.tile([True, False], n_runs)
    return np.repeat(np.repeat(states, runs)[:n_packets], radio.packet_samples)[:n]
