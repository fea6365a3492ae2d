"""Links to devices of the virtual radio, with fast pauses; and what tests take from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
from virtual_ble import Room

from kinedge.firmware_bridge.device import SessionConfig
from kinedge.firmware_bridge.devices.kinedge_imu import CONTROL_UUID, KinedgeDriver, KinedgeSession
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, make_hello
from kinedge.firmware_bridge.links import LinkClosed
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
