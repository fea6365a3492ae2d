"""A Shimmer3 that does not exist, on a serial line."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.devices._shimmer3_layout import (
    NOMINAL_GYR,
    NOMINAL_LOW_NOISE,
    NOMINAL_WIDE,
    TICKS_PER_S,
    Calibration,
    packet_dtype,
)
from kinedge.firmware_bridge.devices.emulated_serial import SampleSource
from kinedge.units import NS_PER_S

__all__ = ["EmulatedShimmer3", "calibration_block"]

_N_ARGUMENTS: Final = {0x05: 2, 0x08: 3, 0x09: 1, 0x49: 1}
_KNOWN: Final = frozenset({0x01, 0x07, 0x20, 0x2C, 0x2E, 0x7B, *_N_ARGUMENTS})
_CHANNELS_OF_BIT: Final = {0x80: (0, 1, 2), 0x1000: (4, 5, 6), 0x40: (0x0A, 0x0B, 0x0C)}
_ACK: Final = b"\xff"
_UNWRITTEN: Final = b"\xff" * 21


def calibration_block(calibration: Calibration, *, sensitivity_unit: float = 1.0) -> bytes:
    """Return the 21 bytes in which a device keeps a calibration."""
    words = np.concatenate([calibration.offset, calibration.sensitivity / sensitivity_unit])
    return bytes(np.rint(words).astype(">i2").tobytes() + np.rint(calibration.alignment * 100).astype("i1").tobytes())


class EmulatedShimmer3:
    """A Shimmer3 with LogAndStream: silent until it is told START.

    Parameters
    ----------
    values : (n, 6)
        m/s^2 and rad/s; silent when they run out.
    start_ticks
        Its clock at power on.
    calibrated
        Whether its calibration was ever written.
    status_every
        Packets from one in-stream status to the next, 0 for none.
    name
        As given in Consensys.
    """

    def __init__(
        self,
        values: NDArray[np.floating],
        *,
        start_ticks: int = 0,
        calibrated: bool = True,
        status_every: int = 0,
        name: str = "Shimmer_0001",
    ) -> None:
        self.source = SampleSource(values, rate_hz=51.2)
        self._start_ticks = start_ticks
        self._calibrated = calibrated
        self._status_every = status_every
        self._name = name.encode("ascii")
        self._interval_ticks = 640
        self._bits = 0x80
        self._acc_code = self._gyr_code = 0
        self._buffer = b""
        self._replies = b""
        self._first_tick = 0
        self._n_started = 0

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        """Take commands; each is acknowledged with FF."""
        self._buffer += data
        while self._buffer:
            code = self._buffer[0]
            end = 1 + _N_ARGUMENTS.get(code, 0)
            if len(self._buffer) < end:
                return
            argument, self._buffer = self._buffer[1:end], self._buffer[end:]
            if code in _KNOWN:
                self._replies += _ACK + self._obey(code, int.from_bytes(argument, "little"), elapsed_ns)

    def advance(self, elapsed_ns: int) -> bytes:
        """Return answers, then the packets due."""
        out, self._replies = self._replies, b""
        for _, row in self.source.due(elapsed_ns):
            if self._status_every and self._n_started % self._status_every == 0:
                out += b"\x8a\x71\x03"
            out += self._packet(row)
            self._n_started += 1
        return out

    def _obey(self, code: int, argument: int, elapsed_ns: int) -> bytes:
        if code == 0x05:
            self._interval_ticks = argument
        elif code == 0x08:
            self._bits = argument
        elif code == 0x09:
            self._acc_code = argument
        elif code == 0x49:
            self._gyr_code = argument
        elif code == 0x07:
            self._first_tick = self._start_ticks + elapsed_ns * TICKS_PER_S // NS_PER_S
            self._n_started = 0
            self.source.start(elapsed_ns, rate_hz=TICKS_PER_S / self._interval_ticks)
        elif code == 0x20:
            self.source.stop()
        elif code == 0x01:
            channels = bytes(self._channels)
            return (
                b"\x02" + self._interval_ticks.to_bytes(2, "little") + bytes([0, 0, 0, 0, len(channels), 1]) + channels
            )
        elif code == 0x2C:
            low_noise, wide, gyr = self._calibrations
            blocks = [calibration_block(low_noise), calibration_block(gyr, sensitivity_unit=0.01), _UNWRITTEN]
            return b"\x2d" + b"".join([*blocks, calibration_block(wide)] if self._calibrated else [_UNWRITTEN] * 4)
        elif code == 0x2E:
            return b"\x2f" + bytes([3, 0, 0, 0, 16, 11])
        elif code == 0x7B:
            return bytes([0x7A, len(self._name)]) + self._name
        return b""

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(c for bit, channels in _CHANNELS_OF_BIT.items() if self._bits & bit for c in channels)

    @property
    def _calibrations(self) -> tuple[Calibration, Calibration, Calibration]:
        wide = list(NOMINAL_WIDE.values())[self._acc_code]
        return NOMINAL_LOW_NOISE, wide, list(NOMINAL_GYR.values())[self._gyr_code]

    def _packet(self, row: NDArray[np.floating]) -> bytes:
        packet = np.zeros(1, packet_dtype(self._channels))
        tick = self._first_tick + (self._n_started + 1) * self._interval_ticks
        packet["time"] = np.frombuffer((tick % (1 << 24)).to_bytes(3, "little"), np.uint8)
        low_noise, wide, gyr = self._calibrations
        for first, calibration, units, ends in (
            (0x00, low_noise, row[:3], (0, 4095)),
            (0x04, wide, row[:3], (-32768, 32752)),
            (0x0A, gyr, np.rad2deg(row[3:]), (-32768, 32767)),
        ):
            counts = (calibration.alignment @ units) * calibration.sensitivity + calibration.offset
            for axis, count in enumerate(np.clip(np.rint(counts), *ends)):
                name = f"{first + axis:02X}"
                if name in (packet.dtype.names or ()):
                    packet[name] = count
        return packet.tobytes()
