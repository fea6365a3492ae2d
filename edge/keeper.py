"""Drafts on their way to the disk: in order, the newest of each episode alone, asked for again when it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kinedge.edge.episodes import EpisodeDraft
from kinedge.edge.progress import StageTimes
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError

__all__ = ["DraftKeeper"]

_RETRY_S: Final = 2.0
_MAX_RAW: Final = 64  # drafts that keep their raw slice while the disk refuses: some megabytes


class DraftKeeper:
    """Writes drafts into the store, each write in a thread.

    While the disk refuses, what waits stays bounded: of each episode only the newest draft waits, and beyond the
    first ``64`` an episode waits without its raw slice. The episode itself is never given up.

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
    ) -> None:
        self.refused = ""
        self._store = store
        self._who = {"site": site, "gateway": gateway}
        self._note = note
        self._retry_s = retry_s
        self._times = times or StageTimes()
        self._waiting: dict[str, EpisodeDraft] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._ending = False

    def put(self, draft: EpisodeDraft) -> None:
        """Take a draft; it replaces an older one of the same episode that still waits."""
        if draft.key not in self._waiting and len(self._waiting) >= _MAX_RAW:
            draft = replace(draft, fields={**draft.fields, "raw": None}, raw=b"")
        self._waiting[draft.key] = draft
        self._idle.clear()
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
            while self._waiting:
                key, draft = next(iter(self._waiting.items()))
                if not await self._write(draft):
                    await asyncio.sleep(self._retry_s)
                elif self._waiting[key] is draft:
                    del self._waiting[key]
            self._idle.set()
            if self._ending:
                return
            self._changed.clear()
            await self._changed.wait()

    async def _write(self, draft: EpisodeDraft) -> bool:
        fields = {**draft.fields, **self._who}
        try:
            with self._times.measure("store"):
                if draft.closed:
                    await asyncio.to_thread(self._store.commit, fields, draft.raw or None, draft_key=draft.key)
                else:
                    await asyncio.to_thread(self._store.save_draft, draft.key, fields, draft.raw)
        except StoreError as e:
            self.refused = str(e)
            self._note(f"the store refused an episode and is asked again: {e}")
            return False
        self.refused = ""
        return True
