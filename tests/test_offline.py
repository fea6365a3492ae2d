"""Two weeks without a network by a simulated clock: the queue drains in bounded memory, the newest episodes first."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from sample_episodes import sample_fields

from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits

TWO_WEEKS_S = 14 * 86_400
N = 3000


class Clocks:
    """Wall and monotonic time of a gateway, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


def test_two_weeks_offline_end_with_the_newest_first_and_all_of_them(tmp_path: Path) -> None:
    found = asyncio.run(offline(tmp_path, N))
    assert found["tried_offline"] < 10_000, "back-off holds the radio still"
    assert found["arrived"] == found["sent"] == N
    assert found["first_are_newest"]
    assert found["peak_mb"] < 8


async def streamed(answer: bytes) -> AsyncIterator[bytes]:
    yield answer


async def offline(folder: Path, n: int) -> dict[str, float]:
    clocks = Clocks()
    network = [False]
    arrived: list[str] = []
    tried = [0]

    def collector(request: httpx.Request) -> httpx.Response:
        tried[0] += 1
        if not network[0]:
            raise httpx.ConnectError("no route to host")
        arrived.append(json.loads(request.content)["id"])
        return httpx.Response(201, content=streamed(json.dumps({"id": arrived[-1]}).encode()))

    with EpisodeStore(folder / "edge.db", wall_clock_ns=clocks) as store:
        with store._database.reading() as connection:
            connection.execute(
                "PRAGMA synchronous=OFF"
            )  # durability is measured elsewhere; this is about order and size
        ids = []
        limits = UplinkLimits(batch=16, newest_first_above=100)
        client = httpx.AsyncClient(transport=httpx.MockTransport(collector))
        uplink = Uplink(
            store,
            "https://collector.example",
            client=client,
            limits=limits,
            monotonic_ns=clocks,
            wall_clock_ns=clocks,
            rng=random.Random(1),
        )
        for i in range(n):  # episodes spread evenly, and the uplink asked as often as it wants
            end_ns = clocks.now_ns + TWO_WEEKS_S * 10**9 // n
            ids.append(store.commit(sample_fields(i, subject=f"p{i % 5}")).id)
            clocks.now_ns += round((await uplink.step()).wait_s * 1e9)
            clocks.now_ns = max(clocks.now_ns, end_ns)
        tried_offline = tried[0]
        assert store.counts().ready == n
        network[0] = True
        clocks.now_ns += 3600 * 10**9
        tracemalloc.start()
        while store.counts().ready:
            clocks.now_ns += round((await uplink.step()).wait_s * 1e9)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        newest = ids[: -(n - 100) - 1 : -1]
        sent = uplink.counters.sent
        store.verify_audit()
        await client.aclose()
    return {
        "tried_offline": tried_offline,
        "arrived": len(set(arrived)),
        "sent": sent,
        "first_are_newest": arrived[: len(newest) - 16] == newest[: len(newest) - 16],
        "peak_mb": peak / 1e6,
    }
