"""A small edge: commits numbered episodes and sends them upstream until none is left. It is killed at any time.

Usage: durability_sender.py STORE URL LEDGER N
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from sample_episodes import sample_fields, sample_raw

from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits

LIMITS = UplinkLimits(poll_s=0.01, first_backoff_s=0.02, max_backoff_s=0.2, max_retry_after_s=0.2)


async def main(store_path: Path, url: str, ledger: Path, n: int) -> None:
    store = EpisodeStore(store_path)
    for draft in store.open_drafts():  # what a restarted edge does first
        finish(store, draft.content["i"], draft.key)
    stop = asyncio.Event()
    async with Uplink(store, url, limits=LIMITS) as uplink:
        loop = asyncio.create_task(uplink.run(stop))
        with ledger.open("a") as said:
            for i in range(n):
                new = i >= store.counts().episodes
                if new:
                    await asyncio.to_thread(store.save_draft, f"draft-{i}", {"i": i})
                    await asyncio.sleep(random.random() * 0.05)
                id = await asyncio.to_thread(finish, store, i, f"draft-{i}")
                print(i, id, file=said, flush=True)
        while store.counts().ready or store.counts().locked:
            await asyncio.sleep(0.01)
        stop.set()
        await loop
    store.verify_audit()
    store.close()


def finish(store: EpisodeStore, i: int, key: str) -> str:
    raw = sample_raw(i, n_bytes=20_000)
    return store.commit(sample_fields(i, raw=raw), raw, draft_key=key).id


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
