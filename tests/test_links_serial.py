"""The serial link on real ptys: it stamps, survives unplugging, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from kinedge.errors import LinkError
from kinedge.firmware_bridge.decoder import HelloReceived, WireDecoder
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.links_serial import LinkClosed, LinkData, LinkEvent, LinkOpened, SerialLink
from kinedge.firmware_bridge.packets import HelloRequest
from kinedge.signals import ImuChunk, SensorSpec

TIMEOUT_S = 40.0


def imu(n: int = 100_000) -> EmulatedImu:
    hello = make_hello(SensorSpec("wrist_left"), rate_hz=100)
    return EmulatedImu(hello, (np.arange(n * 6).reshape(n, 6) % 30_000).astype(np.int16))


async def until(events: AsyncIterator[LinkEvent], wanted: Callable[[LinkEvent], bool]) -> list[LinkEvent]:
    """Take events up to the first wanted one."""
    taken: list[LinkEvent] = []

    async def take() -> None:
        async for event in events:
            taken.append(event)
            if wanted(event):
                return
        raise AssertionError(f"the link ended after {taken[-3:]}")

    await asyncio.wait_for(take(), TIMEOUT_S)
    return taken


def is_a(kind: type[LinkEvent]) -> Callable[[LinkEvent], bool]:
    return lambda event: isinstance(event, kind)


def n_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def link_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("kinedge-serial")]


def test_link_streams_a_device_with_times_of_arrival_that_rise(tmp_path: Path) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu")
        decoder = WireDecoder()
        events = link.events()
        stamps = []
        chunks: list[ImuChunk] = []
        assert is_a(LinkOpened)((await until(events, lambda _: True))[0])
        while sum(map(len, chunks)) < 500:
            (event,) = await until(events, lambda _: True)
            assert isinstance(event, LinkData)
            stamps.append(event.host_time_ns)
            decoder.receive_data(event.data, host_time_ns=event.host_time_ns)
            while (found := decoder.next_event()) is not None:
                if isinstance(found, ImuChunk):
                    chunks.append(found)
        assert (np.diff(stamps) > 0).all()
        assert decoder.counters.bad_crc == decoder.counters.lost == 0
        assert link.dropped_bytes == 0
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=20.0):
        asyncio.run(main())


def test_unplugged_device_is_reported_and_found_again(tmp_path: Path) -> None:
    async def main(device: PtyDevice) -> None:
        link = SerialLink(tmp_path / "imu", first_pause_s=0.01, longest_pause_s=0.05)
        decoder = WireDecoder()
        events = link.events()
        for _ in range(3):
            for event in await until(events, is_a(LinkData)):
                if isinstance(event, LinkData):
                    decoder.receive_data(event.data, host_time_ns=event.host_time_ns)
            await asyncio.to_thread(device.unplug)
            *_, closed = await until(events, is_a(LinkClosed))
            assert isinstance(closed, LinkClosed) and "unplugged" in closed.reason
            assert link.write(b"x") is False
            await until(events, lambda e: isinstance(e, LinkClosed) and "is not there" in e.reason)
            await asyncio.to_thread(device.replug)
            await until(events, is_a(LinkOpened))
            decoder.link_reopened()
            assert link.write(encode_frame(HelloRequest().to_bytes()))
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=20.0) as device:
        asyncio.run(main(device))


def test_link_waits_for_a_device_that_is_not_there_yet_and_says_so_once(tmp_path: Path) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu", first_pause_s=0.001, longest_pause_s=0.005)
        events = link.events()
        (closed,) = await until(events, is_a(LinkClosed))
        assert isinstance(closed, LinkClosed) and "is not there" in closed.reason
        await asyncio.sleep(0.05)  # a dozen attempts, and nothing new to say
        with PtyDevice(imu(), link_path=tmp_path / "imu"):
            assert len(await until(events, is_a(LinkOpened))) == 1
            await until(events, is_a(LinkData))
            await link.close()

    asyncio.run(main())


def test_write_reaches_the_device(tmp_path: Path) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu")
        decoder = WireDecoder()
        events = link.events()
        assert link.write(b"too early") is False
        await until(events, is_a(LinkOpened))
        for _ in range(3):
            assert link.write(encode_frame(HelloRequest().to_bytes()))
        hellos = 0
        while hellos < 3:  # the device by itself sends one in 20 s
            *_, event = await until(events, is_a(LinkData))
            assert isinstance(event, LinkData)
            decoder.receive_data(event.data)
            while (found := decoder.next_event()) is not None:
                hellos += isinstance(found, HelloReceived)
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=0.1):
        asyncio.run(asyncio.wait_for(main(), 15))


def test_port_is_opened_for_one_program_only(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = SerialLink(tmp_path / "imu"), SerialLink(tmp_path / "imu")
        events = first.events()
        await until(events, is_a(LinkOpened))
        (closed,) = await until(second.events(), is_a(LinkClosed))
        assert isinstance(closed, LinkClosed) and "in use by another program" in closed.reason
        await first.close()
        await second.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        asyncio.run(main())


def test_file_that_is_no_tty_is_named_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")

    async def main() -> None:
        link = SerialLink(tmp_path / "notes.txt", first_pause_s=0.001, longest_pause_s=0.01)
        (closed,) = await until(link.events(), is_a(LinkClosed))
        assert isinstance(closed, LinkClosed) and "cannot be used as a serial port" in closed.reason
        await link.close()

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_missing_permission_names_the_group(tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.touch(mode=0o000)

    async def main() -> None:
        link = SerialLink(path)
        (closed,) = await until(link.events(), is_a(LinkClosed))
        assert isinstance(closed, LinkClosed) and "dialout" in closed.reason
        await link.close()

    asyncio.run(main())


def test_permission_hint_names_the_group() -> None:
    assert "dialout" in SerialLink("/dev/ttyACM0")._explain(PermissionError(13, "Permission denied"))


def test_slow_consumer_loses_the_oldest_and_it_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu", queue_bytes=4096)
        events = link.events()
        await until(events, is_a(LinkOpened))
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        while link.dropped_bytes < 10_000:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)
        assert link._queued_bytes <= 4096 + 4096
        await until(events, is_a(LinkData))
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu", speed=100.0):
        asyncio.run(main())


def test_host_clock_is_the_one_that_was_given(tmp_path: Path) -> None:
    ticks = itertools.count(1000)

    async def main() -> None:
        link = SerialLink(tmp_path / "imu", host_clock=lambda: next(ticks))
        opened, data = await until(link.events(), is_a(LinkData))
        assert (opened.host_time_ns, data.host_time_ns) == (1000, 1001)
        await link.close()

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "aclose", "cancel"])
def test_closed_link_leaves_no_thread_and_no_file(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu")
        events = link.events()
        await until(events, is_a(LinkData))
        assert link_threads()
        if how == "close":
            await link.close()
            await link.close()
        elif how == "aclose":
            await events.aclose()  # type: ignore[attr-defined]
        else:
            task = asyncio.create_task(until(events, lambda _: False))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert not link_threads()

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        asyncio.run(main())
        before = n_open_files()
        for _ in range(5):
            asyncio.run(main())
        assert n_open_files() == before


def test_close_ends_the_iteration_and_a_link_is_used_once(tmp_path: Path) -> None:
    async def main() -> None:
        link = SerialLink(tmp_path / "imu")
        events = link.events()
        await until(events, is_a(LinkOpened))
        await link.close()
        rest = await asyncio.wait_for(_collect(events), TIMEOUT_S)
        assert all(isinstance(e, LinkData) for e in rest)
        with pytest.raises(LinkError, match="once per link"):
            await until(link.events(), is_a(LinkOpened))
        unused = SerialLink(tmp_path / "imu")
        await unused.close()
        assert await _collect(unused.events()) == []

    with PtyDevice(imu(), link_path=tmp_path / "imu"):
        asyncio.run(main())


async def _collect(events: AsyncIterator[LinkEvent]) -> list[LinkEvent]:
    return [event async for event in events]


def test_nonsense_settings_are_refused() -> None:
    with pytest.raises(LinkError):
        SerialLink("/dev/null", baud=0)
    with pytest.raises(LinkError):
        SerialLink("/dev/null", first_pause_s=2, longest_pause_s=1)
