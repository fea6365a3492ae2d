"""A backend of bleak over bumble: real GATT through virtual controllers, without a radio.

bleak takes classes, so ``make_backend`` binds a bumble device to subclasses. bleak says that the interface of its
backends may change between releases: this is written for bleak 3.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bleak.uuids import normalize_uuid_str
from bumble.att import ATT_Error
from bumble.core import UUID, AdvertisingData, BaseBumbleError, PhysicalTransport
from bumble.device import Advertisement, Connection, Device, Peer
from bumble.gatt import Characteristic
from bumble.hci import Address

T = TypeVar("T")
_PROPERTIES = {
    Characteristic.Properties.READ: "read",
    Characteristic.Properties.WRITE_WITHOUT_RESPONSE: "write-without-response",
    Characteristic.Properties.WRITE: "write",
    Characteristic.Properties.NOTIFY: "notify",
    Characteristic.Properties.INDICATE: "indicate",
}


def uuid_str(uuid: UUID) -> str:
    return normalize_uuid_str(uuid.to_hex_str("-").lower())


class BumbleClient(BaseBleakClient):
    central: Device
    att_mtu = 247  # what most stacks agree on

    def __init__(self, address_or_ble_device: Any, **kwargs: Any) -> None:
        super().__init__(
            address_or_ble_device,
            disconnected_callback=kwargs["disconnected_callback"],
            timeout=kwargs["timeout"],
        )
        self._name = address_or_ble_device.name if isinstance(address_or_ble_device, BLEDevice) else None
        self._connection: Connection | None = None
        self._peer: Peer | None = None
        self._subscribed: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return self._name or self.address

    @property
    def mtu_size(self) -> int:
        return 23 if self._connection is None else self._connection.att_mtu

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        try:
            connecting = self.central.connect(Address(self.address), transport=PhysicalTransport.LE)
            connection = await asyncio.wait_for(connecting, self._timeout)
        except (BaseBumbleError, asyncio.TimeoutError) as error:
            raise BleakDeviceNotFoundError(self.address, f"{self.address}: {error!r}") from error
        self._connection, self._peer = connection, Peer(connection)
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection.on("disconnection", self._on_disconnection)
        if self.central.connections.get(connection.handle) is not connection:
            self._on_disconnection(0)  # lost before anybody listened for that
        await self._ask(lambda peer: peer.request_mtu(self.att_mtu))
        await self._ask(lambda peer: peer.discover_all())
        self.services = await self._ask(self._collect)

    async def _collect(self, peer: Peer) -> BleakGATTServiceCollection:
        services = BleakGATTServiceCollection()
        for s in peer.services:
            service = BleakGATTService(s, s.handle, uuid_str(s.uuid))
            services.add_service(service)
            for c in s.characteristics:
                properties = [name for flag, name in _PROPERTIES.items() if c.properties & flag]
                room = lambda: self.mtu_size - 3  # noqa: E731
                characteristic = BleakGATTCharacteristic(c, c.handle, uuid_str(c.uuid), properties, room, service)
                services.add_characteristic(characteristic)
                for d in c.descriptors:
                    services.add_descriptor(BleakGATTDescriptor(d, d.handle, uuid_str(d.type), characteristic))
        return services

    async def _ask(self, doing: Callable[[Peer], Awaitable[T]]) -> T:
        """Ask the device something, for as long as it is there: bumble may wait long for one that is not."""
        peer = self._peer
        if peer is None or self._gone.done():
            raise BleakError("not connected")
        asking = asyncio.ensure_future(doing(peer))
        try:
            await asyncio.wait({asking, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() or asking.cancelled():
                raise BleakError("the connection was lost")
            return asking.result()
        except ATT_Error as error:
            raise BleakGATTProtocolError(error.error_code) from error
        except (BaseBumbleError, asyncio.TimeoutError) as error:
            raise BleakError(repr(error)) from error
        finally:
            asking.cancel()

    def _on_disconnection(self, reason: int) -> None:
        self._connection = self._peer = None
        self._subscribed.clear()
        if not self._gone.done():
            self._gone.set_result(None)
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    async def unpair(self) -> None:
        raise NotImplementedError

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        return bytearray(await self._ask(lambda peer: peer.read_value(characteristic.obj)))

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        return bytearray(await self._ask(lambda peer: peer.read_value(descriptor.obj)))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: Any, response: bool) -> None:
        if not response and len(data) > characteristic.max_write_without_response_size:
            raise BleakError("too long for a write without response")
        await self._ask(lambda peer: peer.write_value(characteristic.obj, bytes(data), with_response=response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: Any) -> None:
        await self._ask(lambda peer: peer.write_value(descriptor.obj, bytes(data), with_response=True))

    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: Any, **kwargs: Any) -> None:
        def receive(value: bytes) -> None:
            callback(bytearray(value))

        self._subscribed[characteristic.handle] = receive
        await self._ask(lambda peer: peer.subscribe(characteristic.obj, receive))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        receive = self._subscribed.pop(characteristic.handle, None)
        await self._ask(lambda peer: peer.unsubscribe(characteristic.obj, receive))


class BumbleScanner(BaseBleakScanner):
    central: Device

    def __init__(self, detection_callback: Any, service_uuids: Any, scanning_mode: Any = None, **kwargs: Any) -> None:
        super().__init__(detection_callback, service_uuids)

    async def start(self) -> None:
        self.seen_devices = {}
        self.central.on("advertisement", self._on_advertisement)
        await self.central.start_scanning(active=True, filter_duplicates=False)

    async def stop(self) -> None:
        self.central.remove_listener("advertisement", self._on_advertisement)
        await self.central.stop_scanning()

    def _on_advertisement(self, heard: Advertisement) -> None:
        data = heard.data
        name = data.get(AdvertisingData.COMPLETE_LOCAL_NAME) or data.get(AdvertisingData.SHORTENED_LOCAL_NAME)
        uuids = [
            uuid_str(uuid)
            for kind in (
                AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
            )
            for uuids_of_kind in data.get_all(kind)
            for uuid in uuids_of_kind
        ]
        maker = data.get(AdvertisingData.MANUFACTURER_SPECIFIC_DATA)
        makers = {} if maker is None else {int(maker[0]): bytes(maker[1])}
        advertisement = AdvertisementData(name, makers, {}, uuids, None, heard.rssi, (heard,))
        if self.is_allowed_uuid(uuids):
            address = heard.address.to_string(False)
            device = self.create_or_update_device(address, address, name, heard.address, advertisement)
            self.call_detection_callbacks(device, advertisement)


def make_backend(central: Device) -> tuple[type[BumbleClient], type[BumbleScanner]]:
    """Return classes for ``backend=`` of a client and of a scanner."""
    return (
        type("BoundClient", (BumbleClient,), {"central": central}),
        type("BoundScanner", (BumbleScanner,), {"central": central}),
    )
