"""What every link does, whatever carries the bytes: open, deliver, lose, come back, until it is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Command

__all__ = ["Link", "LinkClosed", "LinkData", "LinkEvent", "LinkOpened"]


@dataclass(frozen=True)
class LinkOpened:
    """The link is open; what was half received before will not be completed."""

    host_time_ns: int


@dataclass(frozen=True)
class LinkData:
    """What arrived at once: one read of a port, or one notification."""

    data: bytes
    host_time_ns: int
    channel: str = SERIAL_CHANNEL


@dataclass(frozen=True)
class LinkClosed:
    """The link was lost, or cannot be opened for now; opening is tried again until the link is closed."""

    reason: str
    host_time_ns: int


LinkEvent: TypeAlias = LinkOpened | LinkData | LinkClosed


class Link(Protocol):
    """A serial port or a radio connection that comes back by itself."""

    @property
    def name(self) -> str:
        """Whom it reaches: a port, an address, or a name."""
        ...

    @property
    def dropped_bytes(self) -> int:
        """Data dropped because nobody took it in time."""
        ...

    @property
    def rssi_dbm(self) -> int | None:
        """Signal strength when it was heard last; None where there is none."""
        ...

    def events(self) -> AsyncIterator[LinkEvent]:
        """Open, and yield what happens until ``close``; once per link."""
        ...

    async def send(self, command: Command) -> None:
        """Write a command.

        Raises
        ------
        LinkError
            The link is not open, or the device did not take it.
        """
        ...

    def renew(self, reason: str) -> bool:
        """Give the connection up and make a new one; False where that would not help, as on a wire."""
        ...

    async def close(self) -> None:
        """End ``events`` and leave nothing behind; may be called twice."""
        ...
