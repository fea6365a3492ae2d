"""Two weeks without a network by a simulated clock, then a real collector: does all of it arrive, and in what memory?

Run as ``python tests/offline.py --episodes 20000``; ``make offline`` does. Episodes are decided all the while, each
with a raw slice; the uplink asks for the collector as often as it would. Then the collector is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

from chaos import COLLECT, HERE, free_port
from sample_episodes import sample_fields, sample_raw

from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.upstream.store import CollectorStore, Filter

TWO_WEEKS_S = 14 * 86_400
BATCH = 16


class Clock:
    """Wall and monotonic time of a gateway, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Offline:
    """One run in a folder of its own.

    Parameters
    ----------
    n
        Episodes that wait in the end.
    newest_first_above
        So many waiting episodes go in order; of more, the newest first.
    raw_bytes
        Of each raw slice.
    trace
        Count what Python allocates while the queue drains; it slows that down by half.
    """

    def __init__(
        self, folder: Path, n: int, *, newest_first_above: int = 512, raw_bytes: int = 2000, trace: bool = False
    ) -> None:
        self.newest_first_above = newest_first_above
        self.folder, self.n, self.raw_bytes, self.trace = folder, n, raw_bytes, trace
        self.clock = Clock()
        self.port = free_port()
        self.ids: list[str] = []

    async def run(self) -> dict[str, Any]:
        with EpisodeStore(self.folder / "edge.db", wall_clock_ns=self.clock) as store:
            with store.database.reading() as connection:
                connection.execute("PRAGMA synchronous=OFF")  # what a flush promises is tested elsewhere
            limits = UplinkLimits(batch=BATCH, newest_first_above=self.newest_first_above)
            async with Uplink(
                store,
                f"http://127.0.0.1:{self.port}",
                limits=limits,
                monotonic_ns=self.clock,
                wall_clock_ns=self.clock,
                rng=random.Random(1),
            ) as uplink:
                began_s = time.monotonic()
                begun_ns = self.clock.now_ns
                n_tried = await self.two_weeks(store, uplink)
                days = (self.clock.now_ns - begun_ns) / 86_400e9
                offline_s, waiting = time.monotonic() - began_s, store.counts().ready
                collector = self.start_collector()
                try:
                    began_s = time.monotonic()
                    memory = await self.drain(store, uplink)
                    drained_s = time.monotonic() - began_s
                finally:
                    collector.terminate()
                    collector.wait(60)
                store.verify_audit()
                left = store.counts()
            found = {
                "days": round(days, 1),
                "waiting": waiting,
                "tried_offline": n_tried,
                "left": left.ready + left.locked + left.quarantined,
            }
        return {
            "episodes": self.n,
            **found,
            **memory,
            **self.compare(),
            "offline_s": round(offline_s, 1),
            "drained_s": round(drained_s, 1),
        }

    async def two_weeks(self, store: EpisodeStore, uplink: Uplink) -> int:
        """Decide episodes, spread evenly; say how often the collector was asked for.

        Time goes on for as long as the uplink wants to be left alone, so it is two weeks or more.
        """
        n_tried = 0
        for i in range(self.n):
            end_ns = self.clock.now_ns + TWO_WEEKS_S * 10**9 // self.n
            raw = sample_raw(i, n_bytes=self.raw_bytes)
            fields = sample_fields(i, raw=raw, subject=f"p{i % 5}")
            self.ids.append(store.commit(fields, raw).id)
            before = uplink.counters.retries
            self.clock.pass_s((await uplink.step()).wait_s)
            n_tried += uplink.counters.retries - before
            self.clock.now_ns = max(self.clock.now_ns, end_ns)
        return n_tried

    async def drain(self, store: EpisodeStore, uplink: Uplink) -> dict[str, Any]:
        """Step until nothing waits; say how much memory that took."""
        self.clock.pass_s(3600)
        first_mb = highest_mb = resident_mb()
        if self.trace:
            tracemalloc.start()
        n_steps = 0
        while store.counts().ready:
            wait_s = (await uplink.step()).wait_s
            if wait_s:
                await asyncio.sleep(0.02)  # the collector's clock is no simulated one
                self.clock.pass_s(wait_s)
            n_steps += 1
            if n_steps % 50 == 1:
                highest_mb = max(highest_mb, resident_mb())
        found: dict[str, Any] = {"resident_mb": [round(first_mb, 1), round(highest_mb, 1)]}
        if self.trace:
            found["python_peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 2)
            tracemalloc.stop()
        return found

    def start_collector(self) -> subprocess.Popen[bytes]:
        ready = self.folder / "ready.json"
        arguments = ["-c", COLLECT, "--db", str(self.folder / "collector.db"), "--port", str(self.port)]
        environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        with (self.folder / "collector.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments, "--ready-file", str(ready)], env=environment, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline_s, (self.folder / "collector.log").read_text()
            time.sleep(0.05)
        return process

    def compare(self) -> dict[str, Any]:
        """Compare what is upstream with what was decided, and its order with that of the episodes, the newest first."""
        upstream = CollectorStore(f"sqlite:///{self.folder / 'collector.db'}")
        arrived = [summary.id for summary, _ in upstream.envelopes(Filter())]
        altered = 0
        with EpisodeStore(self.folder / "edge.db", read_only=True) as store:
            for i, id in enumerate(self.ids):
                kept = store.episode(id)
                same = kept is not None and upstream.episode(id) == kept.envelope.to_bytes()
                altered += not same or upstream.raw(id) != sample_raw(i, n_bytes=self.raw_bytes)
        upstream.close()
        n = max(self.n - self.newest_first_above - BATCH, 0)
        return {
            "arrived": len(set(arrived)),
            "doubled": len(arrived) - len(set(arrived)),
            "altered": altered,
            "newest_first": arrived[:n] == self.ids[::-1][:n],
        }


def main() -> int:
    """Run once and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--raw-bytes", type=int, default=2000)
    parser.add_argument("--trace", action="store_true", help="count what Python allocates, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        offline = Offline(Path(folder), options.episodes, raw_bytes=options.raw_bytes, trace=options.trace)
        found = asyncio.run(offline.run())
    sys.stdout.write(json.dumps(found) + "\n")
    good = found["arrived"] == found["episodes"] and found["newest_first"]
    return int(not good or found["left"] + found["doubled"] + found["altered"] > 0)


if __name__ == "__main__":
    sys.exit(main())
