"""A gateway without sensors: the real store and uplink, and episodes made from numbers. It is killed at any time.

Usage: chaos_edge.py STORE URL LEDGER GATEWAY N TIMEOUT_S

The ledger has a line ``NUMBER ID`` for each episode that the store said is safe, and ``done`` when all are upstream.
"""

from __future__ import annotations

import asyncio
import random
import sys
import zlib
from pathlib import Path

from sample_episodes import sample_fields, sample_raw

from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits

N_SUBJECTS = 3
RAW_BYTES = 4000


def number_of(gateway: str, i: int) -> int:
    """Return a number that no other gateway's episode has."""
    return zlib.crc32(gateway.encode()) % 10_000 * 1000 + i


def raw_of(gateway: str, i: int) -> bytes:
    return sample_raw(number_of(gateway, i), n_bytes=RAW_BYTES)


def subject_of(gateway: str, i: int) -> str:
    return f"{gateway}-p{i % N_SUBJECTS}"


def commit(store: EpisodeStore, gateway: str, i: int, key: str) -> str:
    raw = raw_of(gateway, i)
    fields = sample_fields(number_of(gateway, i), raw=raw, gateway=gateway, subject=subject_of(gateway, i))
    return store.commit(fields, raw, draft_key=key).id


async def main(store_path: Path, url: str, ledger: Path, gateway: str, n: int, timeout_s: float) -> None:
    limits = UplinkLimits(
        poll_s=0.02, request_timeout_s=timeout_s, first_backoff_s=0.05, max_backoff_s=1.0, max_retry_after_s=1.0
    )
    store = EpisodeStore(store_path)
    for draft in store.open_drafts():  # what a restarted edge does first
        commit(store, gateway, draft.content["i"], draft.key)
    stop = asyncio.Event()
    async with Uplink(store, url, limits=limits) as uplink:
        sending = asyncio.create_task(uplink.run(stop))
        with ledger.open("a") as said:
            for i in range(store.counts().episodes, n):
                await asyncio.to_thread(store.save_draft, f"{gateway}:{i}", {"i": i})
                await asyncio.sleep(random.random() * 0.02)
                id = await asyncio.to_thread(commit, store, gateway, i, f"{gateway}:{i}")
                said.write(f"{i} {id}\n")
                said.flush()
            while (counts := await asyncio.to_thread(store.counts)).ready + counts.locked:
                await asyncio.sleep(0.05)
            said.write("done\n")
        stop.set()
        await sending
    store.close()


if __name__ == "__main__":
    asyncio.run(
        main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), float(sys.argv[6]))
    )
