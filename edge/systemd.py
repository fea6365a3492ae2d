"""Words to systemd over its notify socket: started, alive, stopping. Without the socket nothing is said."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from kinedge.errors import ConfigError

__all__ = ["Notifier"]

_MAX_STATUS_CHARS: Final = 200


class Notifier:
    """Speaks the protocol of ``sd_notify(3)``: one datagram of ``KEY=value`` lines a message.

    Parameters
    ----------
    environment
        ``NOTIFY_SOCKET``, and ``WATCHDOG_USEC`` with ``WATCHDOG_PID``; this process's own when None.

    Attributes
    ----------
    watchdog_s
        How long systemd waits for a sign of life; None when it does not.

    Raises
    ------
    ConfigError
        ``WATCHDOG_USEC`` is no number.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the NUL of a socket without a file
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s: float | None = None
        try:
            if "WATCHDOG_USEC" in environment and environment.get("WATCHDOG_PID", "") in ("", str(os.getpid())):
                self.watchdog_s = int(environment["WATCHDOG_USEC"]) / 1e6
        except ValueError as e:
            raise ConfigError(f"WATCHDOG_USEC={environment['WATCHDOG_USEC']!r}: no number; systemd sets it") from e

    def tell(self, *states: str, status: str = "") -> bool:
        """Send ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1`` or the like; return whether it could be sent."""
        if not self._address:
            return False
        lines = [*states, *([f"STATUS={' '.join(status.split())[:_MAX_STATUS_CHARS]}"] if status else [])]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.setblocking(False)
                s.sendto("\n".join(lines).encode(), self._address)
        except OSError:  # nobody listens, or the queue is full: systemd's own time-out decides
            return False
        return True
