"""Movella DOT, also sold as Xsens DOT, over BLE: one sample per notification, stamped in microseconds.

Facts: "Xsens DOT BLE Services Specifications", XD0506P Rev E (July 2021); mode 26, which is younger, as the
Utrecht MPTT-App parses it.

Choices
-------
* Only modes 20, 21 and 26 carry the acceleration with gravity in the sensor frame. The *free* acceleration of the
  others has gravity removed and is in an earth frame: ``parse_payload`` reads it, no session delivers it as ``acc``.
* The magnetometer counts in units of the local field; only with the option ``field_ut``, the strength of that
  field, it becomes uT and is delivered (mode 20).
* There is no sequence number: samples are missed by their time. The stamp wraps every 71.6 minutes.
* 120 Hz exists for recording on the device only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import numpy as np

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Battery, Command, SessionConfig
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
from kinedge.units import NS_PER_US

__all__ = [
    "BATTERY",
    "CONTROL",
    "DEVICE_CONTROL",
    "LONG",
    "MEDIUM",
    "MESSAGE_ACK",
    "MESSAGE_CONTROL",
    "PAYLOADS",
    "SHORT",
    "DotSync",
    "MovellaDotDriver",
    "MovellaDotSession",
    "message",
    "parse_payload",
    "rate_command",
    "start_command",
    "start_sync",
    "stop_command",
    "stop_sync",
]


def _uuid(short: int) -> str:
    return f"1517{short:04x}-4947-11e9-8646-d663bd873d93"


DEVICE_CONTROL: Final = _uuid(0x1002)
CONTROL: Final = _uuid(0x2001)
LONG: Final = _uuid(0x2002)
MEDIUM: Final = _uuid(0x2003)
SHORT: Final = _uuid(0x2004)
BATTERY: Final = _uuid(0x3001)
MESSAGE_CONTROL: Final = _uuid(0x7001)
MESSAGE_ACK: Final = _uuid(0x7003)

_COMPANY_ID: Final = 0x0886
_NAMES: Final = ("Movella DOT", "Xsens DOT")
_RATES_HZ: Final = (1, 4, 10, 12, 15, 20, 30, 60)
_SESSION_MODES: Final = ("20", "21", "26")
_ACC_RANGE_G: Final = 16.0
_GYR_RANGE_DEG_S: Final = 2000.0
_MAG_COUNTS: Final = 4096
_PROFILES: Final = {"general": 0, "dynamic": 1}
_SYNC_S: Final = 14.0
_START_SYNC: Final = 0x01
_STOP_SYNC: Final = 0x02
_SYNC_ACK: Final = 0x03

_FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "t": ("t_us", "<u4"),
    "q": ("quaternion", "<f4", 4),
    "euler": ("euler_deg", "<f4", 3),
    "free": ("free_acc_m_s2", "<f4", 3),
    "acc": ("acc_m_s2", "<f4", 3),
    "gyr": ("gyr_deg_s", "<f4", 3),
    "mag": ("mag_counts", "<i2", 3),
    "dq": ("dq", "<f4", 4),
    "dv": ("dv_m_s", "<f4", 3),
    "status": ("status", "<u2"),
    "clips": ("clips", "u1", 2),
}


class DotSync(Enum):
    """How far a sync has come, as this DOT told."""

    NOT_ASKED = "not asked"
    ASKED = "not acknowledged"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"


@dataclass(frozen=True)
class _Payload:
    """Where a mode is notified, and what its bytes are."""

    channel: str
    dtype: np.dtype[Any]


def _payload(channel: str, fields: str) -> _Payload:
    return _Payload(channel, np.dtype([_FIELDS[field] for field in fields.split()]))


PAYLOADS: Final = {
    2: _payload(MEDIUM, "t q free status clips"),
    3: _payload(MEDIUM, "t q free"),
    4: _payload(SHORT, "t euler"),
    5: _payload(SHORT, "t q"),
    6: _payload(SHORT, "t free"),
    7: _payload(MEDIUM, "t euler free status clips"),
    16: _payload(MEDIUM, "t euler free"),
    18: _payload(MEDIUM, "t dq dv mag"),
    19: _payload(MEDIUM, "t dq dv"),
    20: _payload(MEDIUM, "t acc gyr mag"),
    21: _payload(MEDIUM, "t acc gyr"),
    22: _payload(MEDIUM, "t euler free gyr"),
    23: _payload(MEDIUM, "t euler free mag"),
    24: _payload(MEDIUM, "t q gyr"),
    26: _payload(LONG, "t q acc gyr"),
}
"""By payload mode; 1, 17 and 25 are encoded and not published."""


def parse_payload(data: bytes, *, mode: int) -> np.void:
    """Read one notification.

    Returns
    -------
    sample : structured scalar
        Fields as in ``PAYLOADS[mode].dtype``, in the units that their names end in.

    Raises
    ------
    ProtocolError
        The mode is not published, the payload is too short, or what should be unused is not zero.
    """
    payload = PAYLOADS.get(mode)
    if payload is None:
        raise ProtocolError(f"Movella DOT: payload mode {mode} is not published; known are {sorted(PAYLOADS)}")
    size = payload.dtype.itemsize
    if len(data) < size or any(data[size:]):
        raise ProtocolError(
            f"Movella DOT: mode {mode} has {size} bytes and then zeros, got {len(data)}: {data[:64].hex()}"
        )
    sample: np.void = np.frombuffer(data, payload.dtype, count=1)[0]
    return sample


def message(kind: int, body: bytes) -> bytes:
    """Return a message of the message service: kind, length, body, and what makes the sum of all bytes 0."""
    head = bytes([kind, len(body)]) + body
    return head + bytes([-sum(head) & 0xFF])


def start_sync(root: str) -> Command:
    """Align the clocks of all DOTs to the one with the address ``root``, such as ``D4:CA:6E:F1:69:3D``.

    Every DOT, the root too, must get this one while it is not measuring; it takes about 14 s.

    Raises
    ------
    ConfigError
        ``root`` is no address.
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", root):
        raise ConfigError(f"Movella DOT: the root must be an address such as D4:CA:6E:F1:69:3D, got {root!r}")
    address = bytes.fromhex(root.replace(":", ""))[::-1]
    return Command(MESSAGE_CONTROL, message(0x02, bytes([_START_SYNC]) + address), pause_s=_SYNC_S)


def stop_sync() -> Command:
    """Let every DOT go by its own clock again."""
    return Command(MESSAGE_CONTROL, message(0x02, bytes([_STOP_SYNC])))


def rate_command(rate_hz: int, *, profile: str | None = None) -> Command:
    """Set the output rate, and the filter profile when one is given."""
    data = bytearray(32)
    data[0] = 0x10
    data[24:26] = rate_hz.to_bytes(2, "little")
    if profile is not None:
        data[0] |= 0x20
        data[26] = _PROFILES[profile]
    return Command(DEVICE_CONTROL, bytes(data), pause_s=0.1)


def start_command(mode: int) -> Command:
    """Start measuring."""
    return Command(CONTROL, bytes([0x01, 0x01, mode]))


def stop_command(mode: int) -> Command:
    """Stop measuring."""
    return Command(CONTROL, bytes([0x01, 0x00, mode]))


class MovellaDotDriver(BleOnlyDriver["MovellaDotSession"]):
    """The family; see ``MovellaDotSession`` for its options."""

    name = "movella_dot"

    def recognise(self, advertisement: Advertisement) -> bool:
        """By name or company id."""
        return advertisement.name in _NAMES or _COMPANY_ID in advertisement.manufacturer_data

    def make_session(self, config: SessionConfig) -> MovellaDotSession:
        """Start a session (ConfigError: an option or its value is unknown)."""
        return MovellaDotSession(config)


class MovellaDotSession(QueueSession):
    """One DOT.

    Options
    -------
    mode
        20, 21 (the default) or 26.
    profile
        ``general`` or ``dynamic`` filter; without it the device keeps the one it has.
    sync_root
        Address of the DOT whose clock all are to follow; the sync is done before the first start.
    field_ut
        Strength of the local magnetic field in uT; with it, mode 20 delivers the magnetometer.

    Attributes
    ----------
    sync_state
        Whether the sync was acknowledged. DOTs hang up and come back while they sync: the start then waits again.
    """

    def __init__(self, config: SessionConfig) -> None:
        options = config.options
        known = {"mode": _SESSION_MODES, "profile": tuple(_PROFILES), "sync_root": (), "field_ut": ()}
        check_options(MovellaDotDriver.name, options, known)
        self._mode = int(options.get("mode", "21"))
        self._profile = options.get("profile")
        self._sync = [start_sync(options["sync_root"])] if "sync_root" in options else []
        self.sync_state = DotSync.NOT_ASKED
        self._field_ut = _field_ut(options["field_ut"], self._mode) if "field_ut" in options else None
        self._channel = PAYLOADS[self._mode].channel
        channels = IMU6 if self._field_ut is None else IMU9
        super().__init__(
            config,
            channels=channels,
            rate_hz=nearest(_RATES_HZ, config.rate_hz),
            doubtful=f"is {self._mode} the mode that the device is in?",
        )
        self.subscriptions = (self._channel, BATTERY, MESSAGE_ACK)
        self._full_scale = full_scale(channels, acc_g=_ACC_RANGE_G, gyr_deg_s=_GYR_RANGE_DEG_S)
        self._scale = np.ones(len(channels), np.float32)
        self._scale[3:6] = np.deg2rad(1.0)
        self._scale[6:] = (self._field_ut or 0.0) / _MAG_COUNTS
        self._clock = StampClock(interval_ns=self.interval_ns)
        self._stamp_us = Unwrapper(bits=32)

    def start_commands(self) -> Sequence[Command]:
        """Sync (once), rate, start."""
        rate = rate_command(int(self.rate_hz), profile=self._profile)
        if self.sync_state is DotSync.ASKED:
            rate = replace(rate, pause_s=_SYNC_S)
        sync, self._sync = self._sync, []
        if sync:
            self.sync_state = DotSync.ASKED
        return (*sync, rate, start_command(self._mode))

    def stop_commands(self) -> Sequence[Command]:
        """Stop measuring; a sync stays."""
        return (stop_command(self._mode),)

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in one notification."""
        self.counters["packets"] += 1
        if channel == self._channel:
            self._receive_sample(data, host_time_ns)
        elif channel == BATTERY:
            self._receive_battery(data)
        elif channel == MESSAGE_ACK:
            self._receive_message(data)
        else:
            self.reject(f"Movella DOT: nothing is expected on {channel}")

    def _receive_sample(self, data: bytes, host_time_ns: int | None) -> None:
        try:
            sample = parse_payload(data, mode=self._mode)
        except ProtocolError as error:
            self.reject(str(error))
            return
        elapsed_us = self._clock.elapsed_ns(host_time_ns) // NS_PER_US
        stamp_ns = self._stamp_us.unwrap(int(sample["t_us"]), elapsed=elapsed_us) * NS_PER_US
        placed = self._clock.place_last(stamp_ns, 1, host_time_ns=host_time_ns)
        self.counters["duplicates"] = self._clock.repeated
        self.counters["implausible"] = self._clock.implausible
        if placed is None:
            return
        device_time_ns, lost = placed
        parts = [sample["acc_m_s2"], sample["gyr_deg_s"]]
        if self._field_ut is not None:
            parts.append(sample["mag_counts"])
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.concatenate(parts, dtype=np.float32)[None] * self._scale
        self.deliver(
            samples_in_range(device_time_ns, values, self.spec.channels, full_scale=self._full_scale),
            lost=lost,
            boot_id=self._clock.boot_id,
            host_time_ns=host_time_ns,
        )

    def _receive_battery(self, data: bytes) -> None:
        if len(data) < 2 or data[0] > 100:
            self.reject(f"Movella DOT: battery is a level up to 100 and a state, got {data.hex()}")
            return
        self._put(Battery(data[0], charging=bool(data[1])))

    def _receive_message(self, data: bytes) -> None:
        if len(data) < 4 or len(data) < data[1] + 3 or sum(data[: data[1] + 3]) & 0xFF:
            self.reject(f"Movella DOT: no message, or its sum is wrong: {data.hex()}")
        elif data[0] == 0x02 and data[1] >= 2 and data[2] == _SYNC_ACK and data[3] == 0:
            self.sync_state = DotSync.ACKNOWLEDGED
        elif data[0] == 0x02 and data[1] >= 2 and data[2] == _SYNC_ACK:
            self.sync_state = DotSync.REFUSED
            self.doubt(f"the sync was refused with code {data[3]}; its clock is not that of the other sensors")


def _field_ut(text: str, mode: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if mode != 20 or not 1 <= value <= 1000:
        raise ConfigError(f"movella_dot: field_ut needs mode 20 and 1 to 1000 uT, got mode {mode} and {text!r}")
    return value
