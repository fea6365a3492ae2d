"""Augmentation of training windows: other mountings, other gains, another pace, lost sensors and lost bursts.

:func:`apply` changes what a window holds (values and validity alike, input and target); :func:`hide` changes only what
a model may see of it. All draws come from the generator given, in a fixed order: an option that is off (its number is
0) draws nothing, and does not change the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.signals import Quantity, SensorSpec, quantity_of

__all__ = ["Augment", "apply", "hide"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Augment:
    """What is done to windows, each with its own draw; 0 leaves it out.

    Parameters
    ----------
    rotation_deg
        Mounting: standard deviation, per axis, of the rotation of a sensor within a window. Accelerometer, gyroscope
        and magnetometer of a sensor turn as one.
    session_rotation_deg
        The same, but one rotation for all windows of a session and sensor: how it was put on that day.
    whole_rotation
        Probability that a session's sensor is turned by any rotation at all (uniform over all orientations).
    axis_permutation
        Probability that a session's sensor has its axes exchanged and flipped by one of the 23 other right-handed ways.
    gain
        Standard deviation of the natural logarithm of the gain, per channel.
    bias_acc_m_s2, bias_gyr_rad_s
        Standard deviation of a constant, per channel.
    time_warp
        Standard deviation of the natural logarithm of the pace, within a window, changing smoothly. Angular rates
        scale with the pace; accelerations are only resampled (gravity dominates them, and does not scale).
    sensor_dropout
        Probability that a sensor is hidden for a whole window; one always stays.
    burst_dropout, burst_s
        Probability that a sensor misses one burst, and the longest.

    Raises
    ------
    ConfigError
        A probability is not in [0, 1], or a size is negative or too large to mean anything.
    """

    rotation_deg: float = 0.0
    session_rotation_deg: float = 0.0
    whole_rotation: float = 0.0
    axis_permutation: float = 0.0
    gain: float = 0.0
    bias_acc_m_s2: float = 0.0
    bias_gyr_rad_s: float = 0.0
    time_warp: float = 0.0
    sensor_dropout: float = 0.0
    burst_dropout: float = 0.0
    burst_s: float = 0.5

    def __post_init__(self) -> None:
        for name in ("whole_rotation", "axis_permutation", "sensor_dropout", "burst_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability between 0 and 1, got {getattr(self, name)}")
        limits = {
            "rotation_deg": 90, "session_rotation_deg": 90, "gain": 0.5, "bias_acc_m_s2": 5, "bias_gyr_rad_s": 2,
            "time_warp": 0.5, "burst_s": 60,
        }  # fmt: skip
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} must lie between 0 and {limit}, got {getattr(self, name)}")


def _signed_permutations() -> F32:
    """Return the 23 turns by right angles that change something, (23, 3, 3)."""
    found = []
    for order in permutations(range(3)):
        for signs in np.ndindex(2, 2, 2):
            turn = np.zeros((3, 3))
            turn[range(3), order] = 1 - 2 * np.array(signs)
            if np.linalg.det(turn) > 0 and not np.array_equal(turn, np.eye(3)):
                found.append(turn)
    return np.array(found, dtype=np.float32)


_RIGHT_ANGLES: Final = _signed_permutations()


def _matrices(vectors: NDArray[np.float64]) -> F32:
    """Return rotation matrices (n, 3, 3) of rotation vectors (n, 3) in rad (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)
    axis = vectors / np.maximum(angle, 1e-12)[:, None]
    cross = np.zeros((len(vectors), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    turns: F32 = (np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)).astype(np.float32)
    return turns


def _any_rotations(rng: np.random.Generator, n: int) -> F32:
    """Draw rotations uniformly over all orientations: normalised normal quaternions (Shoemake 1992)."""
    w, x, y, z = np.moveaxis((q := rng.normal(size=(n, 4))) / np.linalg.norm(q, axis=1, keepdims=True), 1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0).astype(np.float32)


def apply(
    config: Augment,
    rng: np.random.Generator,
    values: F32,
    valid: Mask,
    *,
    sensors: Sequence[SensorSpec],
    rate_hz: float,
    session: NDArray[np.int64] | None = None,
) -> tuple[F32, Mask]:
    """Return changed windows; the arrays given stay as they are.

    Parameters
    ----------
    values, valid : (n_windows, n_samples, n_channels)
        SI units, channels in the order of ``sensors``.
    session : (n_windows,) int64
        Which session a window is of; None: each window is its own.

    Returns
    -------
    values, valid
        Values are 0 where invalid. A turned sample with an axis missing loses all three; a warped sample needs both
        of its neighbours.

    Raises
    ------
    SignalError
        The shapes do not fit ``sensors`` or each other.
    """
    n_channels = sum(s.n_channels for s in sensors)
    if values.ndim != 3 or values.shape != valid.shape or values.shape[2] != n_channels:
        raise SignalError(f"windows must be (n, T, {n_channels}), got values {values.shape} and valid {valid.shape}")
    if session is None:
        session = np.arange(len(values))
    if session.shape != values.shape[:1]:
        raise SignalError(f"{len(values)} windows but sessions {session.shape}")
    values, valid = np.where(valid, values, np.float32(0)), valid.copy()
    if config.time_warp:
        values, valid = _warp(config, rng, values, valid, sensors, rate_hz)
    _turn(config, rng, values, valid, sensors, session)
    names = [quantity_of(c) for s in sensors for c in s.channels]
    if config.gain:
        values *= np.exp(rng.normal(0, config.gain, (len(values), 1, n_channels))).astype(np.float32)
    if config.bias_acc_m_s2 or config.bias_gyr_rad_s:
        size = {Quantity.ACC: config.bias_acc_m_s2, Quantity.GYR: config.bias_gyr_rad_s}
        sd = np.array([size.get(name, 0.0) for name in names])
        values += (rng.normal(0, 1, (len(values), 1, n_channels)) * sd).astype(np.float32)
    values[~valid] = 0
    return values, valid


def _turn(
    config: Augment,
    rng: np.random.Generator,
    values: F32,
    valid: Mask,
    sensors: Sequence[SensorSpec],
    session: NDArray[np.int64],
) -> None:
    """Turn sensors, in place: by window, then by session."""
    options = (config.rotation_deg, config.session_rotation_deg, config.whole_rotation, config.axis_permutation)
    if not any(options):
        return
    _, of_session = np.unique(session, return_inverse=True)
    n_sessions = int(of_session.max()) + 1 if len(of_session) else 0
    start = 0
    for sensor in sensors:
        turn = np.broadcast_to(np.eye(3, dtype=np.float32), (len(values), 3, 3))
        if config.rotation_deg:
            turn = _matrices(rng.normal(0, np.deg2rad(config.rotation_deg), (len(values), 3)))
        if config.session_rotation_deg:
            day = _matrices(rng.normal(0, np.deg2rad(config.session_rotation_deg), (n_sessions, 3)))
            turn = day[of_session] @ turn
        if config.axis_permutation:
            swapped = rng.random(n_sessions) < config.axis_permutation
            drawn = _RIGHT_ANGLES[rng.integers(0, len(_RIGHT_ANGLES), n_sessions)]
            day = np.where(swapped[:, None, None], drawn, np.eye(3, dtype=np.float32))
            turn = day[of_session] @ turn
        if config.whole_rotation:
            turned = rng.random(n_sessions) < config.whole_rotation
            day = np.where(turned[:, None, None], _any_rotations(rng, n_sessions), np.eye(3, dtype=np.float32))
            turn = day[of_session] @ turn
        for quantity in Quantity:
            axes = [f"{quantity.name.lower()}_{axis}" for axis in "xyz"]
            if set(axes) <= set(sensor.channels):
                columns = [start + sensor.channels.index(axis) for axis in axes]
                values[:, :, columns] = values[:, :, columns] @ turn.transpose(0, 2, 1)
                valid[:, :, columns] = valid[:, :, columns].all(axis=2, keepdims=True)
        start += sensor.n_channels


def _warp(
    config: Augment,
    rng: np.random.Generator,
    values: F32,
    valid: Mask,
    sensors: Sequence[SensorSpec],
    rate_hz: float,
) -> tuple[F32, Mask]:
    """Resample windows on a clock whose pace wanders about once a second; it never leaves the window."""
    n_windows, n = values.shape[:2]
    if n < 2:
        return values, valid
    n_knots = max(2, round(n / rate_hz) + 1)
    knots = rng.normal(0, config.time_warp, (n_windows, n_knots))
    at = np.linspace(0, n_knots - 1, n)
    left = np.minimum(at.astype(np.int64), n_knots - 2)
    pace = np.exp(knots[:, left] + (knots[:, left + 1] - knots[:, left]) * (at - left))
    clock = np.cumsum(pace, axis=1) - pace[:, :1]
    # a window that is fast on the whole would need samples from behind its end: it is fast in places only
    scale = np.minimum((n - 1) / clock[:, -1:], 1.0)
    clock, pace = clock * scale, pace * scale
    first = np.minimum(clock.astype(np.int64), n - 2)
    share = (clock - first).astype(np.float32)[:, :, None]
    row = np.arange(n_windows)[:, None]
    exact = share == 0
    warped = values[row, first] * (1 - share) + values[row, first + 1] * share
    kept = valid[row, first] & (valid[row, first + 1] | exact)
    rates = [i for i, c in enumerate(c for s in sensors for c in s.channels) if quantity_of(c) is Quantity.GYR]
    warped[:, :, rates] *= pace.astype(np.float32)[:, :, None]
    return np.where(kept, warped, np.float32(0)).astype(np.float32), kept


def hide(
    config: Augment, rng: np.random.Generator, valid: Mask, *, sensors: Sequence[SensorSpec], rate_hz: float
) -> Mask:
    """Return what a model may see of windows (n_windows, n_samples, n_channels): sensors and bursts are gone.

    What is hidden stays in the target: the model learns to do without, not to predict nothing.
    """
    n_windows, length = valid.shape[:2]
    gone = np.zeros((n_windows, len(sensors)), dtype=bool)
    if config.sensor_dropout:
        gone = rng.random((n_windows, len(sensors))) < config.sensor_dropout
        gone[np.arange(n_windows), rng.integers(0, len(sensors), n_windows)] = False
    lost = np.broadcast_to(gone[:, None, :], (n_windows, length, len(sensors)))
    if config.burst_dropout:
        burst = rng.random((n_windows, len(sensors))) < config.burst_dropout
        first = rng.integers(0, length, burst.shape)
        last = first + rng.integers(1, max(2, round(config.burst_s * rate_hz) + 1), burst.shape)
        at = np.arange(length)[None, :, None]
        lost = lost | (burst[:, None] & (at >= first[:, None]) & (at < last[:, None]))
    seen: Mask = valid & ~np.repeat(lost, [s.n_channels for s in sensors], axis=2)
    return seen
