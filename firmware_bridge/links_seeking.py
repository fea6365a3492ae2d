"""A serial device that is looked for by what it is, not by where it was plugged in.

Opening is a search: one candidate port after the other is opened and, where a serial number is configured, asked who
is there. Nothing reaches the session before the right device has answered, so that no sample goes by a wrong name;
what arrived until then is handed over with its time of arrival. When the port is lost, the search begins anew.

A device that answers at the wrong line speed sends bytes that make no packet; that is watched, and told.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from kinedge.errors import LinkError
from kinedge.firmware_bridge.device import Command, Driver
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkEvent, LinkOpened
from kinedge.firmware_bridge.links_serial import SerialLink

__all__ = ["SeekingLink", "TellsIdentity", "common_bauds", "wrong_speed"]

_USUAL_BAUDS: Final = (115_200, 9_600, 921_600, 460_800, 230_400, 57_600, 38_400, 19_200)
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_UNREADABLE_S: Final = 30.0
_ASK_AGAIN_S: Final = 1.0
_OTHERS_MAY_ANSWER_S: Final = 0.3  # behind a hub there are several
_MAX_HEARD_BYTES: Final = 1 << 16
_EAGER_BYTES: Final = 1 << 12
_LOOK_EVERY_S: Final = 0.1
_UNREADABLE_BYTES: Final = 64
_UNREADABLE_NS: Final = 3_000_000_000


@runtime_checkable
class TellsIdentity(Protocol):
    """A driver of a family whose devices say over a serial line who they are."""

    def identity_commands(self) -> Sequence[Command]:
        """Return what makes a device tell its serial number, whatever it is doing."""
        ...

    def identities_in(self, data: bytes) -> Sequence[str]:
        """Return the serial numbers told in what arrived since the port was opened; several behind a hub."""
        ...


def common_bauds(family: Driver) -> tuple[int, ...]:
    """Return the line speeds at which devices of a family are met, the likeliest first.

    They are the family's ``bauds``, where it has that attribute.
    """
    return tuple(getattr(family, "bauds", _USUAL_BAUDS))


def wrong_speed(path: str, family: Driver, *, baud: int) -> str:
    """Say that what arrives makes no packet, and which other speeds to try."""
    others = " or ".join(str(b) for b in common_bauds(family) if b != baud)
    advice = f"try baud = {others}" if others else "check that this is the device"
    return (
        f"bytes arrive on {path} at {baud} baud, but none make a packet of {family.name}; is the baud rate right? "
        f"{advice}, or let 'kinedge scan --listen 3' find out"
    )


@dataclass
class _Found:
    """An open port with the right device, and what it has said so far."""

    link: SerialLink
    events: AsyncGenerator[LinkEvent, None]
    heard: list[LinkEvent]


class SeekingLink:
    """A serial device, wherever it is plugged in.

    Parameters
    ----------
    name
        For messages: the device as a person knows it.
    family
        Its driver.
    ports
        Returns the paths where it may be, the likeliest first; called in a thread, at every search.
    serial_number
        What it must tell; None takes whoever is there.
    baud, host_clock
        As for ``SerialLink``.
    understood
        Counts packets that could be read; where it stands still while bytes arrive, the line speed is doubted. None:
        nobody minds.
    identify_s
        How long a device has to say who it is.

    Attributes
    ----------
    name
        As given.
    path
        The port that it was found on last, empty before.
    rssi_dbm
        None: a wire has none.

    Raises
    ------
    LinkError
        A serial number of a family that tells none.
    """

    rssi_dbm: int | None = None

    def __init__(
        self,
        name: str,
        family: Driver,
        *,
        ports: Callable[[], Sequence[str]],
        serial_number: str | None = None,
        baud: int = 115_200,
        host_clock: Callable[[], int] = time.monotonic_ns,
        understood: Callable[[], int] | None = None,
        identify_s: float = 4.0,
    ) -> None:
        if serial_number is not None and not isinstance(family, TellsIdentity):
            raise LinkError(
                f"{name}: devices of family {family.name} do not tell a serial number over the line; name the serial "
                "number of its USB chip instead (usb = ...), as 'kinedge scan' shows it"
            )
        self.name, self.path = name, ""
        self._family = family
        self._teller = family if isinstance(family, TellsIdentity) else None
        self._ports = ports
        self._wanted = serial_number
        self._baud = baud
        self._host_clock = host_clock
        self._understood = understood
        self._identify_s = identify_s
        self._used = False
        self._closing = asyncio.Event()
        self._open: SerialLink | None = None  # the port in hand
        self._serving: SerialLink | None = None  # the same, once the device is known to be there
        self._dropped_before = 0
        self._given_up = ""
        self._giving_up: asyncio.Task[None] | None = None

    @property
    def dropped_bytes(self) -> int:
        """Data dropped because nobody took it in time."""
        return self._dropped_before + (0 if self._open is None else self._open.dropped_bytes)

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Look for the device, open its port and yield what happens, until ``close``.

        Raises
        ------
        LinkError
            Somebody iterates over this link already.
        """
        if self._used:
            raise LinkError(f"{self.name}: events() can be used once per link; make a new SeekingLink")
        self._used = True
        pause_s, said = _FIRST_PAUSE_S, ""
        while not self._closing.is_set():
            found = await self._search()
            if isinstance(found, _Found):
                before = 0 if self._understood is None else self._understood()
                async with contextlib.aclosing(self._serve(found)) as serving:
                    async for event in serving:
                        yield event
                        if isinstance(event, LinkClosed):
                            said = event.reason
                readable = self._understood is None or self._understood() > before
                longest_s = _LONGEST_PAUSE_S if readable else _LONGEST_PAUSE_UNREADABLE_S
                pause_s = _FIRST_PAUSE_S if readable else pause_s
            else:
                longest_s = _LONGEST_PAUSE_S
                if found != said and not self._closing.is_set():
                    said = found
                    yield LinkClosed(found, self._host_clock())
            with contextlib.suppress(asyncio.TimeoutError):  # two that look for each other's ports must not keep step
                await asyncio.wait_for(self._closing.wait(), pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, longest_s)

    def write(self, data: bytes) -> bool:
        """Send to the device without waiting; see ``SerialLink.write``."""
        return self._serving is not None and self._serving.write(data)

    async def send(self, command: Command) -> None:
        """Write a command of a session.

        Raises
        ------
        LinkError
            The device was not found yet, or took nothing for a second.
        """
        if self._serving is None:
            raise LinkError(f"{self.name} is not connected: the command was not sent")
        await self._serving.send(command)

    def renew(self, reason: str) -> bool:
        """Look for the device anew where it can be told from others; False where it cannot, as for ``SerialLink``."""
        if self._wanted is None or self._serving is None:
            return False
        if not self._given_up:
            self._given_up = reason
            self._giving_up = asyncio.ensure_future(self._serving.close())
        return True

    async def close(self) -> None:
        """Close the port and end ``events``; may be called twice."""
        self._closing.set()
        if self._open is not None:
            await self._open.close()

    async def _search(self) -> _Found | str:
        """Try one port after the other; return the device, or why it was not found."""
        ports = await asyncio.to_thread(self._ports)
        reasons = []
        for path in sorted(ports, key=lambda path: path != self.path):  # where it was, first
            if self._closing.is_set():
                return "closed"
            link = self._open = SerialLink(path, baud=self._baud, host_clock=self._host_clock)
            try:
                found = await self._look(link)
            except BaseException:
                await self._let_go(link)
                raise
            if isinstance(found, _Found):
                self.path = path
                return found
            await self._let_go(link)
            reasons.append(found)
        if not reasons:
            return (
                f"{self.name}: no port of this machine can be it; plug the device in ('kinedge scan' lists the ports)"
            )
        return reasons[0] if len(ports) == 1 else f"{self.name} is not found: {'; '.join(reasons)}"

    async def _let_go(self, link: SerialLink) -> None:
        await link.close()
        self._dropped_before += link.dropped_bytes
        self._open = None

    async def _look(self, link: SerialLink) -> _Found | str:
        """Open a port and see who is there."""
        events = link.events()
        if not isinstance(events, AsyncGenerator):
            raise LinkError(f"{link.path}: events() of a serial link must be a generator")
        first = await anext(events, None)
        if not isinstance(first, LinkOpened):
            await events.aclose()
            return first.reason if isinstance(first, LinkClosed) else "closed"
        if self._wanted is None or self._teller is None:
            return _Found(link, events, [first])
        heard: list[LinkEvent] = [first]
        reason = await self._identify(link, events, heard, self._teller, self._wanted)
        if reason is None:
            return _Found(link, events, heard)
        await events.aclose()
        return reason

    async def _identify(
        self,
        link: SerialLink,
        events: AsyncGenerator[LinkEvent, None],
        heard: list[LinkEvent],
        teller: TellsIdentity,
        wanted: str,
    ) -> str | None:
        """Ask until somebody tells a serial number; None when it is the wanted one, else what is wrong."""
        loop = asyncio.get_running_loop()
        asking = asyncio.ensure_future(self._ask(link, teller))
        coming: asyncio.Future[LinkEvent | None] | None = None
        data, told = bytearray(), set[str]()
        end_s, looked_s = loop.time() + self._identify_s, 0.0
        try:
            while (left_s := end_s - loop.time()) > 0:
                coming = coming or asyncio.ensure_future(anext(events, None))
                await asyncio.wait({coming}, timeout=left_s)
                if not coming.done():
                    break
                event, coming = coming.result(), None
                if not isinstance(event, LinkData):
                    return event.reason if isinstance(event, LinkClosed) else "closed"
                heard.append(event)
                data += event.data
                if len(data) > _EAGER_BYTES and loop.time() - looked_s < _LOOK_EVERY_S:
                    continue
                looked_s = loop.time()
                told.update(teller.identities_in(bytes(data)))
                if any(name.casefold() == wanted.casefold() for name in told):
                    return None
                if told:
                    end_s = min(end_s, loop.time() + _OTHERS_MAY_ANSWER_S)
                if len(data) > _MAX_HEARD_BYTES:
                    break
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if coming is not None:
                await link.close()
                await asyncio.wait({coming})
        if told:
            return f"{', '.join(sorted(told))} answers on {link.path}, and {wanted} is expected; looking elsewhere"
        if len(data) >= _UNREADABLE_BYTES and not self._family.recognise_serial(bytes(data)):
            return wrong_speed(link.path, self._family, baud=self._baud)
        return f"nobody on {link.path} tells who it is"

    @staticmethod
    async def _ask(link: SerialLink, teller: TellsIdentity) -> None:
        while True:
            for command in teller.identity_commands():
                with contextlib.suppress(LinkError):  # a port that takes nothing may still speak
                    await link.send(command)
                await asyncio.sleep(command.pause_s)
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _serve(self, found: _Found) -> AsyncGenerator[LinkEvent, None]:
        """Yield what the device sends until its port is lost, and why it was."""
        self._serving, self._given_up = found.link, ""
        before = 0 if self._understood is None else self._understood()
        watched, n_bytes, since_ns = self._understood is not None, 0, 0
        reason = ""
        try:
            for event in found.heard:
                yield event
            async for event in found.events:
                if isinstance(event, LinkClosed):
                    reason = event.reason
                    break
                yield event
                if watched and isinstance(event, LinkData) and self._understood is not None:
                    since_ns = since_ns or event.host_time_ns
                    n_bytes += len(event.data)
                    if event.host_time_ns - since_ns < _UNREADABLE_NS or n_bytes < _UNREADABLE_BYTES:
                        continue
                    watched = False
                    if self._understood() == before:
                        reason = wrong_speed(found.link.path, self._family, baud=self._baud)
                        break
        finally:
            self._serving = None
            await found.events.aclose()
            await self._let_go(found.link)
        if not self._closing.is_set():
            yield LinkClosed(self._given_up or reason, self._host_clock())
