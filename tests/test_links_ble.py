"""The Bluetooth link end to end on a virtual radio: real GATT, and every sample delivered or counted as lost."""

from __future__ import annotations

import asyncio
import contextlib
import random

import numpy as np
import pytest
from ble_links import (
    ADDRESS,
    HELLO_REQUEST,
    ble_link,
    chunks_in,
    closed_because,
    imu,
    is_a,
    require_accounted,
    run,
    sample_numbers,
    take,
)
from virtual_ble import ImuPeripheral, Peripheral, Room, wait_until

from kinedge.errors import LinkError
from kinedge.firmware_bridge.device import ClockExchange, DeviceInfo, Doubt
from kinedge.firmware_bridge.devices.kinedge_imu import CONTROL_UUID, DATA_UUID, SERVICE_UUID
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, make_hello
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.links_ble import BleLink
from kinedge.firmware_bridge.session_link import SessionEvent, SessionLink
from kinedge.signals import ImuChunk, SensorSpec


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
                await asyncio.sleep(0.007 * k)  # at another moment between two packets each time
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
