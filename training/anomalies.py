"""A library of labelled anomalies: changed movement and broken sensors, with the truth about where each one is.

Two ways in. *Kinematic* anomalies change how the simulated body moves (:func:`perturb` adds one to a configuration).
*Signal* anomalies change the samples of any recording, a real one too (:func:`inject`). Either leaves a label
``anomaly:<name>@<sensor>[+<sensor>...]`` on ``[start, end)``; :func:`parse_label` reads it.

What is injected is what an affected sensor would report, to first order: a tremor here adds no rotation of gravity,
and a rotated sensor turns at once. Detection rates on these are upper bounds for the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import Quantity, quantity_of
from kinedge.training.perturb import EFFECTS, Perturbation
from kinedge.training.rotations import about, matrix, multiply
from kinedge.training.simulate import SimulationConfig

__all__ = ["ANOMALIES", "LABEL_PREFIX", "Anomaly", "inject", "label_of", "parse_label", "perturb"]

LABEL_PREFIX: Final = "anomaly:"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Anomaly:
    """One kind of anomaly.

    Parameters
    ----------
    name
        As in labels.
    kind
        Whether the person moves otherwise or the sensor reports otherwise.
    level
        ``kinematic``: made by the simulator, see :func:`perturb`. ``signal``: made by :func:`inject`.
    quantities
        What it changes: channels of these quantities at the sensors it touches.
    sensors
        Where it may act; empty means anywhere.
    local
        One sensor sees it; otherwise all in ``sensors`` do.
    activity
        Where it can be seen at all (``gait``), None in any.
    about
        One line for reports.
    """

    name: str
    kind: Literal["movement", "sensor fault"]
    level: Literal["kinematic", "signal"]
    quantities: tuple[Quantity, ...]
    about: str
    sensors: tuple[str, ...] = ()
    local: bool = True
    activity: str | None = None


@dataclass
class _Stretch:
    """Samples to change: one sensor's columns in ``[start, end)``, and the whole recording around them."""

    x: Array  # (n, n_channels) of the sensor; changed in place
    valid: NDArray[np.bool_]
    whole: Array  # the sensor's columns of the whole recording, unchanged
    whole_valid: NDArray[np.bool_]
    start: int
    channels: tuple[str, ...]
    rate_hz: float
    strength: float
    rng: np.random.Generator

    def of(self, quantity: Quantity) -> list[int]:
        return [i for i, channel in enumerate(self.channels) if quantity_of(channel) is quantity]

    def spread(self) -> Array:
        """(n_channels,) how much each channel of this recording moves, with a floor for one that does not."""
        floor = np.array([_FLOOR[quantity_of(channel)] for channel in self.channels])
        spread: Array = np.maximum(_over(np.std, self.whole, self.whole_valid), floor)
        return spread

    def level(self) -> Array:
        """(n_channels,) median during the stretch."""
        return _over(np.median, self.x, self.valid)


_FLOOR: Final = {Quantity.ACC: 0.2, Quantity.GYR: 0.1, Quantity.MAG: 1.0}


def _over(statistic: Callable[[Array], np.floating], x: Array, valid: NDArray[np.bool_]) -> Array:
    columns = [x[valid[:, c], c] for c in range(x.shape[1])]
    return np.array([float(statistic(column)) if len(column) else 0.0 for column in columns], dtype=np.float64)


def _gain(s: _Stretch) -> None:
    s.x *= 1 + 0.5 * s.strength


def _tremor(s: _Stretch) -> None:
    t = np.arange(len(s.x)) / s.rate_hz
    phase = 2 * np.pi * s.rng.uniform(4.5, 5.5) * t + s.rng.uniform(0, 2 * np.pi)
    for quantity, amplitude, shift in ((Quantity.ACC, 2.5, 0.0), (Quantity.GYR, 1.5, np.pi / 2)):
        columns = s.of(quantity)
        direction = s.rng.normal(size=len(columns))
        direction /= np.linalg.norm(direction) if len(columns) else 1.0
        s.x[:, columns] += s.strength * amplitude * np.sin(phase + shift)[:, None] * direction


def _amplitude_drop(s: _Stretch) -> None:
    level = s.level()
    s.x[:] = level + (s.x - level) * max(0.0, 1 - 0.75 * s.strength)


def _bias_step(s: _Stretch) -> None:
    sign = s.rng.choice([-1.0, 1.0], s.x.shape[1])
    s.x += s.strength * sign * s.spread()


def _noise_burst(s: _Stretch) -> None:
    s.x += s.rng.normal(size=s.x.shape) * s.strength * s.spread()


def _rotated(s: _Stretch) -> None:
    # As when it slips round the limb: about one axis, by an angle that nobody mounts by accident.
    angle = s.rng.choice([-1.0, 1.0]) * np.deg2rad(min(180.0, 60.0 * s.strength))
    turn = multiply(about(str(s.rng.choice(["x", "y", "z"])), angle), about("x", s.rng.normal(0, 0.1)))
    _turn(s, matrix(turn)[0])


def _axis_swap(s: _Stretch) -> None:
    _turn(s, np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))


def _turn(s: _Stretch, rotation: Array) -> None:
    for quantity in Quantity:
        columns = s.of(quantity)
        if len(columns) == 3:
            s.x[:, columns] = s.x[:, columns] @ rotation.T
            s.valid[:, columns] &= s.valid[:, columns].all(axis=1, keepdims=True)  # a turned axis mixes all three


def _flat_line(s: _Stretch) -> None:
    for c in range(s.x.shape[1]):
        present = s.x[s.valid[:, c], c]
        if len(present):
            s.x[:, c] = present[0]


def _spikes(s: _Stretch) -> None:
    n_spikes = max(1, round(2.0 * len(s.x) / s.rate_hz))
    at = s.rng.integers(0, len(s.x), n_spikes)
    column = s.rng.integers(0, s.x.shape[1], n_spikes)
    s.x[at, column] += s.rng.choice([-1.0, 1.0], n_spikes) * 8.0 * s.strength * s.spread()[column]


def _time_lag(s: _Stretch) -> None:
    source = np.arange(s.start, s.start + len(s.x)) - max(1, round(0.3 * s.strength * s.rate_hz))
    s.x[:] = s.whole[np.maximum(source, 0)]
    s.valid[:] = s.whole_valid[np.maximum(source, 0)] & (source >= 0)[:, None]


def _saturation(s: _Stretch) -> None:
    # A range set too small: what exceeds it reads as its end.
    half = s.spread() / s.strength
    level = s.level()
    s.x[:] = np.clip(s.x, level - half, level + half)


def _dropout(s: _Stretch) -> None:
    s.valid[:] = False


_ANY: Final = (Quantity.ACC, Quantity.GYR, Quantity.MAG)
_MOTION: Final = (Quantity.ACC, Quantity.GYR)
_SIGNAL: Final[Mapping[str, tuple[Callable[[_Stretch], None], Anomaly]]] = {
    a.name: (change, a)
    for change, a in (
        (_tremor, Anomaly("tremor", "movement", "signal", _MOTION, "5 Hz oscillation of acceleration and rotation")),
        (_amplitude_drop, Anomaly("amplitude_drop", "movement", "signal", _ANY, "moves 75 % less around its level")),
        (_gain, Anomaly("gain_change", "sensor fault", "signal", _ANY, "reads 50 % too much")),
        (_bias_step, Anomaly("bias_step", "sensor fault", "signal", _ANY, "every axis off by a standard deviation")),
        (_noise_burst, Anomaly("noise_burst", "sensor fault", "signal", _ANY, "noise as large as the movement")),
        (_rotated, Anomaly("sensor_rotated", "sensor fault", "signal", _ANY, "slipped on the limb by 60 degrees")),
        (_axis_swap, Anomaly("axis_swap", "sensor fault", "signal", _ANY, "mounted with x and y exchanged")),
        (_flat_line, Anomaly("flat_line", "sensor fault", "signal", _ANY, "repeats one value")),
        (_spikes, Anomaly("spikes", "sensor fault", "signal", _ANY, "two single-sample spikes per second")),
        (_time_lag, Anomaly("time_lag", "sensor fault", "signal", _ANY, "0.3 s behind the other sensors")),
        (_saturation, Anomaly("saturation", "sensor fault", "signal", _ANY, "clipped at one standard deviation")),
        (_dropout, Anomaly("dropout", "sensor fault", "signal", _ANY, "no samples arrive")),
    )
}

ANOMALIES: Final[Mapping[str, Anomaly]] = {
    **{
        name: Anomaly(name, "movement", "kinematic", _MOTION, e.about, e.sensors, e.local, e.activity)
        for name, e in EFFECTS.items()
    },
    **{name: anomaly for name, (_, anomaly) in _SIGNAL.items()},
}


def label_of(name: str, sensors: tuple[str, ...]) -> str:
    """Return ``anomaly:<name>@<sensor>[+<sensor>...]``."""
    return f"{LABEL_PREFIX}{name}@{'+'.join(sensors)}"


def parse_label(label: str) -> tuple[str, tuple[str, ...]] | None:
    """Return name and affected sensors of an anomaly label; None for a label of another kind.

    Raises
    ------
    SignalError
        It begins like an anomaly label but names no sensor.
    """
    if not label.startswith(LABEL_PREFIX):
        return None
    name, at, sensors = label[len(LABEL_PREFIX) :].partition("@")
    if not name or not at or not all(sensors.split("+")):
        raise SignalError(f"label {label!r} must be anomaly:<name>@<sensor>, with + between several sensors")
    return name, tuple(sensors.split("+"))


def perturb(
    config: SimulationConfig,
    name: str,
    start_s: float,
    end_s: float,
    *,
    sensor: str | None = None,
    strength: float = 1.0,
) -> SimulationConfig:
    """Add a kinematic anomaly to a simulation.

    Parameters
    ----------
    sensor
        Where it acts; the first worn sensor where it can, when None.

    Raises
    ------
    ConfigError
        It is no kinematic anomaly, no worn sensor would see it, or a number makes no sense.
    """
    effect = EFFECTS.get(name)
    if effect is None:
        hint = "; it changes samples: use inject()" if name in _SIGNAL else f"; known are {', '.join(sorted(EFFECTS))}"
        raise ConfigError(f"{name!r} is no kinematic anomaly{hint}")
    worn = [s for s in config.sensors if s in effect.sensors]
    if not worn or (effect.local and sensor is not None and sensor not in worn):
        raise ConfigError(f"{name} is seen at {', '.join(effect.sensors)}, worn are {', '.join(config.sensors)}")
    if start_s >= config.duration_s:
        raise ConfigError(f"{name} starts at {start_s} s, behind the {config.duration_s} s of the recording")
    added = Perturbation(name, start_s, end_s, sensor or worn[0], strength)
    return replace(config, perturbations=(*config.perturbations, added))


def inject(
    recording: Recording, name: str, start: int, end: int, *, sensor: str, seed: int = 0, strength: float = 1.0
) -> Recording:
    """Return a copy of a recording with a signal anomaly in the samples ``[start, end)`` of one sensor.

    Parameters
    ----------
    recording
        Simulated or real; it is not changed.
    start, end
        In samples.
    seed
        For what is random in it: equal seeds give equal samples.
    strength
        1 is clearly visible; a tenth is hard to see.

    Raises
    ------
    SignalError
        The name is unknown or kinematic, the sensor is not there, or ``[start, end)`` is not inside the recording.
    """
    known = _SIGNAL.get(name)
    if known is None:
        hint = "made by the simulator: use perturb()" if name in EFFECTS else f"unknown; known are {', '.join(_SIGNAL)}"
        raise SignalError(f"{recording.source}: cannot inject {name!r}: {hint}")
    if not 0 <= start < end <= len(recording):
        raise SignalError(f"{recording.source}: [{start}, {end}) is not inside the {len(recording)} samples")
    if not 0 < strength <= 10:
        raise SignalError(f"{name}: strength must lie above 0 and up to 10, got {strength}")
    columns = recording.columns(sensor)
    (spec,) = (s for s in recording.sensors if s.name == sensor)
    change, anomaly = known
    if not any(quantity_of(channel) in anomaly.quantities for channel in spec.channels):
        raise SignalError(f"{recording.source}: {name} touches nothing that {sensor} measures")

    whole_valid = recording.valid[:, columns]
    whole = np.where(whole_valid, recording.values[:, columns], 0.0).astype(np.float64)
    stretch = _Stretch(
        x=whole[start:end].copy(),
        valid=whole_valid[start:end].copy(),
        whole=whole,
        whole_valid=whole_valid,
        start=start,
        channels=spec.channels,
        rate_hz=recording.rate_hz,
        strength=strength,
        rng=np.random.default_rng(seed),
    )
    change(stretch)
    values, valid = recording.values.copy(), recording.valid.copy()
    values[start:end, columns] = np.where(stretch.valid, stretch.x, 0.0)
    valid[start:end, columns] = stretch.valid
    label = Region(start, end, label_of(name, (sensor,)))
    return replace(recording, values=values, valid=valid, labels=(*recording.labels, label))
