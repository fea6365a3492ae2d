"""Drafts on their way to the disk: in order, the newest of each episode alone, asked for again when it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from kinedge.edge.episodes import EpisodeDraft
from kinedge.edge.hostclock import WallClock
from kinedge.edge.progress import StageTimes
from kinedge.edge.redating import ANCHOR, anchor, boot_id, redate, take_anchor
from kinedge.edge.store import Draft, EpisodeStore
from kinedge.errors import StoreError

__all__ = ["DraftKeeper"]

_RETRY_S: Final = 2.0
_MAX_RAW: Final = 64  # drafts that keep their raw slice while the disk refuses: some megabytes


class _Waiting(NamedTuple):
    draft: EpisodeDraft
    offset_ns: int | None


class DraftKeeper:
    """Writes drafts into the store, each write in a thread.

    While the disk refuses, what waits stays bounded: of each episode only the newest draft waits, and beyond the
    first ``64`` an episode waits without its raw slice. The episode itself is never given up. What makes no envelope
    is put aside as a draft, so that it holds up nobody else.

    While the board's clock was not set yet, an episode that is over stays a draft; it gets its right times, and is
    committed, when the clock is (`redating`).

    Parameters
    ----------
    store
        Open for writing.
    site, gateway
        Of every envelope.
    note
        Told what goes wrong, for the log and the screen.
    retry_s
        Between two attempts.
    times
        Told how long each write takes.
    wall
        Knows whether the clock was set; None: it was.

    Attributes
    ----------
    refused
        Why the last write failed; empty when it did not.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        site: str,
        gateway: str,
        note: Callable[[str], None],
        retry_s: float = _RETRY_S,
        times: StageTimes | None = None,
        wall: WallClock | None = None,
    ) -> None:
        self.refused = ""
        self._store = store
        self._who = {"site": site, "gateway": gateway}
        self._note = note
        self._retry_s = retry_s
        self._times = times or StageTimes()
        self._wall = wall
        self._waiting: dict[str, _Waiting] = {}
        self._clock_moved = False
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._ending = False

    def put(self, draft: EpisodeDraft, *, offset_ns: int | None = None) -> None:
        """Take a draft; it replaces an older one of the same episode that still waits.

        Parameters
        ----------
        draft
            Of an episode that is open or over.
        offset_ns
            UTC less host time, as its times have it.
        """
        if draft.key not in self._waiting and len(self._waiting) >= _MAX_RAW:
            draft = replace(draft, fields={**draft.fields, "raw": None}, raw=b"")
        self._waiting[draft.key] = _Waiting(draft, offset_ns)
        self._idle.clear()
        self._changed.set()

    def clock_moved(self) -> None:
        """Look whether episodes that waited for the right time can have it now."""
        self._clock_moved = True
        self._changed.set()

    def end(self) -> None:
        """Let ``run`` return once everything is written."""
        self._ending = True
        self._changed.set()

    async def join(self) -> None:
        """Wait until everything is written."""
        await self._idle.wait()

    @property
    def n_waiting(self) -> int:
        """Drafts that are not on disk yet."""
        return len(self._waiting)

    async def run(self) -> None:
        """Write what comes, until ``end``. What is being written waits until it is on disk, whatever ends this task."""
        while True:
            if self._clock_moved and self._is_set:
                self._clock_moved = False
                await self.finish_drafts(restarted=False)
            while self._waiting:
                key, waiting = next(iter(self._waiting.items()))
                if not await self._write(waiting):
                    await asyncio.sleep(self._retry_s)
                elif self._waiting[key] is waiting:
                    del self._waiting[key]
            self._idle.set()
            if self._ending:
                return
            self._changed.clear()
            await self._changed.wait()

    async def finish_drafts(self, *, restarted: bool) -> None:
        """Make episodes of the drafts on disk that are over: nothing that was decided is lost with a process.

        Parameters
        ----------
        restarted
            This process has just begun, so that every draft is over; else only those that waited for the time.

        Raises
        ------
        StoreError
            The drafts cannot be read.
        """
        for draft in await asyncio.to_thread(self._store.open_drafts):
            if draft.key not in self._waiting:
                try:
                    await asyncio.to_thread(self._finish_draft, draft, restarted=restarted)
                except StoreError as e:
                    # written by another version, or damaged: it stays a draft, and the log says so
                    self._note(f"draft {draft.key} of an earlier run cannot become an episode: {e}")

    def _finish_draft(self, draft: Draft, *, restarted: bool) -> None:
        fields, anchored = take_anchor(draft.content)
        closed = anchored is not None and bool(anchored["closed"])
        if not closed and not restarted:
            return
        if not closed:
            fields["ended"] = "restarted"
        raw = draft.raw
        if anchored is not None:
            if not self._is_set:
                self._store.save_draft(draft.key, {**fields, ANCHOR: {**anchored, "closed": True}}, raw)
                return
            if self._wall is not None and anchored["boot_id"] == boot_id():
                fields, raw = redate(fields, raw, by_ns=self._wall.offset_ns - anchored["offset_ns"])
            else:
                self._store.record_event("times_unknown", {"draft": draft.key, "why": "the clock was not set then"})
        envelope = self._store.commit(fields, raw or None, draft_key=draft.key)
        why = "was open at the restart" if restarted else "has its right times now"
        self._note(f"an episode of {envelope.subject} {why}; it was kept")

    @property
    def _is_set(self) -> bool:
        return self._wall is None or self._wall.is_set

    async def _write(self, waiting: _Waiting) -> bool:
        draft, offset_ns = waiting
        fields, raw, closed = {**draft.fields, **self._who}, draft.raw, draft.closed
        if not self._is_set:
            fields |= {} if offset_ns is None else {ANCHOR: anchor(offset_ns, closed=closed)}
            closed = False
        elif self._wall is not None and offset_ns is not None and not self._wall.was_set(fields["start_utc_ns"]):
            fields, raw = redate(fields, raw, by_ns=self._wall.offset_ns - offset_ns)
        try:
            with self._times.measure("store"):
                if closed:
                    await asyncio.to_thread(self._store.commit, fields, raw or None, draft_key=draft.key)
                else:
                    await asyncio.to_thread(self._store.save_draft, draft.key, fields, raw)
        except StoreError as e:
            if closed and (fault := self._fault_of(fields, raw)):
                return await self._put_aside(draft.key, fields, raw, fault)
            self.refused = str(e)
            self._note(f"the store refused an episode and is asked again: {e}")
            return False
        self.refused = ""
        return True

    def _fault_of(self, fields: dict[str, Any], raw: bytes) -> str:
        """Say why an episode makes no envelope, on any disk; empty when it does."""
        try:
            self._store.check(fields, raw or None)
        except StoreError as e:
            return str(e)
        return ""

    async def _put_aside(self, key: str, fields: dict[str, Any], raw: bytes, fault: str) -> bool:
        try:
            await asyncio.to_thread(self._store.save_draft, key, fields, raw)
            await asyncio.to_thread(self._store.record_event, "draft_refused", {"draft": key, "reason": fault})
        except StoreError as e:
            self.refused = str(e)
            return False
        self._note(f"{key} makes no episode and stays a draft: {fault}")
        return True
