"""A WitMotion WT901 that does not exist, on a serial line or over BLE."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.device import Advertisement
from kinedge.firmware_bridge.devices._witmotion import RATE_CODES, REG_CONTENT, REG_RATE, SAVE, SCALES, UNLOCK
from kinedge.firmware_bridge.devices._witmotion_serial import ACC, GYR, TIME, encode_serial_frame
from kinedge.firmware_bridge.devices.emulated_serial import SampleSource, counts_of
from kinedge.firmware_bridge.devices.witmotion import NOTIFY, SERVICE, WRITE

__all__ = ["EmulatedWitMotion", "EmulatedWitMotionBle"]

_ANGLE: Final = 0x53
_RATE_OF_CODE: Final = {code: rate for rate, code in RATE_CODES.items()}
_DEFAULT_HZ: Final = 10.0
_POWER_ON: Final = datetime(2026, 1, 31, 23, 59, 58, tzinfo=timezone.utc)
_COMMAND_BYTES: Final = 5


class _Registers:
    """Commands of five bytes; a register is written once after an UNLOCK."""

    def __init__(self) -> None:
        self.values = {REG_CONTENT: 0x001E, REG_RATE: RATE_CODES[_DEFAULT_HZ]}
        self.n_saved = 0
        self._unlocked = False
        self._buffer = b""

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether the rate was set."""
        self._buffer += data
        rate_set = False
        while len(self._buffer) >= _COMMAND_BYTES:
            command, self._buffer = self._buffer[:_COMMAND_BYTES], self._buffer[_COMMAND_BYTES:]
            if command[:2] != b"\xff\xaa":
                self._buffer = (command + self._buffer)[1:]
            elif command == UNLOCK:
                self._unlocked = True
            elif command == SAVE:
                self.n_saved += self._unlocked
            elif self._unlocked and command[2] in self.values:
                self.values[command[2]] = int.from_bytes(command[3:5], "little")
                self._unlocked = False
                rate_set |= command[2] == REG_RATE
        return rate_set

    @property
    def rate_hz(self) -> float:
        """As set."""
        return _RATE_OF_CODE.get(self.values[REG_RATE], _DEFAULT_HZ)


class EmulatedWitMotion:
    """A serial WT901: streams from power on at 10 Hz, without the time until it is told.

    Parameters
    ----------
    values : (n, 6)
        m/s^2 and rad/s; silent when they run out.
    """

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.registers = _Registers()
        self.source = SampleSource(values, rate_hz=_DEFAULT_HZ)
        self.source.start(0)

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        """Take commands."""
        if self.registers.feed(data):
            self.source.start(elapsed_ns, rate_hz=self.registers.rate_hz)

    def advance(self, elapsed_ns: int) -> bytes:
        """Return the frames due."""
        return b"".join(self._frames(at, row) for at, row in self.source.due(elapsed_ns))

    def _frames(self, at_ns: int, row: NDArray[np.floating]) -> bytes:
        counts = counts_of(row, SCALES).astype("<i2").tobytes()
        content = self.registers.values[REG_CONTENT]
        out = b""
        if content & 1:
            now = _POWER_ON + timedelta(milliseconds=round(at_ns / 1e6))
            clock = bytes([now.year - 2000, now.month, now.day, now.hour, now.minute, now.second])
            out += encode_serial_frame(TIME, clock + (now.microsecond // 1000).to_bytes(2, "little"))
        if content & 2:
            out += encode_serial_frame(ACC, counts[:6] + b"\xf6\x09")
        if content & 4:
            out += encode_serial_frame(GYR, counts[6:] + b"\0\0")
        if content & 8:
            out += encode_serial_frame(_ANGLE, bytes(8))
        return out


class EmulatedWitMotionBle:
    """A WT901BLE: notifies from the connection on at 10 Hz; ``n_joined`` frames per notification.

    Attributes
    ----------
    characteristics
        What each can do, for a GATT server.
    """

    def __init__(self, values: NDArray[np.floating], *, n_joined: int = 1, swapped: bool = False) -> None:
        self.registers = _Registers()
        self.source = SampleSource(values, rate_hz=_DEFAULT_HZ)
        self.source.start(0)
        self.notify, self.write_to = (WRITE, NOTIFY) if swapped else (NOTIFY, WRITE)
        self.service = SERVICE
        self.characteristics = {
            self.notify: frozenset({"notify"}),
            self.write_to: frozenset({"write", "write-without-response"}),
        }
        self._n_joined = n_joined
        self._held: list[bytes] = []

    @property
    def advertisement(self) -> Advertisement:
        """What it says of itself."""
        return Advertisement("C0:00:00:00:90:01", "WT901BLE68", (SERVICE,))

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        """Take a write."""
        if characteristic == self.write_to and self.registers.feed(data):
            self.source.start(elapsed_ns, rate_hz=self.registers.rate_hz)

    def advance(self, elapsed_ns: int) -> list[tuple[str, bytes]]:
        """Return (characteristic, value) of the notifications due."""
        for _, row in self.source.due(elapsed_ns):
            counts = counts_of(row, SCALES).astype("<i2").tobytes()
            self._held.append(b"\x55\x61" + counts + bytes(6))
        notified = []
        while len(self._held) >= self._n_joined:
            notified.append((self.notify, b"".join(self._held[: self._n_joined])))
            del self._held[: self._n_joined]
        return notified
