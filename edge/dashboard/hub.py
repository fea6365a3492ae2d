"""The live hub: what runs tells it as it happens, and whoever looks is sent the newest of it, ten times a second.

Taking in is cheap and never waits. JSON is made once for all listeners, in a task of its own that lets the loop go on
after every person; while nobody listens none is made. Who reads slowly holds up nobody: the newest is sent when
they are ready for more.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.dashboard.state import history_fields, verdict_fields
from kinedge.edge.dashboard.stream import Listener, event_bytes, signals_event
from kinedge.edge.dashboard.tracks import DeviceTrack, PersonTrack, SignalBuffer
from kinedge.edge.episodes import EpisodeDraft
from kinedge.edge.verdict import Verdict
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.tapping import TapFinder
from kinedge.signals import ImuChunk

__all__ = ["Hub"]

_TICK_S: Final = 0.1
_SLOW_S: Final = 1.0
_FRESH_S: Final = 1.5
_MAX_NOTES: Final = 50
_PEOPLE: Final = "people/"

HostTimes = Callable[[str, ImuChunk], NDArray[np.int64] | None]


class Hub:
    """Remembers the newest of everything, and tells it.

    Parameters
    ----------
    hop_s
        Between two verdicts about a person.
    utc_of
        UTC of samples of a person's sensor, in ns; None while that is not known.

    Attributes
    ----------
    people, devices
        By subject; by where it is.
    episodes
        Since when one is open, by subject.
    muted
        Until when, in UTC ns, by subject.
    taps
        Hears the acceleration of all devices while somebody looks for one.
    n_ticks
        How often JSON was made.
    """

    def __init__(self, *, hop_s: float, utc_of: HostTimes) -> None:
        self.people: dict[str, PersonTrack] = {}
        self.devices: dict[str, DeviceTrack] = {}
        self.notes: deque[dict[str, Any]] = deque(maxlen=_MAX_NOTES)
        self.episodes: dict[str, int] = {}
        self.muted: dict[str, int] = {}
        self.taps: TapFinder | None = None
        self.n_ticks = 0
        self._hop_s = hop_s
        self._utc_of = utc_of
        self._listeners: set[Listener] = set()
        self._wanted = asyncio.Event()
        self._changed: set[str] = set()
        self._hurry = False
        self._signals: dict[tuple[str, str], SignalBuffer] = {}
        self._looked_at: frozenset[str] = frozenset()
        self._fragments: dict[str, tuple[int, bytes]] = {}  # of the state, by key or "people/SUBJECT", with a version
        self._whole = False
        self._made_s: dict[str, float] = {}
        self._order: list[str] = []
        self._version = 0

    @property
    def n_listeners(self) -> int:
        """Who looks just now."""
        return len(self._listeners)

    def person(self, subject: str) -> PersonTrack:
        """Return the track of a person."""
        track = self.people.get(subject)
        if track is None:
            track = self.people[subject] = PersonTrack(self._hop_s)
        return track

    def device(self, where: str) -> DeviceTrack:
        """Return the track of a device."""
        track = self.devices.get(where)
        if track is None:
            track = self.devices[where] = DeviceTrack(where)
        return track

    def hear(self, subject: str | None, where: str, event: SessionEvent, now_ns: int) -> None:
        """Take what a device says; the samples themselves only of who is looked at."""
        device = self.devices.get(where) or self.device(where)
        device.hear(event, now_ns)
        if self.taps is not None and isinstance(event, ImuChunk) and device.info is not None:
            self.taps.push(where, event, device.info.spec.channels, arrived_ns=now_ns)
        if subject in self._looked_at and subject is not None and isinstance(event, ImuChunk) and len(event):
            utc_ns = self._utc_of(subject, event)
            if utc_ns is None or device.info is None:
                return
            key = (subject, event.sensor)
            buffer = self._signals.get(key)
            if buffer is None or buffer.channels != device.info.spec.channels:
                buffer = self._signals[key] = SignalBuffer(device.info.spec.channels, device.info.rate_hz)
            buffer.push(utc_ns, event.values, event.valid)

    def saw(self, subject: str, verdict: Verdict, utc_ns: int) -> None:
        """Take a verdict."""
        self.person(subject).take(verdict, utc_ns)
        self._changed.add(subject)
        if subject in self._looked_at:
            told = event_bytes("verdict", {"subject": subject, **verdict_fields(verdict, utc_ns)})
            self._tell(told, subject=subject)

    def note(self, text: str) -> None:
        """Take what is worth knowing."""
        note = {"utc_ns": time.time_ns(), "text": text}
        self.notes.append(note)
        self.tell("note", note)

    def drafted(self, draft: EpisodeDraft) -> None:
        """Take an episode that opened, goes on or ended."""
        fields = draft.fields
        subject, start_utc_ns = fields["subject"], int(fields["start_utc_ns"])
        if not draft.closed:
            if self.episodes.get(subject) == start_utc_ns:
                return
            self.episodes[subject] = start_utc_ns
        else:
            self.episodes.pop(subject, None)
        self.changed(subject)
        self.tell(
            "episode",
            {
                "subject": subject,
                "state": "closed" if draft.closed else "opened",
                "start_utc_ns": start_utc_ns,
                "end_utc_ns": int(fields["end_utc_ns"]) if draft.closed else None,
                "muted": self.muted_until(subject) is not None,
                "sentence": dict(fields["explanation"]["text"]) if "explanation" in fields else None,
            },
        )

    def muted_until(self, subject: str) -> int | None:
        """Return until when a person is muted, in UTC ns; None when they are not: it ends by itself."""
        until = self.muted.get(subject)
        if until is not None and until <= time.time_ns():
            del self.muted[subject]
            return None
        return until

    def changed(self, *subjects: str) -> None:
        """Say that there is something new: about these people, or in general."""
        self._changed.update(subjects)
        self._hurry = True

    def tell(self, kind: str, content: Mapping[str, Any]) -> None:
        """Send an event to everybody who listens."""
        if self._listeners:
            self._tell(event_bytes(kind, content))

    def forget(self, subjects: Iterable[str]) -> None:
        """Keep nothing of people who left."""
        for subject in subjects:
            for table in (self.people, self.episodes, self.muted, self._made_s):
                table.pop(subject, None)

    def history(self, subject: str) -> dict[str, Any]:
        """Return the verdicts of the last 15 minutes."""
        return history_fields(subject, self.person(subject).points)

    async def run(
        self,
        people: Callable[[], Sequence[str]],
        person: Callable[[str], dict[str, Any]],
        slow: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        """Make JSON of what changed, as long as somebody listens.

        Parameters
        ----------
        people
            Who is here, in order.
        person
            How one of them stands.
        slow
            The rest of the state, by key; asked for once a second.
        """
        due_s = 0.0
        while True:
            if not self._listeners:
                self._wanted.clear()
                await self._wanted.wait()
            fresh = not self._whole
            if fresh:
                self._fragments.clear()
                self._order, due_s = [], 0.0
            began_s = time.monotonic()
            if began_s >= due_s or self._hurry:
                self._hurry, due_s = False, began_s + _SLOW_S
                # what came with a verdict is fresh; of the others, sensors may have fallen silent
                self._changed.update(s for s in people() if began_s - self._made_s.get(s, 0.0) > _FRESH_S)
                for key, content in (await slow()).items():
                    self._put(key, json_bytes(content))
            here = list(people())
            changed, self._changed = self._changed, set()
            for subject in here:
                if subject not in people():  # they left while others were told of
                    continue
                if subject in changed or f"{_PEOPLE}{subject}" not in self._fragments:
                    self._put(f"{_PEOPLE}{subject}", json_bytes(person(subject)))
                    self._made_s[subject] = began_s
                    await asyncio.sleep(0)  # a hop that is due goes first
            if here != self._order:
                for subject in set(self._order) - set(here):
                    self._fragments.pop(f"{_PEOPLE}{subject}", None)
                self._order = here
                self._put("subjects", json_bytes(here))
            if fresh:
                self._whole = True
            self._send_signals()
            self.n_ticks += 1
            for listener in self._listeners:
                listener.wake.set()
            await asyncio.sleep(max(0.0, _TICK_S - (time.monotonic() - began_s)))

    def join(self, subject: str | None) -> Listener:
        """Let somebody listen, to one person in detail; ``leave`` ends it."""
        if not self._listeners:
            self._whole = False  # what was told the last ones is old; all is made anew before anybody is sent it
        listener = Listener(subject, self.newer_than)
        self._listeners.add(listener)
        self._look()
        self._wanted.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """Let somebody go."""
        self._listeners.discard(listener)
        self._look()

    def newer_than(self, version: int) -> tuple[int, bytes | None]:
        """Return the newest version, and the ``state`` event of what changed after one; None when nothing did."""
        if version == self._version or not self._whole:
            return version, None
        utc_ns = time.time_ns()
        parts = [b'"at_utc_ns":%d,"utc_ns":%d' % (utc_ns, utc_ns)]
        for key, (at, data) in self._fragments.items():
            if at > version and not key.startswith(_PEOPLE):
                parts.append(json.dumps(key).encode() + b":" + data)
        known = [self._fragments.get(f"{_PEOPLE}{subject}") for subject in self._order]
        people = [fragment[1] for fragment in known if fragment is not None and fragment[0] > version]
        if people:
            parts.append(b'"people":[' + b",".join(people) + b"]")
        return self._version, b"event: state\ndata: {" + b",".join(parts) + b"}\n\n"

    def _put(self, key: str, data: bytes) -> None:
        known = self._fragments.get(key)
        if known is None or known[1] != data:
            self._version += 1
            self._fragments[key] = (self._version, data)

    def _tell(self, data: bytes, *, subject: str | None = None) -> None:
        for listener in self._listeners:
            if subject is None or listener.subject == subject:
                listener.events.append(data)

    def _send_signals(self) -> None:
        for (subject, sensor), buffer in self._signals.items():
            taken = buffer.take()
            if taken is not None:
                content = signals_event(subject, sensor, buffer.channels, buffer.sent_hz, *taken)
                data = event_bytes("signals", content)
                for listener in self._listeners:
                    if listener.subject == subject:
                        listener.signals.append(data)

    def _look(self) -> None:
        self._looked_at = frozenset(li.subject for li in self._listeners if li.subject is not None)
        self._signals = {key: b for key, b in self._signals.items() if key[0] in self._looked_at}


def json_bytes(content: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
