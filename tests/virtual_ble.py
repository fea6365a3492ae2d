"""A room full of Bluetooth devices that do not exist: peripherals in this process on bumble's virtual link.

``Room`` has a radio for the code under test. ``Peripheral`` is any device: services as a table, what is written is
recorded, and an answer may follow by a rule. ``ImuPeripheral`` is one of ours around an ``EmulatedImu``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType

from bumble.att import ATT_Error, ErrorCode
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.data_types import CompleteLocalName, Flags, ManufacturerSpecificData
from bumble.device import Connection, Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport.common import AsyncPipeSink
from bumble_backend import make_backend

from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.devices.kinedge_imu import CONTROL_UUID, DATA_UUID, SERVICE_UUID
from kinedge.firmware_bridge.emulator import EmulatedImu

TIMEOUT_S = 40.0
_FLAGS = {
    "read": Characteristic.Properties.READ,
    "write": Characteristic.Properties.WRITE,
    "write-without-response": Characteristic.Properties.WRITE_WITHOUT_RESPONSE,
    "notify": Characteristic.Properties.NOTIFY,
    "indicate": Characteristic.Properties.INDICATE,
}
_COMPLETE_128 = AdvertisingData.Type.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS

Services = Mapping[str, Mapping[str, Sequence[str]]]
Answer = Callable[[str, bytes], Iterable[tuple[str, bytes]]]


async def wait_until(happened: Callable[[], bool], *, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition of things in this loop."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not happened():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


class Room:
    """Everybody here hears everybody; the radio is for the code under test.

    Examples
    --------
    >>> async with Room() as room:  # doctest: +SKIP
    ...     device = await room.add(Peripheral("Polar H10", "F0:00:00:00:00:01", services={...}))
    ...     link = BleLink(device.address, radio=room.radio, ...)
    """

    radio: BleRadio

    async def __aenter__(self) -> Room:
        self._link = LocalLink()
        self._devices: list[Device] = []
        self._stack = contextlib.AsyncExitStack()
        central = self.device("central", "C0:00:00:00:00:00")
        await central.power_on()
        client, scanner = make_backend(central)
        self.central = central
        self.radio = BleRadio(client_backend=client, scanner_backend=scanner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        for device in self._devices:
            await device.power_off()

    def device(self, name: str, address: str) -> Device:
        controller = Controller(name, link=self._link, public_address=address)
        controller.le_acl_data_packet_length = controller.acl_data_packet_length = 251
        controller.advertising_interval = 20  # ms; the last bumble for Python 3.10 ignores what be_heard asks for
        device = Device(name=name, address=Address(address), host=Host(controller, AsyncPipeSink(controller)))
        self._devices.append(device)
        return device

    async def add(self, peripheral: Peripheral) -> Peripheral:
        """Switch a peripheral on; it advertises until it is connected, and again when it is lost."""
        await self._stack.enter_async_context(peripheral.running(self))
        return peripheral


class Peripheral:
    """One device.

    Parameters
    ----------
    name, address
        As advertised.
    services
        Properties by characteristic by service: ``{service: {characteristic: ("notify", "write")}}``.
    answer
        Given what was written where, returns notifications (characteristic, bytes) that follow.
    manufacturer_data
        Advertised, by company id.
    advertise_services
        Of those above; none for devices that are known by name only.

    Attributes
    ----------
    writes
        (characteristic, bytes) in order, since it was switched on.
    refuse_writes
        Whether it answers every write with an error.
    n_connections
        So far.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        services: Services,
        answer: Answer = lambda channel, data: (),
        manufacturer_data: Mapping[int, bytes] | None = None,
        advertise_services: bool = True,
    ) -> None:
        self.name, self.address = name, address
        self.writes: list[tuple[str, bytes]] = []
        self.n_connections = 0
        self._services = services
        self._answer = answer
        self._manufacturer_data = dict(manufacturer_data or {})
        self._advertise_services = advertise_services
        self._characteristics: dict[str, Characteristic[bytes]] = {}
        self._subscribed: set[str] = set()
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuse_writes = False
        self._silent = False

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def subscribed(self, channel: str) -> bool:
        """Whether somebody listens to a characteristic now."""
        return channel in self._subscribed

    async def notify(self, channel: str, data: bytes) -> None:
        """Send a notification (or indication), to whoever listens."""
        characteristic = self._characteristics[channel]
        if characteristic.properties & Characteristic.Properties.NOTIFY:
            await self._device.notify_subscribers(characteristic, data)
        else:
            await self._device.indicate_subscribers(characteristic, data)

    async def play(self, script: Iterable[tuple[float, str, bytes]]) -> None:
        """Send notifications: (seconds to wait before, characteristic, bytes)."""
        for pause_s, channel, data in script:
            await asyncio.sleep(pause_s)
            await self.notify(channel, data)

    async def disconnect(self) -> None:
        """Hang up, as a device that is carried away does."""
        connection = self._connection
        assert connection is not None, "nobody is connected"
        await connection.disconnect()

    async def fall_silent(self) -> None:
        """Stop advertising: nobody can find it. ``be_heard`` ends that."""
        self._silent = True
        async with self._advertising:
            await self._device.stop_advertising()

    async def be_heard(self) -> None:
        """Advertise, now and whenever a connection is lost."""
        self._silent = False
        await self._advertise()

    async def _advertise(self) -> None:
        # Not by bumble's auto_restart: that begins on its own, also after fall_silent has stopped it.
        async with self._advertising:
            if not self._silent:
                await self._device.start_advertising(advertising_interval_min=20, advertising_interval_max=20)

    @contextlib.asynccontextmanager
    async def running(self, room: Room) -> AsyncIterator[None]:
        self._device = room.device(self.name, self.address)
        self._advertising = asyncio.Lock()
        self._device.gatt_server.max_mtu = 517
        for service, characteristics in self._services.items():
            made = [self._make(uuid, properties) for uuid, properties in characteristics.items()]
            self._device.add_service(Service(UUID(service), made))
        self._device.on("connection", self._on_connection)
        self._device.advertising_data = self._advertised()
        await self._device.power_on()
        await self.be_heard()
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.fall_silent()

    def spawn(self, doing: Awaitable[None]) -> None:
        """Run something until it is done, or the room is left."""
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _advertised(self) -> bytes:
        # Longer than the 31 bytes of an old radio, which would need a scan response for the name.
        parts = [Flags(AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE), CompleteLocalName(self.name)]
        parts += [ManufacturerSpecificData(company, data) for company, data in self._manufacturer_data.items()]
        if self._advertise_services:
            uuids = b"".join(UUID(service).to_bytes(force_128=True) for service in self._services)
            parts.append((_COMPLETE_128, uuids))
        return bytes(AdvertisingData(parts))

    def _make(self, uuid: str, properties: Sequence[str]) -> Characteristic[bytes]:
        flags = Characteristic.Properties(0)
        for name in properties:
            flags |= _FLAGS[name]
        permissions = Characteristic.Permissions(0)
        if "read" in properties:
            permissions |= Characteristic.Permissions.READABLE
        if "write" in properties or "write-without-response" in properties:
            permissions |= Characteristic.Permissions.WRITEABLE
        value = CharacteristicValue(read=lambda _: b"", write=lambda _, data: self._on_write(uuid, bytes(data)))
        made = Characteristic(UUID(uuid), flags, permissions, value)
        made.on("subscription", lambda _, notify, indicate: self._on_subscription(uuid, notify or indicate))
        self._characteristics[uuid] = made
        return made

    def _on_connection(self, connection: Connection) -> None:
        self._connection = connection
        self.n_connections += 1
        connection.on("disconnection", self._on_disconnection)

    def _on_disconnection(self, reason: int) -> None:
        self._connection = None
        self._subscribed.clear()
        self._restarting = asyncio.ensure_future(self._advertise())  # never cut off: fall_silent waits for it

    def _on_subscription(self, channel: str, wanted: bool) -> None:
        (self._subscribed.add if wanted else self._subscribed.discard)(channel)

    def _on_write(self, channel: str, data: bytes) -> None:
        if self.refuse_writes:
            raise ATT_Error(ErrorCode.WRITE_NOT_PERMITTED)
        self.writes.append((channel, data))
        self.on_write(channel, data)

    def on_write(self, channel: str, data: bytes) -> None:
        """Answer."""
        answers = list(self._answer(channel, data))
        if answers:
            self.spawn(self.play((0.0, to, what) for to, what in answers))


class ImuPeripheral(Peripheral):
    """A device of ours.

    What is due while nobody listens is dropped, and its sequence goes on: as it does on the air.

    Parameters
    ----------
    imu
        What it measures, and how badly it is heard.
    address
        Of its radio.
    name
        As advertised.
    """

    def __init__(self, imu: EmulatedImu, address: str, *, name: str = "kinedge") -> None:
        services = {SERVICE_UUID: {DATA_UUID: ("notify",), CONTROL_UUID: ("write", "write-without-response")}}
        super().__init__(name, address, services=services)
        self.imu = imu
        self.stalled = False
        self._start_s = 0.0
        self._spoken_to = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, room: Room) -> AsyncIterator[None]:
        async with super().running(room):
            self._start_s = asyncio.get_running_loop().time()
            self.spawn(self._stream())
            yield

    def on_write(self, channel: str, data: bytes) -> None:
        self.imu.receive_data(data, elapsed_ns=self._elapsed_ns())
        self._spoken_to.set()

    def _elapsed_ns(self) -> int:
        return int((asyncio.get_running_loop().time() - self._start_s) * 1e9)

    async def _stream(self) -> None:
        while True:
            for payload in self.imu.advance(self._elapsed_ns()):
                if self.subscribed(DATA_UUID) and not self.stalled:
                    await self.notify(DATA_UUID, payload)
                else:
                    self.imu.drop(payload)
            due_ns = self.imu.next_due_ns
            self._spoken_to.clear()
            if due_ns is None:
                await self._spoken_to.wait()
                continue
            pause_s = max(0.0, (due_ns - self._elapsed_ns()) / 1e9)
            alarm = asyncio.get_running_loop().call_later(pause_s, self._spoken_to.set)
            await self._spoken_to.wait()
            alarm.cancel()
