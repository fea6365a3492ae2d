"""An Xsens MTi that does not exist, on a serial line."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.devices.emulated_serial import SampleSource
from kinedge.firmware_bridge.devices.xsens_mti import encode_message, split

__all__ = ["EmulatedXsensMti"]

_INTERNAL_HZ: Final = 400
_RANGES: Final = np.array([100.0] * 3 + [7.8] * 3)
_REQ_DID, _GO_TO_MEASUREMENT, _REQ_FIRMWARE, _GO_TO_CONFIG, _SET_OUTPUT = 0x00, 0x10, 0x12, 0x30, 0xC0
_MTDATA2, _ERROR = 0x36, 0x42
_INVALID_PARAMETER: Final = b"\x04"
_ACC, _GYR = 0x4020, 0x8020


class EmulatedXsensMti:
    """An MTi-100: measures from power on, orientation at 100 Hz, until it is configured.

    Parameters
    ----------
    values : (n, 6)
        m/s^2 and rad/s; silent when they run out.
    start_ticks
        Its clock at power on, in 0.1 ms.
    device_id
        Eight hexadecimal digits.
    """

    def __init__(self, values: NDArray[np.floating], *, start_ticks: int = 0, device_id: str = "037003F8") -> None:
        self.source = SampleSource(values, rate_hz=100.0)
        self.source.start(0)
        self._outputs: list[tuple[int, int]] = [(0x1020, 0xFFFF), (0x2010, 100)]
        self._start_ticks = start_ticks
        self._device_id = bytes.fromhex(device_id)
        self._counter = 0
        self._buffer = b""
        self._replies = b""

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        """Take messages; what is not allowed in the present state is not answered."""
        messages, consumed, _ = split(self._buffer + data)
        self._buffer = (self._buffer + data)[consumed:]
        for message in messages:
            in_config = not self.source.running
            if message.mid == _GO_TO_CONFIG:
                self.source.stop()
                self._reply(_GO_TO_CONFIG)
            elif not in_config:
                continue
            elif message.mid == _REQ_DID:
                self._reply(_REQ_DID, self._device_id)
            elif message.mid == _REQ_FIRMWARE:
                self._reply(_REQ_FIRMWARE, bytes([1, 8, 2]))
            elif message.mid == _SET_OUTPUT:
                self._configure(message.payload)
            elif message.mid == _GO_TO_MEASUREMENT:
                self._reply(_GO_TO_MEASUREMENT)
                rate = next((hz for xdi, hz in self._outputs if xdi & 0xFFF0 == _ACC), 100)
                self.source.start(elapsed_ns, rate_hz=rate)

    def advance(self, elapsed_ns: int) -> bytes:
        """Return answers, then the messages due."""
        out, self._replies = self._replies, b""
        return out + b"".join(
            encode_message(_MTDATA2, self._payload(at, row)) for at, row in self.source.due(elapsed_ns)
        )

    def _reply(self, mid: int, payload: bytes = b"") -> None:
        self._replies += encode_message(mid + 1, payload)

    def _configure(self, payload: bytes) -> None:
        """Take what to send; a rate that does not divide 400 Hz becomes the next higher one that does."""
        asked = list(struct.iter_unpack(">HH", payload)) if len(payload) % 4 == 0 else []
        if not asked or any(hz != 0xFFFF and not 1 <= hz <= _INTERNAL_HZ for _, hz in asked):
            self._replies += encode_message(_ERROR, _INVALID_PARAMETER)
            return
        self._outputs = [
            (xdi, hz if hz == 0xFFFF else next(r for r in range(hz, _INTERNAL_HZ + 1) if _INTERNAL_HZ % r == 0))
            for xdi, hz in asked
        ]
        self._reply(_SET_OUTPUT, b"".join(struct.pack(">HH", *output) for output in self._outputs))

    def _payload(self, at_ns: int, row: NDArray[np.floating]) -> bytes:
        self._counter = (self._counter + 1) & 0xFFFF
        clipped = np.abs(row) > _RANGES
        status = 0x3 | sum(1 << 8 + i for i in np.flatnonzero(clipped).tolist()) | (1 << 19 if clipped.any() else 0)
        measured = np.clip(row, -_RANGES, _RANGES)
        data = {
            0x1020: struct.pack(">H", self._counter),
            0x1060: struct.pack(">I", (self._start_ticks + at_ns // 100_000) & 0xFFFFFFFF),
            0x2010: struct.pack(">4f", 1, 0, 0, 0),
            _ACC: measured[:3].astype(">f4").tobytes(),
            _GYR: measured[3:].astype(">f4").tobytes(),
            0xE020: struct.pack(">I", status),
        }
        return b"".join(
            xdi.to_bytes(2, "big") + bytes([len(data[xdi & 0xFFF0])]) + data[xdi & 0xFFF0]
            for xdi, _ in self._outputs
            if xdi & 0xFFF0 in data
        )
