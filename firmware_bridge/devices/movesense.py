"""Movesense (HR2, HR+, Active, MD) over BLE, by its GATT SensorData Protocol (GSP).

Facts: the firmware sample GATTSensorDataClient, the documentation of the protocol, and several open clients.

Choices, where clients disagree
-------------------------------
* A message of IMU6 or IMU9 holds *blocks*: all accelerations, then all angular rates, then all magnetic fields. One
  client reads them sample by sample; the option ``layout = "interleaved"`` does so, too. Which of the two gives
  accelerations near gravity is watched, and a doubt raised when it is the other one.
* The time of a message is that of its first sample.
* A status is little-endian, unless only big-endian makes it one (100 to 599).
* Nothing says whether a message goes on in a second notification. The first message is held until the next begins;
  its length is then expected of all, and a message is delivered as soon as it is that long.

Ranges cannot be set by this protocol; those that are configured only say where saturation begins (8 g and 2000 deg/s
unless told).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Command, SessionConfig
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
from kinedge.signals import IMU6
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = [
    "NOTIFY",
    "SERVICE",
    "WRITE",
    "MovesenseDriver",
    "MovesenseSession",
    "hello_command",
    "parse_message",
    "subscribe_command",
    "unsubscribe_command",
]

SERVICE: Final = "34802252-7185-4d5d-b431-630e7050e8f0"
WRITE: Final = "34800001-7185-4d5d-b431-630e7050e8f0"
NOTIFY: Final = "34800002-7185-4d5d-b431-630e7050e8f0"
_SHORT_SERVICE: Final = "0000fdf3-0000-1000-8000-00805f9b34fb"

_HELLO, _SUBSCRIBE, _UNSUBSCRIBE = 0, 1, 2
_RESULT, _DATA, _DATA_CONTINUED = 1, 2, 3
_HELLO_REF: Final = 1
_DATA_REF: Final = 99
_RATES_HZ: Final = (13, 26, 52, 104, 208, 416, 833, 1666)
_ACC_RANGE_G: Final = 8.0
_GYR_RANGE_DEG_S: Final = 2000.0
_STAMP: Final = struct.Struct("<I")
_NS_PER_MS: Final = 1_000_000
_MAX_MESSAGE: Final = 4096
_RELEARN: Final = 3
_NEAR_G_M_S2: Final = 2.0
_INTERLEAVED_MESSAGES: Final = 20


def hello_command() -> Command:
    """Ask for an answer."""
    return Command(WRITE, bytes([_HELLO, _HELLO_REF]))


def subscribe_command(path: str) -> Command:
    """Subscribe to a resource such as ``/Meas/IMU6/52``."""
    return Command(WRITE, bytes([_SUBSCRIBE, _DATA_REF]) + path.encode("ascii"))


def unsubscribe_command() -> Command:
    """End the subscription."""
    return Command(WRITE, bytes([_UNSUBSCRIBE, _DATA_REF]))


def parse_message(message: bytes, *, n_quantities: int, interleaved: bool = False) -> tuple[int, NDArray[np.float32]]:
    """Read a whole message, code and reference removed.

    Returns
    -------
    time_ms
        Since boot, modulo 2^32.
    values : (n, 3 * n_quantities) float32
        m/s^2, deg/s and uT.

    Raises
    ------
    ProtocolError
        It is not made of whole samples.
    """
    n, rest = divmod(len(message) - _STAMP.size, 12 * n_quantities)
    if rest or n < 1:
        raise ProtocolError(f"Movesense: a message of {len(message)} bytes is not made of {n_quantities} x 3 floats")
    values = np.frombuffer(message, "<f4", offset=_STAMP.size)
    if not interleaved:
        values = values.reshape(n_quantities, n, 3).transpose(1, 0, 2)
    return _STAMP.unpack_from(message)[0], values.reshape(n, 3 * n_quantities)


class MovesenseDriver(BleOnlyDriver["MovesenseSession"]):
    """The family; see ``MovesenseSession`` for its options."""

    name = "movesense"

    def recognise(self, advertisement: Advertisement) -> bool:
        """By name or service."""
        return advertisement.name.startswith("Movesense ") or any(
            service in advertisement.service_uuids for service in (SERVICE, _SHORT_SERVICE)
        )

    def make_session(self, config: SessionConfig) -> MovesenseSession:
        """Start a session (ConfigError: an option or its value is unknown)."""
        return MovesenseSession(config)


class MovesenseSession(QueueSession):
    """One Movesense.

    Options
    -------
    resource
        ``IMU6`` (the default) or ``IMU9``, with the magnetometer.
    layout
        ``blocks`` (the default) or ``interleaved``.
    """

    subscriptions = (NOTIFY,)

    def __init__(self, config: SessionConfig) -> None:
        options = config.options
        known = {"resource": ("IMU6", "IMU9"), "layout": ("blocks", "interleaved")}
        check_options(MovesenseDriver.name, options, known)
        resource = options.get("resource", "IMU6")
        self._interleaved = options.get("layout") == "interleaved"
        self._n_quantities = int(resource[-1]) // 3
        channels = IMU6 if self._n_quantities == 2 else IMU9
        rate_hz = nearest(_RATES_HZ, config.rate_hz)
        self._path = f"/Meas/{resource}/{rate_hz}"
        super().__init__(config, channels=channels, rate_hz=rate_hz, doubtful="the other option of layout may fit")
        self._full_scale = full_scale(
            channels,
            acc_g=config.acc_range_g or _ACC_RANGE_G,
            gyr_deg_s=config.gyr_range_deg_s or _GYR_RANGE_DEG_S,
        )
        self._scale = np.ones(len(channels), np.float32)
        self._scale[3:6] = np.deg2rad(1.0)
        self._clock = StampClock(interval_ns=self.interval_ns)
        self._stamp_ms = Unwrapper(bits=32)
        self._pending: bytes | None = None
        self._expected: int | None = None
        self._odd_lengths: list[int] = []
        self._other_layout = 0

    def start_commands(self) -> Sequence[Command]:
        """Say hello, subscribe; a device forgets its subscriptions when it is disconnected."""
        return (hello_command(), subscribe_command(self._path))

    def stop_commands(self) -> Sequence[Command]:
        """Unsubscribe."""
        return (unsubscribe_command(),)

    def link_reopened(self) -> None:
        """Forget the half message, and how long messages are: the link may have another MTU."""
        super().link_reopened()
        self._pending = self._expected = None

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in one notification.

        Raises
        ------
        ProtocolError
            The device refuses the subscription.
        """
        self.counters["packets"] += 1
        if channel != NOTIFY or len(data) < 2:
            self.reject(f"Movesense: {len(data)} bytes on {channel} are no notification")
        elif data[1] == _HELLO_REF:
            return
        elif data[1] != _DATA_REF:
            self.reject(f"Movesense: nothing was asked with the reference {data[1]}")
        elif data[0] == _RESULT:
            self._receive_result(data)
        elif data[0] == _DATA:
            self._begin(data[2:], host_time_ns)
        elif data[0] == _DATA_CONTINUED:
            self._continue(data[2:], host_time_ns)
        else:
            self.reject(f"Movesense: code {data[0]} is not known")

    def _receive_result(self, data: bytes) -> None:
        if len(data) < 4:
            self.reject(f"Movesense: a result has a status, got {data.hex()}")
            return
        status = int.from_bytes(data[2:4], "little")
        if not 100 <= status <= 599:
            status = int.from_bytes(data[2:4], "big")
        if not 200 <= status <= 299:
            raise ProtocolError(
                f"{self.config.sensor}: the Movesense refuses {self._path} with status {status}; "
                "its firmware may lack this rate or the SensorData service"
            )

    def _begin(self, part: bytes, host_time_ns: int | None) -> None:
        before, self._pending = self._pending, part
        if before is not None:
            self._settle(before, host_time_ns)
        self._finish(host_time_ns)

    def _continue(self, part: bytes, host_time_ns: int | None) -> None:
        if self._pending is None:
            self._expected = None  # messages are longer than was thought
            self.reject("Movesense: a continuation without its beginning")
        elif len(self._pending) + len(part) > _MAX_MESSAGE:
            self._pending = None
            self.reject(f"Movesense: a message of more than {_MAX_MESSAGE} bytes cannot be")
        else:
            self._pending += part
            self._finish(host_time_ns)

    def _finish(self, host_time_ns: int | None) -> None:
        if self._pending is not None and len(self._pending) == self._expected:
            message, self._pending = self._pending, None
            self._odd_lengths.clear()
            self._deliver(message, host_time_ns)

    def _settle(self, message: bytes, host_time_ns: int | None) -> None:
        """The next message began: this one was whole, or part of it is missing."""
        if self._expected is not None:
            self._odd_lengths.append(len(message))
            if len(set(self._odd_lengths)) > 1 or len(self._odd_lengths) < _RELEARN:
                del self._odd_lengths[:-_RELEARN]
                self.reject(f"Movesense: a message of {len(message)} bytes among those of {self._expected}")
                return
            self._odd_lengths.clear()
        self._expected = len(message) if self._deliver(message, host_time_ns) else None

    def _deliver(self, message: bytes, host_time_ns: int | None) -> bool:
        try:
            time_ms, values = parse_message(message, n_quantities=self._n_quantities, interleaved=self._interleaved)
        except ProtocolError as error:
            self.reject(str(error))
            return False
        elapsed_ms = self._clock.elapsed_ns(host_time_ns) // _NS_PER_MS
        stamp_ns = self._stamp_ms.unwrap(time_ms, elapsed=elapsed_ms) * _NS_PER_MS
        placed = self._clock.place_first(stamp_ns, len(values), host_time_ns=host_time_ns)
        self.counters["duplicates"] = self._clock.repeated
        self.counters["implausible"] = self._clock.implausible
        if placed is None:
            return True
        self._watch_layout(message, values)
        device_time_ns, lost = placed
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * self._scale
        self.deliver(
            samples_in_range(device_time_ns, values, self.spec.channels, full_scale=self._full_scale),
            lost=lost,
            boot_id=self._clock.boot_id,
            host_time_ns=host_time_ns,
        )
        return True

    def _watch_layout(self, message: bytes, values: NDArray[np.float32]) -> None:
        """Raise a doubt when, message after message, the other layout gives gravity and ours does not."""
        if len(values) < 2 or self._other_layout >= _INTERLEAVED_MESSAGES:
            return
        _, other = parse_message(message, n_quantities=self._n_quantities, interleaved=not self._interleaved)
        if _near_gravity(other) and not _near_gravity(values):
            self._other_layout += 1
            if self._other_layout == _INTERLEAVED_MESSAGES:
                layout = "blocks" if self._interleaved else "interleaved"
                self.doubt(f'the samples of {self._path} look {layout}; if so, set the option layout = "{layout}"')
        else:
            self._other_layout = 0


def _near_gravity(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = np.sqrt((values[:, :3] * values[:, :3]).sum(axis=1))
        return bool((np.abs(magnitude - STANDARD_GRAVITY_M_S2) < _NEAR_G_M_S2).all())
