"""What a Bluetooth link writes to and hears from a device's characteristics."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from ble_links import ADDRESS, HELLO_REQUEST, ble_link, closed_because, imu, is_a, run, take
from virtual_ble import ImuPeripheral, Peripheral, Room, wait_until

from kinedge.errors import LinkError, ProtocolError
from kinedge.firmware_bridge.device import Command, DeviceEvent, Doubt
from kinedge.firmware_bridge.devices.kinedge_imu import CONTROL_UUID, DATA_UUID, SERVICE_UUID
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkOpened
from kinedge.firmware_bridge.links_ble import BleLink, channels_of
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk


def test_refused_command_is_counted_and_tried_on_a_new_connection() -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            device.refuse_writes = True
            await room.add(device)
            link = ble_link(room)
            events = link.events()
            await take(events, closed_because("did not take a command"))
            assert link.counters.refused_commands >= 1
            device.refuse_writes = False
            await take(events, is_a(ImuChunk))
            await wait_until(lambda: HELLO_REQUEST in device.writes)
            await link.close()

    run(main())


def test_device_without_the_characteristics_is_named() -> None:
    async def main() -> None:
        async with Room() as room:
            await room.add(Peripheral("other", ADDRESS, services={SERVICE_UUID: {CONTROL_UUID: ["write"]}}))
            link = ble_link(room)
            (closed,) = await take(link.events(), is_a(LinkClosed))
            assert f"offers none of {DATA_UUID}" in closed.reason
            await link.close()

    run(main())


class Scripted:
    """A session that writes what it is told, and understands nothing."""

    def __init__(self, commands: Sequence[Command], *, subscriptions: Sequence[str] = (DATA_UUID,)) -> None:
        self.subscriptions = subscriptions
        self.counters: Mapping[str, int] = {}
        self.received: list[tuple[str, bytes]] = []
        self._all = list(commands)
        self._due = list(commands)

    def next_command(self) -> Command | None:
        return self._due.pop(0) if self._due else None

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        self.received.append((channel, data))
        if data == b"refuse":
            raise ProtocolError("the device refuses")

    def next_event(self) -> DeviceEvent | None:
        return None

    def stop_commands(self) -> Sequence[Command]:
        return [Command(CONTROL_UUID, b"stop")]

    def link_reopened(self) -> None:
        self._due = list(self._all)


def scripted_device(properties: Sequence[str] = ("write", "write-without-response"), **options: Any) -> Peripheral:
    return Peripheral(
        "scripted", ADDRESS, services={SERVICE_UUID: {DATA_UUID: ["notify"], CONTROL_UUID: properties}}, **options
    )


def test_commands_go_out_in_order_with_their_pauses_and_stop_comes_last() -> None:
    async def main() -> None:
        async with Room() as room:
            written_s: list[float] = []

            def note(channel: str, data: bytes) -> Sequence[tuple[str, bytes]]:
                written_s.append(asyncio.get_running_loop().time())
                return [(DATA_UUID, b"ok " + data)]

            device = scripted_device(answer=note)
            await room.add(device)
            session = Scripted(
                [Command(CONTROL_UUID, b"one", pause_s=0.2), Command(CONTROL_UUID, b"two", response=False)]
            )
            inner = BleLink(ADDRESS, radio=room.radio, choose=channels_of(session), first_pause_s=0.01)
            link = SessionLink(inner, session, stale_s=math.inf)
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: len(session.received) == 2)
            assert session.received == [(DATA_UUID, b"ok one"), (DATA_UUID, b"ok two")]
            assert written_s[1] - written_s[0] >= 0.2
            await device.disconnect()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: len(device.writes) == 4)
            await link.close()
            assert [data for _, data in device.writes] == [b"one", b"two", b"one", b"two", b"stop"]

    run(main())


def test_session_that_complains_is_heard_once() -> None:
    async def main() -> None:
        async with Room() as room:
            device = scripted_device()
            await room.add(device)
            session = Scripted([])
            link = SessionLink(
                BleLink(ADDRESS, radio=room.radio, choose=channels_of(session)), session, stale_s=math.inf
            )
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: device.subscribed(DATA_UUID))
            for _ in range(3):
                await device.notify(DATA_UUID, b"refuse")
            assert await take(events, is_a(Doubt)) == [Doubt("the device refuses")]
            await wait_until(lambda: link.counters.bad == 3)
            assert device.connected
            await link.close()
            assert [e async for e in events] == []

    run(main())


def test_write_uses_what_the_characteristic_can_do_and_has_room_for() -> None:
    async def main() -> None:
        async with Room() as room:
            both, without = scripted_device(), scripted_device(["write-without-response"])
            without.address = "F0:00:00:00:00:02"
            for device in (both, without):
                await room.add(device)
                session = Scripted([])
                link = BleLink(device.address, radio=room.radio, choose=channels_of(session))
                with pytest.raises(LinkError, match="is not connected"):
                    await link.send(Command(CONTROL_UUID, b"early"))
                events = link.events()
                await take(events, is_a(LinkOpened))
                await link.send(Command(CONTROL_UUID, b"short"))
                long = Command(CONTROL_UUID, b"x" * 400, response=False)  # one write without response holds 244
                if device is both:
                    await link.send(long)
                    await wait_until(lambda device=device: len(device.writes) == 2)  # type: ignore[misc]
                else:
                    with pytest.raises(LinkError, match="400 bytes; one write holds 244"):
                        await link.send(long)
                with pytest.raises(LinkError, match=r"600 bytes; one write holds (512|244)"):
                    await link.send(Command(CONTROL_UUID, b"x" * 600))
                with pytest.raises(LinkError, match="nothing to write to"):
                    await link.send(Command(DATA_UUID, b"?"))
                await link.close()
                assert device.writes[0] == (CONTROL_UUID, b"short")
            assert both.writes[1] == (CONTROL_UUID, b"x" * 400)

    run(main())


class Swapped(Scripted):
    """A session that listens on whatever can be listened to."""

    def characteristics_found(self, properties: Mapping[str, Collection[str]]) -> None:
        self.subscriptions = [uuid for uuid, can in properties.items() if "notify" in can]
        if not self.subscriptions:
            raise ProtocolError("nothing here can be listened to")


def test_session_chooses_characteristics_by_what_they_can_do() -> None:
    async def main() -> None:
        async with Room() as room:
            device = Peripheral(
                "swapped", ADDRESS, services={SERVICE_UUID: {DATA_UUID: ["write"], CONTROL_UUID: ["notify", "write"]}}
            )
            mute = Peripheral("mute", "F0:00:00:00:00:02", services={SERVICE_UUID: {DATA_UUID: ["write"]}})
            await room.add(device)
            await room.add(mute)
            session = Swapped([])
            link = BleLink(ADDRESS, radio=room.radio, choose=channels_of(session))
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: device.subscribed(CONTROL_UUID))
            await device.notify(CONTROL_UUID, b"hello")
            *_, data = await take(events, is_a(LinkData))
            assert (data.channel, data.data) == (CONTROL_UUID, b"hello")
            await link.close()
            link = BleLink(mute.address, radio=room.radio, choose=channels_of(Swapped([])))
            (closed,) = await take(link.events(), is_a(LinkClosed))
            assert "nothing here can be listened to" in closed.reason
            await link.close()

    run(main())


def test_indications_are_heard_like_notifications() -> None:
    async def main() -> None:
        async with Room() as room:
            device = Peripheral("i", ADDRESS, services={SERVICE_UUID: {DATA_UUID: ["indicate"]}})
            await room.add(device)
            link = BleLink(ADDRESS, radio=room.radio, choose=lambda _: [CONTROL_UUID, DATA_UUID])
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: device.subscribed(DATA_UUID))
            await device.notify(DATA_UUID, b"indicated")
            (data,) = await take(events, is_a(LinkData))
            assert data.data == b"indicated"
            await link.close()

    run(main())


def test_slow_consumer_loses_the_oldest_notifications_and_they_are_counted() -> None:
    async def main() -> None:
        async with Room() as room:
            device = scripted_device()
            await room.add(device)
            link = BleLink(ADDRESS, radio=room.radio, choose=lambda _: [DATA_UUID], queue_bytes=2000)
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: device.subscribed(DATA_UUID))
            for i in range(100):
                await device.notify(DATA_UUID, bytes([i]) * 100)
            await wait_until(lambda: link.dropped_bytes >= 8000)
            rest = await take(events, lambda e: e.data[0] == 99)
            assert len(rest) <= 12
            assert [e.data[0] for e in rest] == list(range(100 - len(rest), 100))
            assert link.dropped_bytes == 100 * (100 - len(rest))
            await link.close()

    run(main())
