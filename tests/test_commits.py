"""Commits shared by whoever waits: threads and event loops together, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from collector_server import wait_until
from test_collector import envelope

from kinedge.errors import OutboxError, StoreError
from kinedge.upstream.database import Transaction
from kinedge.upstream.store import CollectorStore, Outcome

PATIENCE_S = 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CollectorStore]:
    postgresql = request.param == "postgresql"
    url = request.getfixturevalue("postgres").new_url() if postgresql else f"sqlite:///{tmp_path}/collector.db"
    opened = CollectorStore(url)
    yield opened
    opened.close()


def test_threads_and_event_loops_commit_together_and_each_episode_once(store: CollectorStore) -> None:
    made = [envelope(i) for i in range(60)]

    async def bring() -> list[Outcome]:
        return await asyncio.gather(*(store.put_episode_soon(e.id, e.to_bytes()) for e in made))

    with ThreadPoolExecutor(10) as threads:
        loops = [threads.submit(asyncio.run, bring()) for _ in range(2)]
        singles = [threads.submit(store.put_episode, e.id, e.to_bytes()) for e in reversed(made)]
        outcomes = [o for loop in loops for o in loop.result(PATIENCE_S)]
        outcomes += [single.result(PATIENCE_S) for single in singles]
    assert outcomes.count(Outcome.ACCEPTED) == 60 and outcomes.count(Outcome.DUPLICATE) == 120
    counts = store.counts()
    assert (counts["episodes"], counts["accepted"], counts["duplicate"]) == (60, 60, 120)
    store.verify_audit()


def test_one_that_is_refused_spoils_it_for_nobody_and_one_that_leaves_neither(store: CollectorStore) -> None:
    def refuse(_: Transaction) -> None:
        raise OutboxError("not this one")

    async def talk() -> list[object]:
        good = [store.put_episode_soon(envelope(i).id, envelope(i).to_bytes()) for i in range(5)]
        leaves = asyncio.ensure_future(store.database.write_soon(lambda t: t.count("left")))
        waiting = asyncio.gather(*good, store.database.write_soon(refuse), return_exceptions=True)
        await asyncio.sleep(0)  # all are in the queue, or on their way
        leaves.cancel()
        return list(await waiting)

    *outcomes, refused = asyncio.run(talk())
    assert outcomes == [Outcome.ACCEPTED] * 5 and isinstance(refused, OutboxError)
    assert asyncio.run(store.put_episode_soon(envelope(0).id, envelope(0).to_bytes())) is Outcome.DUPLICATE


def test_a_fault_of_the_code_is_told_and_logged_and_those_after_it_go_on(
    store: CollectorStore, caplog: pytest.LogCaptureFixture
) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        held.set()
        assert go.wait(PATIENCE_S)

    def fault(_: Transaction) -> None:
        raise ZeroDivisionError("a fault")

    async def talk() -> list[object]:
        waiting = [asyncio.ensure_future(store.database.write_soon(work)) for work in (hold, fault)]
        await asyncio.to_thread(held.wait, PATIENCE_S)
        late = asyncio.ensure_future(store.put_episode_soon(envelope(1).id, envelope(1).to_bytes()))
        await asyncio.sleep(0)
        go.set()
        return list(await asyncio.gather(*waiting, late, return_exceptions=True))

    found = asyncio.run(asyncio.wait_for(talk(), PATIENCE_S))
    assert any(isinstance(f, StoreError) and "broken off" in str(f) for f in found)
    wait_until(lambda: "ZeroDivisionError" in caplog.text, "its cause was not logged")
    assert "a commit was broken off" in caplog.text
    assert store.put_episode(envelope(2).id, envelope(2).to_bytes()) is Outcome.ACCEPTED
    assert asyncio.run(store.put_episode_soon(envelope(3).id, envelope(3).to_bytes())) is Outcome.ACCEPTED
