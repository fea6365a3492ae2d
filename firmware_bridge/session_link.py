"""A session over a link: the device's events in, its commands out, whatever carries the bytes.

The session is fed as bytes arrive, not as events are taken, so that a slow consumer delays no command and no
answer. What waits for the consumer is bounded; samples that are dropped count as lost in the next chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from kinedge.errors import LinkError, ProtocolError
from kinedge.firmware_bridge.device import AsksTime, Command, DeviceEvent, Doubt, Session
from kinedge.firmware_bridge.event_queue import EventQueue, SessionEvent
from kinedge.firmware_bridge.lateness import Lateness
from kinedge.firmware_bridge.links import Link, LinkClosed, LinkData, LinkOpened
from kinedge.signals import ImuChunk
from kinedge.units import NS_PER_S

__all__ = ["SessionEvent", "SessionLink", "SessionLinkCounters"]

_FAREWELL_S: Final = 2.0
_NOT_YET_S: Final = 0.1
_MAX_SENSORS: Final = 256


@dataclass
class SessionLinkCounters:
    """How one sensor fares.

    Parameters
    ----------
    packets, bytes
        Received: notifications, or reads of a port.
    samples
        Delivered by the session.
    lost
        Samples that the session knows to be missing.
    late
        Packets that came much later than the fastest ones.
    bad
        Packets that the session refused with an error; what it refuses silently is in its own counters.
    reconnects
        Times the link was lost and is open again.
    restarts
        Times that the device itself began anew: what it made before, and nobody received, is not known and not in
        ``lost``, which goes on from the first sample received after it.
    silences
        Times that no samples came although the link was open.
    refused_commands
        Commands that could not be written.
    dropped_bytes, dropped_samples
        Thrown away because nobody took them in time: before decoding, and after.
    rssi_dbm
        Signal strength when the device was found last.
    """

    packets: int = 0
    bytes: int = 0
    samples: int = 0
    lost: int = 0
    late: int = 0
    bad: int = 0
    reconnects: int = 0
    restarts: int = 0
    silences: int = 0
    refused_commands: int = 0
    dropped_bytes: int = 0
    dropped_samples: int = 0
    rssi_dbm: int | None = None


class SessionLink:
    """A device that is told what it needs to hear, and that comes back by itself.

    Parameters
    ----------
    link
        A ``SerialLink`` or ``BleLink``, not yet in use.
    session
        From a driver, for the link's transport.
    host_clock
        The link's.
    stale_s
        When no samples came for so long, the connection is made anew (on a wire: the device is started anew);
        infinite for devices that may rest.
    late_s
        A packet that took so much longer than the fastest of the last minutes is late.
    time_sync_s
        Between two questions about the device's clock on average, where it answers them.
    queue_bytes
        What may wait for ``events``; beyond it the oldest samples are dropped.

    Attributes
    ----------
    session
        As given.

    Examples
    --------
    >>> session = KinedgeDriver().open(SessionConfig("wrist_left"), transport="ble")  # doctest: +SKIP
    >>> link = SessionLink(BleLink(address, radio=radio, choose=channels_of(session)), session)  # doctest: +SKIP
    >>> async for event in link.events():  # doctest: +SKIP
    ...     print(event)
    """

    def __init__(
        self,
        link: Link,
        session: Session,
        *,
        host_clock: Callable[[], int] = time.monotonic_ns,
        stale_s: float = 5.0,
        late_s: float = 0.25,
        time_sync_s: float = 2.0,
        queue_bytes: int = 1 << 22,
    ) -> None:
        if not (stale_s > 0 and late_s > 0 and time_sync_s > 0 and queue_bytes > 0):
            raise LinkError("stale_s, late_s, time_sync_s and queue_bytes of a session's link must be positive")
        self.session = session
        self._link = link
        self._host_clock = host_clock
        self._stale_s = stale_s
        self._time_sync_s = time_sync_s
        self._counters = SessionLinkCounters()
        self._lateness = Lateness(round(late_s * NS_PER_S))
        self._boot_ids: dict[str, int] = {}
        self._events = EventQueue(queue_bytes)
        self._ready = asyncio.Event()
        self._pending: Command | None = None
        self._wake = asyncio.Event()
        self._patient_until_s = 0.0
        self._said_silent = False
        self._last_complaint = ""
        self._open = False
        self._closing = False
        self._listening: asyncio.Task[None] | None = None
        self._talking: list[asyncio.Task[None]] = []

    @property
    def counters(self) -> SessionLinkCounters:
        """How the sensor fares now."""
        return replace(
            self._counters,
            dropped_bytes=self._link.dropped_bytes,
            dropped_samples=self._events.dropped_samples,
            rssi_dbm=self._link.rssi_dbm,
        )

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Open the link, run the session, and yield what happens, until ``close``.

        Raises
        ------
        LinkError
            Somebody iterates over this link already.
        """
        if self._listening is not None:
            raise LinkError("events() can be used once per link; make a new SessionLink")
        self._listening = asyncio.create_task(self._listen(), name="kinedge-session")
        self._listening.add_done_callback(lambda _: self._ready.set())
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._events:
                    yield self._events.take()
                if self._listening.done():
                    self._listening.result()  # raises what ended it
                    return
        finally:
            await self.close()

    async def close(self) -> None:
        """Tell the device to stop, close the link and end ``events``; may be called twice."""
        self._closing = True
        await self._stop_talking()
        if self._open:
            self._open = False
            with contextlib.suppress(LinkError, asyncio.TimeoutError):
                await asyncio.wait_for(self._say_farewell(), _FAREWELL_S)
        await self._link.close()
        if self._listening is not None:
            await asyncio.wait({self._listening})
        self._ready.set()

    async def _listen(self) -> None:
        opened_before = False
        async for event in self._link.events():
            if isinstance(event, LinkData):
                self._feed(event)
                continue
            self._open = isinstance(event, LinkOpened)
            await self._stop_talking()
            if isinstance(event, LinkOpened):
                if opened_before:
                    self._counters.reconnects += 1
                    self._start_anew()
                opened_before = True
                self._start_talking()
            self._put(event)

    def _start_talking(self) -> None:
        if self._closing:
            return
        self._be_patient()
        self._talking = [asyncio.create_task(self._command(), name="kinedge-commands")]
        if isinstance(self.session, AsksTime):
            self._talking.append(asyncio.create_task(self._ask_time(self.session), name="kinedge-time"))
        if math.isfinite(self._stale_s):
            self._talking.append(asyncio.create_task(self._watch(), name="kinedge-watch"))

    async def _stop_talking(self) -> None:
        talking, self._talking = self._talking, []
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)

    def _start_anew(self) -> None:
        self._pending = None
        self.session.link_reopened()
        self._wake.set()

    async def _command(self) -> None:
        """Write what the session wants to be written."""
        while True:
            command, self._pending = self._pending or self.session.next_command(), None
            if command is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self._link.send(command)
            except LinkError as error:
                self._counters.refused_commands += 1
                self._link.renew(str(error))
            self._be_patient(command.pause_s)
            await asyncio.sleep(command.pause_s)

    async def _ask_time(self, session: AsksTime) -> None:
        while True:
            request = session.time_request(self._host_clock())
            if request is None:
                await asyncio.sleep(min(self._time_sync_s, _NOT_YET_S))
                continue
            with contextlib.suppress(LinkError):  # the next one may pass
                await self._link.send(request)
            # at any phase of the radio's connection events: some question then waits for none of them
            await asyncio.sleep(self._time_sync_s * random.uniform(0.5, 1.5))

    async def _watch(self) -> None:
        """See that samples keep coming."""
        while True:
            rest_s = self._patient_until_s - asyncio.get_running_loop().time()
            if rest_s > 0:
                await asyncio.sleep(rest_s)
                continue
            self._counters.silences += 1
            self._be_patient()
            reason = f"{self._link.name} sent no samples for {self._stale_s:g} s"
            if self._link.renew(f"{reason}; it is connected anew"):
                continue
            if not self._said_silent:
                self._said_silent = True
                now_ns = self._host_clock()
                self._put(LinkClosed(f"{reason}; it is started anew", now_ns))
                self._put(LinkOpened(now_ns))
            self._start_anew()

    async def _say_farewell(self) -> None:
        for command in self.session.stop_commands():
            await self._link.send(command)
            await asyncio.sleep(command.pause_s)

    def _be_patient(self, pause_s: float = 0.0) -> None:
        self._patient_until_s = asyncio.get_running_loop().time() + self._stale_s + pause_s

    def _feed(self, packet: LinkData) -> None:
        self._counters.packets += 1
        self._counters.bytes += len(packet.data)
        try:
            self.session.receive_data(packet.data, channel=packet.channel, host_time_ns=packet.host_time_ns)
        except ProtocolError as error:
            self._complain(error)
        while (event := self._next_event()) is not None:
            if isinstance(event, ImuChunk):
                self._count(event)
            self._put(event)
        if self._pending is None:
            self._pending = self.session.next_command()
            if self._pending is not None:
                self._wake.set()

    def _next_event(self) -> DeviceEvent | None:
        while True:
            try:
                return self.session.next_event()
            except ProtocolError as error:
                self._complain(error)

    def _complain(self, error: ProtocolError) -> None:
        self._counters.bad += 1
        if str(error) != self._last_complaint:
            self._last_complaint = str(error)
            self._put(Doubt(str(error)))

    def _count(self, chunk: ImuChunk) -> None:
        self._be_patient()
        self._said_silent = False
        self._counters.samples += len(chunk)
        self._counters.lost += chunk.lost
        if self._boot_ids.get(chunk.sensor) != chunk.boot_id:
            self._counters.restarts += chunk.sensor in self._boot_ids
            if len(self._boot_ids) >= _MAX_SENSORS:
                self._boot_ids.clear()
            self._boot_ids[chunk.sensor] = chunk.boot_id
        self._counters.late += self._lateness.is_late(chunk)

    def _put(self, event: SessionEvent) -> None:
        self._events.put(event)
        self._ready.set()
