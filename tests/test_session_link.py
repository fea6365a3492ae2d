"""A session over a serial link: the same events as over the air, on a real pty."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinedge.errors import LinkError
from kinedge.firmware_bridge.device import ClockExchange, Command, DeviceInfo, SessionConfig
from kinedge.firmware_bridge.devices.kinedge_imu import KinedgeDriver, KinedgeSession
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.lateness import Lateness
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.links_serial import SerialLink
from kinedge.firmware_bridge.session_link import SessionEvent, SessionLink
from kinedge.firmware_bridge.waking import waker_of
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

TIMEOUT_S = 10.0


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


def imu(n: int = 20_000) -> EmulatedImu:
    counts = np.zeros((n, 6), np.int16)
    counts[:, 0] = np.arange(n)
    return EmulatedImu(make_hello(SensorSpec("wrist_left"), rate_hz=100), counts)


def serial_link(path: Path, **options: Any) -> SessionLink:
    session = KinedgeDriver().open(SessionConfig("wrist_left"), transport="serial")
    return SessionLink(SerialLink(path, first_pause_s=0.01, longest_pause_s=0.05), session, **options)


async def take(events: AsyncIterator[SessionEvent], until: Callable[[SessionEvent], bool]) -> list[SessionEvent]:
    taken: list[SessionEvent] = []

    async def go() -> None:
        async for event in events:
            taken.append(event)
            if until(event):
                return
        raise AssertionError(f"the link ended after {taken[-3:]}")

    await asyncio.wait_for(go(), TIMEOUT_S)
    return taken


def is_a(kind: type) -> Callable[[SessionEvent], bool]:
    return lambda event: isinstance(event, kind)


def chunks_in(events: Sequence[SessionEvent]) -> list[ImuChunk]:
    return [e for e in events if isinstance(e, ImuChunk)]


def test_serial_device_gives_the_events_that_a_radio_would(tmp_path: Path) -> None:
    async def main() -> None:
        link = serial_link(tmp_path / "imu", time_sync_s=0.05)
        events = link.events()
        taken = await take(events, is_a(ClockExchange))
        while sum(map(len, chunks_in(taken))) < 200:
            taken += await take(events, is_a(ImuChunk))
        kinds = [type(e) for e in taken]
        assert kinds[0] is LinkOpened
        assert kinds.index(DeviceInfo) < kinds.index(ImuChunk) < kinds.index(ClockExchange)
        times = np.concatenate([c.device_time_ns for c in chunks_in(taken)])
        assert (np.diff(times) == 10_000_000).all()
        assert link.counters.lost == link.counters.bad == link.counters.reconnects == 0
        assert link.counters.rssi_dbm is None and link.counters.bytes > 200 * 12
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=10.0):
        run(main())
    assert not [t for t in threading.enumerate() if t.name.startswith("kinedge-serial")]


def test_unplugged_device_comes_back_and_the_gap_is_counted(tmp_path: Path) -> None:
    async def main(device: PtyDevice) -> None:
        link = serial_link(tmp_path / "imu")
        events = link.events()
        taken = await take(events, is_a(ImuChunk))
        for _ in range(2):
            await asyncio.to_thread(device.unplug)
            taken += await take(events, lambda e: isinstance(e, LinkClosed) and "is not there" in e.reason)
            await asyncio.to_thread(device.replug)
            taken += await take(events, is_a(LinkOpened))
            taken += await take(events, is_a(ImuChunk))
        assert link.counters.reconnects == 2
        chunks = chunks_in(taken)
        times = np.concatenate([c.device_time_ns for c in chunks])
        missing = int((times[-1] - times[0]) // 10_000_000) + 1 - len(times)
        assert missing == sum(c.lost for c in chunks[1:]) > 0
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=10.0) as device:
        run(main(device))


def test_silent_device_on_a_wire_is_started_anew_and_the_port_stays_open(tmp_path: Path) -> None:
    class Counting(KinedgeSession):
        greetings = 0

        def next_command(self) -> Command | None:
            command = super().next_command()
            self.greetings += command is not None
            return command

    async def main() -> None:
        session = Counting(SessionConfig("wrist_left"), framed=True)
        link = SessionLink(SerialLink(tmp_path / "imu"), session, stale_s=0.2)
        events = link.events()
        taken = await take(events, is_a(LinkClosed))
        assert chunks_in(taken)
        closed = taken[-1]
        assert isinstance(closed, LinkClosed) and "sent no samples for 0.2 s; it is started anew" in closed.reason
        assert [type(e) for e in await take(events, is_a(LinkOpened))] == [LinkOpened]
        while link.counters.silences < 4:
            await asyncio.sleep(0.01)
        assert session.greetings >= 4
        await link.close()
        assert not [e async for e in events if isinstance(e, LinkClosed)]  # said once
        assert link.counters.reconnects == 0

    with PtyDevice(imu(50), link_path=tmp_path / "imu", speed=10.0):
        run(main())


def test_consumer_that_stops_listening_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        link = serial_link(tmp_path / "imu")
        task = asyncio.create_task(take(link.events(), lambda _: False))
        while not link.counters.samples:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        run(main())


def test_command_to_a_closed_port_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(LinkError, match="takes no commands"):
            await SerialLink(tmp_path / "imu").send(Command("serial", b"x"))

    run(main())


def test_failing_session_ends_the_link_with_its_error(tmp_path: Path) -> None:
    class Broken(KinedgeSession):
        def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
            raise LinkError("a mistake in a driver")

    async def main() -> None:
        link = SessionLink(SerialLink(tmp_path / "imu"), Broken(SessionConfig("wrist_left"), framed=True))
        with pytest.raises(LinkError, match="a mistake in a driver"):
            await take(link.events(), lambda _: False)

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        run(main())


def test_wakes_from_many_threads_cost_the_loop_one() -> None:
    class Counting(asyncio.SelectorEventLoop):
        calls = 0

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
            self.calls += 1
            return super().call_soon_threadsafe(*args, **kwargs)

    async def main() -> None:
        waker, events = waker_of(loop), [asyncio.Event() for _ in range(20)]
        assert waker_of(loop) is waker
        for turn in (1, 2):
            threads = [threading.Thread(target=waker.wake, args=(event,)) for event in events]
            for thread in threads:  # the loop is held up here: all of them come before it gathers
                thread.start()
            for thread in threads:
                thread.join()
            assert not any(event.is_set() for event in events)
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in events)), TIMEOUT_S)
            assert loop.calls == turn
            for event in events:
                event.clear()

    loop = Counting()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    waker_of(loop).wake(asyncio.Event())  # a loop that is closed is left alone


def chunk(device_ns: int, host_ns: int | None, *, boot_id: int = 0) -> ImuChunk:
    ones = np.ones((1, 6))
    time_ns = np.array([device_ns], np.int64)
    return ImuChunk("s", time_ns, ones.astype(np.float32), ones > 0, ones < 0, 1, 0, boot_id, host_ns)


def test_late_is_measured_against_the_fastest_packet_of_the_last_minutes() -> None:
    lateness = Lateness(250_000_000)
    delays_ms = [20, 300, 269, 271, 5, 254, 256]
    told = [lateness.is_late(chunk(i * NS_PER_S, i * NS_PER_S + ms * 1_000_000)) for i, ms in enumerate(delays_ms)]
    assert told == [False, True, False, True, False, False, True]
    assert not lateness.is_late(chunk(0, None))
    # a device that restarts, and one whose clock runs 1 % slow, are not late
    assert not lateness.is_late(chunk(0, 100 * NS_PER_S, boot_id=1))
    drifting = Lateness(2 * NS_PER_S)
    assert not any(drifting.is_late(chunk(i * 990_000_000, i * NS_PER_S)) for i in range(1000))
