"""Words for signals that every room shares: channels, sensors, chunks of samples.

A chunk is what a decoder hands on: samples of one sensor in SI units, each with its device time, and
what is known about their validity. Missing data is a mask, never a zero that pretends to be a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["IMU6", "LEAST_SCALE", "UNIT_OF", "ImuChunk", "Quantity", "SensorSpec", "quantity_of", "split_channel"]

_SENSOR_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_CHANNEL_NAME: Final = re.compile(r"(acc|gyr|mag)_[xyz]")

IMU6: Final = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")


class Quantity(IntEnum):
    """What a channel measures. The number is also its code on the wire."""

    ACC = 1
    GYR = 2
    MAG = 3


UNIT_OF: Final = {Quantity.ACC: "m/s^2", Quantity.GYR: "rad/s", Quantity.MAG: "uT"}
# The unit of a channel that never moves: well above the noise of a sensor at rest, well below any movement.
LEAST_SCALE: Final = {Quantity.ACC: 0.1, Quantity.GYR: 0.03, Quantity.MAG: 1.0}


def quantity_of(channel: str) -> Quantity:
    """Return what a channel such as ``acc_x`` measures.

    Raises
    ------
    SignalError
        The name is none of ``{acc,gyr,mag}_{x,y,z}``.
    """
    if not _CHANNEL_NAME.fullmatch(channel):
        raise SignalError(f"unknown channel {channel!r}: a channel is acc, gyr or mag, then _x, _y or _z")
    return Quantity[channel[:3].upper()]


def split_channel(name: str) -> tuple[str, str]:
    """Split ``wrist_left.acc_x`` into sensor and channel."""
    sensor, dot, channel = name.partition(".")
    if not dot:
        raise SignalError(f"{name!r} is no full channel name: expected sensor.channel, such as wrist_left.acc_x")
    return sensor, channel


@dataclass(frozen=True)
class SensorSpec:
    """One sensor worn at one place.

    Parameters
    ----------
    name
        Where it is worn, in snake case: ``wrist_left``, ``shank_right``, ``lower_back``.
    channels
        In order, such as ``("acc_x", ..., "gyr_z")``.
    """

    name: str
    channels: tuple[str, ...] = IMU6

    def __post_init__(self) -> None:
        if not _SENSOR_NAME.fullmatch(self.name):
            raise SignalError(
                f"sensor name {self.name!r} must be lower case letters, digits and _, at most 31, letter first"
            )
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise SignalError(f"sensor {self.name!r}: channels must be distinct and at least one, got {self.channels}")
        for channel in self.channels:
            quantity_of(channel)

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @property
    def full_names(self) -> tuple[str, ...]:
        """Channel names with the sensor in front: ``wrist_left.acc_x``."""
        return tuple(f"{self.name}.{channel}" for channel in self.channels)


@dataclass(frozen=True, eq=False)
class ImuChunk:
    """Consecutive samples of one sensor, in device time.

    Parameters
    ----------
    sensor
        Where it is worn.
    device_time_ns : (n,) int64
        Device clock at each sample, strictly increasing.
    values : (n, n_channels) float32
        SI units: m/s^2 with gravity, rad/s, uT.
    valid : (n, n_channels) bool
        False where the value must not be used.
    saturated : (n, n_channels) bool
        True where the sensor was at the end of its range.
    interval_ns
        Nominal distance between two samples; a wider step is a gap.
    lost
        Samples known to be missing before or between those here.
    boot_id
        Changes when the device restarts: its clock and its counters start anew.
    host_time_ns
        Monotonic host clock when the last byte of the chunk arrived; None in a replay without arrival times.
    """

    sensor: str
    device_time_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    interval_ns: int
    lost: int = 0
    boot_id: int = 0
    host_time_ns: int | None = None

    def __post_init__(self) -> None:
        shape = self.values.shape
        if len(shape) != 2 or shape != self.valid.shape or shape != self.saturated.shape:
            raise SignalError(
                f"{self.sensor}: values, valid and saturated must be one (n, n_channels) shape, got "
                f"{shape}, {self.valid.shape}, {self.saturated.shape}"
            )
        if self.device_time_ns.shape != shape[:1]:
            raise SignalError(f"{self.sensor}: {shape[0]} samples but {self.device_time_ns.shape} time stamps")
        if self.interval_ns <= 0:
            raise SignalError(f"{self.sensor}: the sample interval must be positive, got {self.interval_ns} ns")

    def __len__(self) -> int:
        return int(self.values.shape[0])
