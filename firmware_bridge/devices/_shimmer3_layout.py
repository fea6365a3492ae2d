"""What a Shimmer3 tells of itself: its channels, their calibration, and how they are laid out in a packet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError

__all__ = [
    "BLOCK_BYTES",
    "FIRST_CHANNEL",
    "INQUIRY_BYTES",
    "NOMINAL_GYR",
    "NOMINAL_LOW_NOISE",
    "NOMINAL_WIDE",
    "TICKS_PER_S",
    "Calibration",
    "Converter",
    "Inquiry",
    "packet_dtype",
    "parse_calibration",
    "parse_inquiry",
]

TICKS_PER_S: Final = 32768
BLOCK_BYTES: Final = 21
INQUIRY_BYTES: Final = 8
"""Of an inquiry response behind its 02, before the channels."""
FIRST_CHANNEL: Final = {"low_noise": 0x00, "wide": 0x04, "gyr": 0x0A}
"""Channel of the x axis; y and z follow."""

_MAX_CHANNELS: Final = 45
_WIDTHS: Final = {**dict.fromkeys(range(0x29), 2), 0x1B: 3, 0x1D: 1, 0x1E: 3, 0x1F: 3, 0x20: 1, 0x21: 3, 0x22: 3}
_ENDS: Final = {
    "low_noise": (0, 4095),  # a 12-bit converter
    "wide": (-32768, 32752),  # 12 bits, left-aligned
    "gyr": (-32768, 32767),
}
"""Counts at the ends of the range."""


@dataclass(frozen=True)
class Inquiry:
    """What the device is set to: ticks from sample to sample, and the channels of a packet in order."""

    interval_ticks: int
    channels: tuple[int, ...]

    @property
    def rate_hz(self) -> float:
        """Samples per second."""
        return TICKS_PER_S / self.interval_ticks


@dataclass(frozen=True, eq=False)
class Calibration:
    """Counts to units: ``inverse(alignment) @ ((counts - offset) / sensitivity)``.

    Parameters
    ----------
    offset, sensitivity : (3,) float64
        Counts, and counts per m/s^2 or deg/s.
    alignment : (3, 3) float64
        From the axes of the case to those of the chip.
    """

    offset: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    alignment: NDArray[np.float64]

    def matrix(self) -> NDArray[np.float64]:
        """Units per count behind the offset, (3, 3)."""
        matrix: NDArray[np.float64] = np.linalg.inv(self.alignment) / self.sensitivity
        return matrix


def _nominal(offset: float, sensitivity: float, alignment: Sequence[Sequence[int]]) -> Calibration:
    return Calibration(np.full(3, offset), np.full(3, sensitivity), np.array(alignment, dtype=np.float64))


_TURNED: Final = ((0, -1, 0), (-1, 0, 0), (0, 0, -1))
NOMINAL_LOW_NOISE: Final = _nominal(2047.0, 83.0, _TURNED)
NOMINAL_WIDE: Final = {
    g: _nominal(0.0, sensitivity, ((-1, 0, 0), (0, 1, 0), (0, 0, -1)))
    for g, sensitivity in ((2.0, 1631.0), (4.0, 815.0), (8.0, 408.0), (16.0, 135.0))
}
NOMINAL_GYR: Final = {
    deg_s: _nominal(0.0, sensitivity, _TURNED)
    for deg_s, sensitivity in ((250.0, 131.0), (500.0, 65.5), (1000.0, 32.8), (2000.0, 16.4))
}


def parse_inquiry(data: bytes) -> Inquiry:
    """Read the inquiry response behind its 02: rate u16, configuration (4), counts of channels and buffers, channels.

    Raises
    ------
    ProtocolError
        Cut short, no rate, no channel, too many of them, or one that is not known.
    """
    if len(data) < INQUIRY_BYTES or len(data) < INQUIRY_BYTES + data[6]:
        raise ProtocolError(f"the inquiry response is cut short: {len(data)} bytes")
    interval_ticks = int.from_bytes(data[:2], "little")
    channels = tuple(data[INQUIRY_BYTES : INQUIRY_BYTES + data[6]])
    if not TICKS_PER_S // 2000 <= interval_ticks <= TICKS_PER_S or not 1 <= len(channels) <= _MAX_CHANNELS:
        raise ProtocolError(f"the inquiry response has {len(channels)} channels every {interval_ticks} ticks")
    unknown = [f"{channel:02X}" for channel in channels if channel not in _WIDTHS]
    if unknown or len(set(channels)) != len(channels):
        raise ProtocolError(f"the inquiry response has channels twice, or unknown: {', '.join(unknown)}")
    return Inquiry(interval_ticks, channels)


def parse_calibration(block: bytes, *, sensitivity_unit: float = 1.0) -> Calibration | None:
    """Read a block of 21 bytes: offset and sensitivity 3 x i16 big-endian, alignment 9 x i8 in hundredths.

    Parameters
    ----------
    block
        The bytes.
    sensitivity_unit
        What a sensitivity of 1 means: 0.01 for the gyroscope.

    Returns
    -------
    calibration
        None where the block was never written, or cannot be inverted.
    """
    words = np.frombuffer(block, ">i2", count=6).astype(np.float64)
    alignment = np.frombuffer(block, "i1", offset=12, count=9).reshape(3, 3) / 100
    if block == b"\xff" * len(block) or not (words[3:] > 0).all() or abs(np.linalg.det(alignment)) < 0.1:
        return None
    return Calibration(words[:3], words[3:] * sensitivity_unit, alignment)


def packet_dtype(channels: Sequence[int]) -> np.dtype[np.void]:
    """Return how a packet is laid out: ``first``, ``time`` (3 bytes), ``XX`` by channel in hexadecimal."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("first", "u1"), ("time", "u1", (3,))]
    for channel in channels:
        big_endian = FIRST_CHANNEL["gyr"] <= channel < FIRST_CHANNEL["gyr"] + 3
        width = _WIDTHS[channel]
        name = f"{channel:02X}"
        fields.append((name, ">i2" if big_endian else "<i2") if width == 2 else (name, "u1", (width,)))
    return np.dtype(fields)


class Converter:
    """Packets to SI units, both sensors side by side in one product.

    Parameters
    ----------
    dtype
        Of a packet.
    acc
        ``low_noise`` or ``wide``.
    calibrations
        Of that one and of ``gyr``, by name.
    """

    def __init__(self, dtype: np.dtype[np.void], *, acc: str, calibrations: Mapping[str, Calibration]) -> None:
        names, there = (acc, "gyr"), set(dtype.names or ())
        self._fields: list[tuple[int, str]] = []
        for i, name in enumerate(names):
            fields = [f"{FIRST_CHANNEL[name] + axis:02X}" for axis in range(3)]
            if there.issuperset(fields):
                self._fields += [(3 * i + axis, field) for axis, field in enumerate(fields)]
        self._valid = np.isin(np.arange(6), [column for column, _ in self._fields])
        self._offsets = np.concatenate([calibrations[name].offset for name in names])
        self._to_si = np.zeros((6, 6))
        self._to_si[:3, :3] = calibrations[acc].matrix().T
        self._to_si[3:, 3:] = np.deg2rad(calibrations["gyr"].matrix().T)
        weights = np.abs(self._to_si)
        self._touches = weights > 0.1 * weights.max(axis=0)
        self._low, self._high = np.repeat([_ENDS[name] for name in names], 3, axis=0).T

    def convert(self, packets: NDArray[np.void]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return values in m/s^2 and rad/s, valid and saturated, all (n, 6).

        An axis is saturated where a count at the end of its range has part in it.
        """
        counts = np.zeros((len(packets), 6))
        for column, field in self._fields:
            counts[:, column] = packets[field]
        at_end = (counts <= self._low) | (counts >= self._high)
        saturated = at_end @ self._touches if at_end.any() else at_end
        return (counts - self._offsets) @ self._to_si, np.tile(self._valid, (len(packets), 1)), saturated
