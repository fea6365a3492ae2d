"""Looks after the store while the service runs: writes audit rows of what happened, lets go of what is old."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError

if TYPE_CHECKING:
    from kinedge.edge.ring import Gone

__all__ = ["Caretaker"]

_PRUNE_EVERY_S: Final = 3600.0
_TRIM_EVERY_S: Final = 60.0
_RETRY_S: Final = 5.0
_MAX_WAITING: Final = 1000


class Caretaker:
    """Takes events from the event loop and writes them in a thread; a disk that refuses is asked again.

    Parameters
    ----------
    store
        Open for writing.
    prune
        Called every hour, in a thread.
    trim
        Called every minute, in a thread; returns what it let go of, for the audit trail.
    note
        Told what goes wrong.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        prune: Callable[[], object],
        note: Callable[[str], None],
        trim: Callable[[], Sequence[Gone]] = tuple,
    ) -> None:
        self._store = store
        self._prune = prune
        self._note = note
        self._trim = trim
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_MAX_WAITING)
        self._writing = threading.Lock()
        self._wake = asyncio.Event()

    def record(self, event: str, **detail: Any) -> None:
        """Take what belongs into the audit trail; it is written soon."""
        self._events.append((event, detail))
        self._wake.set()

    async def run(self) -> None:
        """Write and prune for as long as the service runs."""
        due_s = time.monotonic()
        while True:
            wait_s = _TRIM_EVERY_S
            try:
                for gone in await asyncio.to_thread(self._trim):
                    self.record("recording_trimmed", **asdict(gone))
                await self.flush()
                if time.monotonic() >= due_s:
                    await asyncio.to_thread(self._prune)
                    due_s = time.monotonic() + _PRUNE_EVERY_S
            except StoreError as e:
                self._note(f"the store cannot be looked after just now: {e}")
                wait_s = _RETRY_S
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    async def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        StoreError
            The disk does not take it; it waits on.
        """
        while self._events:
            await asyncio.to_thread(self._write_first)

    def _write_first(self) -> None:
        # Whoever waited for this thread may have been stopped, and the next have come: the row is written once.
        with self._writing:
            if not self._events:
                return
            first = self._events[0]
            self._store.record_event(*first)
            if self._events and self._events[0] is first:  # or it made room for a newer one
                self._events.popleft()
