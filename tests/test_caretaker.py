"""Who looks after the store: each event is one audit row, however often the one who writes is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kinedge.edge.caretaker import Caretaker
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError

PATIENCE_S = 60.0


class SlowStore(EpisodeStore):
    """A real store whose disk takes its time, and refuses once if it is told to."""

    refuses = False

    def record_event(self, event: str, detail: Mapping[str, Any]) -> None:
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        if self.refuses:
            self.refuses = False
            raise StoreError("no room")
        super().record_event(event, detail)


def slow_store(path: Path) -> SlowStore:
    store = SlowStore(path)
    store.begun, store.go = threading.Event(), threading.Event()
    return store


def test_a_caretaker_that_is_stopped_while_it_writes_writes_nothing_twice(tmp_path: Path) -> None:
    async def live(store: SlowStore) -> None:
        caretaker = Caretaker(store, prune=lambda: None, note=lambda _: None)
        for i in range(3):
            caretaker.record("event", i=i)
        running = asyncio.create_task(caretaker.run())
        assert await asyncio.to_thread(store.begun.wait, PATIENCE_S)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        last = asyncio.create_task(caretaker.flush())  # what a service does when it ends
        await asyncio.sleep(0)
        store.go.set()
        await last

    with slow_store(tmp_path / "edge.db") as store:
        asyncio.run(asyncio.wait_for(live(store), PATIENCE_S))
        assert [row.detail["i"] for row in store.audit_rows(event="event")] == [0, 1, 2]


def test_what_the_disk_refused_is_written_later_and_in_order(tmp_path: Path) -> None:
    with slow_store(tmp_path / "edge.db") as store:
        caretaker = Caretaker(store, prune=lambda: None, note=lambda _: None)
        store.go.set()
        store.refuses = True
        for i in range(2):
            caretaker.record("event", i=i)
        with suppress(StoreError):
            asyncio.run(caretaker.flush())
        assert store.audit_rows(event="event") == []
        asyncio.run(caretaker.flush())
        assert [row.detail["i"] for row in store.audit_rows(event="event")] == [0, 1]


def test_of_too_many_events_the_oldest_go_and_none_that_waits_is_skipped(tmp_path: Path) -> None:
    async def live(store: SlowStore) -> None:
        caretaker = Caretaker(store, prune=lambda: None, note=lambda _: None)
        caretaker.record("event", i=-1)
        writing = asyncio.create_task(caretaker.flush())
        assert await asyncio.to_thread(store.begun.wait, PATIENCE_S)
        for i in range(1000):  # the one that is being written makes room
            caretaker.record("event", i=i)
        store.go.set()
        await writing

    with slow_store(tmp_path / "edge.db") as store:
        store.database._connection.execute("PRAGMA synchronous=OFF")
        asyncio.run(asyncio.wait_for(live(store), PATIENCE_S))
        rows = store.audit_rows(event="event", limit=2000)
        assert [row.detail["i"] for row in rows] == [-1, *range(1000)]
