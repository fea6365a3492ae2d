"""What happens on links, written into a session and read back: one form for each event, both ways here.

A sensor belongs to the link that named it first. Chunks lie in a session by sensor; all else is noted beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kinedge.errors import SignalError
from kinedge.firmware_bridge.device import Battery, ClockExchange, DeviceInfo, Doubt
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.segments import Tick
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

__all__ = ["LinkEvent", "Progress", "SessionLog", "link_events"]

_MAX_TIME_NS: Final = 1 << 62


class LinkEvent(NamedTuple):
    """What happened, on which link, and when by the host's clock (None where nobody noted that)."""

    link: str
    event: SessionEvent
    host_time_ns: int | None


@dataclass
class Progress:
    """How a recording goes: samples and losses by sensor, and the last thing worth reading."""

    samples: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    note: str = ""


class SessionLog:
    """Writes the events of links into a session.

    Parameters
    ----------
    writer
        Stays open.
    progress
        Kept up to date.
    host_clock
        Monotonic, in ns: the links'.
    """

    def __init__(
        self,
        writer: SessionWriter,
        progress: Progress | None = None,
        *,
        host_clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.writer = writer
        self.progress = Progress() if progress is None else progress
        self._host_clock = host_clock
        self._owner: dict[str, str] = {}

    def take(self, link: str, event: SessionEvent, *, host_time_ns: int | None = None) -> None:
        """Write what happened on a link; ``host_time_ns`` says when, for what has no time of its own (None: now).

        Raises
        ------
        SignalError
            A sensor changed its channels, or has others than it said.
        StoreError
            The disk refuses; see ``SessionWriter``.
        """
        writer, progress = self.writer, self.progress
        now_ns = self._host_clock() if host_time_ns is None else host_time_ns
        if isinstance(event, ImuChunk):
            if self._owner.get(event.sensor) == link:
                progress.samples[event.sensor] += len(event)
                progress.lost[event.sensor] += event.lost
                writer.write(event)
        elif isinstance(event, DeviceInfo):
            name = event.spec.name
            if self._owner.setdefault(name, link) != link:
                text = f"{link} says it is {name}, but {self._owner[name] or 'nobody'} is; it is not recorded"
                self._say("doubt", link, now_ns, text=text)
                return
            try:
                writer.describe(event.spec)
            except SignalError:
                self._owner[name] = ""  # what comes now does not fit what came before
                raise
            progress.samples.setdefault(name, 0)
            progress.lost.setdefault(name, 0)
            facts = {"rate_hz": event.rate_hz, "serial": event.serial, "firmware": event.firmware}
            writer.note("device", host_time_ns=now_ns, link=link, sensor=name, **facts)
        elif isinstance(event, LinkOpened):
            writer.note("link_opened", host_time_ns=event.host_time_ns, link=link)
        elif isinstance(event, LinkClosed):
            self._say("link_closed", link, event.host_time_ns, text=event.reason)
        elif isinstance(event, Battery):
            fares = {"percent": event.percent, "charging": event.charging, "temperature_c": event.temperature_c}
            writer.note("battery", host_time_ns=now_ns, link=link, **fares)
        elif isinstance(event, Doubt):
            self._say("doubt", link, now_ns, text=event.text)
        elif isinstance(event, ClockExchange):
            times = [event.t1_ns, event.t2_ns, event.t3_ns, event.t4_ns]
            writer.note("clock_exchange", host_time_ns=event.t4_ns, link=link, sensor=event.sensor, times_ns=times)

    def _say(self, kind: str, link: str, host_time_ns: int, *, text: str) -> None:
        self.progress.note = text
        self.writer.note(kind, host_time_ns=host_time_ns, link=link, text=text)


def link_events(
    items: Iterable[ImuChunk | Mapping[str, Any] | Tick], sensors: Mapping[str, SensorSpec]
) -> Iterator[LinkEvent | Tick]:
    """Turn what a session holds back into what happened on its links; unknown kinds of notes are passed over.

    A sensor whose introduction was in a damaged segment is introduced by what its chunks say.

    Parameters
    ----------
    items
        Of ``RecordedSession.in_order``.
    sensors
        The session's.
    """
    owner: dict[str, str] = {}
    for item in items:
        if isinstance(item, Tick):
            yield item
        elif isinstance(item, ImuChunk):
            if item.sensor not in owner:
                owner[item.sensor] = "recorded"
                told = DeviceInfo(sensors[item.sensor], NS_PER_S / item.interval_ns)
                yield LinkEvent(owner[item.sensor], told, item.host_time_ns)
            yield LinkEvent(owner[item.sensor], item, item.host_time_ns)
        elif (event := _event(item, sensors)) is not None:
            link = str(item.get("link", "recorded"))
            if isinstance(event, DeviceInfo):
                link = owner.setdefault(event.spec.name, link)
            yield LinkEvent(link, event, item["host_time_ns"])


def _event(note: Mapping[str, Any], sensors: Mapping[str, SensorSpec]) -> SessionEvent | None:
    """Return what a note is about; None when it is of no kind known here, or damaged."""
    kind, at_ns = note.get("kind"), note["host_time_ns"]
    try:
        if kind == "device":
            texts = (str(note["serial"]), str(note["firmware"]))
            return DeviceInfo(sensors[note["sensor"]], float(note["rate_hz"]), *texts)
        if kind == "link_opened":
            return LinkOpened(at_ns)
        if kind == "link_closed":
            return LinkClosed(str(note["text"]), at_ns)
        if kind == "battery":
            percent, celsius = note["percent"], note["temperature_c"]
            return Battery(
                None if percent is None else int(percent),
                bool(note["charging"]),
                None if celsius is None else float(celsius),
            )
        if kind == "doubt":
            return Doubt(str(note["text"]))
        if kind == "clock_exchange":
            t1_ns, t2_ns, t3_ns, t4_ns = map(int, note["times_ns"])
            if max(map(abs, (t1_ns, t2_ns, t3_ns, t4_ns))) < _MAX_TIME_NS:
                return ClockExchange(str(note["sensor"]), t1_ns, t2_ns, t3_ns, t4_ns)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return None
