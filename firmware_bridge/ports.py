"""Which serial ports there are, and what the hardware behind each says of itself.

A path such as ``/dev/ttyACM0`` says in which order devices were plugged in. What stays with a device is the serial
number of its USB chip, and the name below ``/dev/serial/by-id`` that Linux makes of it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["SerialPort", "is_pattern", "list_ports", "matching_ports", "usb_ports"]

_BY_ID: Final = Path("/dev/serial/by-id")


@dataclass(frozen=True)
class SerialPort:
    """One port of this machine.

    Parameters
    ----------
    path
        Such as ``/dev/ttyACM0``.
    description
        What the system calls the device.
    usb_id
        Vendor and product, such as ``2341:8057``; empty where it is no USB device.
    usb_serial
        Serial number of the USB chip, empty where it has none.
    by_id
        The stable name that Linux gives it, empty where there is none.
    """

    path: str
    description: str = ""
    usb_id: str = ""
    usb_serial: str = ""
    by_id: str = ""

    @property
    def identity(self) -> str:
        """What ``usb =`` in a configuration takes: the serial number, or vendor and product where there is none."""
        return self.usb_serial or self.usb_id

    def is_usb(self, wanted: str) -> bool:
        """Whether ``wanted`` is the serial number, ``vendor:product`` or both (``2341:8057:A1B2``) of this port."""
        names = {self.usb_serial, self.usb_id, f"{self.usb_id}:{self.usb_serial}"} - {"", ":"}
        return wanted.casefold() in {name.casefold() for name in names}


def list_ports(*, by_id: Path = _BY_ID) -> list[SerialPort]:
    """Return the serial ports that the system lists, by path."""
    from serial.tools.list_ports import comports

    stable = {os.path.realpath(link): str(link) for link in sorted(by_id.glob("*"))}
    found = []
    for port in comports():
        usb = port.vid is not None and port.pid is not None
        found.append(
            SerialPort(
                path=str(port.device),
                description=str(port.description or ""),
                usb_id=f"{port.vid:04x}:{port.pid:04x}" if usb else "",
                usb_serial=str(port.serial_number or "") if usb else "",
                by_id=stable.get(os.path.realpath(port.device), ""),
            )
        )
    return sorted(found, key=lambda port: port.path)


def usb_ports(wanted: str) -> list[str]:
    """Return the paths of the ports whose USB chip is ``wanted`` (see ``SerialPort.is_usb``)."""
    return [port.path for port in list_ports() if port.is_usb(wanted)]


def is_pattern(path: str) -> bool:
    """Whether a path stands for several: it has ``*``, ``?`` or ``[``."""
    return any(c in path for c in "*?[")


def matching_ports(pattern: str | None) -> Sequence[str]:
    """Return where a device may be that can be told by what it says of itself.

    Parameters
    ----------
    pattern
        A path with ``*``, ``?`` or ``[...]``: the ports that match. A plain path: that one first, then all that the
        system lists. None: all that the system lists.
    """
    if pattern is not None and is_pattern(pattern):
        return sorted(glob.glob(pattern))
    listed = [port.path for port in list_ports()]
    return listed if pattern is None else list(dict.fromkeys([pattern, *listed]))
