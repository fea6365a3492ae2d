"""What the BLE and the serial models of the WitMotion WT901 family share: registers, rates, scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.device import Command
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = [
    "ACC_RANGE_G",
    "DOUBTFUL",
    "GYR_RANGE_DEG_S",
    "RATE_CODES",
    "REG_CONTENT",
    "REG_RATE",
    "SAVE",
    "SCALES",
    "UNLOCK",
    "at_end",
    "setup_commands",
    "write_register",
]

UNLOCK: Final = bytes.fromhex("FFAA6988B5")
SAVE: Final = bytes.fromhex("FFAA000000")
REG_CONTENT, REG_RATE = 0x02, 0x03
RATE_CODES: Final = {1.0: 0x03, 5.0: 0x05, 10.0: 0x06, 50.0: 0x08, 100.0: 0x09, 200.0: 0x0B}
ACC_RANGE_G: Final = 16.0
GYR_RANGE_DEG_S: Final = 2000.0
SCALES: Final = np.repeat([ACC_RANGE_G * STANDARD_GRAVITY_M_S2 / 32768, float(np.deg2rad(GYR_RANGE_DEG_S)) / 32768], 3)
"""Counts to m/s^2 (3) and rad/s (3)."""
DOUBTFUL: Final = "the range was perhaps changed from the 16 g assumed"

_PAUSE_S: Final = 0.1


def write_register(register: int, value: int) -> bytes:
    """Return the command that sets a register of the unlocked device."""
    return bytes([0xFF, 0xAA, register]) + value.to_bytes(2, "little")


def setup_commands(
    channel: str, registers: Sequence[tuple[int, int]], *, save: bool, response: bool
) -> tuple[Command, ...]:
    """Return what sets registers (number, value), each unlocked before, and makes that lasting if asked to."""
    written = [command for register in registers for command in (UNLOCK, write_register(*register))]
    if save:
        written += [UNLOCK, SAVE]
    return tuple(Command(channel, data, response=response, pause_s=_PAUSE_S) for data in written)


def at_end(counts: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return which counts are at the end of the range."""
    end: NDArray[np.bool_] = np.abs(counts.astype(np.int32)) >= 32767
    return end
