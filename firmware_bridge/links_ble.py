"""A Bluetooth LE device as an asynchronous stream of time-stamped notifications that comes back by itself.

Everything runs in one event loop. The callback of a notification does nothing but stamp and enqueue, so that
arrival times do not depend on decoding; the queue is bounded, and what it drops is counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic

from kinedge.errors import LinkError, ProtocolError
from kinedge.firmware_bridge.ble_radio import BleRadio, answer_within, as_link_error
from kinedge.firmware_bridge.device import ChoosesCharacteristics, Command, Session
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkEvent, LinkOpened

__all__ = ["BleLink", "Chooser", "channels_of"]

Chooser: TypeAlias = Callable[[Mapping[str, Collection[str]]], Sequence[str]]

_EVENT_OVERHEAD: Final = 64
_ANSWER_S: Final = 5.0
_MAX_WRITE_BYTES: Final = 512
_AUDIBLE: Final = ("notify", "indicate")
_WRITABLE: Final = ("write", "write-without-response")


def channels_of(session: Session) -> Chooser:
    """Return what chooses the channels of a session, for ``BleLink``."""

    def choose(properties: Mapping[str, Collection[str]]) -> Sequence[str]:
        if isinstance(session, ChoosesCharacteristics):
            session.characteristics_found(properties)
        return session.subscriptions

    return choose


class BleLink:
    """One device behind a radio.

    It is looked for, connected and subscribed to; when it is lost, again and again, with growing pauses that
    differ from link to link, so that many devices lost at once do not come back in step.

    Parameters
    ----------
    address_or_name
        Whom to connect; an address is an identity, a name must be the only one of its kind around.
    radio
        Shared by all links of the process.
    choose
        Given what each characteristic of the device can do, returns those to subscribe to (lower-case 128-bit UUIDs),
        in order; those that the device does not have are left out, but it must have one. As a rule
        ``channels_of(session)``.
    host_clock
        Monotonic clock in ns.
    queue_bytes
        What may wait for ``events``; beyond it the oldest is dropped.
    first_pause_s, longest_pause_s
        Between two attempts, doubling from one to the other until a connection brings data for as long as
        the pause; each is shortened by chance to between half and all of it.
    find_timeout_s, connect_timeout_s
        For one attempt.

    Attributes
    ----------
    name
        The address or name, as given.
    dropped_bytes
        Data dropped because nobody took it in time.
    rssi_dbm
        Signal strength when it was found last.
    """

    def __init__(
        self,
        address_or_name: str,
        *,
        radio: BleRadio,
        choose: Chooser,
        host_clock: Callable[[], int] = time.monotonic_ns,
        queue_bytes: int = 1 << 20,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        find_timeout_s: float = 10.0,
        connect_timeout_s: float = 15.0,
    ) -> None:
        if not address_or_name:
            raise LinkError("a Bluetooth link needs the address or the name of a device")
        if queue_bytes <= 0 or not 0 < first_pause_s <= longest_pause_s or min(find_timeout_s, connect_timeout_s) <= 0:
            raise LinkError(
                f"{address_or_name}: queue_bytes, pauses and time-outs must be positive, and the first pause the "
                "shortest"
            )
        self.name = address_or_name
        self.dropped_bytes = 0
        self.rssi_dbm: int | None = None
        self._radio = radio
        self._choose = choose
        self._host_clock = host_clock
        self._queue_bytes = queue_bytes
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self._find_timeout_s, self._connect_timeout_s = find_timeout_s, connect_timeout_s
        self._queue: deque[LinkEvent] = deque()
        self._queued_bytes = 0
        self._ready = asyncio.Event()
        self._writing = asyncio.Lock()
        self._client: BleakClient | None = None
        self._lost: asyncio.Future[str] | None = None
        self._opened_s: float | None = None
        self._heard_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Connect and yield what happens, until ``close``.

        Raises
        ------
        LinkError
            Somebody iterates over this link already.
        """
        if self._task is not None:
            raise LinkError(f"{self.name}: events() can be used once per link; make a new BleLink")
        if self._closing:
            return
        self._task = asyncio.create_task(self._keep_connected(), name=f"kinedge-ble {self.name}")
        self._task.add_done_callback(lambda _: self._ready.set())
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._queue:
                    event = self._queue.popleft()
                    self._queued_bytes -= _size(event)
                    yield event
                if self._task.done():
                    if not self._task.cancelled():
                        self._task.result()  # raises what ended it
                    return
        finally:
            await self.close()

    async def send(self, command: Command) -> None:
        """Write a command, with or without response as it wishes, where the characteristic can.

        Raises
        ------
        LinkError
            The device is not connected, does not have the characteristic, or did not take it; or the command is
            longer than one write.
        """
        async with self._writing:
            client = self._client
            if client is None:
                raise LinkError(f"{self.name} is not connected: the command was not sent")
            found = _characteristic(client, command.channel, _WRITABLE)
            if found is None:
                raise LinkError(f"{self.name} has nothing to write to at {command.channel}; is it the device?")
            response = "write" in found.properties and (
                command.response
                or "write-without-response" not in found.properties
                or len(command.data) > found.max_write_without_response_size
            )
            room = _MAX_WRITE_BYTES if response else found.max_write_without_response_size
            if len(command.data) > room:
                raise LinkError(f"{self.name}: a command of {len(command.data)} bytes; one write holds {room}")
            with as_link_error(f"{self.name} did not take a command"):
                await answer_within(_ANSWER_S, client.write_gatt_char(found, command.data, response=response))

    def renew(self, reason: str) -> bool:
        """Give the connection up and make a new one; always True."""
        if self._lost is not None:
            _settle(self._lost, reason)
        return True

    async def close(self) -> None:
        """Disconnect and end ``events``; may be called twice."""
        first, self._closing = not self._closing, True
        if self._task is not None:
            if first:  # a second time would cut the disconnecting short
                self._task.cancel()
            await asyncio.wait({self._task})
        self._ready.set()

    async def _keep_connected(self) -> None:
        pause_s = self._first_pause_s
        last_reason = ""
        while True:
            self._opened_s = self._heard_s = None
            try:
                reason = await self._serve()
            except LinkError as error:
                reason = str(error)
            if self._opened_s is not None or reason != last_reason:
                self._put(LinkClosed(reason, self._host_clock()))
                last_reason = reason
            if self._heard_for_s() >= pause_s:
                pause_s = self._first_pause_s
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, self._longest_pause_s)

    async def _serve(self) -> str:
        """Connect, subscribe, wait until the connection is lost, and say why it was."""
        found = await self._radio.find(self.name, timeout_s=self._find_timeout_s)
        self.rssi_dbm = found.advertisement.rssi_dbm
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reason = f"{self.name} was lost: out of range, switched off, or its battery is empty"
        client = await self._radio.connect(
            found, timeout_s=self._connect_timeout_s, on_lost=lambda: _settle(lost, reason)
        )
        try:
            async with self._writing:  # commands wait until there is somebody to hear the answers
                self._lost = lost
                await self._subscribe(client, lost)
                self._client = client
            return await lost
        finally:
            self._client = self._lost = None
            _settle(lost, "closed")  # what still arrives belongs to no connection
            await self._radio.disconnect(client)

    async def _subscribe(self, client: BleakClient, lost: asyncio.Future[str]) -> None:
        properties: dict[str, set[str]] = {}
        for characteristic in _characteristics(client):
            properties.setdefault(characteristic.uuid.lower(), set()).update(characteristic.properties)
        try:
            wanted = self._choose(properties)
        except ProtocolError as error:
            raise LinkError(f"{self.name}: {error}") from error
        found = [c for uuid in wanted if (c := _characteristic(client, uuid, _AUDIBLE)) is not None]
        if not found:
            raise LinkError(f"{self.name} offers none of {', '.join(wanted)}; is it the device that was meant?")
        self._opened_s = asyncio.get_running_loop().time()
        self._put(LinkOpened(self._host_clock()))
        for characteristic in found:
            with as_link_error(f"{self.name} cannot be subscribed to"):
                await answer_within(_ANSWER_S, client.start_notify(characteristic, self._receiver(lost)))

    def _receiver(self, lost: asyncio.Future[str]) -> Callable[[BleakGATTCharacteristic, bytearray], None]:
        def receive(characteristic: BleakGATTCharacteristic, data: bytearray) -> None:
            now_ns = self._host_clock()
            if not lost.done():
                self._heard_s = asyncio.get_running_loop().time()
                self._put(LinkData(bytes(data), now_ns, characteristic.uuid.lower()))

        return receive

    def _heard_for_s(self) -> float:
        """How long the last connection brought data; -1 when it brought none."""
        return -1.0 if self._opened_s is None or self._heard_s is None else self._heard_s - self._opened_s

    def _put(self, event: LinkEvent) -> None:
        self._queue.append(event)
        self._queued_bytes += _size(event)
        while self._queued_bytes > self._queue_bytes and len(self._queue) > 1:
            dropped = self._queue.popleft()
            self._queued_bytes -= _size(dropped)
            if isinstance(dropped, LinkData):
                self.dropped_bytes += len(dropped.data)
        self._ready.set()


def _settle(lost: asyncio.Future[str], reason: str) -> None:
    if not lost.done():
        lost.set_result(reason)


def _characteristics(client: BleakClient) -> Collection[BleakGATTCharacteristic]:
    with as_link_error(f"{client.address} was lost"):  # bleak forgets the services of a lost connection
        return client.services.characteristics.values()


def _characteristic(client: BleakClient, uuid: str, properties: Sequence[str]) -> BleakGATTCharacteristic | None:
    """Return the first one of this UUID that can do one of these; None where there is none.

    Some devices have the same UUID twice, or with the roles of two swapped: what counts is what it can do.
    """
    for characteristic in _characteristics(client):
        if characteristic.uuid.lower() == uuid and not set(properties).isdisjoint(characteristic.properties):
            return characteristic
    return None


def _size(event: LinkEvent) -> int:
    return _EVENT_OVERHEAD + (len(event.data) if isinstance(event, LinkData) else 0)
