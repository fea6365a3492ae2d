"""OpenEarable 2 over BLE: its nine-axis IMU (sensor 0).

Facts: the firmware open-earable-2 and its ParseInfo description (2026-06).

Choices, where sources disagree
-------------------------------
* The firmware notifies ``id u8, size u8, time u64 us, data``; its README describes ``id u8, time u32 ms, data``. Both
  are read, told apart by length and size byte.
* The range of the accelerometer is not told. It is taken as +-2 g, as the firmware sets it, and as the next wider one
  (4, 8, 16 g) once a value lies beyond.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.device import Advertisement, ClockExchange, Command, SessionConfig
from kinedge.firmware_bridge.devices._common import (
    IMU9,
    BleOnlyDriver,
    QueueSession,
    check_options,
    full_scale,
    nearest,
    samples_in_range,
)
from kinedge.firmware_bridge.devices._timing import StampClock, Unwrapper
from kinedge.units import NS_PER_US, STANDARD_GRAVITY_M_S2

__all__ = [
    "CONFIG",
    "DATA",
    "SERVICE",
    "TIME",
    "OpenEarableDriver",
    "OpenEarableSession",
    "SensorPacket",
    "config_command",
    "parse_packet",
]

SERVICE: Final = "34c2e3bb-34aa-11eb-adc1-0242ac120002"
DATA: Final = "34c2e3bc-34aa-11eb-adc1-0242ac120002"
CONFIG: Final = "34c2e3be-34aa-11eb-adc1-0242ac120002"
TIME: Final = "2e04cbf9-939d-4be5-823e-271838b75259"

_IMU: Final = 0
_VALUES: Final = np.dtype(("<f4", 9))
_HEADER: Final = struct.Struct("<BBQ")
_OLD_HEADER: Final = struct.Struct("<BI")
_RATES_HZ: Final = (25, 50, 100)  # 200, 400 and 800 Hz go to the SD card alone
_STREAM: Final = 1
_TIME: Final = struct.Struct("<BBHQQQ")
_TIME_VERSION: Final = 1
_TIME_REQUEST: Final = 0
_TIME_RESPONSE: Final = 1
_ACC_RANGES_G: Final = (2.0, 4.0, 8.0, 16.0)
_GYR_RANGE_DEG_S: Final = 2000.0
_MAX_TIME_US: Final = 1 << 53
_SCALE: Final = np.array([1, 1, 1, *[np.deg2rad(1.0)] * 3, 1, 1, 1], np.float32)


@dataclass(frozen=True, eq=False)
class SensorPacket:
    """One sample of one sensor.

    Parameters
    ----------
    sensor_id
        0 is the IMU.
    time_us
        Device clock; modulo 2^32 ms when ``wraps``.
    wraps
        Whether it came in the older form.
    data
        As the sensor's scheme says; for the IMU nine float32: m/s^2, deg/s, uT.
    """

    sensor_id: int
    time_us: int
    wraps: bool
    data: bytes


def parse_packet(payload: bytes) -> SensorPacket:
    """Read one notification.

    Raises
    ------
    ProtocolError
        It has neither of the two forms.
    """
    if len(payload) >= _HEADER.size and len(payload) == _HEADER.size + payload[1]:
        sensor_id, _, time_us = _HEADER.unpack_from(payload)
        if time_us > _MAX_TIME_US:
            raise ProtocolError(f"OpenEarable: a time of {time_us} us cannot be")
        return SensorPacket(sensor_id, time_us, False, payload[_HEADER.size :])
    if len(payload) > _OLD_HEADER.size and (payload[0] != _IMU or len(payload) == _OLD_HEADER.size + _VALUES.itemsize):
        sensor_id, time_ms = _OLD_HEADER.unpack_from(payload)
        return SensorPacket(sensor_id, time_ms * 1000, True, payload[_OLD_HEADER.size :])
    raise ProtocolError(f"OpenEarable: {len(payload)} bytes are no sample: {payload[:16].hex()}")


def config_command(rate_hz: float, *, stream: bool) -> Command:
    """Start or stop the stream of the IMU at 25, 50 or 100 Hz."""
    return Command(CONFIG, bytes([_IMU, _RATES_HZ.index(int(rate_hz)), _STREAM if stream else 0]))


class OpenEarableDriver(BleOnlyDriver["OpenEarableSession"]):
    """The family; it has no options."""

    name = "openearable"

    def recognise(self, advertisement: Advertisement) -> bool:
        """By name or service."""
        return advertisement.name.startswith("OpenEarable") or SERVICE in advertisement.service_uuids

    def make_session(self, config: SessionConfig) -> OpenEarableSession:
        """Start a session (ConfigError: an option or its value is unknown)."""
        return OpenEarableSession(config)


class OpenEarableSession(QueueSession):
    """One ear."""

    subscriptions = (DATA, TIME)

    def __init__(self, config: SessionConfig) -> None:
        check_options(OpenEarableDriver.name, config.options, {})
        super().__init__(
            config,
            channels=IMU9,
            rate_hz=nearest(_RATES_HZ, config.rate_hz),
            doubtful="the firmware may send other units or another order",
        )
        self._clock = StampClock(interval_ns=self.interval_ns)
        self._stamp_ms = Unwrapper(bits=32)
        self._asked: tuple[int, int] | None = None
        self._n_asked = 0
        self._set_range(config.acc_range_g or _ACC_RANGES_G[0])

    def start_commands(self) -> Sequence[Command]:
        """Set the rate and stream."""
        return (config_command(self.rate_hz, stream=True),)

    def stop_commands(self) -> Sequence[Command]:
        """Stop streaming."""
        return (config_command(self.rate_hz, stream=False),)

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in one notification; other sensors of the device are counted as ``other``."""
        self.counters["packets"] += 1
        if channel == TIME:
            self._receive_time(data, host_time_ns)
            return
        if channel != DATA:
            self.reject(f"OpenEarable: nothing is expected on {channel}")
            return
        try:
            packet = parse_packet(data)
            if packet.sensor_id == _IMU and len(packet.data) != _VALUES.itemsize:
                raise ProtocolError(f"OpenEarable: the IMU has {_VALUES.itemsize} bytes, got {len(packet.data)}")
        except ProtocolError as error:
            self.reject(str(error))
            return
        if packet.sensor_id != _IMU:
            self.counters["other"] += 1
            return
        self._receive_sample(packet, host_time_ns)

    def time_request(self, host_time_ns: int) -> Command | None:
        """Return a question for the clock, to be written at once; an unanswered one before it is forgotten."""
        if host_time_ns < 0:
            return None
        self._n_asked = (self._n_asked + 1) % (1 << 16)
        self._asked = (self._n_asked, host_time_ns)
        request = _TIME.pack(_TIME_VERSION, _TIME_REQUEST, self._n_asked, host_time_ns // NS_PER_US, 0, 0)
        return Command(TIME, request, response=False)

    def _receive_time(self, data: bytes, host_time_ns: int | None) -> None:
        if len(data) != _TIME.size or data[0] != _TIME_VERSION:
            self.reject(f"OpenEarable: {len(data)} bytes are no answer about time of version {_TIME_VERSION}")
            return
        _, op, sequence, _, t2_us, t3_us = _TIME.unpack(data)
        if op != _TIME_RESPONSE or self._asked is None or self._asked[0] != sequence or host_time_ns is None:
            return
        (_, t1_ns), self._asked = self._asked, None
        if t2_us <= t3_us <= _MAX_TIME_US:
            self._put(ClockExchange(self.spec.name, t1_ns, t2_us * NS_PER_US, t3_us * NS_PER_US, host_time_ns))

    def _receive_sample(self, packet: SensorPacket, host_time_ns: int | None) -> None:
        time_us = packet.time_us
        if packet.wraps:
            elapsed_ms = self._clock.elapsed_ns(host_time_ns) // 1_000_000
            time_us = self._stamp_ms.unwrap(time_us // 1000, elapsed=elapsed_ms) * 1000
        placed = self._clock.place_last(time_us * NS_PER_US, 1, host_time_ns=host_time_ns)
        self.counters["duplicates"] = self._clock.repeated
        self.counters["implausible"] = self._clock.implausible
        if placed is None:
            return
        device_time_ns, lost = placed
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(packet.data, "<f4").reshape(1, -1) * _SCALE
        self._widen(values[0, :3])
        self.deliver(
            samples_in_range(device_time_ns, values, self.spec.channels, full_scale=self._full_scale),
            lost=lost,
            boot_id=self._clock.boot_id,
            host_time_ns=host_time_ns,
        )

    def _widen(self, acc_m_s2: NDArray[np.float32]) -> None:
        greatest_g = float(np.abs(acc_m_s2).max()) / STANDARD_GRAVITY_M_S2
        if self._acc_range_g * 1.01 < greatest_g <= _ACC_RANGES_G[-1] * 1.01:
            self._set_range(next(r for r in _ACC_RANGES_G if greatest_g <= r * 1.01))

    def _set_range(self, acc_range_g: float) -> None:
        self._acc_range_g = acc_range_g
        self._full_scale = full_scale(IMU9, acc_g=acc_range_g, gyr_deg_s=_GYR_RANGE_DEG_S)
