"""How a Bluetooth link finds its device, who a scan hears, and radios that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ble_links import ADDRESS, ble_link, imu, is_a, kinedge_session, run, take
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason
from bumble_backend import BumbleClient, BumbleScanner
from virtual_ble import ImuPeripheral, Peripheral, Room

from kinedge.errors import LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.firmware_bridge.devices import drivers
from kinedge.firmware_bridge.devices.kinedge_imu import DATA_UUID, SERVICE_UUID
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.links_ble import BleLink, channels_of
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk


def test_connections_are_made_one_after_the_other_while_the_scan_rests() -> None:
    async def main() -> None:
        async with Room() as room:
            connecting, most, scanned = 0, 0, []

            class Watched(BumbleClient):
                central = room.central

                async def connect(self, pair: bool, **kwargs: Any) -> None:
                    nonlocal connecting, most
                    connecting += 1
                    most = max(most, connecting)
                    scanned.append(room.central.is_scanning)
                    await asyncio.sleep(0.02)
                    await super().connect(pair, **kwargs)
                    connecting -= 1

            room.radio._client_backend = Watched
            addresses = [f"F0:00:00:00:00:0{i}" for i in range(4)]
            for address in addresses:
                await room.add(ImuPeripheral(imu(), address))
            links = [ble_link(room, a) for a in addresses]
            await asyncio.gather(*(take(link.events(), is_a(LinkOpened)) for link in links))
            assert most == 1
            assert scanned == [False] * 4
            for link in links:
                await link.close()
            assert not room.central.is_scanning

    run(main())


def test_device_that_is_not_there_is_reported_once_and_found_when_it_comes() -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            await room.add(device)
            await device.fall_silent()
            session = kinedge_session()
            link = BleLink(
                ADDRESS,
                radio=room.radio,
                choose=channels_of(session),
                find_timeout_s=0.05,
                first_pause_s=0.01,
                longest_pause_s=0.02,
            )
            events = link.events()
            (closed,) = await take(events, is_a(LinkClosed))
            assert "was not heard for 0.05 s" in closed.reason
            await asyncio.sleep(0.5)  # some attempts, and nothing new to say
            await device.be_heard()
            assert [type(e) for e in await take(events, is_a(LinkOpened))] == [LinkOpened]
            await link.close()

    run(main())


def test_two_devices_of_one_name_are_told_apart_by_address() -> None:
    async def main() -> None:
        async with Room() as room:
            for i in (1, 2):
                await room.add(ImuPeripheral(imu(first=i), f"F0:00:00:00:00:0{i}", name="KINEDGE-IMU"))
            by_name = ble_link(room, "kinedge-imu")
            (closed,) = await take(by_name.events(), is_a(LinkClosed))
            assert "2 devices are called kinedge-imu: F0:00:00:00:00:01, F0:00:00:00:00:02" in closed.reason
            await by_name.close()
            for i in (1, 2):
                link = ble_link(room, f"f0:00:00:00:00:0{i}")
                taken = await take(link.events(), is_a(ImuChunk))
                assert [e.serial for e in taken if isinstance(e, DeviceInfo)] == [f"SN-{i}"]
                await link.close()

    run(main())


def test_device_is_found_by_a_name_that_is_its_own() -> None:
    async def main() -> None:
        async with Room() as room:
            await room.add(ImuPeripheral(imu(first=7), ADDRESS, name="left one"))
            await room.add(ImuPeripheral(imu(first=8), "F0:00:00:00:00:02", name="right one"))
            session = kinedge_session()
            link = SessionLink(BleLink("Left One", radio=room.radio, choose=channels_of(session)), session)
            taken = await take(link.events(), is_a(ImuChunk))
            assert [e.serial for e in taken if isinstance(e, DeviceInfo)] == ["SN-7"]
            await link.close()

    run(main())


def test_scan_says_who_is_there_and_what_family_it_is() -> None:
    async def main() -> None:
        async with Room() as room:
            await room.add(ImuPeripheral(imu(), ADDRESS, name="ours"))
            await room.add(
                Peripheral(
                    "thermometer",
                    "F0:00:00:00:00:02",
                    services={"00001809-0000-1000-8000-00805f9a34fb": {DATA_UUID: ["notify"]}},
                    manufacturer_data={0x1234: b"\x01\x02"},
                )
            )
            heard = {h.advertisement.name: h for h in await room.radio.scan(duration_s=0.3, drivers=drivers())}
            assert heard["ours"].families == ("kinedge",)
            assert heard["ours"].advertisement.service_uuids == (SERVICE_UUID,)
            other = heard["thermometer"]
            assert other.families == ()
            assert other.advertisement.manufacturer_data == {0x1234: b"\x01\x02"}
            assert other.advertisement.address == "F0:00:00:00:00:02"
            assert other.advertisement.rssi_dbm == -50
            assert not room.central.is_scanning

    run(main())


def test_bluetooth_that_is_off_is_named_and_waited_for() -> None:
    async def main() -> None:
        async with Room() as room:
            await room.add(ImuPeripheral(imu(), ADDRESS))
            off = True

            class Switched(BumbleScanner):
                central = room.central

                async def start(self) -> None:
                    if off:
                        raise BleakBluetoothNotAvailableError("off", BleakBluetoothNotAvailableReason.POWERED_OFF)
                    await super().start()

            room.radio._scanner_backend = Switched
            link = ble_link(room)
            events = link.events()
            (closed,) = await take(events, is_a(LinkClosed))
            assert "bluetoothctl power on" in closed.reason
            with pytest.raises(LinkError, match="switched off"):
                await room.radio.scan(duration_s=0.1, drivers={})
            off = False
            assert [type(e) for e in await take(events, is_a(LinkOpened))] == [LinkOpened]
            await link.close()

    run(main())


def test_machine_without_a_bluetooth_service_says_so() -> None:
    class Absent(BumbleScanner):
        async def start(self) -> None:
            raise FileNotFoundError(2, "No such file or directory")

    async def main() -> None:
        with pytest.raises(LinkError, match="bluetoothd running"):
            await BleRadio(scanner_backend=Absent).scan(duration_s=0.1, drivers={})

    run(main())


def test_nonsense_settings_are_refused() -> None:
    radio = BleRadio()
    with pytest.raises(LinkError, match="address or the name"):
        BleLink("", radio=radio, choose=lambda _: [])
    with pytest.raises(LinkError, match="positive"):
        BleLink(ADDRESS, radio=radio, choose=lambda _: [], first_pause_s=2, longest_pause_s=1)
    with pytest.raises(LinkError, match="positive"):
        BleLink(ADDRESS, radio=radio, choose=lambda _: [], queue_bytes=0)
    session = kinedge_session()
    with pytest.raises(LinkError, match="positive"):
        SessionLink(BleLink(ADDRESS, radio=radio, choose=channels_of(session)), session, stale_s=0)
