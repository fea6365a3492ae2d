"""The collector's database: migrations, several collectors at once, common commits, and one that is killed."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from database_server import Postgres, url_of
from sample_episodes import sample_raw
from test_collector import envelope
from test_collector_data import unsure

from kinedge.errors import StoreError
from kinedge.upstream import database as database_module
from kinedge.upstream.database import Database
from kinedge.upstream.migrations import MIGRATIONS, VERSION
from kinedge.upstream.schema import METADATA
from kinedge.upstream.store import CollectorStore, Outcome


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[CollectorStore]:
    opened = CollectorStore(url)
    yield opened
    opened.close()


def test_a_database_of_the_first_collectors_is_brought_up(url: str) -> None:
    """Its tables, rows and audit as they were made before versions were counted."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    words = {"sqlite": ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB"), "postgresql": ("BIGSERIAL PRIMARY KEY", "BYTEA")}
    serial, blob = words[engine.dialect.name]
    anomalous, doubtful = envelope(0, raw=sample_raw(0)), unsure(1)
    with engine.begin() as connection:
        for statement in MIGRATIONS[0]:
            assert isinstance(statement, str)
            connection.exec_driver_sql(statement.format(serial=serial, blob=blob, int="BIGINT"))
        for e in (anomalous, doubtful):
            fields = {n: getattr(e, n) for n in ("id", "site", "gateway", "subject", "sequence")}
            fields |= {"start_utc_ns": e.start_utc_ns, "end_utc_ns": e.end_utc_ns, "received_utc_ns": 5}
            fields |= {"body_sha256": "0" * 64, "raw_sha256": e.raw and e.raw.sha256, "body": e.to_bytes()}
            names = ", ".join(fields)
            connection.execute(sa.text(f"INSERT INTO episodes ({names}) VALUES (:{', :'.join(fields)})"), fields)
        connection.execute(
            sa.text("INSERT INTO raw_blobs VALUES (:id, 5, :data)"), {"id": anomalous.id, "data": sample_raw(0)}
        )
        audit = "INSERT INTO audit (utc_ns, event, kind, episode_id, detail) VALUES (:t, :e, 'episode', 'x', '')"
        for t, event in ((1, "accepted"), (2, "accepted"), (86_400 * 10**9 * 2, "conflict")):
            connection.execute(sa.text(audit), {"t": t, "e": event})
    engine.dispose()
    for _ in range(2):
        store = CollectorStore(url)
        assert [(e.decision, e.status, e.has_raw) for e in store.episodes().episodes] == [
            ("anomalous", "new", True),
            ("unsure", "new", False),
        ]
        assert store.raw(anomalous.id) == sample_raw(0)
        assert store.verify_audit().n_rows == 3
        assert store.counts() == {"episodes": 2, "raw_blobs": 1, "accepted": 2, "conflict": 1}
        assert store.put_episode(doubtful.id, doubtful.to_bytes()) is Outcome.DUPLICATE
        store.refusals._pending.clear()
        store.refusals._samples.clear()
        store.database.close()


def test_migrated_tables_are_those_that_the_code_knows(store: CollectorStore) -> None:
    inspector = sa.inspect(store.database.engine)
    assert set(inspector.get_table_names()) == {*METADATA.tables, "schema_version"}
    for name, table in METADATA.tables.items():
        found = {c["name"]: c["nullable"] for c in inspector.get_columns(name)}
        primary = {c.name for c in table.primary_key}
        assert {n: v for n, v in found.items() if n not in primary} == {
            c.name: c.nullable for c in table.columns if c.name not in primary
        }
        assert set(found) == set(table.columns.keys())
        assert {i.name for i in table.indexes} <= {i["name"] for i in inspector.get_indexes(name)}


def test_a_database_of_a_newer_kinedge_is_left_alone(store: CollectorStore, url: str) -> None:
    store.database.write(
        lambda t: t.connection.execute(sa.text(f"UPDATE schema_version SET version = {VERSION + 1}")) and None
    )
    with pytest.raises(StoreError, match="newer kinedge"):
        CollectorStore(url)


def test_two_collectors_that_start_at_once_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(CollectorStore, [url] * 4))
    e = envelope()
    assert [s.put_episode(e.id, e.to_bytes()) for s in stores] == [Outcome.ACCEPTED] + [Outcome.DUPLICATE] * 3
    for s in stores:
        s.close()


def test_a_collector_that_starts_while_another_writes_the_first_rows_waits_for_it(tmp_path: Path) -> None:
    """SQLite refuses at once to switch a file to its write-ahead log while somebody is writing."""
    path = tmp_path / "collector.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE not_ours_yet (a)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("DROP TABLE not_ours_yet")
        done = threading.Timer(0.3, other.execute, ["COMMIT"])
        done.start()
        database = Database(f"sqlite:///{path}")
        done.join()
        database.close()
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_several_collectors_on_one_database_keep_one_chain_and_one_of_each(url: str) -> None:
    stores = [CollectorStore(url) for _ in range(3)]
    bodies = [envelope(i) for i in range(30)]
    jobs = [(s, e) for e in bodies for s in stores]
    random.Random(3).shuffle(jobs)
    with ThreadPoolExecutor(9) as pool:
        outcomes = list(pool.map(lambda job: job[0].put_episode(job[1].id, job[1].to_bytes()), jobs))
    assert outcomes.count(Outcome.ACCEPTED) == 30 and outcomes.count(Outcome.DUPLICATE) == 60
    assert stores[0].verify_audit().n_rows >= 30
    seen = [e.arrival for e in stores[1].episodes(limit=100).episodes]
    assert len(seen) == 30 and seen == sorted(seen)
    for s in stores:
        s.close()


def test_what_fails_in_a_common_commit_fails_alone(url: str) -> None:
    database = Database(url)
    gate, entered = threading.Event(), threading.Event()

    def slow(transaction: Any) -> int:
        entered.set()
        assert gate.wait(60)
        return 0

    def failing(transaction: Any) -> None:
        transaction.count("never")
        raise StoreError("this one only")

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(database.write, slow)
        assert entered.wait(60)
        good = [pool.submit(database.write, lambda t, i=i: t.count("good") or i) for i in range(4)]
        bad = pool.submit(database.write, failing)
        while len(database._waiting) < 5:
            pass
        gate.set()
        assert first.result(60) == 0
        assert [future.result(60) for future in good] == [0, 1, 2, 3]
        with pytest.raises(StoreError, match="this one only"):
            bad.result(60)
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT event, n FROM tallies")).all() == [("good", 4)]
    database.close()


def test_many_requests_share_a_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(url)
    n_commits = 0
    plain = database_module.Transaction.finish

    def counting(transaction: Any) -> None:
        nonlocal n_commits
        n_commits += 1
        plain(transaction)

    monkeypatch.setattr(database_module.Transaction, "finish", counting)
    gate, entered = threading.Event(), threading.Event()

    def hold(transaction: Any) -> None:
        entered.set()
        assert gate.wait(60)

    with ThreadPoolExecutor(33) as pool:
        futures = [pool.submit(database.write, hold)]
        assert entered.wait(60)
        futures += [pool.submit(database.write, lambda t: t.count("x")) for _ in range(32)]
        while len(database._waiting) < 32:
            pass
        gate.set()
        for future in futures:
            future.result(60)
    assert n_commits == 2
    database.close()


def test_a_database_that_is_killed_comes_back_and_nothing_is_half() -> None:
    server = Postgres()
    try:
        store = CollectorStore(server.new_url())
        e = envelope()
        assert store.put_episode(e.id, e.to_bytes()) is Outcome.ACCEPTED
        server.kill()
        with pytest.raises(StoreError, match="check the disk"):
            other = envelope(1)
            store.put_episode(other.id, other.to_bytes())
        server.start()
        assert store.put_episode(e.id, e.to_bytes()) is Outcome.DUPLICATE
        assert store.put_episode(other.id, other.to_bytes()) is Outcome.ACCEPTED
        assert store.verify_audit().n_rows >= 2
        store.close()
    finally:
        server.stop()


def test_a_fault_in_a_common_commit_leaves_nobody_waiting(url: str) -> None:
    database = Database(url)
    gate, entered = threading.Event(), threading.Event()

    def hold(transaction: Any) -> None:
        entered.set()
        assert gate.wait(60)

    def fault(transaction: Any) -> None:
        raise ZeroDivisionError

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(database.write, hold)
        assert entered.wait(60)
        futures = [pool.submit(database.write, work) for work in (fault, lambda t: None, fault, lambda t: None)]
        while len(database._waiting) < 4:
            pass
        gate.set()
        first.result(60)
        errors = [type(future.exception(60)) for future in futures]
    assert ZeroDivisionError in errors and set(errors) <= {ZeroDivisionError, StoreError}
    assert database.write(lambda t: 5) == 5, "and the next goes on"
    database.close()
