"""The one Bluetooth radio of a process: who is to be heard, and connections made one after the other.

Many adapters cannot scan and connect at once, or open two connections at once. So all links of a process share
one ``BleRadio``: there is at most one scan, it rests while a connection is made, and connecting takes turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

from bleak import BleakClient, BleakScanner
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason

from kinedge.errors import KinedgeError, LinkError
from kinedge.firmware_bridge.device import Advertisement, Driver

__all__ = ["BleRadio", "Found", "Heard", "answer_within", "as_link_error"]

_ADDRESS: Final = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", re.IGNORECASE)
_NAMESAKE_S: Final = 1.0
_MAX_HEARD: Final = 4096
_DISCONNECT_S: Final = 5.0
_T = TypeVar("_T")
_Listener: TypeAlias = Callable[[BLEDevice, Advertisement], None]

_NOT_AVAILABLE: Final = {
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: "this machine has no Bluetooth adapter; plug one in",
    BleakBluetoothNotAvailableReason.POWERED_OFF: "Bluetooth is switched off; 'bluetoothctl power on' switches it on",
    BleakBluetoothNotAvailableReason.DENIED_BY_USER: "Bluetooth was denied to this program; allow it in the settings",
    BleakBluetoothNotAvailableReason.DENIED_BY_SYSTEM: "Bluetooth is denied to this program by the system's policy",
}


@dataclass(frozen=True)
class Heard:
    """A device that was heard, and the families that recognise it."""

    advertisement: Advertisement
    families: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A device that was looked for."""

    device: BLEDevice
    advertisement: Advertisement


@contextlib.contextmanager
def as_link_error(what: str) -> Iterator[None]:
    """Turn whatever a Bluetooth stack raises into a ``LinkError`` that begins with ``what``.

    Each of bleak's backends has errors of its own (D-Bus, WinRT, CoreBluetooth), and its documentation says so.
    """
    try:
        yield
    except KinedgeError:
        raise
    except Exception as error:
        raise LinkError(f"{what}: {_explain(error)}") from error


async def answer_within(timeout_s: float, doing: Coroutine[Any, Any, _T]) -> _T:
    """Wait for something of a Bluetooth stack, for so long.

    Unlike ``asyncio.wait_for`` before Python 3.12, a cancellation always arrives, even when the answer does at the same
    time: a link that is closed must not go on.

    Raises
    ------
    asyncio.TimeoutError
        It took longer, and was cancelled.
    """
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _explain(error: Exception) -> str:
    if isinstance(error, BleakBluetoothNotAvailableError):
        return _NOT_AVAILABLE.get(error.reason, str(error.args[0]))
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return "the Bluetooth service cannot be reached; is bluetoothd running, and D-Bus reachable from here?"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "no answer in time; bring the device nearer, or see whether something else is connected to it"
    return str(error) or type(error).__name__


class BleRadio:
    """Scans and connects for all links of one event loop.

    Parameters
    ----------
    client_backend, scanner_backend
        Classes of a bleak backend, where not that of the operating system.
    adapter
        Such as ``hci1``, where there is more than one (Linux).
    """

    def __init__(
        self,
        *,
        client_backend: type[BaseBleakClient] | None = None,
        scanner_backend: type[BaseBleakScanner] | None = None,
        adapter: str | None = None,
    ) -> None:
        self._client_backend = client_backend
        self._scanner_backend = scanner_backend
        self._adapter: dict[str, Any] = {} if adapter is None else {"bluez": {"adapter": adapter}}
        self._turn = asyncio.Lock()
        self._listeners: list[_Listener] = []
        self._scanner: BleakScanner | None = None

    async def scan(self, *, duration_s: float, drivers: Mapping[str, Driver]) -> list[Heard]:
        """Listen for a while, and say who was heard, the nearest first.

        Raises
        ------
        LinkError
            There is no Bluetooth, or it is switched off.
        """
        heard: dict[str, Advertisement] = {}

        def listen(device: BLEDevice, advertisement: Advertisement) -> None:
            _remember(heard, advertisement)

        async with self._listening(listen):
            await asyncio.sleep(duration_s)
        return [
            Heard(a, tuple(name for name, driver in drivers.items() if driver.recognise(a)))
            for a in sorted(heard.values(), key=lambda a: -999 if a.rssi_dbm is None else a.rssi_dbm, reverse=True)
        ]

    async def find(self, address_or_name: str, *, timeout_s: float) -> Found:
        """Look for one device.

        Parameters
        ----------
        address_or_name
            An address (a UUID on macOS), or the name that it advertises; a name is waited for a second longer, to
            see whether another device has the same.
        timeout_s
            How long to listen for it.

        Raises
        ------
        LinkError
            It was not heard, several have this name, or there is no Bluetooth.
        """
        by_address = _ADDRESS.fullmatch(address_or_name) is not None
        wanted = address_or_name.lower()
        matches: dict[str, Found] = {}
        first = asyncio.Event()
        heard: dict[str, Advertisement] = {}

        def listen(device: BLEDevice, advertisement: Advertisement) -> None:
            advertisement = _remember(heard, advertisement)
            if wanted == (advertisement.address.lower() if by_address else advertisement.name.lower()):
                matches[advertisement.address] = Found(device, advertisement)
                first.set()

        async with self._listening(listen):
            try:
                await answer_within(timeout_s, first.wait())
            except asyncio.TimeoutError:
                raise LinkError(
                    f"{address_or_name} was not heard for {timeout_s:g} s; see that it is on, near, and not connected "
                    "to something else"
                ) from None
            if not by_address:
                await asyncio.sleep(_NAMESAKE_S)
        if len(matches) > 1:
            raise LinkError(
                f"{len(matches)} devices are called {address_or_name}: {', '.join(sorted(matches)[:8])}; "
                "name the one you mean by its address"
            )
        return next(iter(matches.values()))

    async def connect(self, found: Found, *, timeout_s: float, on_lost: Callable[[], None]) -> BleakClient:
        """Connect, when it is our turn.

        Parameters
        ----------
        found
            From ``find``.
        timeout_s
            For connecting and finding its services.
        on_lost
            Called when the connection is lost.

        Raises
        ------
        LinkError
            The device does not answer, or there is no Bluetooth.
        """
        address = found.advertisement.address
        client = BleakClient(
            found.device,
            disconnected_callback=lambda _: on_lost(),
            timeout=timeout_s,
            backend=self._client_backend,
            **self._adapter,
        )
        async with self._turn:
            try:
                await self._stop_scan()
                with as_link_error(f"{address} cannot be connected"):
                    await answer_within(timeout_s, client.connect())
            except BaseException:
                await self.disconnect(client)  # half a connection would keep the device from advertising
                raise
            finally:
                with contextlib.suppress(LinkError):  # those who listen hear nothing, and say so
                    await self._start_scan()
        return client

    async def disconnect(self, client: BleakClient) -> None:
        """Disconnect; a stack that cannot, or does not answer, has lost the connection anyway."""
        with contextlib.suppress(LinkError), as_link_error("disconnecting"):
            await answer_within(_DISCONNECT_S, client.disconnect())

    @contextlib.asynccontextmanager
    async def _listening(self, listener: _Listener) -> AsyncIterator[None]:
        self._listeners.append(listener)
        try:
            async with self._turn:
                await self._start_scan()
            yield
        finally:
            self._listeners.remove(listener)
            async with self._turn:
                # Anew for those who still listen: a scan that broke silently (an adapter came back) is mended.
                await self._stop_scan()
                with contextlib.suppress(LinkError):
                    await self._start_scan()

    async def _start_scan(self) -> None:
        if self._listeners and self._scanner is None:
            with as_link_error("cannot listen for devices"):
                scanner = BleakScanner(self._hear, backend=self._scanner_backend, **self._adapter)
                await scanner.start()
            self._scanner = scanner

    async def _stop_scan(self) -> None:
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            with contextlib.suppress(LinkError), as_link_error("ending a scan"):
                await scanner.stop()

    def _hear(self, device: BLEDevice, data: AdvertisementData) -> None:
        advertisement = Advertisement(
            device.address,
            data.local_name or "",
            tuple(dict.fromkeys(uuid.lower() for uuid in data.service_uuids)),
            dict(data.manufacturer_data),
            data.rssi,
        )
        for listener in tuple(self._listeners):
            listener(device, advertisement)


def _remember(heard: dict[str, Advertisement], new: Advertisement) -> Advertisement:
    """Add what is new to what was heard of a device before: name and services may come in separate packets."""
    old = heard.pop(new.address, None)
    if old is not None:
        new = replace(
            new,
            name=new.name or old.name,
            service_uuids=new.service_uuids or old.service_uuids,
            manufacturer_data=new.manufacturer_data or old.manufacturer_data,
        )
    heard[new.address] = new
    if len(heard) > _MAX_HEARD:
        del heard[next(iter(heard))]
    return new
