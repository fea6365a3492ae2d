"""What the tests of device sessions share: a session and an emulated device talk, in emulated time or over a pty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinedge.firmware_bridge.device import SERIAL_CHANNEL, DeviceEvent, Session
from kinedge.firmware_bridge.links_serial import LinkData, LinkOpened, SerialLink
from kinedge.signals import ImuChunk

START_NS = 5_000_000_000_000
"""Host clock when the emulated device has power."""


def movement(n: int, *, seed: int = 0) -> np.ndarray:
    """Rows (n, 6) in m/s^2 and rad/s that differ from each other, around gravity on z."""
    t = np.arange(n)[:, None] * np.array([0.11, 0.07, 0.05, 0.13, 0.03, 0.17]) + seed
    return np.sin(t) * np.array([4.0, 3.0, 2.0, 2.0, 1.5, 1.0]) + np.array([0, 0, 9.80665, 0, 0, 0])


def events_of(session: Session) -> list[DeviceEvent]:
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


@dataclass
class Joined:
    """All chunks of one session, one after the other."""

    time_ns: np.ndarray
    values: np.ndarray
    valid: np.ndarray
    saturated: np.ndarray
    lost: int
    boot_ids: list[int]


def join(events: Sequence[DeviceEvent]) -> Joined:
    chunks = [event for event in events if isinstance(event, ImuChunk)]
    if not chunks:
        none = np.empty((0, 6))
        return Joined(np.empty(0, np.int64), none, none.astype(bool), none.astype(bool), 0, [])
    return Joined(
        np.concatenate([c.device_time_ns for c in chunks]),
        np.concatenate([c.values for c in chunks]),
        np.concatenate([c.valid for c in chunks]),
        np.concatenate([c.saturated for c in chunks]),
        sum(c.lost for c in chunks),
        sorted({c.boot_id for c in chunks}),
    )


def feed(session: Session, data: bytes, *, cuts: Sequence[int] | None = None, host: bool = False) -> list[DeviceEvent]:
    """Feed bytes cut at these places (byte by byte when None)."""
    at = 0
    for i, end in enumerate([*(range(1, len(data)) if cuts is None else cuts), len(data)]):
        host_time_ns = START_NS + i * 1_000_000 if host else None
        session.receive_data(data[at:end], channel=SERIAL_CHANNEL, host_time_ns=host_time_ns)
        at = end
    return events_of(session)


class SerialTalk:
    """A session and an emulated serial device, in emulated time."""

    def __init__(self, session: Session, device: Any, *, step_ns: int = 10_000_000) -> None:
        self.session, self.device = session, device
        self.elapsed_ns = 0
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self._step_ns = step_ns
        self._next_write_ns = 0

    def run(self, seconds: float) -> list[DeviceEvent]:
        end = self.elapsed_ns + round(seconds * 1e9)
        events = []
        while self.elapsed_ns < end:
            self.elapsed_ns += self._step_ns
            if self.elapsed_ns >= self._next_write_ns and (command := self.session.next_command()) is not None:
                self.device.receive_data(command.data, elapsed_ns=self.elapsed_ns)
                self._next_write_ns = self.elapsed_ns + round(command.pause_s * 1e9)
            data = self.damage(self.device.advance(self.elapsed_ns))
            if data:
                self.session.receive_data(data, channel=SERIAL_CHANNEL, host_time_ns=START_NS + self.elapsed_ns)
            events += events_of(self.session)
        return events


class BleTalk:
    """A session and an emulated BLE device, in emulated time."""

    def __init__(self, session: Session, device: Any, *, step_ns: int = 15_000_000) -> None:
        self.session, self.device = session, device
        self.elapsed_ns = 0
        self._step_ns = step_ns

    def run(self, seconds: float) -> list[DeviceEvent]:
        end = self.elapsed_ns + round(seconds * 1e9)
        events = []
        while self.elapsed_ns < end:
            self.elapsed_ns += self._step_ns
            while (command := self.session.next_command()) is not None:
                self.device.write(command.channel, command.data, elapsed_ns=self.elapsed_ns)
            for characteristic, value in self.device.advance(self.elapsed_ns):
                if characteristic in self.session.subscriptions:
                    self.session.receive_data(value, channel=characteristic, host_time_ns=START_NS + self.elapsed_ns)
            events += events_of(self.session)
        return events


def talk_over_tty(
    session: Session, path: Path, *, until: Callable[[list[DeviceEvent]], bool], timeout_s: float = 15.0
) -> list[DeviceEvent]:
    """Run the session on a real tty until a condition holds for the events so far."""
    events: list[DeviceEvent] = []

    async def run() -> None:
        link = SerialLink(path)
        opened = 0
        try:
            async for event in link.events():
                if isinstance(event, LinkOpened):
                    opened += 1
                    if opened > 1:
                        session.link_reopened()
                elif isinstance(event, LinkData):
                    session.receive_data(event.data, channel=SERIAL_CHANNEL, host_time_ns=event.host_time_ns)
                    events.extend(events_of(session))
                    if until(events):
                        return
                while (command := session.next_command()) is not None:
                    assert link.write(command.data)
                    await asyncio.sleep(command.pause_s / 5)
        finally:
            await link.close()

    asyncio.run(asyncio.wait_for(run(), timeout_s))
    return events


def n_samples(events: Sequence[DeviceEvent]) -> int:
    return sum(len(event) for event in events if isinstance(event, ImuChunk))
