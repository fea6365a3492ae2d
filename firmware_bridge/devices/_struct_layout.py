"""What a struct map may say, checked when it is read, and the packet layout that follows from it."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import reduce
from operator import xor
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from kinedge.config import Config
from kinedge.signals import UNIT_OF, quantity_of
from kinedge.units import NS_PER_S, STANDARD_GRAVITY_M_S2

__all__ = ["PacketLayout", "StructMap", "WriteStep"]

_FORMAT: Final = {
    **{"i8": "i1", "u8": "u1", "i16": "i2", "u16": "u2", "i32": "i4", "u32": "u4", "u64": "u8"},
    **{"f32": "f4", "f64": "f8"},
}
_SI_PER: Final = {
    **{"m/s^2": 1.0, "g": STANDARD_GRAVITY_M_S2, "mg": STANDARD_GRAVITY_M_S2 / 1000},
    **{"rad/s": 1.0, "deg/s": float(np.deg2rad(1.0)), "uT": 1.0, "mT": 1000.0, "gauss": 100.0, "mgauss": 0.1},
}
_UNITS_OF: Final = {
    "m/s^2": ("m/s^2", "g", "mg"),
    "rad/s": ("rad/s", "deg/s"),
    "uT": ("uT", "mT", "gauss", "mgauss"),
}
_TICKS_HZ: Final = {"ns": NS_PER_S, "us": 1_000_000, "ms": 1000, "s": 1}
_CHECKSUM_BYTES: Final = {"sum8": 1, "xor8": 1, "crc16": 2}
_ORDER: Final = tuple(f"{quantity}_{axis}" for quantity in ("acc", "gyr", "mag") for axis in "xyz")


def _size(kind: str) -> int:
    return np.dtype(_FORMAT[kind]).itemsize


def _hex(text: str) -> str:
    bytes.fromhex(text)  # ValueError becomes a line of the report
    return text


_Hex = Annotated[str, AfterValidator(_hex)]
_Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_Offset = Annotated[int, Field(ge=0, lt=4096)]
_Unsigned = Literal["u8", "u16", "u32", "u64"]


class SequenceField(Config):
    """A number that grows by one with every packet, or by the samples of a packet."""

    at: _Offset
    type: _Unsigned
    counts: Literal["packets", "samples"] = "packets"


class TimeField(Config):
    """Device clock at the first or last sample of the packet."""

    at: _Offset
    type: _Unsigned
    unit: Literal["ns", "us", "ms", "s"] | None = None
    ticks_hz: int | None = Field(default=None, ge=1, le=NS_PER_S)
    of: Literal["first", "last"] = "first"

    @model_validator(mode="after")
    def _has_one_unit(self) -> TimeField:
        if (self.unit is None) == (self.ticks_hz is None):
            raise ValueError("give either unit or ticks_hz")
        return self

    @property
    def hz(self) -> int:
        """Ticks per second."""
        return self.ticks_hz or _TICKS_HZ[self.unit or "ns"]


class Checksum(Config):
    """Over all bytes before it; the last bytes of the packet. ``crc16`` is CCITT-FALSE."""

    kind: Literal["sum8", "xor8", "crc16"]


class ChannelField(Config):
    """One channel: ``scale * (raw - zero)`` in ``unit``; ``full_scale`` in the same unit."""

    name: Literal["acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z", "mag_x", "mag_y", "mag_z"]
    at: _Offset
    type: Literal["i8", "u8", "i16", "u16", "i32", "u32", "f32", "f64"]
    unit: str
    scale: float = 1.0
    zero: float = 0.0
    full_scale: float | None = Field(default=None, gt=0)
    invalid: int | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChannelField:
        known = _UNITS_OF[UNIT_OF[quantity_of(self.name)]]
        if self.unit not in known:
            raise ValueError(f"unit of {self.name} must be one of {', '.join(known)}, got {self.unit!r}")
        if self.scale == 0:
            raise ValueError(f"scale of {self.name} must not be 0")
        return self


class WriteStep(Config):
    """Bytes to write; ``channel`` is the characteristic, over BLE."""

    data: _Hex
    channel: _Uuid | None = None
    response: bool = True
    pause_s: float = Field(default=0.0, ge=0, le=60)


class SerialWay(Config):
    """How packets are found on a serial line."""

    header: Annotated[_Hex, Field(min_length=2)]
    baud_rate: int = Field(default=115_200, ge=300, le=20_000_000)
    start: tuple[WriteStep, ...] = ()
    stop: tuple[WriteStep, ...] = ()


class BleWay(Config):
    """Where packets are notified, one each; at least one of ``name`` and ``service`` to be recognised by."""

    notify: _Uuid
    name: str = ""
    service: _Uuid | None = None
    start: tuple[WriteStep, ...] = ()
    stop: tuple[WriteStep, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> BleWay:
        if not self.name and self.service is None:
            raise ValueError("give the start of the advertised name, or the service, so that the board is recognised")
        if any(step.channel is None for step in (*self.start, *self.stop)):
            raise ValueError("every step of start and stop needs its channel")
        return self


class StructMap(Config):
    """The description of a board."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    rate_hz: float = Field(ge=1, le=10_000)
    packet_bytes: int = Field(ge=1, le=4096)
    samples_per_packet: int = Field(default=1, ge=1, le=255)
    samples_at: _Offset = 0
    sample_bytes: int = Field(ge=1, le=4096)
    endian: Literal["little", "big"] = "little"
    channels: tuple[ChannelField, ...] = Field(min_length=1)
    sequence: SequenceField | None = None
    time: TimeField | None = None
    checksum: Checksum | None = None
    serial: SerialWay | None = None
    ble: BleWay | None = None

    @model_validator(mode="after")
    def _fits(self) -> StructMap:
        names = [channel.name for channel in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"channel {twice[0]} is described twice")
        for channel in self.channels:
            if channel.at + _size(channel.type) > self.sample_bytes:
                raise ValueError(f"{channel.name} ends behind its sample of {self.sample_bytes} bytes")
        body = self.packet_bytes - (0 if self.checksum is None else _CHECKSUM_BYTES[self.checksum.kind])
        end = self.samples_at + self.samples_per_packet * self.sample_bytes
        if end > body:
            raise ValueError(f"the samples end at byte {end}, but the packet has room for {body}")
        for what, part in (("sequence", self.sequence), ("time", self.time)):
            if part is not None and part.at + _size(part.type) > body:
                raise ValueError(f"{what} ends behind the packet, which has room for {body} bytes")
        if self.serial is None and self.ble is None:
            raise ValueError("describe serial, ble, or both")
        if self.serial is not None and len(bytes.fromhex(self.serial.header)) > body:
            raise ValueError("the header is longer than the packet")
        return self


class PacketLayout:
    """How packets of a description are read.

    Attributes
    ----------
    size
        Bytes of a packet.
    channels
        Names in the order acc, gyr, mag; x, y, z.
    full_scale : (n_channels,) float32
        SI units; the end of the integer type unless described; infinite for floats.
    """

    def __init__(self, described: StructMap) -> None:
        order = ">" if described.endian == "big" else "<"
        self._fields = tuple(sorted(described.channels, key=lambda channel: _ORDER.index(channel.name)))
        self.size = described.packet_bytes
        self.n_samples = described.samples_per_packet
        self.channels = tuple(channel.name for channel in self._fields)
        self._checksum = described.checksum
        self._endian: Literal["little", "big"] = described.endian
        sample = np.dtype(
            {
                "names": list(self.channels),
                "formats": [order + _FORMAT[channel.type] for channel in self._fields],
                "offsets": [channel.at for channel in self._fields],
                "itemsize": described.sample_bytes,
            }
        )
        parts: list[tuple[str, Any, int]] = [("samples", (sample, (self.n_samples,)), described.samples_at)]
        if described.sequence is not None:
            parts.append(("sequence", order + _FORMAT[described.sequence.type], described.sequence.at))
        if described.time is not None:
            parts.append(("time", order + _FORMAT[described.time.type], described.time.at))
        self._dtype = np.dtype(
            {
                "names": [name for name, _, _ in parts],
                "formats": [form for _, form, _ in parts],
                "offsets": [at for _, _, at in parts],
                "itemsize": self.size,
            }
        )
        si = np.array([_SI_PER[channel.unit] for channel in self._fields])
        self._scale = si * [channel.scale for channel in self._fields]
        self._zero = np.array([channel.zero for channel in self._fields])
        self.full_scale = np.array([_end_of(channel) for channel in self._fields] * si, np.float32)

    def is_intact(self, packet: bytes) -> bool:
        """Whether the checksum is right; True without one."""
        if self._checksum is None:
            return True
        n = _CHECKSUM_BYTES[self._checksum.kind]
        body, found = packet[:-n], int.from_bytes(packet[-n:], self._endian)
        if self._checksum.kind == "sum8":
            return found == sum(body) & 0xFF
        if self._checksum.kind == "xor8":
            return found == reduce(xor, body, 0)
        return found == crc_hqx(body, 0xFFFF)

    def decode(self, packets: Sequence[bytes]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_]]:
        """Read packets of the right size.

        Returns
        -------
        fields : (n_packets,) structured
            With ``sequence`` and ``time``, where described.
        values : (n_packets, n_samples, n_channels) float32
            SI units.
        valid : (n_packets, n_samples, n_channels) bool
            False where the raw value is the one that the board sends for none.
        """
        fields = np.frombuffer(b"".join(packets), self._dtype)
        raw = np.stack([fields["samples"][name] for name in self.channels], axis=-1, dtype=np.float64, casting="unsafe")
        valid = np.ones(raw.shape, bool)
        for i, channel in enumerate(self._fields):
            if channel.invalid is not None:
                valid[..., i] = raw[..., i] != channel.invalid
        with np.errstate(over="ignore", invalid="ignore"):
            return fields, ((raw - self._zero) * self._scale).astype(np.float32), valid


def _end_of(channel: ChannelField) -> float:
    """End of range in the unit of the channel."""
    if channel.full_scale is not None:
        return channel.full_scale
    dtype = np.dtype(_FORMAT[channel.type])
    if dtype.kind == "f":
        return np.inf
    info = np.iinfo(dtype)
    return float(max(abs(info.max - channel.zero), abs(info.min + 1 - channel.zero)) * abs(channel.scale))
