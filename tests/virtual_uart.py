"""A UART as a tty sees it, for ptys: bytes sent at one line speed and read at another become other bytes."""

from __future__ import annotations

import os
import termios
from collections.abc import Callable
from pathlib import Path

from kinedge.firmware_bridge.devices.emulated_serial import EmulatedSerial

_SPEEDS = {
    getattr(termios, name): int(name[1:]) for name in dir(termios) if name.startswith("B") and name[1:].isdigit()
}


def misread(data: bytes, *, sent_baud: int, read_baud: int) -> bytes:
    """Return what a receiver at ``read_baud`` makes of bytes sent without a pause at ``sent_baud``.

    A start bit, eight bits from the lowest, a stop bit. The receiver waits for a falling edge, reads each bit in its
    middle by its own clock, and waits for the line to be idle again after a byte whose stop bit is missing.
    """
    line = [1, 1] + [bit for byte in data for bit in (0, *((byte >> k) & 1 for k in range(8)), 1)] + [1] * 12
    falls = [k for k in range(1, len(line)) if line[k - 1] and not line[k]]
    per_bit = sent_baud / read_baud
    received, busy_until = bytearray(), 0.0
    for start in falls:
        if start < busy_until or start + 10 * per_bit >= len(line):
            continue
        bits = [line[int(start + (k + 0.5) * per_bit)] for k in range(10)]
        received.append(sum(bit << k for k, bit in enumerate(bits[1:9])))
        busy_until = start + 9.5 * per_bit
    return bytes(received)


class Uart:
    """A device behind a line of one speed: a host that opens the tty at another reads, and is read, wrongly.

    Parameters
    ----------
    device
        What is there.
    baud
        Its speed.
    link_path
        Where its tty is.
    """

    def __init__(self, device: EmulatedSerial, *, baud: int, link_path: Path) -> None:
        self.device, self.baud, self.link_path = device, baud, link_path

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        self.device.receive_data(self._through(data, lambda host: (host, self.baud)), elapsed_ns=elapsed_ns)

    def advance(self, elapsed_ns: int) -> bytes:
        return self._through(self.device.advance(elapsed_ns), lambda host: (self.baud, host))

    def _through(self, data: bytes, speeds: Callable[[int], tuple[int, int]]) -> bytes:
        sent_baud, read_baud = speeds(self._host_baud())
        return data if sent_baud == read_baud else misread(data, sent_baud=sent_baud, read_baud=read_baud)

    def _host_baud(self) -> int:
        """The speed that the host has set; a pty keeps it, and does nothing with it."""
        try:
            fd = os.open(self.link_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return self.baud
        try:
            return _SPEEDS[termios.tcgetattr(fd)[5]]
        finally:
            os.close(fd)
