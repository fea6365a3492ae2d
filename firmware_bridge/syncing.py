"""Watch the clocks of several devices, their DOT sync, and common knocks: what ``kinedge sync`` does.

The devices are listened to as ``kinedge run`` listens to them, so that what is found out holds there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from kinedge.errors import ConfigError, LinkError, SignalError
from kinedge.firmware_bridge.alignment import PairUncertainty, alignment_of, pair_uncertainty_ns
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.firmware_bridge.device import ClockExchange, DeviceInfo
from kinedge.firmware_bridge.devices.movella_dot import DotSync, MovellaDotSession
from kinedge.firmware_bridge.knocks import KnockWatch
from kinedge.firmware_bridge.open_device import DeviceLink
from kinedge.firmware_bridge.session_link import SessionEvent, SessionLink
from kinedge.firmware_bridge.sync_file import Offset
from kinedge.signals import IMU6, ImuChunk

__all__ = ["ClockState", "Synced", "sync_links"]

_TICK_S: Final = 0.25
_ADVICE: Final = "hold the sensors together and knock them, hard and unevenly"

_Wait: TypeAlias = Callable[[Callable[[], str], float], Awaitable[None]]


@dataclass
class _Sensor:
    where: str
    clock: ClockMap
    channels: tuple[str, ...] = ()
    samples: int = 0
    exchanges: int = 0
    boot_id: int | None = None


@dataclass(frozen=True)
class ClockState:
    """How well the clock of a sensor is known, and from how many two-way exchanges; 0: the device answers none."""

    where: str
    uncertainty_ms: float
    exchanges: int


@dataclass(frozen=True)
class Synced:
    """What was found out.

    Parameters
    ----------
    clocks
        By sensor.
    pairs
        How far the clocks of each two sensors may be apart, as they are; the worst first.
    dots
        Whether each DOT that was asked to sync took it, by where it is.
    offsets
        By knocks; the first device has none.
    """

    clocks: dict[str, ClockState]
    pairs: tuple[PairUncertainty, ...]
    dots: dict[str, DotSync] = field(default_factory=dict)
    offsets: tuple[Offset, ...] = ()

    @property
    def failed_dots(self) -> list[str]:
        """DOTs that did not take their sync."""
        return [where for where, state in self.dots.items() if state is not DotSync.ACKNOWLEDGED]


class _Watch:
    """What the links bring, on clock maps as ``kinedge run`` has them."""

    def __init__(self, floors_ns: Mapping[str, int]) -> None:
        self.sensors: dict[str, _Sensor] = {}
        self.knocks: KnockWatch | None = None
        self._floors_ns = floors_ns

    def take(self, where: str, event: SessionEvent) -> None:
        if isinstance(event, DeviceInfo):
            name = event.spec.name
            clock = ClockMap(delay_floor_ns=self._floors_ns[where])
            known = self.sensors.setdefault(name, _Sensor(where, clock))
            if known.where != where:
                raise ConfigError(f"{where}: says it is {name}, but {known.where} is; give each device its place")
            known.channels = event.spec.channels
        elif isinstance(event, ClockExchange) and event.sensor in self.sensors:
            sensor = self.sensors[event.sensor]
            sensor.exchanges += 1
            sensor.clock.update_two_way(event.t1_ns, event.t2_ns, event.t3_ns, event.t4_ns)
        elif isinstance(event, ImuChunk) and event.sensor in self.sensors and len(event):
            self._feel(self.sensors[event.sensor], event)

    def _feel(self, sensor: _Sensor, chunk: ImuChunk) -> None:
        if sensor.boot_id not in (None, chunk.boot_id):
            sensor.clock.reset()
        sensor.boot_id = chunk.boot_id
        if chunk.host_time_ns is not None:
            sensor.clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        sensor.samples += len(chunk)
        if self.knocks is not None and sensor.clock.n_updates and sensor.channels[:3] == IMU6[:3]:
            acc = np.where(chunk.valid[:, :3], chunk.values[:, :3], np.float32(np.nan))
            self.knocks.push(chunk.sensor, sensor.clock.to_host_ns(chunk.device_time_ns), acc)


async def sync_links(
    links: Mapping[str, DeviceLink],
    *,
    floors_ns: Mapping[str, int],
    knocks: int = 0,
    listen_s: float = 15.0,
    timeout_s: float = 90.0,
    on_tick: Callable[[str], None] = lambda text: None,
) -> Synced:
    """Listen to devices until their clocks are known, DOTs have answered, and there were knocks (if any are wanted).

    Parameters
    ----------
    links
        By where they are; closed at the end.
    floors_ns
        Longest delay of the fastest packets, alike.
    knocks
        How many are asked for; 0 for none.
    listen_s
        How long clocks are watched once all devices are heard.
    timeout_s
        For the devices to be heard, and again for the knocks to be clear.
    on_tick
        Called with what is waited for.

    Raises
    ------
    LinkError
        A device is not heard.
    SignalError
        There were no clear knocks.
    """
    watch = _Watch(floors_ns)
    loop = asyncio.get_running_loop()

    async def listen(where: str, link: DeviceLink) -> None:
        async for event in link.events():
            watch.take(where, event)

    listening = [asyncio.create_task(listen(where, link), name=f"sync {where}") for where, link in links.items()]

    async def wait(text: Callable[[], str], until_s: float) -> None:
        """Wait until there is nothing to be waited for, or it is time."""
        while (waiting := text()) and loop.time() < until_s:
            on_tick(waiting)
            await asyncio.sleep(_TICK_S)
            for task in listening:
                if task.done():
                    task.result()  # raises what ended it

    try:
        await wait(lambda: _unheard(watch, links), loop.time() + timeout_s)
        if text := _unheard(watch, links):
            raise LinkError(f"{text}; `kinedge doctor` says what to check")
        await wait(lambda: f"watching {len(watch.sensors)} clocks", loop.time() + listen_s)
        await wait(lambda: _unsynced(links), loop.time() + timeout_s)
        clocks = {
            name: ClockState(s.where, round(s.clock.uncertainty_ns / 1e6, 2), s.exchanges)
            for name, s in watch.sensors.items()
        }
        pairs = alignment_of({name: s.clock for name, s in watch.sensors.items()})
        offsets = await _await_knocks(watch, wait, knocks, loop.time() + timeout_s) if knocks else ()
        return Synced(clocks, pairs, _dots(links), offsets)
    finally:
        for link in links.values():
            await link.close()
        await asyncio.gather(*listening, return_exceptions=True)


def _unheard(watch: _Watch, links: Mapping[str, DeviceLink]) -> str:
    heard = {s.where for s in watch.sensors.values() if s.samples}
    silent = [where for where in links if where not in heard]
    return f"nothing is heard of {', '.join(silent)}" if silent else ""


def _dots(links: Mapping[str, DeviceLink]) -> dict[str, DotSync]:
    sessions = {w: link.session for w, link in links.items() if isinstance(link, SessionLink)}
    dots = {w: s.sync_state for w, s in sessions.items() if isinstance(s, MovellaDotSession)}
    return {where: state for where, state in dots.items() if state is not DotSync.NOT_ASKED}


def _unsynced(links: Mapping[str, DeviceLink]) -> str:
    waiting = [where for where, state in _dots(links).items() if state is DotSync.ASKED]
    return f"{', '.join(waiting)} did not acknowledge the sync yet" if waiting else ""


async def _await_knocks(watch: _Watch, wait: _Wait, n_knocks: int, until_s: float) -> tuple[Offset, ...]:
    watch.knocks = knocks = KnockWatch(n_knocks=n_knocks)
    found: list[Offset] = []
    last = "none were felt"

    def attempt() -> str:
        nonlocal last
        try:
            offsets = knocks.offsets()
        except SignalError as e:
            last = str(e)
            return f"{_ADVICE}, {n_knocks} times\n{last}"
        first = watch.sensors[knocks.sensors[0]]
        for name, offset in offsets.items():
            sensor = watch.sensors[name]
            if sensor.where != first.where and sensor.where not in [o.device for o in found]:
                found.append(
                    Offset(
                        device=sensor.where,
                        offset_ms=round(offset.offset_ns / 1e6, 2),
                        uncertainty_ms=round(offset.uncertainty_ms, 2),
                        clocks_ms=round(pair_uncertainty_ns(first.clock, sensor.clock) / 1e6, 2),
                    )
                )
        return ""

    await wait(attempt, until_s)
    if not found:
        raise SignalError(f"the knocks tell no offset: {last}")
    return tuple(found)
