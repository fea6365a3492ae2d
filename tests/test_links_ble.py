"""The Bluetooth link end to end on a virtual radio: real GATT, real advertisements, devices that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason
from bumble_backend import BumbleClient, BumbleScanner
from virtual_ble import ImuPeripheral, Peripheral, Room, wait_until

from kinedge.errors import LinkError, ProtocolError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import (
    ClockExchange,
    Command,
    DeviceEvent,
    DeviceInfo,
    Doubt,
    SessionConfig,
)
from kinedge.firmware_bridge.devices import drivers
from kinedge.firmware_bridge.devices.kinedge_imu import (
    CONTROL_UUID,
    DATA_UUID,
    SERVICE_UUID,
    KinedgeDriver,
    KinedgeSession,
)
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, make_hello
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkOpened
from kinedge.firmware_bridge.links_ble import BleLink, channels_of
from kinedge.firmware_bridge.packets import HelloRequest
from kinedge.firmware_bridge.session_link import SessionEvent, SessionLink
from kinedge.signals import ImuChunk, SensorSpec

TIMEOUT_S = 40.0
ADDRESS = "F0:00:00:00:00:01"
HELLO_REQUEST = (CONTROL_UUID, HelloRequest().to_bytes())


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 120))


def imu(sensor: str = "wrist_left", *, first: int = 0, faults: Faults | None = None, seed: int = 0) -> EmulatedImu:
    """A device whose acc_x counts its samples; the other channels tell it from others."""
    counts = np.full((20_000, 6), first, np.int16)
    counts[:, 0] = np.arange(20_000)
    hello = make_hello(SensorSpec(sensor), rate_hz=100, serial=f"SN-{first}")
    return EmulatedImu(hello, counts, faults=faults, seed=seed)


def kinedge_session(sensor: str = "wrist_left") -> KinedgeSession:
    return KinedgeDriver().open(SessionConfig(sensor), transport="ble")


def ble_link(room: Room, address: str = ADDRESS, *, sensor: str = "wrist_left", **options: Any) -> SessionLink:
    session = kinedge_session(sensor)
    fast: dict[str, Any] = {"first_pause_s": 0.02, "longest_pause_s": 0.1, "find_timeout_s": 5.0}
    link = BleLink(address, radio=room.radio, choose=channels_of(session), **fast)
    return SessionLink(link, session, **options)


async def take(events: AsyncIterator[Any], until: Callable[[Any], bool]) -> list[Any]:
    """Take events up to the first wanted one."""
    taken: list[Any] = []

    async def go() -> None:
        async for event in events:
            taken.append(event)
            if until(event):
                return
        raise AssertionError(f"the link ended after {taken[-3:]}")

    await asyncio.wait_for(go(), TIMEOUT_S)
    return taken


def is_a(kind: Any) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, kind)


def closed_because(text: str) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, LinkClosed) and text in event.reason


def chunks_in(events: Sequence[SessionEvent]) -> list[ImuChunk]:
    return [e for e in events if isinstance(e, ImuChunk)]


def sample_numbers(chunks: Sequence[ImuChunk]) -> np.ndarray[Any, Any]:
    """What acc_x counts, from SI units back to counts."""
    scale = make_hello(SensorSpec("any"), rate_hz=100).channels[0].scale
    return np.concatenate([np.rint(c.values[:, 0] / scale).astype(int) for c in chunks])


def require_accounted(chunks: Sequence[ImuChunk]) -> None:
    """Every sample from the first to the last is delivered once, in order, or lost."""
    numbers = sample_numbers(chunks)
    assert (np.diff(numbers) > 0).all()
    lost = sum(c.lost for c in chunks[1:])
    assert len(numbers) + lost == numbers[-1] - numbers[0] + 1


def test_five_devices_at_100_hz_lose_nothing() -> None:
    async def main() -> None:
        async with Room() as room:
            addresses = [f"F0:00:00:00:00:0{i}" for i in range(5)]
            for i, address in enumerate(addresses):
                await room.add(ImuPeripheral(imu(first=i + 1), address))
            links = [ble_link(room, a, sensor=f"sensor_{i}") for i, a in enumerate(addresses)]

            async def stream(link: SessionLink) -> list[SessionEvent]:
                n = 0

                def enough(event: SessionEvent) -> bool:
                    nonlocal n
                    n += len(event) if isinstance(event, ImuChunk) else 0
                    return n >= 250

                return await take(link.events(), enough)

            streams = await asyncio.gather(*map(stream, links))
            for i, (events, link) in enumerate(zip(streams, links, strict=True)):
                chunks = chunks_in(events)
                numbers = sample_numbers(chunks)
                assert (np.diff(numbers) == 1).all()
                assert sum(c.lost for c in chunks) == 0
                assert {c.sensor for c in chunks} == {f"sensor_{i}"}
                assert len({float(v) for c in chunks for v in c.values[:, 1]}) == 1  # of this device alone
                (info,) = [e for e in events if isinstance(e, DeviceInfo)]
                assert (info.serial, info.rate_hz) == (f"SN-{i + 1}", 100.0)
                assert events.index(info) < events.index(chunks[0])
                arrivals = [c.host_time_ns for c in chunks]
                assert arrivals == sorted(arrivals, key=lambda ns: ns or 0)
                counters = link.counters
                assert (counters.lost, counters.bad, counters.reconnects, counters.dropped_bytes) == (0, 0, 0, 0)
                assert counters.samples >= 250 and counters.bytes > 250 * 12 and counters.rssi_dbm == -50
                await link.close()

    run(main())


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


def test_lost_connection_comes_back_and_the_gap_is_counted() -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            await room.add(device)
            link = ble_link(room)
            events = link.events()
            taken = await take(events, is_a(ImuChunk))
            n_lost, k = 0, 0
            while k < 3 or (not n_lost and k < 30):  # a link that is back within a packet's time has lost nothing
                await wait_until(lambda k=k: device.writes.count(HELLO_REQUEST) == k + 1)  # type: ignore[misc]
                await device.disconnect()
                taken += await take(events, closed_because("was lost"))
                taken += await take(events, is_a(LinkOpened))
                taken += await take(events, is_a(ImuChunk))
                n_lost, k = sum(c.lost for c in chunks_in(taken)), k + 1
            require_accounted(chunks_in(taken))
            assert n_lost > 0
            assert link.counters.reconnects == k
            assert link.counters.lost == n_lost
            await wait_until(lambda: device.writes.count(HELLO_REQUEST) == k + 1)  # subscribed and greeted each time
            assert device.n_connections == k + 1
            await link.close()

    run(main())


def test_silent_device_is_connected_anew() -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            await room.add(device)
            link = ble_link(room, stale_s=0.4)
            events = link.events()
            taken = await take(events, is_a(ImuChunk))
            device.stalled = True
            taken += await take(events, closed_because("sent no samples for 0.4 s"))
            device.stalled = False
            taken += await take(events, is_a(LinkOpened))
            taken += await take(events, is_a(ImuChunk))
            require_accounted(chunks_in(taken))
            assert link.counters.silences >= 1
            assert device.n_connections >= 2
            await link.close()

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


def test_hostile_notifications_do_not_end_the_link() -> None:
    async def main() -> None:
        async with Room() as room:
            device = Peripheral(
                "bad", ADDRESS, services={SERVICE_UUID: {DATA_UUID: ["notify"], CONTROL_UUID: ["write"]}}
            )
            await room.add(device)
            link = ble_link(room)
            events = link.events()
            await take(events, is_a(LinkOpened))
            await wait_until(lambda: device.subscribed(DATA_UUID))
            source = imu()
            rng = random.Random(1)
            sent = 0
            for k in range(200):
                for payload in source.advance(k * 100_000_000):
                    await device.notify(DATA_UUID, payload)
                    sent += payload[0] == 0x12
                    damaged = bytearray(payload)
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                    await device.notify(DATA_UUID, bytes(damaged[: rng.randrange(len(damaged))]))
                await device.notify(DATA_UUID, rng.randbytes(rng.randrange(1, 240)))
            await wait_until(lambda: link.counters.packets >= 2 * sent + 200)
            assert device.connected
            await link.close()
            taken = [e async for e in events]
            assert not any(isinstance(e, LinkClosed) for e in taken)
            numbers = sample_numbers(chunks_in(taken))
            assert len(numbers) > 1000 and (np.diff(numbers) > 0).all()
            assert sum(isinstance(e, Doubt) for e in taken) <= 20
            assert link.session.counters["bad"] > 50

    run(main())


def test_clocks_are_compared_over_the_air() -> None:
    async def main() -> None:
        async with Room() as room:
            source = EmulatedImu(
                make_hello(SensorSpec("wrist_left"), rate_hz=100), np.zeros((5000, 6), np.int16), start_ns=7_000_000_000
            )
            device = ImuPeripheral(source, ADDRESS)
            started_ns = round(asyncio.get_running_loop().time() * 1e9)
            await room.add(device)
            link = ble_link(room, time_sync_s=0.05)
            taken: list[SessionEvent] = []
            events = link.events()
            while sum(isinstance(e, ClockExchange) for e in taken) < 5:
                taken += await take(events, is_a(ClockExchange))
            for e in taken:
                if isinstance(e, ClockExchange):
                    assert e.sensor == "wrist_left"
                    assert e.t1_ns <= e.t4_ns and e.t2_ns <= e.t3_ns
                    offset = e.t1_ns - e.t2_ns  # the loop's clock is time.monotonic on Linux
                    assert abs(offset - (started_ns - 7_000_000_000)) < 500_000_000
            await link.close()

    run(main())


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


def test_slow_consumer_loses_samples_that_count_as_lost_but_not_the_description() -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            await room.add(device)
            link = ble_link(room, queue_bytes=10_000)
            events = link.events()
            taken = await take(events, is_a(LinkOpened))
            await wait_until(lambda: link.counters.dropped_samples >= 50)
            taken += await take(events, lambda _: len(chunks_in(taken)) or link.counters.samples > 200)
            taken += await take(events, is_a(ImuChunk))
            taken += await take(events, is_a(ImuChunk))
            assert sum(isinstance(e, DeviceInfo) for e in taken) == 1
            chunks = chunks_in(taken)
            require_accounted(chunks)
            first = sample_numbers(chunks)[0]
            assert link.counters.lost == 0  # the session missed none
            assert chunks[0].lost == link.counters.dropped_samples <= first
            await link.close()

    run(main())


@pytest.mark.parametrize("how", ["close", "aclose", "cancel", "close twice at once", "while looking"])
def test_closed_link_leaves_no_task_no_connection_and_no_scan(how: str) -> None:
    async def main() -> None:
        async with Room() as room:
            device = ImuPeripheral(imu(), ADDRESS)
            await room.add(device)
            before = asyncio.all_tasks()
            link = ble_link(room, "F0:00:00:00:00:0F" if how == "while looking" else ADDRESS)
            events = link.events()
            if how == "while looking":
                looking = asyncio.create_task(take(events, is_a(LinkOpened)))
                await wait_until(lambda: room.central.is_scanning)
                await link.close()
                with pytest.raises(AssertionError, match="the link ended"):
                    await looking
            else:
                await take(events, is_a(ImuChunk))
                assert device.connected
            if how == "close":
                await link.close()
                await link.close()
            elif how == "aclose":
                await events.aclose()  # type: ignore[attr-defined]
            elif how == "close twice at once":
                await asyncio.gather(link.close(), link.close(), events.aclose())  # type: ignore[attr-defined]
            elif how == "cancel":
                task = asyncio.create_task(take(events, lambda _: False))
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await wait_until(lambda: not device.connected)
            assert not room.central.is_scanning
            await wait_until(lambda: asyncio.all_tasks() <= before)

    run(main())


def test_link_is_used_once() -> None:
    async def main() -> None:
        async with Room() as room:
            await room.add(ImuPeripheral(imu(), ADDRESS))
            link = ble_link(room)
            events = link.events()
            await take(events, is_a(LinkOpened))
            with pytest.raises(LinkError, match="once per link"):
                await take(link.events(), is_a(LinkOpened))
            await link.close()
            unused = BleLink(ADDRESS, radio=room.radio, choose=lambda _: [])
            await unused.close()
            assert [e async for e in unused.events()] == []

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


def test_random_disconnects_stalls_and_losses_leave_every_sample_accounted_for() -> None:
    async def main() -> None:
        async with Room() as room:
            rng = random.Random(5)
            addresses = [f"F0:00:00:00:00:0{i}" for i in range(3)]
            devices = [
                ImuPeripheral(imu(first=i, faults=Faults(loss=0.05, mean_burst=2.0), seed=i), a)
                for i, a in enumerate(addresses)
            ]
            for device in devices:
                await room.add(device)
            links = [ble_link(room, a, stale_s=0.5) for a in addresses]
            taken: list[list[SessionEvent]] = [[] for _ in links]

            async def gather(link: SessionLink, into: list[SessionEvent]) -> None:
                async for event in link.events():
                    into.append(event)

            tasks = [asyncio.create_task(gather(*pair)) for pair in zip(links, taken, strict=True)]
            for _ in range(25):
                await asyncio.sleep(0.15)
                device = rng.choice(devices)
                if rng.random() < 0.5 and device.connected:
                    await device.disconnect()
                else:
                    device.stalled = not device.stalled
            for device in devices:
                device.stalled = False
            n = [len(chunks_in(t)) for t in taken]
            await wait_until(lambda: all(len(chunks_in(t)) > k + 5 for t, k in zip(taken, n, strict=True)))
            await asyncio.gather(*(link.close() for link in links))
            await asyncio.gather(*tasks)
            for events, link in zip(taken, links, strict=True):
                require_accounted(chunks_in(events))
                assert link.counters.reconnects == sum(isinstance(e, LinkOpened) for e in events) - 1
            assert sum(link.counters.reconnects for link in links) > 3
            assert sum(link.counters.lost for link in links) > 50

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
