"""The devices of a gateway: their links, who wears each of them now, and at which place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace

from kinedge.edge.config import GatewayConfig
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import ClockExchange, DeviceInfo
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.open_device import DeviceConfig, DeviceLink
from kinedge.signals import ImuChunk

__all__ = ["Wired", "Wiring"]


@dataclass
class Wired:
    """One device, and who wears it.

    Parameters
    ----------
    device
        As configured.
    configured
        Whose it is by the configuration; None: nobody's yet.
    subject
        Whose it is now.
    sensor
        Its place, where somebody said another than it says itself.
    info
        What it said of itself last, at the place where it is worn now.
    """

    device: DeviceConfig
    configured: str | None
    subject: str | None
    sensor: str | None = None
    info: DeviceInfo | None = None

    @property
    def where(self) -> str:
        """Whom the device is known by."""
        return self.device.where

    def as_worn(self, event: SessionEvent) -> SessionEvent:
        """Return an event under the name of the place where the device is worn."""
        if isinstance(event, DeviceInfo):
            if self.sensor is not None and event.spec.name != self.sensor:
                event = replace(event, spec=replace(event.spec, name=self.sensor))
            self.info = event
        elif self.sensor is not None and isinstance(event, ImuChunk | ClockExchange) and event.sensor != self.sensor:
            event = replace(event, sensor=self.sensor)
        return event


class Wiring:
    """Opens links, and tells what comes of them under the name of who wears the device just then.

    Parameters
    ----------
    config
        Of the gateway.
    open_link
        Makes the link of a device.
    live
        False for a replay: there are no devices.
    """

    def __init__(
        self, config: GatewayConfig, open_link: Callable[[DeviceConfig], DeviceLink], *, live: bool = True
    ) -> None:
        worn = [Wired(d, p.subject, p.subject) for p in config.people for d in p.devices]
        every = [*worn, *(Wired(d, None, None) for d in config.spare)] if live else []
        self._devices = {w.where: w for w in every}
        self._open = open_link
        self._links = {where: open_link(w.device) for where, w in self._devices.items()}

    def __iter__(self) -> Iterator[Wired]:
        return iter(self._devices.values())

    def __getitem__(self, where: str) -> Wired:
        try:
            return self._devices[where]
        except KeyError:
            known = ", ".join(self._devices) or "none"
            raise ConfigError(f"no device {where!r} here; there are {known}") from None

    def __contains__(self, where: object) -> bool:
        return where in self._devices

    def worn_by(self, subject: str | None) -> list[str]:
        """Return where the devices of a person are; of nobody for None."""
        return [w.where for w in self._devices.values() if w.subject == subject]

    async def events(self, where: str) -> AsyncIterator[tuple[Wired, SessionEvent]]:
        """Follow one device for as long as the service runs; its link comes back by itself."""
        wired = self[where]
        link = self._links.pop(where, None) or self._open(wired.device)
        try:
            async for event in link.events():
                yield wired, wired.as_worn(event)
        finally:
            await link.close()

    async def close(self) -> None:
        """Close the links that nobody follows."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()
