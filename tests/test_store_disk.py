"""The file of a store: little room, several processes, crashes, damage, tampering and earlier versions."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sample_episodes import sample_fields, sample_raw
from stored_episodes import audit_events, claimed, commit

from kinedge.edge.schema import APPLICATION_ID, MIGRATIONS
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore(tmp_path / "edge.db") as opened:
        yield opened


def test_beyond_the_budget_sent_blobs_go_first_then_the_oldest_and_never_an_episode(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db", raw_budget_bytes=3 * 2000) as store:
        ids = [commit(store, i, subject=f"p0{i}") for i in range(3)]
        store.outbox.ack(claimed(store, limit=1)[0])
        store.outbox.ack(store.outbox.claim(0, kinds=("raw",))[0])  # ids[0] is upstream, blob and all
        ids += [commit(store, i, subject=f"p0{i}") for i in (3, 4)]
        assert [store.raw(id) is not None for id in ids] == [False, False, True, True, True]
        assert store.counts().episodes == 5 and store.counts().raw_bytes == 6000
        lost = store.episode(ids[1])
        assert lost is not None and (lost.episode_state, lost.raw_state) == ("READY", "FAILED")
        assert audit_events(store.path).count("raw_dropped") == 2


def test_when_the_disk_is_nearly_full_a_new_blob_takes_the_place_of_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        ids = [commit(store, i, n_bytes=50_000) for i in range(4)]
    with EpisodeStore(path, disk_reserve_bytes=1 << 62) as store:
        ids += [commit(store, i, n_bytes=50_000) for i in (4, 5)]
        assert [store.raw(id) is not None for id in ids] == [False, False, True, True, True, True]
        assert [s.envelope.sequence for s in store.episodes()] == [6, 5, 4, 3, 2, 1]


def test_a_full_disk_loses_nothing_that_was_there_and_the_store_goes_on_when_there_is_room(store: EpisodeStore) -> None:
    commit(store, 0)
    with store._database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreError, match="disk is full"):
        commit(store, 1, n_bytes=100_000)
    with pytest.raises(StoreError, match="disk is full"):
        store.save_draft("big", {}, bytes(100_000))
    with store._database.reading() as connection:
        connection.execute("PRAGMA max_page_count=1000000")
    commit(store, 1, n_bytes=100_000)
    assert [s.envelope.sequence for s in store.episodes()] == [2, 1]
    assert store.open_drafts() == []
    assert store.verify_audit().n_rows == 2


def test_an_unwritable_path_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(StoreError, match="choose a folder"):
        EpisodeStore(tmp_path / "a file" / "edge.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError, match="check that"):
        EpisodeStore(tmp_path / "folder.db")


def test_only_one_process_writes_and_others_may_look(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        commit(store, 0)
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            EpisodeStore(path)
        with EpisodeStore(path, read_only=True) as reader:
            assert reader.counts().episodes == 1
            with pytest.raises(StoreError, match="readonly"):
                reader.save_draft("a", {})
    with EpisodeStore(path) as store:
        assert store.counts().episodes == 1
    with pytest.raises(StoreError, match="cannot be opened"):
        EpisodeStore(tmp_path / "absent.db", read_only=True)


def test_the_store_of_a_killed_process_opens_with_all_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    script = (
        "import sys, pathlib; from kinedge.edge.store import EpisodeStore; from sample_episodes import *\n"
        "store = EpisodeStore(pathlib.Path(sys.argv[1]))\n"
        "for i in range(10**6): print(store.commit(sample_fields(i)).id, flush=True); store.outbox.claim(0, limit=1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
    with EpisodeStore(path) as store:
        assert all(store.episode(id) is not None for id in said if len(id) == 64)
        assert store.counts().locked == 0
        store.verify_audit()


def test_a_damaged_file_is_moved_aside_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        for i in range(40):
            store.commit(sample_fields(i, subject="p01"))
    content = bytearray(path.read_bytes())
    content[-4096 * 8 :] = b"\xff" * 4096 * 8
    path.write_bytes(content)
    with EpisodeStore(path) as store:
        (kept,) = [p for p in tmp_path.glob("edge.db.corrupt-*") if not p.name.endswith(("-wal", "-shm"))]
        assert kept.read_bytes()[-100:] == b"\xff" * 100
        assert store.counts().episodes == 0
        assert store.commit(sample_fields(99, subject="p01")).sequence == 41
        assert audit_events(path) == ["damaged_file_moved_aside", "committed"]
        store.verify_audit()


def test_a_file_that_is_no_database_is_kept_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    path.write_bytes(b"this is not SQLite, and longer than its header is: " * 100)
    with EpisodeStore(path) as store:
        assert store.commit(sample_fields(0)).sequence == 1
    assert any(b"not SQLite" in p.read_bytes() for p in tmp_path.glob("edge.db.corrupt-*"))


def test_databases_of_others_and_of_the_future_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bank_accounts (n)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        EpisodeStore(path)
    EpisodeStore(tmp_path / "edge.db").close()
    connection = sqlite3.connect(tmp_path / "edge.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="update kinedge"):
        EpisodeStore(tmp_path / "edge.db")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bank_accounts",)]
    assert len(path.read_bytes()) == len(before)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=30))
@example(flips=[(0.03125, 128)])  # the schema's text is no UTF-8, and sqlite3 fails to say so
def test_whatever_bytes_flip_in_the_file_only_a_store_error_escapes(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("flips") / "edge.db"
    with EpisodeStore(path) as store:
        for i in range(5):
            commit(store, i, n_bytes=500)
    content = bytearray(path.read_bytes())
    for place, mask in flips:
        content[int(place * len(content))] ^= mask
    path.write_bytes(content)
    try:
        with EpisodeStore(path) as store:
            store.episodes()
            for row in claimed(store):
                store.outbox.body(row)
            commit(store, 9)
            store.verify_audit()
    except StoreError:
        pass
    whole = any(p.stat().st_size >= len(content) for p in path.parent.glob("edge.db*"))
    assert whole, "a damaged file was deleted"


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET detail = replace(detail, 'p01', 'p02') WHERE n = 2",
        "UPDATE audit SET utc_ns = utc_ns + 1 WHERE n = 1",
        "DELETE FROM audit WHERE n = 2",
        "DELETE FROM audit WHERE n = 1",
    ],
)
def test_a_changed_past_breaks_the_audit_chain(tmp_path: Path, tampering: str) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        for i in range(3):
            commit(store, i)
        head = store.verify_audit()
        assert head.n_rows == 3 and len(head.digest) == 64
    connection = sqlite3.connect(path)
    connection.execute(tampering)
    connection.commit()
    connection.close()
    with EpisodeStore(path) as store, pytest.raises(StoreError, match="audit chain breaks"):
        store.verify_audit()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_store_of_an_earlier_version_opens_with_all_that_was_in_it(tmp_path: Path, version: int) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(tmp_path / "new.db") as store:  # rows as this version writes them, into tables of that version
        raw = sample_raw(3)
        id = store.commit(sample_fields(3, raw=raw, subject="p01"), raw).id
        store.save_draft("p01/2", {"subject": "p01"}, b"so far")
    with sqlite3.connect(path, isolation_level=None) as old:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                old.execute(statement)
        old.execute(f"PRAGMA application_id={APPLICATION_ID}")
        old.execute(f"PRAGMA user_version={version}")
        old.execute("ATTACH ? AS new", (str(tmp_path / "new.db"),))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            columns = ", ".join(name for _, name, *_ in old.execute(f"PRAGMA main.table_info({table})").fetchall())
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    old.close()
    with EpisodeStore(path) as store:
        assert store.raw(id) == raw
        assert [d.key for d in store.open_drafts()] == ["p01/2"]
        assert [(r.episode_id, r.kind) for r in claimed(store)] == [(id, "episode")]
        assert store.commit(sample_fields(4, subject="p01")).sequence == 2
        store.verify_audit()
    with sqlite3.connect(path) as now, sqlite3.connect(tmp_path / "new.db") as fresh:
        tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
        assert now.execute(tables).fetchall() == fresh.execute(tables).fetchall()


def test_a_migration_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    """A process that dies between two migrations leaves a file of the version in between."""
    path = tmp_path / "edge.db"
    with sqlite3.connect(path) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    with EpisodeStore(path) as store:
        commit(store, 1)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
