"""Data frames of the Polar PMD service: a header, and samples raw or as differences of a few bits each.

A compressed frame is one reference sample, then blocks of ``bits, count, packed differences``; the differences are
two's complement of ``bits`` bits, least significant bit first, channel by channel, and add up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["MAX_SAMPLES", "Measurement", "PmdFrame", "pack_differences", "parse_frame", "unpack_differences"]

MAX_SAMPLES: Final = 2048
"""More samples than this in one frame are refused; real ones hold up to some hundred."""

_HEADER: Final = struct.Struct("<BQB")
_COMPRESSED: Final = 0x80
_MAX_BITS: Final = 32
_M_S2_PER_MILLI_G: Final = STANDARD_GRAVITY_M_S2 / 1000
_UT_PER_GAUSS: Final = 100.0
_RAW_ACC: Final = {0: 1, 1: 2, 2: 3}  # bytes a value


class Measurement(IntEnum):
    """What a stream measures."""

    ACC = 2
    GYR = 5
    MAG = 6

    @classmethod
    def of(cls, data: bytes) -> Measurement:
        """Return what a frame holds.

        Raises
        ------
        ProtocolError
            No frame, or of something else.
        """
        if len(data) < _HEADER.size:
            raise ProtocolError(f"Polar PMD: a frame has at least {_HEADER.size} bytes, got {len(data)}")
        try:
            return cls(data[0] & 0x3F)
        except ValueError as error:
            raise ProtocolError(f"Polar PMD: measurement {data[0] & 0x3F} is none of ours") from error


@dataclass(frozen=True, eq=False)
class PmdFrame:
    """One frame.

    Parameters
    ----------
    measurement
        What it holds.
    time_ns
        Of the last sample, since 2000 by the clock of the device.
    raw : (n, 3) int64 or float32
        As sent.
    values : (n, 3) float32
        SI units.
    """

    measurement: Measurement
    time_ns: int
    raw: NDArray[np.int64] | NDArray[np.float32]
    values: NDArray[np.float32]


def parse_frame(data: bytes, *, factor: float = 1.0) -> PmdFrame:
    """Decode one frame.

    Parameters
    ----------
    data
        The whole notification.
    factor
        What the device told to multiply compressed values with.

    Raises
    ------
    ProtocolError
        The frame is cut, has bytes left, or is of an unknown type.
    """
    measurement = Measurement.of(data)
    _, time_ns, frame_type = _HEADER.unpack_from(data)
    content = data[_HEADER.size :]
    raw: NDArray[np.int64] | NDArray[np.float32]
    if measurement is Measurement.ACC and frame_type in _RAW_ACC:
        raw, scale = _raw(content, width=_RAW_ACC[frame_type]), _M_S2_PER_MILLI_G
    elif measurement is Measurement.ACC and frame_type == _COMPRESSED:
        raw, scale = _compressed(content, bits=16), factor * STANDARD_GRAVITY_M_S2
    elif measurement is Measurement.ACC and frame_type == _COMPRESSED + 1:
        raw, scale = _compressed(content, bits=16), factor * _M_S2_PER_MILLI_G
    elif measurement is Measurement.GYR and frame_type == _COMPRESSED:
        raw, scale = _compressed(content, bits=16), factor * float(np.deg2rad(1.0))
    elif measurement is Measurement.GYR and frame_type == _COMPRESSED + 1:
        patterns = _compressed(content, bits=32) & 0xFFFFFFFF  # differences add up as bit patterns of floats
        raw, scale = patterns.astype(np.uint32).view(np.float32), float(np.deg2rad(1.0))
    elif measurement is Measurement.MAG and frame_type == _COMPRESSED:
        raw, scale = _compressed(content, bits=16), factor * _UT_PER_GAUSS
    elif measurement is Measurement.MAG and frame_type == _COMPRESSED + 1:
        raw = _compressed(content, bits=16, n_channels=4)[:, :3]  # the fourth is the state of calibration
        scale = _UT_PER_GAUSS / 1000
    else:
        raise ProtocolError(f"Polar PMD: frame type 0x{frame_type:02x} of {measurement.name} is not known")
    with np.errstate(over="ignore", invalid="ignore"):
        return PmdFrame(measurement, time_ns, raw, (raw * np.float32(scale)).astype(np.float32))


def _raw(content: bytes, *, width: int) -> NDArray[np.int64]:
    n, rest = divmod(len(content), 3 * width)
    if rest or not 1 <= n <= MAX_SAMPLES:
        raise ProtocolError(f"Polar PMD: {len(content)} bytes are no samples of 3 x {width}")
    return _integers(content, width=width).reshape(n, 3)


def _integers(data: bytes, *, width: int) -> NDArray[np.int64]:
    """Little-endian two's complement of any width."""
    parts = np.frombuffer(data, np.uint8).reshape(-1, width).astype(np.int64)
    value: NDArray[np.int64] = parts @ (np.int64(1) << (8 * np.arange(width, dtype=np.int64)))
    value -= (parts[:, -1] >> 7) << np.int64(8 * width)
    return value


def _compressed(content: bytes, *, bits: int, n_channels: int = 3) -> NDArray[np.int64]:
    """Return (n, n_channels) int64."""
    size = n_channels * bits // 8
    if len(content) < size:
        raise ProtocolError(f"Polar PMD: a reference sample has {size} bytes, got {len(content)}")
    blocks = [_integers(content[:size], width=bits // 8).reshape(1, n_channels)]
    at, n = size, 1
    while at < len(content):
        width, count = content[at], content[at + 1] if at + 1 < len(content) else 0
        end = at + 2 + -(-width * count * n_channels // 8)
        n += count
        if not 1 <= width <= _MAX_BITS or count < 1 or n > MAX_SAMPLES:
            raise ProtocolError(f"Polar PMD: a block of {count} samples of {width} bits cannot be")
        if end > len(content):
            raise ProtocolError(f"Polar PMD: a block of {count} samples of {width} bits is cut: {len(content)} bytes")
        blocks.append(unpack_differences(content[at + 2 : end], bits=width, n=count * n_channels).reshape(count, -1))
        at = end
    return np.cumsum(np.concatenate(blocks), axis=0)


def unpack_differences(data: bytes, *, bits: int, n: int) -> NDArray[np.int64]:
    """Unpack ``n`` signed numbers of ``bits`` bits each, least significant bit first; (n,) int64."""
    each = np.unpackbits(np.frombuffer(data, np.uint8), count=bits * n, bitorder="little").reshape(n, bits)
    weights = np.int64(1) << np.arange(bits, dtype=np.int64)
    weights[-1] = -weights[-1]
    values: NDArray[np.int64] = each @ weights
    return values


def pack_differences(values: NDArray[np.int64], *, bits: int) -> bytes:
    """Pack signed numbers (n,): the inverse of ``unpack_differences``, for emulated devices."""
    each = (values[:, None] >> np.arange(bits, dtype=np.int64)) & 1
    return np.packbits(each.astype(np.uint8).reshape(-1), bitorder="little").tobytes()
