"""Measures beside the scoring: samples wait in a bounded queue, are booked in a thread, and kept every minute.

A change is committed as an episode before the state that told it is saved; if the process dies between the two it is
told again under the same id, and the store has it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.edge.hostclock import HostClock, RecordedClock, WallClock
from kinedge.edge.measures.config import MeasuresConfig, Side
from kinedge.edge.measures.notice import episode_of
from kinedge.edge.measures.person import MeasuresRow, PersonMeasures
from kinedge.edge.measures.watch import Change
from kinedge.edge.measures_outbox import day_fields
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.store import EpisodeStore
from kinedge.errors import SignalError, StoreError
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.signals import IMU6, ImuChunk
from kinedge.units import NS_PER_S

__all__ = ["MeasuresKeeper"]

_MAX_WAITING: Final = 1 << 14  # chunks; some minutes of a team
_KEEP_EVERY_NS: Final = 60 * NS_PER_S
_SEND_EVERY_NS: Final = 3 * 3600 * NS_PER_S  # of a day under way
_STEPPED_S: Final = 0.75  # the wall clock was set, and did not merely drift


class _Samples(NamedTuple):
    subject: str
    chunk: ImuChunk
    columns: list[int]
    host_time_ns: NDArray[np.int64]
    fresh: bool


class _Tick(NamedTuple):
    now_ns: int
    utc_offset_s: int


class MeasuresKeeper:
    """Measures the people of a gateway for as long as it runs.

    Parameters
    ----------
    store
        Open for writing; what is saved there is gone on from.
    config
        What is measured.
    affected
        Every subject, with the side of their weaker arm or None.
    site, gateway, config_digest
        Of every envelope.
    clock
        The gateway's.
    note
        Told what goes wrong, for the log and the screen.
    """

    def __init__(
        self,
        store: EpisodeStore,
        config: MeasuresConfig,
        affected: Mapping[str, Side | None],
        *,
        site: str,
        gateway: str,
        config_digest: str,
        clock: HostClock,
        note: Callable[[str], None],
    ) -> None:
        self._episodes, self._store = store, MeasuresStore(store.database)
        self._config, self._affected = config, dict(affected)
        self._who = {"site": site, "gateway": gateway}
        self._config_digest = config_digest
        self._provenance = {"site": site, "gateway": gateway, "config_digest": config_digest}
        self._clock, self._note = clock, note
        self._people: dict[str, PersonMeasures] = {}
        self._kept_utc_s: dict[str, int] = {}
        for subject, side in self._affected.items():
            person = self._people[subject] = PersonMeasures(config, affected=side)
            states, damage = self._store.states(subject)
            for text in [*damage, *person.restore(states)]:
                note(f"measures of {subject}: {text}")
            self._kept_utc_s[subject] = person.last_utc_s
        self._clocks: dict[tuple[str, str], Clock] = {}
        self._boots: dict[tuple[str, str], int] = {}
        self._waiting: deque[_Samples | _Tick] = deque()
        self._told: set[tuple[str, str]] = set()
        self._changes: deque[tuple[str, Change]] = deque()
        self._offset_s: int | None = None
        self._unset = False
        self._last_tick_ns = self._last_kept_ns = -(1 << 62)
        self._sent_ns: dict[tuple[str, str], int] = {}  # when a part's day under way went upstream last
        self._caught_up: set[str] = set()
        self._changed, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._ending = False
        self.n_dropped = 0

    def wants(self, sensor: str) -> bool:
        """Say whether a sensor is measured."""
        return sensor in self._config.sensors()

    def push(self, subject: str, chunk: ImuChunk, *, channels: Sequence[str], clock: Clock | None) -> None:
        """Take a chunk; what the measures do not use is left alone.

        Parameters
        ----------
        subject, chunk
            Whose, and what.
        channels
            Names of the chunk's columns.
        clock
            That maps the sensor already, and has taken this chunk; None: one of our own.
        """
        if self._unset or subject not in self._people or not self.wants(chunk.sensor) or not len(chunk):
            return
        key = (subject, chunk.sensor)
        if missing := [c for c in IMU6 if c not in channels]:
            self._say(key, f"{subject}: {chunk.sensor} has no {', '.join(missing)}; it is not measured")
            return
        if len(self._waiting) >= _MAX_WAITING:
            self.n_dropped += 1
            self._say((subject, ""), "measures cannot keep up; what is left out counts as not heard")
            return
        boot = self._boots.setdefault(key, chunk.boot_id)
        fresh = boot != chunk.boot_id
        self._boots[key] = chunk.boot_id
        if clock is None:
            if fresh:
                self._clocks.pop(key, None)
            clock = self._clocks.setdefault(key, ClockMap())
            if chunk.host_time_ns is not None:
                clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        columns = [list(channels).index(c) for c in IMU6]
        self._put(_Samples(subject, chunk, columns, clock.to_host_ns(chunk.device_time_ns), fresh))

    def tick(self, now_ns: int) -> None:
        """Let time pass: called as often as one likes, heard once a second."""
        if now_ns - self._last_tick_ns < NS_PER_S:
            return
        self._last_tick_ns = now_ns
        utc_ns = self._clock.utc_ns(now_ns)
        self._unset = not isinstance(self._clock, RecordedClock) and not WallClock.was_set(utc_ns)
        if self._unset:  # days of 1970 would teach the trend
            self._say(("", "clock"), "nothing is measured until this machine's clock is set")
            return
        offset_s = (utc_ns - now_ns) / NS_PER_S
        if self._offset_s is None or abs(offset_s - self._offset_s) > _STEPPED_S:
            self._offset_s = round(offset_s)
        self._put(_Tick(now_ns, self._offset_s))

    async def join(self) -> None:
        """Wait until everything that came is booked."""
        await self._idle.wait()

    def end(self) -> None:
        """Let ``run`` return once everything is booked and kept."""
        self._ending = True
        self._changed.set()

    async def run(self) -> None:
        """Book what comes, until ``end``."""
        while True:
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                await asyncio.to_thread(self._book, batch)
            self._idle.set()
            if self._ending:
                await asyncio.to_thread(self._finish)
                return
            self._changed.clear()
            await self._changed.wait()

    def _put(self, item: _Samples | _Tick) -> None:
        self._waiting.append(item)
        self._idle.clear()
        self._changed.set()

    def _say(self, key: tuple[str, str], text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._note(text)

    def _book(self, batch: list[_Samples | _Tick]) -> None:
        for item in batch:
            if isinstance(item, _Samples):
                self._take(item)
                continue
            self._advance(item, flush=False)
            if item.now_ns - self._last_kept_ns >= _KEEP_EVERY_NS:
                self._last_kept_ns = item.now_ns
                self._keep()

    def _take(self, item: _Samples) -> None:
        person, chunk = self._people[item.subject], item.chunk
        if item.fresh:
            person.reset_sensor(chunk.sensor)
        try:
            person.push(
                chunk.sensor,
                item.host_time_ns,
                chunk.values[:, item.columns],
                chunk.valid[:, item.columns],
                chunk.saturated[:, item.columns],
                interval_ns=chunk.interval_ns,
            )
        except SignalError as e:
            self._say((item.subject, chunk.sensor), f"{item.subject}: {chunk.sensor} is not measured: {e}")

    def _advance(self, tick: _Tick, *, flush: bool) -> None:
        for subject, person in self._people.items():
            found = person.advance(utc_offset_s=tick.utc_offset_s, now_ns=None if flush else tick.now_ns, flush=flush)
            self._changes.extend((subject, change) for change in found)
            if found:
                self._last_kept_ns = -(1 << 62)  # what was told is kept with the next tick

    def _finish(self) -> None:
        if self._offset_s is not None:
            self._advance(_Tick(0, self._offset_s), flush=True)
        self._keep()

    def _keep(self) -> None:
        """Commit what changed, then save rows and states; when the disk refuses, all of it is tried again later."""
        try:
            while self._changes:
                subject, change = self._changes[0]
                self._episodes.commit(self._episode(subject, change))
                self._changes.popleft()
            for subject, person in self._people.items():
                if person.last_utc_s != self._kept_utc_s[subject]:
                    if subject not in self._caught_up:
                        self._queue_days_of_before(subject)
                        self._caught_up.add(subject)
                    rows = person.rows()
                    outgoing = self._outgoing(subject, rows)
                    self._store.save(subject, rows, person.states(), outgoing=outgoing)
                    self._sent_ns |= {(subject, day["part"]): self._last_tick_ns for day in outgoing}
                    person.keep()
                    self._kept_utc_s[subject] = person.last_utc_s
        except StoreError as e:
            self._note(f"measures could not be kept and are tried again: {e}")

    def _outgoing(self, subject: str, rows: Sequence[MeasuresRow]) -> list[dict[str, Any]]:
        """Return the days that go upstream now: those that are over, and every three hours the one under way."""
        wait_ns = {r.part: self._last_tick_ns - self._sent_ns.get((subject, r.part), -(1 << 62)) for r in rows}
        return [
            day_fields(row.content, subject=subject, part=row.part, day=row.start, **self._provenance)
            for row in rows
            if row.level == "day" and (row.content["complete"] or wait_ns[row.part] >= _SEND_EVERY_NS)
        ]

    def _queue_days_of_before(self, subject: str) -> None:
        """Let days that were kept before there was a way upstream, and are over, go there, too."""
        known = self._store.outbox.queued_days(subject)
        days = [
            day_fields(row.content, subject=subject, part=row.part, day=row.start, **self._provenance)
            for row in self._store.rows(subject=subject, level="day")
            if row.content.get("complete") and (row.part, row.start) not in known
        ]
        if days:
            self._store.save(subject, [], {}, outgoing=days)

    def _episode(self, subject: str, change: Change) -> dict[str, object]:
        person = self._people[subject]
        fields = episode_of(
            change,
            self._config,
            subject=subject,
            affected=self._affected[subject],
            zone_offset_s=person.zone_offset_s,
            end_utc_s=person.last_utc_s,
            config_digest=self._config_digest,
            kinedge_version=__version__,
        )
        return {**fields, **self._who}
