"""The reference wire protocol, version 1: packets as frozen values, bytes -> packet -> bytes.

A payload starts with ``version << 4 | type`` and a stream id; everything is little-endian. The same payload
goes bare over BLE (one notification each) and framed over serial (see ``framing``).

    HELLO          what a stream carries: placement, serial number, rate, channels with unit, scale and range
    SAMPLES        int16 counts, interleaved by sample; ``sequence`` counts samples, so that loss is exact
    TIME_SYNC      three time stamps of a two-way exchange, NTP style
    STATUS         battery, temperature, uptime, samples dropped on the device
    HELLO_REQUEST  host -> device: describe yourself now

A device sends HELLO at start, on request and every 2 s, so that a host that attaches in mid-stream is served.
Only ``ProtocolError`` leaves this module on bad bytes or bad field values.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError, SignalError
from kinedge.signals import Quantity, SensorSpec, quantity_of

__all__ = [
    "ALL_STREAMS",
    "BATTERY_UNKNOWN",
    "INVALID_COUNT",
    "MAX_PAYLOAD",
    "SAMPLES_HEADER",
    "VERSION",
    "Channel",
    "Hello",
    "HelloRequest",
    "Packet",
    "PacketType",
    "SampleFlags",
    "Samples",
    "Status",
    "TimeSync",
    "parse_packet",
]

VERSION: Final = 1
ALL_STREAMS: Final = 255
"""Stream id of a host packet that is meant for every stream behind a link; no stream has it."""
INVALID_COUNT: Final = -32768
"""The count of a sample that the device marks as missing or broken."""
BATTERY_UNKNOWN: Final = 255
MAX_PAYLOAD: Final = 18 + 255 * 9 * 2
"""Bytes of the longest packet there is: 255 samples of nine channels."""
SAMPLES_HEADER: Final = struct.Struct("<BBHQIBB")

_HELLO_HEADER: Final = struct.Struct("<BBIIB")
_HELLO_CHANNEL: Final = struct.Struct("<BBff")
_TIME_SYNC: Final = struct.Struct("<BBBBHQQQ")
_STATUS: Final = struct.Struct("<BBIBBhIQ")
_TEMPERATURE_UNKNOWN: Final = -32768
_CHARGING: Final = 1
_AXES: Final = "xyz"
_UNIT_CODE: Final = {Quantity.ACC: 1, Quantity.GYR: 2, Quantity.MAG: 3}
_MAX_SERIAL_BYTES: Final = 64
_MIN_INTERVAL_NS: Final = 100_000
_MAX_INTERVAL_NS: Final = 1_000_000_000


class PacketType(IntEnum):
    """Low nibble of the first byte."""

    HELLO = 1
    SAMPLES = 2
    TIME_SYNC = 3
    STATUS = 4
    HELLO_REQUEST = 5


class SampleFlags(IntFlag):
    """What a device says about all samples of a packet."""

    NONE = 0
    ACC_CLIPPED = 1
    GYR_CLIPPED = 2
    OVERFLOWED = 4


def _first_byte(packet_type: PacketType) -> int:
    return VERSION << 4 | packet_type


def _require_unsigned(what: str, value: int, *, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise ProtocolError(f"{what} must fit an unsigned {bits}-bit field, got {value}")


def _require_stream(stream_id: int) -> None:
    if not 0 <= stream_id < ALL_STREAMS:
        raise ProtocolError(f"a stream id lies between 0 and {ALL_STREAMS - 1}, got {stream_id}")


@dataclass(frozen=True)
class Channel:
    """One channel as a device describes it.

    Parameters
    ----------
    name
        ``acc_x`` ... ``mag_z``. Its unit follows: m/s^2, rad/s or uT.
    scale
        SI units per count, kept at the float32 precision of the wire.
    full_scale
        End of the range in SI units, kept likewise; a value within half a count of it is saturated.
    """

    name: str
    scale: float
    full_scale: float

    def __post_init__(self) -> None:
        try:
            quantity_of(self.name)
        except SignalError as error:
            raise ProtocolError(f"HELLO: {error}") from error
        for field in ("scale", "full_scale"):
            value = getattr(self, field)
            if not (math.isfinite(value) and 1e-12 <= value <= 1e12):
                raise ProtocolError(f"HELLO: {field} of {self.name} must be a positive SI number, got {value}")
            object.__setattr__(self, field, float(np.float32(value)))

    @property
    def quantity(self) -> Quantity:
        """What it measures."""
        return quantity_of(self.name)


@dataclass(frozen=True)
class Hello:
    """What a stream carries.

    Parameters
    ----------
    stream_id
        0 to 254.
    boot_id
        Changes at every start of the device: clock and counters start anew.
    interval_ns
        Nominal sample period, 1 Hz to 10 kHz.
    sensor
        Where the device is worn, such as ``wrist_left``.
    serial
        Identity of the hardware: printable, 1 to 64 bytes of UTF-8.
    channels
        In the order of the samples, each channel once.
    """

    stream_id: int
    boot_id: int
    interval_ns: int
    sensor: str
    serial: str
    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        _require_stream(self.stream_id)
        _require_unsigned("HELLO: boot_id", self.boot_id, bits=32)
        if not _MIN_INTERVAL_NS <= self.interval_ns <= _MAX_INTERVAL_NS:
            raise ProtocolError(f"HELLO: interval_ns must lie between 1 Hz and 10 kHz, got {self.interval_ns}")
        if not (self.serial.isprintable() and 1 <= len(self.serial.encode(errors="replace")) <= _MAX_SERIAL_BYTES):
            raise ProtocolError(
                f"HELLO: the serial number must be 1 to {_MAX_SERIAL_BYTES} printable bytes, got {self.serial!r:.80}"
            )
        _ = self.spec

    @property
    def spec(self) -> SensorSpec:
        """The sensor in the words of the other rooms."""
        try:
            return SensorSpec(self.sensor, tuple(channel.name for channel in self.channels))
        except SignalError as error:
            raise ProtocolError(f"HELLO: {error}") from error

    @property
    def scales(self) -> NDArray[np.float32]:
        """(n_channels,) SI units per count."""
        return np.array([channel.scale for channel in self.channels], dtype=np.float32)

    @property
    def saturation_counts(self) -> NDArray[np.int16]:
        """(n_channels,) smallest magnitude in counts that means the end of the range."""
        limits = [math.ceil(channel.full_scale / channel.scale - 0.5) for channel in self.channels]
        return np.clip(limits, 1, 32767).astype(np.int16)

    def to_bytes(self) -> bytes:
        """Encode the payload."""
        sensor, serial = self.sensor.encode(), self.serial.encode()
        parts = [
            _HELLO_HEADER.pack(
                _first_byte(PacketType.HELLO), self.stream_id, self.boot_id, self.interval_ns, len(self.channels)
            ),
            bytes([len(sensor)]),
            sensor,
            bytes([len(serial)]),
            serial,
        ]
        for channel in self.channels:
            code = channel.quantity << 4 | _AXES.index(channel.name[-1])
            parts.append(_HELLO_CHANNEL.pack(code, _UNIT_CODE[channel.quantity], channel.scale, channel.full_scale))
        return b"".join(parts)


@dataclass(frozen=True)
class Samples:
    """Consecutive samples of one stream.

    Parameters
    ----------
    stream_id
        0 to 254.
    sequence
        Index of the first sample since boot, modulo 65536.
    t_us
        Device clock at the first sample.
    interval_ns
        From sample to sample.
    count
        Number of samples, 1 to 255.
    body
        ``count * n_channels`` little-endian int16, interleaved by sample.
    flags
        For the packet as a whole.
    """

    stream_id: int
    sequence: int
    t_us: int
    interval_ns: int
    count: int
    body: bytes
    flags: SampleFlags = SampleFlags.NONE

    def __post_init__(self) -> None:
        _require_stream(self.stream_id)
        _require_unsigned("SAMPLES: sequence", self.sequence, bits=16)
        _require_unsigned("SAMPLES: t_us", self.t_us, bits=64)
        _require_unsigned("SAMPLES: interval_ns", self.interval_ns, bits=32)
        _require_unsigned("SAMPLES: flags", self.flags, bits=8)
        if not 1 <= self.count <= 255:
            raise ProtocolError(f"SAMPLES: a packet holds 1 to 255 samples, got {self.count}")
        if not self.body or len(self.body) % (2 * self.count):
            raise ProtocolError(f"SAMPLES: {len(self.body)} bytes are no whole int16 channels of {self.count} samples")

    @classmethod
    def from_counts(
        cls,
        counts: NDArray[np.int16],
        *,
        stream_id: int,
        sequence: int,
        t_us: int,
        interval_ns: int,
        flags: SampleFlags = SampleFlags.NONE,
    ) -> Samples:
        """Make a packet of (n, n_channels) int16 counts."""
        if counts.ndim != 2 or counts.dtype != np.int16:
            raise ProtocolError(f"SAMPLES: counts must be (n, n_channels) int16, got {counts.shape} {counts.dtype}")
        body = counts.astype("<i2", copy=False).tobytes()
        return cls(stream_id, sequence, t_us, interval_ns, len(counts), body, flags)

    @property
    def counts(self) -> NDArray[np.int16]:
        """(count, n_channels) int16, read-only."""
        return np.frombuffer(self.body, dtype="<i2").reshape(self.count, -1)

    def to_bytes(self) -> bytes:
        """Encode the payload."""
        header = SAMPLES_HEADER.pack(
            _first_byte(PacketType.SAMPLES),
            self.stream_id,
            self.sequence,
            self.t_us,
            self.interval_ns,
            self.count,
            self.flags,
        )
        return header + self.body


@dataclass(frozen=True)
class TimeSync:
    """One half of a two-way exchange: the host sends ``t1_us``, the device adds ``t2_us`` and ``t3_us``."""

    stream_id: int
    sequence: int
    t1_us: int
    t2_us: int = 0
    t3_us: int = 0
    is_response: bool = False

    def __post_init__(self) -> None:
        _require_unsigned("TIME_SYNC: stream id", self.stream_id, bits=8)
        _require_unsigned("TIME_SYNC: sequence", self.sequence, bits=16)
        for field in ("t1_us", "t2_us", "t3_us"):
            _require_unsigned(f"TIME_SYNC: {field}", getattr(self, field), bits=64)

    def to_bytes(self) -> bytes:
        """Encode the payload."""
        return _TIME_SYNC.pack(
            _first_byte(PacketType.TIME_SYNC),
            self.stream_id,
            self.is_response,
            0,
            self.sequence,
            self.t1_us,
            self.t2_us,
            self.t3_us,
        )


@dataclass(frozen=True)
class Status:
    """How a device fares.

    Parameters
    ----------
    battery_percent
        0 to 100, or None where the device does not know.
    temperature_c
        To 0.01 degrees Celsius, or None where the device does not know.
    dropped
        Samples dropped on the device since boot.
    uptime_us
        Device clock since boot.
    """

    stream_id: int
    boot_id: int
    battery_percent: int | None
    charging: bool
    temperature_c: float | None
    dropped: int
    uptime_us: int

    def __post_init__(self) -> None:
        _require_stream(self.stream_id)
        _require_unsigned("STATUS: boot_id", self.boot_id, bits=32)
        _require_unsigned("STATUS: dropped", self.dropped, bits=32)
        _require_unsigned("STATUS: uptime_us", self.uptime_us, bits=64)
        if self.battery_percent is not None and not 0 <= self.battery_percent <= 100:
            raise ProtocolError(f"STATUS: battery must be 0 to 100 percent, got {self.battery_percent}")
        if self.temperature_c is not None and not -327.67 <= self.temperature_c <= 327.67:
            raise ProtocolError(f"STATUS: temperature must lie within +-327.67 degrees, got {self.temperature_c}")

    def to_bytes(self) -> bytes:
        """Encode the payload."""
        return _STATUS.pack(
            _first_byte(PacketType.STATUS),
            self.stream_id,
            self.boot_id,
            BATTERY_UNKNOWN if self.battery_percent is None else self.battery_percent,
            _CHARGING if self.charging else 0,
            _TEMPERATURE_UNKNOWN if self.temperature_c is None else round(self.temperature_c * 100),
            self.dropped,
            self.uptime_us,
        )


@dataclass(frozen=True)
class HelloRequest:
    """Host -> device: send HELLO now. ``ALL_STREAMS`` asks every stream behind the link."""

    stream_id: int = ALL_STREAMS

    def __post_init__(self) -> None:
        _require_unsigned("HELLO_REQUEST: stream id", self.stream_id, bits=8)

    def to_bytes(self) -> bytes:
        """Encode the payload."""
        return bytes([_first_byte(PacketType.HELLO_REQUEST), self.stream_id])


Packet: TypeAlias = Hello | Samples | TimeSync | Status | HelloRequest


def parse_packet(payload: bytes) -> Packet:
    """Decode one whole payload.

    Raises
    ------
    ProtocolError
        Too short, too long, of another version or type, or a field that cannot be.
    """
    if len(payload) < 2:
        raise ProtocolError(f"a packet has at least 2 bytes, got {len(payload)}")
    version, code = payload[0] >> 4, payload[0] & 0xF
    if version != VERSION:
        raise ProtocolError(f"protocol version {version} is not spoken here: expected {VERSION}; update one side")
    if code == PacketType.SAMPLES:
        return _parse_samples(payload)
    if code == PacketType.HELLO:
        return _parse_hello(payload)
    if code == PacketType.TIME_SYNC:
        return _parse_time_sync(payload)
    if code == PacketType.STATUS:
        return _parse_status(payload)
    if code == PacketType.HELLO_REQUEST:
        _require_length("HELLO_REQUEST", payload, 2)
        return HelloRequest(payload[1])
    raise ProtocolError(
        f"packet type {code} is unknown: known are {', '.join(f'{t.value} {t.name}' for t in PacketType)}"
    )


def _require_length(what: str, payload: bytes, length: int) -> None:
    if len(payload) != length:
        raise ProtocolError(f"{what}: expected {length} bytes, got {len(payload)}")


def _parse_samples(payload: bytes) -> Samples:
    if len(payload) < SAMPLES_HEADER.size:
        raise ProtocolError(f"SAMPLES: expected at least {SAMPLES_HEADER.size} bytes, got {len(payload)}")
    _, stream_id, sequence, t_us, interval_ns, count, flags = SAMPLES_HEADER.unpack_from(payload)
    body = bytes(payload[SAMPLES_HEADER.size :])
    return Samples(stream_id, sequence, t_us, interval_ns, count, body, SampleFlags(flags))


def _parse_hello(payload: bytes) -> Hello:
    if len(payload) < _HELLO_HEADER.size:
        raise ProtocolError(f"HELLO: expected at least {_HELLO_HEADER.size} bytes, got {len(payload)}")
    _, stream_id, boot_id, interval_ns, n_channels = _HELLO_HEADER.unpack_from(payload)
    sensor, at = _parse_text("sensor name", payload, _HELLO_HEADER.size)
    serial, at = _parse_text("serial number", payload, at)
    _require_length(f"HELLO with {n_channels} channels", payload, at + n_channels * _HELLO_CHANNEL.size)
    channels = tuple(_parse_channel(*fields) for fields in _HELLO_CHANNEL.iter_unpack(payload[at:]))
    return Hello(stream_id, boot_id, interval_ns, sensor, serial, channels)


def _parse_text(what: str, payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at] if at < len(payload) else at + 1
    if end > len(payload):
        raise ProtocolError(f"HELLO: the packet ends inside the {what}")
    try:
        return payload[at + 1 : end].decode(), end
    except UnicodeDecodeError as error:
        raise ProtocolError(f"HELLO: the {what} is not UTF-8") from error


def _parse_channel(code: int, unit: int, scale: float, full_scale: float) -> Channel:
    axis = code & 0xF
    if code >> 4 not in _UNIT_CODE or axis >= len(_AXES):
        raise ProtocolError(f"HELLO: channel code 0x{code:02x} is unknown: quantity 1 to 3, then axis 0 to 2")
    quantity = Quantity(code >> 4)
    if unit != _UNIT_CODE[quantity]:
        raise ProtocolError(f"HELLO: unit code {unit} does not fit {quantity.name}: expected {_UNIT_CODE[quantity]}")
    return Channel(f"{quantity.name.lower()}_{_AXES[axis]}", scale, full_scale)


def _parse_time_sync(payload: bytes) -> TimeSync:
    _require_length("TIME_SYNC", payload, _TIME_SYNC.size)
    _, stream_id, op, _, sequence, t1_us, t2_us, t3_us = _TIME_SYNC.unpack(payload)
    if op not in (0, 1):
        raise ProtocolError(f"TIME_SYNC: op must be 0 (request) or 1 (response), got {op}")
    return TimeSync(stream_id, sequence, t1_us, t2_us, t3_us, bool(op))


def _parse_status(payload: bytes) -> Status:
    _require_length("STATUS", payload, _STATUS.size)
    _, stream_id, boot_id, battery, flags, temperature, dropped, uptime_us = _STATUS.unpack(payload)
    return Status(
        stream_id,
        boot_id,
        None if battery == BATTERY_UNKNOWN else battery,
        bool(flags & _CHARGING),
        None if temperature == _TEMPERATURE_UNKNOWN else temperature / 100,
        dropped,
        uptime_us,
    )
