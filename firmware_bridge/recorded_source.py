"""Recorded sessions told again: every event in its order and at its time, at any pace, as if the devices were there.

A session that was scored while it was recorded holds *ticks*, the moments of scoring, and is told with them: whoever
scores at these moments makes the calls that were made then. For other sessions ticks are made, at every twentieth of a
second of the recorded clock. Sessions of several people of one run are told together, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from kinedge.errors import ConfigError, StoreError
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.recorded import RecordedSession, read_session
from kinedge.firmware_bridge.segments import MANIFEST, Tick
from kinedge.firmware_bridge.session_log import link_events
from kinedge.signals import ImuChunk
from kinedge.units import NS_PER_S

__all__ = ["Arrival", "RecordedSource", "is_recording", "read_sessions"]

_TICK_NS: Final = NS_PER_S // 20
_LEAP_NS: Final = 86_400 * NS_PER_S  # a longer silence is not ticked through
_READ_AHEAD: Final = 64
_BEFORE_ALL: Final = -(1 << 63)
_MAX_SESSIONS: Final = 256


class Arrival(NamedTuple):
    """What happened on a link of one person."""

    subject: str
    link: str
    event: SessionEvent


class _Keyed(NamedTuple):
    """When, and which of the things of that moment: between two ticks of one time lies what came between them."""

    time_ns: int
    phase: int
    item: Arrival | Tick


def is_recording(path: Path) -> bool:
    """Say whether a path is a session's folder, or one with sessions in it."""
    return path.is_dir() and (_is_session(path) or any(_is_session(p) for p in path.iterdir() if p.is_dir()))


def read_sessions(path: Path) -> list[RecordedSession]:
    """Open a session, or all that lie in a folder and were recorded in one run of a gateway.

    Raises
    ------
    ConfigError
        pyarrow is not installed.
    StoreError
        There is none, one cannot be read, or they are not of one run.
    """
    if _is_session(path):
        return [read_session(path)]
    folders = sorted(p for p in path.iterdir() if p.is_dir() and _is_session(p)) if path.is_dir() else []
    if not folders:
        raise StoreError(f"{path}: no recorded session is there")
    if len(folders) > _MAX_SESSIONS:
        raise StoreError(f"{path}: holds {len(folders)} sessions; at most {_MAX_SESSIONS} are played at once")
    sessions = [read_session(folder) for folder in folders]
    runs = {session.facts.get("run") for session in sessions}
    if len(sessions) > 1 and (len(runs) > 1 or None in runs):
        raise StoreError(
            f"{path}: its {len(sessions)} sessions are not of one run; play one of them, such as {folders[0]}"
        )
    return sessions


def _is_session(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or any(folder.glob("segment-*.parquet"))


class RecordedSource:
    """Sessions as a stream of what happened.

    Parameters
    ----------
    sessions
        By the person's pseudonym.
    speed
        Recorded seconds per second; infinite for as fast as possible.

    Attributes
    ----------
    scored
        Whether ticks are those of the recording.
    n_samples
        How many samples there are.
    host_time_ns, utc_ns
        One moment by both clocks; ``utc_ns`` is None where no session tells.

    Raises
    ------
    ConfigError
        No session, or an impossible speed.
    """

    def __init__(self, sessions: Mapping[str, RecordedSession], *, speed: float = 1.0) -> None:
        if not sessions:
            raise ConfigError("there is no session to be played")
        if not speed > 0:
            raise ConfigError(f"the speed of a replay must be positive, got {speed}")
        self.scored = any(session.scored for session in sessions.values())
        self.n_samples = sum(count.samples for s in sessions.values() for count in s.held.values())
        known = [pair for s in sessions.values() if (pair := _both_clocks(s)) is not None]
        self.host_time_ns: int = known[0][0] if known else 0
        self.utc_ns: int | None = known[0][1] if known else None
        self._sessions = dict(sessions)
        self._speed = speed

    async def events(self) -> AsyncIterator[Arrival | Tick]:
        """Yield what happened, each at its time.

        Raises
        ------
        StoreError
            A segment cannot be read any more.
        """
        loop = asyncio.get_running_loop()
        items = self._in_order()
        began: tuple[float, int] | None = None
        while batch := await asyncio.to_thread(lambda: list(islice(items, _READ_AHEAD))):
            for time_ns, _, item in batch:
                if math.isfinite(self._speed) and time_ns != _BEFORE_ALL:
                    began = began or (loop.time(), time_ns)
                    due_s = began[0] + (time_ns - began[1]) / NS_PER_S / self._speed
                    if (wait_s := due_s - loop.time()) > 0:
                        await asyncio.sleep(wait_s)
                yield item

    def _in_order(self) -> Iterator[_Keyed]:
        streams = [_keyed(subject, session) for subject, session in self._sessions.items()]
        merged = heapq.merge(*streams, key=lambda k: (k.time_ns, k.phase))
        return _once(merged) if self.scored else _with_ticks(merged)


def _both_clocks(session: RecordedSession) -> tuple[int, int] | None:
    host_ns, utc_ns = session.manifest.get("started_host_time_ns"), session.manifest.get("started_utc_ns")
    if isinstance(host_ns, int) and isinstance(utc_ns, int) and max(abs(host_ns), abs(utc_ns)) < 1 << 62:
        return host_ns, utc_ns
    return None


def _keyed(subject: str, session: RecordedSession) -> Iterator[_Keyed]:
    """Give each item a key that never falls: chunks and ticks tell the time, other events come when they came."""
    time_ns, phase = _BEFORE_ALL, 0
    for item in link_events(session.in_order(), session.sensors):
        is_tick = isinstance(item, Tick)
        told_ns = item.host_time_ns if isinstance(item, Tick) or isinstance(item.event, ImuChunk) else None
        if told_ns is not None and told_ns > time_ns:
            time_ns, phase = told_ns, int(is_tick)
        elif phase % 2 != is_tick:
            phase += 1
        yield _Keyed(time_ns, phase, item if isinstance(item, Tick) else Arrival(subject, item.link, item.event))


def _once(items: Iterator[_Keyed]) -> Iterator[_Keyed]:
    """Pass a tick on once, though the session of every person holds it."""
    last_ns = _BEFORE_ALL
    for keyed in items:
        if isinstance(keyed.item, Tick):
            if keyed.item.host_time_ns <= last_ns:
                continue
            last_ns = keyed.item.host_time_ns
        yield keyed


def _with_ticks(items: Iterator[_Keyed]) -> Iterator[_Keyed]:
    """Put a tick at every twentieth of a second between the first and the last item."""
    next_ns: int | None = None
    for keyed in items:
        if keyed.time_ns != _BEFORE_ALL:
            if next_ns is None or keyed.time_ns - next_ns > _LEAP_NS:
                next_ns = (keyed.time_ns // _TICK_NS + 1) * _TICK_NS
            while next_ns <= keyed.time_ns:
                yield _Keyed(next_ns, 0, Tick(next_ns))
                next_ns += _TICK_NS
        yield keyed
