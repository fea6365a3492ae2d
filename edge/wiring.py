"""The devices of a gateway: their links, who wears each of them now, and at which place.

A device can be given to another person, or to nobody, while everything runs: its samples are theirs from the next
packet on. What was decided so outlives a restart in `kinedge.edge.board_state`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from kinedge.edge.board_state import Assigned
from kinedge.edge.config import GatewayConfig
from kinedge.edge.listening import Listener
from kinedge.edge.pipeline import Pipeline
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import ClockExchange, DeviceInfo
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.open_device import DeviceConfig, DeviceLink
from kinedge.signals import ImuChunk

__all__ = ["Changes", "HandedOver", "Wired", "Wiring"]


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
    told
        What it said of itself last.
    """

    device: DeviceConfig
    configured: str | None
    subject: str | None
    sensor: str | None = None
    told: DeviceInfo | None = None

    @property
    def where(self) -> str:
        """Whom the device is known by."""
        return self.device.where

    @property
    def place(self) -> str | None:
        """Where it is worn; None while it has not said."""
        return self.sensor or (self.device.sensor if self.told is None else self.told.spec.name)

    @property
    def serial(self) -> str:
        """Its serial number, empty while it has not said."""
        return "" if self.told is None else self.told.serial

    def as_worn(self, event: SessionEvent) -> SessionEvent:
        """Return an event under the name of the place where the device is worn."""
        if isinstance(event, DeviceInfo):
            self.told = event
            if self.sensor is not None and event.spec.name != self.sensor:
                return replace(event, spec=replace(event.spec, name=self.sensor))
        elif self.sensor is not None and isinstance(event, ImuChunk | ClockExchange) and event.sensor != self.sensor:
            return replace(event, sensor=self.sensor)
        return event


@dataclass(frozen=True)
class HandedOver:
    """What came of giving a device to somebody.

    Parameters
    ----------
    where, serial
        Which device.
    sensor
        Its place now; None while it has not said.
    giver, taker
        Whose it was and whose it is; None: nobody's.
    displaced
        Where the device is that the taker wore there before; it is nobody's now.
    """

    where: str
    serial: str
    sensor: str | None
    giver: str | None
    taker: str | None
    displaced: str | None


@dataclass(frozen=True)
class Changes:
    """Where the devices are that go, and those that become another person's."""

    gone: frozenset[str]
    moved: frozenset[str]


class Wiring:
    """Opens links, and tells what comes of them under the name of who wears the device just then.

    Parameters
    ----------
    config
        Of the gateway.
    open_link
        Makes the link of a device.
    assigned
        What was decided before, by where the device is.
    note
        Told what of it counts no longer.
    live
        False for a replay: there are no devices.
    """

    def __init__(
        self,
        config: GatewayConfig,
        open_link: Callable[[DeviceConfig], DeviceLink],
        *,
        assigned: Mapping[str, Assigned],
        note: Callable[[str], None],
        live: bool = True,
    ) -> None:
        every = _devices_of(config) if live else ()
        self._devices = {where: Wired(device, subject, subject) for where, device, subject in every}
        self._open = open_link
        subjects = {None, *(p.subject for p in config.people)}
        for where, one in assigned.items() if live else ():
            wired = self._devices.get(where)
            if wired is None or wired.configured != one.configured or one.subject not in subjects:
                note(f"{where}: the configuration says something else now; what was decided on the board is not used")
                continue
            wired.subject, wired.sensor = one.subject, one.sensor
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

    @property
    def assigned(self) -> dict[str, Assigned]:
        """What differs from the configuration, by where the device is."""
        return {
            w.where: Assigned(subject=w.subject, sensor=w.sensor, configured=w.configured)
            for w in self._devices.values()
            if w.subject != w.configured or w.sensor is not None
        }

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

    def changes(self, config: GatewayConfig) -> Changes:
        """Say which devices go with another configuration, and which become another person's."""
        wanted = {where: (device, subject) for where, device, subject in _devices_of(config)}
        subjects = {p.subject for p in config.people}
        gone, moved = set(), set()
        for where, w in self._devices.items():
            if where not in wanted or wanted[where][0] != w.device:
                gone.add(where)
            elif wanted[where][1] != w.configured or (w.subject is not None and w.subject not in subjects):
                moved.add(where)
        return Changes(frozenset(gone), frozenset(moved))

    def rewire(self, config: GatewayConfig) -> list[str]:
        """Follow another configuration; returns which devices are new, to be served from now on."""
        change = self.changes(config)
        new = []
        devices = {}
        for where, device, subject in _devices_of(config):
            known = self._devices.get(where)
            if known is None or where in change.gone:
                known = Wired(device, subject, subject)
                new.append(where)
            elif where in change.moved:
                known.configured = known.subject = subject
                known.sensor = None
            devices[where] = known
        self._devices = devices
        return new

    def take_off(self, where: str, *, pipeline: Pipeline, listener: Listener) -> None:
        """Let a device be nobody's."""
        self._take_off(self[where], pipeline, listener)
        self[where].subject = None

    def tell_again(self, where: str, hear: Callable[[str, str, SessionEvent], None]) -> None:
        """Let a device be known to its new owner."""
        wired = self[where]
        if wired.told is not None and wired.subject is not None:
            hear(wired.subject, where, wired.as_worn(wired.told))

    def assign(
        self,
        where: str,
        subject: str | None,
        *,
        sensor: str | None = None,
        pipeline: Pipeline,
        listener: Listener,
        hear: Callable[[str, str, SessionEvent], None],
    ) -> HandedOver:
        """Give a device to somebody, from its next packet on; nobody else notices.

        Parameters
        ----------
        where
            Which device.
        subject
            Whose it is from now on; None: nobody's.
        sensor
            Its place from now on; the one it has when None.
        pipeline, listener
            That take its samples.
        hear
            Told again what the device is, under its new owner.

        Raises
        ------
        ConfigError
            There is no such device or person, or it is theirs already.
        """
        wired = self[where]
        if subject is not None and subject not in pipeline.subjects:
            raise ConfigError(f"there is nobody called {subject} here")
        giver, before = wired.subject, wired.place
        after = sensor or before
        if subject == giver and after == before:
            raise ConfigError(f"{where} is {subject}'s already" if subject else f"{where} is nobody's already")
        displaced = None if subject is None else self._at(subject, after, other_than=wired)
        if displaced is not None:
            self._take_off(displaced, pipeline, listener)
            displaced.subject = None
        goes_along = giver is not None and subject is not None and after == before and before is not None
        if goes_along and listener.wears(str(giver), str(before)) == where:
            listener.hand_over(str(before), giver=str(giver), taker=str(subject))
            if pipeline.clock(str(giver), str(before)) is not None and before in pipeline.scorer.sensors:
                pipeline.hand_over(str(before), giver=str(giver), taker=str(subject))
        else:
            self._take_off(wired, pipeline, listener)
        wired.subject = subject
        own = None if wired.told is None else wired.told.spec.name
        wired.sensor = after if sensor is not None and after != own else wired.sensor if sensor is None else None
        if wired.told is not None and subject is not None:
            hear(subject, where, wired.as_worn(wired.told))
        return HandedOver(where, wired.serial, after, giver, subject, None if displaced is None else displaced.where)

    def _at(self, subject: str, place: str | None, *, other_than: Wired) -> Wired | None:
        for w in self._devices.values():
            if w is not other_than and w.subject == subject and place is not None and w.place == place:
                return w
        return None

    @staticmethod
    def _take_off(wired: Wired, pipeline: Pipeline, listener: Listener) -> None:
        """Forget that somebody wears a device, if its samples counted there."""
        subject, place = wired.subject, wired.place
        if subject is not None and place is not None and listener.wears(subject, place) == wired.where:
            listener.take_off(subject, place)
            if subject in pipeline.subjects:
                pipeline.take_off(subject, place)


def _devices_of(config: GatewayConfig) -> list[tuple[str, DeviceConfig, str | None]]:
    worn = [(d.where, d, p.subject) for p in config.people for d in p.devices]
    return [*worn, *((d.where, d, None) for d in config.spare)]
