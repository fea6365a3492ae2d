"""What the collector keeps and gives: filters, exports, reviews, blobs in pieces and elsewhere, migrations, audit."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from database_server import Postgres
from sample_episodes import sample_fields, sample_raw
from test_collector import BLOB, AppClient, code, envelope, put

from kinedge.canonical import sha256_hex
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.errors import ConfigError, StoreError
from kinedge.upstream import database as database_module
from kinedge.upstream import refusals, uploads
from kinedge.upstream.api import create_app
from kinedge.upstream.blobs import BlobStore, FolderBlobs, S3Blobs, open_blobs
from kinedge.upstream.database import Database
from kinedge.upstream.migrations import MIGRATIONS, VERSION
from kinedge.upstream.schema import AUDIT, METADATA
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore, Outcome
from kinedge.upstream.summary import Filter

PIECE = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres").new_url())
    return f"sqlite:///{tmp_path}/collector.db"


@pytest.fixture
def store(url: str) -> Iterator[CollectorStore]:
    opened = CollectorStore(url)
    yield opened
    opened.close()


@pytest.fixture
def client(store: CollectorStore) -> AppClient:
    return AppClient(create_app(CollectorSettings(max_piece_bytes=5000), store=store))


def unsure(i: int) -> Any:
    return envelope(i, trail=[sample_fields(i)["trail"][0] | {"decision": "unsure"}])


def test_lists_and_exports_take_the_same_filters(client: AppClient) -> None:
    for i in range(6):
        put(client, unsure(i) if i == 4 else envelope(i, gateway="gw-2" if i == 5 else "gw-1"))
    confirmed = envelope(1).id
    client.request("POST", f"/v1/episodes/{confirmed}/reviews", json={"action": "confirm"})
    cases: dict[str, list[int]] = {
        "": [0, 1, 2, 3, 4, 5],
        "decision=unsure": [4],
        "decision=anomalous&gateway=gw-1": [0, 1, 2, 3],
        "status=confirmed": [1],
        "status=new&subject=p02": [4],
        "site=elsewhere": [],
        f"since={envelope(2).start_utc_ns}&until={envelope(4).start_utc_ns}": [2, 3],
    }
    for query, expected in cases.items():
        wanted = [unsure(i).id if i == 4 else envelope(i, gateway="gw-2" if i == 5 else "gw-1").id for i in expected]
        listed = client.get(f"/v1/episodes?{query}").json()["episodes"]
        assert [row["id"] for row in listed] == wanted, query
        lines = client.get(f"/v1/export?format=jsonl&{query}").text.splitlines()
        assert [json.loads(line)["envelope"]["id"] for line in lines] == wanted
    for query in ("decision=normal", "status=x", "site=%27", "format=xlsx"):
        assert code(client.get(f"/v1/{'export' if 'format' in query else 'episodes'}?{query}")) == (
            422,
            "invalid_request",
        )


def test_exports_hold_the_same_rows_in_each_format_and_no_formulas(client: AppClient, store: CollectorStore) -> None:
    sentences = ["=HYPERLINK(1)", 'a, "b"\nc', "+1", "plain", "ünï – code", "@x", "-2"]
    for i, sentence in enumerate(sentences):
        put(client, envelope(i, sentence=sentence, raw=sample_raw(i) if i == 3 else None))
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/export?format=csv").content.decode(), newline="")))
    assert [row["sentence"].removeprefix("'") for row in rows] == sentences
    assert [row["sentence"][0] == "'" for row in rows] == [True, False, True, False, False, True, True]
    table = pq.read_table(io.BytesIO(client.get("/v1/export?format=parquet").content))
    assert table.column("sentence").to_pylist() == sentences
    assert table.column_names == list(rows[0])
    assert table.column("start_utc_ns").to_pylist() == [int(row["start_utc_ns"]) for row in rows]
    assert table.column("raw_n_bytes").to_pylist()[3] == len(sample_raw(3))
    lines = [json.loads(line) for line in client.get("/v1/export").text.splitlines()]
    assert [line["envelope"]["sentence"] for line in lines] == sentences
    none = pq.read_table(io.BytesIO(client.get("/v1/export?format=parquet&subject=nobody").content))
    assert none.num_rows == 0 and none.column_names == list(rows[0])


def test_parquet_without_its_library_is_a_refusal_that_says_what_to_install(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = client.get("/v1/export?format=parquet")
    assert code(answer) == (422, "not_installed") and "kinedge[record]" in answer.json()["error"]["message"]


def test_an_export_reads_page_by_page_and_misses_nothing(store: CollectorStore) -> None:
    for i in range(25):
        e = envelope(i)
        store.put_episode(e.id, e.to_bytes())
    for page in (1, 7, 25, 100):
        assert [body for _, body in store.envelopes(Filter(), page=page)] == [envelope(i).to_bytes() for i in range(25)]


def test_people_confirm_dismiss_and_comment_and_all_of_it_is_kept(client: AppClient, store: CollectorStore) -> None:
    e = envelope()
    reviews = f"/v1/episodes/{e.id}/reviews"
    assert code(client.request("POST", reviews, json={"action": "confirm"})) == (404, "not_found")
    assert code(client.get(reviews)) == (404, "not_found")
    put(client, e)
    for action, comment, status in [
        ("comment", "'); DROP TABLE reviews;--", "new"),
        ("confirm", "seen \0 on video", "confirmed"),
        ("comment", "ward round", "confirmed"),
        ("dismiss", "", "dismissed"),
        ("reopen", "", "new"),
    ]:
        answer = client.request("POST", reviews, json={"action": action, "comment": comment})
        assert (answer.status_code, answer.json()["status"]) == (201, status)
    kept = client.get(reviews).json()["reviews"]
    assert [r["action"] for r in kept] == ["comment", "confirm", "comment", "dismiss", "reopen"]
    assert [r["comment"] for r in kept][:2] == ["'); DROP TABLE reviews;--", "seen  on video"]
    assert store.counts()["reviewed"] == 5
    for bad in ({"action": "delete"}, {}, {"action": "confirm", "x": 1}, {"action": "comment", "comment": "x" * 4001}):
        assert code(client.request("POST", reviews, json=bad)) == (422, "invalid_request")
    assert len(store.reviews(e.id)) == 5
    assert client.get(f"/v1/episodes/{e.id}").content == e.to_bytes(), "the envelope itself never changes"
    store.verify_audit()


def offset_of(client: AppClient, id: str) -> Any:
    return client.get(f"/v1/episodes/{id}/upload").json()


def patch(client: AppClient, id: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    return client.request(
        "PATCH", f"/v1/episodes/{id}/upload", content=data, headers=PIECE | {"Upload-Offset": str(offset)} | headers
    )


def test_a_blob_in_pieces_goes_on_where_it_was_cut_off(client: AppClient, store: CollectorStore) -> None:
    raw = sample_raw(1, n_bytes=12_000)
    e = envelope(raw=raw)
    assert code(client.get(f"/v1/episodes/{e.id}/upload")) == (404, "unknown_episode")
    put(client, e)
    assert offset_of(client, e.id) == {"id": e.id, "status": "incomplete", "offset": 0, "n_bytes": 12_000}
    answer = patch(client, e.id, 0, raw[:5000])
    assert answer.status_code == 200 and answer.headers["Upload-Offset"] == "5000"
    again = patch(client, e.id, 0, raw[:5000])
    assert code(again) == (409, "wrong_offset") and again.headers["Upload-Offset"] == "5000"
    assert code(patch(client, e.id, 5000, bytes(5001))) == (413, "too_large")
    assert code(patch(client, e.id, 5000, raw[5000:9000], **{"Content-Digest": "sha-256=:AAAA:"})) == (
        400,
        "damaged_in_transit",
    )
    assert code(patch(client, e.id, -1, b"x")) == (422, "invalid_request")
    assert offset_of(client, e.id)["offset"] == 5000 and store.raw(e.id) is None
    assert patch(client, e.id, 5000, raw[5000:10_000]).status_code == 200
    assert patch(client, e.id, 10_000, raw[10_000:]).status_code == 201
    assert store.raw(e.id) == raw
    assert offset_of(client, e.id)["status"] == "duplicate"
    assert patch(client, e.id, 10_000, raw[10_000:]).json()["status"] == "duplicate"
    assert client.put(f"/v1/episodes/{e.id}/raw", content=raw, headers=BLOB).status_code == 200
    with store.database.reading() as connection:
        assert uploads.offset(connection, e.id) == 0, "the pieces are gone"


def test_pieces_that_are_not_the_promised_blob_are_forgotten(client: AppClient, store: CollectorStore) -> None:
    raw = sample_raw(1, n_bytes=6000)
    e = envelope(raw=raw)
    put(client, e)
    patch(client, e.id, 0, raw[:4000])
    assert code(patch(client, e.id, 4000, raw[4000:] + b"x")) == (409, "conflict")
    assert offset_of(client, e.id)["offset"] == 4000
    assert code(patch(client, e.id, 4000, bytes(2000))) == (409, "conflict")
    assert offset_of(client, e.id)["offset"] == 0 and store.raw(e.id) is None
    patch(client, e.id, 0, raw[:4000])
    assert patch(client, e.id, 4000, raw[4000:]).status_code == 201
    assert store.raw(e.id) == raw
    without = envelope(5)
    put(client, without)
    assert code(patch(client, without.id, 0, b"x")) == (409, "conflict")


def test_all_pieces_without_an_end_become_a_blob_when_somebody_asks(store: CollectorStore) -> None:
    """The process died between the last piece and the blob."""
    raw = sample_raw(1, n_bytes=3000)
    e = envelope(raw=raw)
    store.put_episode(e.id, e.to_bytes())
    store.database.write(lambda transaction: uploads.add_piece(transaction, e.id, 0, raw))
    assert store.upload_state(e.id).outcome is Outcome.ACCEPTED
    assert store.raw(e.id) == raw


def test_uploads_that_nobody_goes_on_with_are_dropped_after_a_week(url: str) -> None:
    now = 10**18
    store = CollectorStore(url, wall_clock_ns=lambda: now)
    for i in range(2):
        e = envelope(i, raw=sample_raw(i))
        store.put_episode(e.id, e.to_bytes())
        store.put_piece(e.id, 0, sample_raw(i)[:500])
        now += 6 * 86_400 * 10**9
    assert store.database.write(uploads.prune) == 1
    assert [store.upload_state(envelope(i, raw=sample_raw(i)).id).offset for i in range(2)] == [0, 500]
    store.close()


def test_the_uplink_sends_large_blobs_in_pieces_and_survives_a_poor_radio(tmp_path: Path) -> None:
    upstream = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    app = create_app(CollectorSettings(), store=upstream)
    raw = sample_raw(7, n_bytes=300_000)
    rng = random.Random(5)
    n_bytes_sent = 0

    class PoorRadio(httpx.AsyncBaseTransport):
        inner = httpx.ASGITransport(app=app)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal n_bytes_sent
            body = await request.aread()
            n_bytes_sent += len(body)
            if request.method == "PATCH" and rng.random() < 0.4:
                raise httpx.ConnectError("gone", request=request)
            assert len(body) <= 20_000
            answer = await self.inner.handle_async_request(request)
            content = await answer.aread()
            if request.method == "PATCH" and rng.random() < 0.2:
                raise httpx.ReadError("the answer is lost", request=request)
            return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(content))

    now = 0

    def monotonic_ns() -> int:
        nonlocal now
        now += 400 * 10**9
        return now

    with EpisodeStore(tmp_path / "edge.db") as store:
        id = store.commit(sample_fields(1, raw=raw), raw).id

        async def send() -> Uplink:
            limits = UplinkLimits(piece_bytes=20_000)
            uplink = Uplink(
                store, "http://127.0.0.1:1", client=httpx.AsyncClient(transport=PoorRadio()), limits=limits,
                monotonic_ns=monotonic_ns, rng=random.Random(1),
            )  # fmt: skip
            for _ in range(200):
                await uplink.step()
                if store.counts().done == 2:
                    return uplink
            raise AssertionError(uplink.counters)

        uplink = asyncio.run(send())
    assert upstream.raw(id) == raw
    assert uplink.counters.retries > 3
    assert n_bytes_sent < 2.5 * len(raw), "a failure costs a piece, not the blob"
    upstream.close()


def test_a_budget_of_raw_bytes_holds_back_blobs_and_never_episodes(tmp_path: Path) -> None:
    upstream = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    now = 0
    with EpisodeStore(tmp_path / "edge.db") as store:
        for i in range(6):
            raw = sample_raw(i, n_bytes=40_000)
            store.commit(sample_fields(i, raw=raw), raw)

        async def work(n_steps: int) -> None:
            for _ in range(n_steps):
                await uplink.step()

        transport = httpx.ASGITransport(app=create_app(CollectorSettings(), store=upstream))
        uplink = Uplink(
            store, "http://127.0.0.1:1", client=httpx.AsyncClient(transport=transport), monotonic_ns=lambda: now,
            limits=UplinkLimits(raw_bytes_per_day=100_000),
        )  # fmt: skip
        asyncio.run(work(20))
        counts = upstream.counts()
        assert (counts["episodes"], counts["raw_blobs"]) == (6, 3)
        now += 12 * 3600 * 10**9
        asyncio.run(work(20))
        assert upstream.counts()["raw_blobs"] == 4
        now += 10 * 86_400 * 10**9
        asyncio.run(work(20))
        assert upstream.counts()["raw_blobs"] == 6
    upstream.close()


def test_after_weeks_offline_the_newest_episodes_go_first_and_all_arrive(tmp_path: Path) -> None:
    upstream = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    with EpisodeStore(tmp_path / "edge.db") as store:
        sequences = [store.commit(sample_fields(i)).sequence for i in range(60)]
        assert max(sequences) == 20
        transport = httpx.ASGITransport(app=create_app(CollectorSettings(), store=upstream))
        limits = UplinkLimits(batch=8, newest_first_above=30)
        uplink = Uplink(store, "http://127.0.0.1:1", client=httpx.AsyncClient(transport=transport), limits=limits)

        async def work() -> None:
            while store.counts().ready:
                await uplink.step()

        asyncio.run(work())
    arrived = upstream.episodes(limit=1000).episodes
    numbers = [(e.start_utc_ns - envelope(0).start_utc_ns) // 60_000_000_000 for e in arrived]
    assert numbers[:32] == list(range(59, 27, -1)), "newest first while more than 30 wait"
    assert sorted(numbers[32:]) == list(range(28))
    for subject in ("p01", "p02", "p03"):
        rest = [e.sequence for e in arrived[32:] if e.subject == subject]
        assert rest == sorted(rest), "then in order again"
    assert upstream.missing("gw-1") == ()
    upstream.close()


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """An S3 server of this machine."""
    import os

    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    httpx.put(f"{endpoint}/raw-blobs", trust_env=False).raise_for_status()
    yield f"s3://raw-blobs/site-a?endpoint={endpoint}&region=us-east-1"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    where = f"file://{tmp_path}/blobs" if request.param == "folder" else request.getfixturevalue("s3_url")
    opened = open_blobs(where)
    assert isinstance(opened, FolderBlobs if request.param == "folder" else S3Blobs)
    return opened


def test_blobs_lie_elsewhere_by_the_same_contract(blobs: BlobStore, url: str) -> None:
    store = CollectorStore(url, blobs=blobs)
    raw = sample_raw(1, n_bytes=9000)
    e = envelope(raw=raw)
    digest = sha256_hex(raw)
    assert store.put_raw(e.id, raw) is Outcome.UNKNOWN_EPISODE and blobs.get(digest) is None
    store.put_episode(e.id, e.to_bytes())
    assert store.put_raw(e.id, raw + b"x") is Outcome.CONFLICT
    assert store.put_raw(e.id, raw) is Outcome.ACCEPTED
    assert store.put_raw(e.id, raw) is Outcome.DUPLICATE
    assert store.raw(e.id) == raw == blobs.get(digest)
    with store.database.reading() as connection:
        assert connection.scalar(sa.text("SELECT data FROM raw_blobs")) is None, "not twice"
    other = sample_raw(2, n_bytes=700)
    pieces = envelope(2, raw=other)
    store.put_episode(pieces.id, pieces.to_bytes())
    store.put_piece(pieces.id, 0, other[:300])
    assert store.put_piece(pieces.id, 300, other[300:]).outcome is Outcome.ACCEPTED
    assert store.raw(pieces.id) == other
    blobs.put(digest, raw)
    blobs.delete(digest)
    assert blobs.get(digest) is None
    store.close()


def test_damaged_and_unusable_blob_stores_say_so(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    digest = sha256_hex(b"x")
    blobs.put(digest, b"x")
    (tmp_path / "blobs" / digest[:2] / digest).write_bytes(b"y")
    with pytest.raises(StoreError, match="damaged"):
        blobs.get(digest)
    blobs.put(digest, b"x")
    assert blobs.get(digest) == b"x", "put again, it is whole"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="check the storage"):
        FolderBlobs(tmp_path / "file")
    for bad in ("ftp://x/y", "file://", "s3://", "s3://bucket?secret=1"):
        with pytest.raises(ConfigError):
            open_blobs(bad)
    with pytest.raises(StoreError, match="check the storage"):
        S3Blobs("s3://bucket?endpoint=http://127.0.0.1:1").put(digest, b"x")


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


def test_the_audit_does_not_grow_with_refusals(store: CollectorStore, client: AppClient) -> None:
    for _ in range(60):
        client.put(f"/v1/episodes/{'0' * 64}", content=b"{}", headers={"Content-Type": "application/json"})
        client.get("/v1/episodes/x")
    e = envelope()
    for _ in range(50):
        put(client, e)
    counts = store.counts()
    assert (counts["refused"], counts["invalid_request"], counts["duplicate"]) == (60, 60, 49)
    assert store.verify_audit().n_rows == 3 * refusals.SAMPLES_A_DAY + 1


def test_a_change_in_the_audit_is_found(store: CollectorStore) -> None:
    for i in range(5):
        e = envelope(i)
        store.put_episode(e.id, e.to_bytes())
    assert store.verify_audit().n_rows == 5
    for change in (
        "UPDATE audit SET detail = '{}' WHERE n = 3",
        "UPDATE audit SET who = 'x' WHERE n = 5",
        "DELETE FROM audit WHERE n = 2",
    ):
        with store.database.engine.connect() as connection, connection.begin() as transaction:
            connection.execution_options(kinedge_writes=True)
            connection.exec_driver_sql(change)
            rows = connection.execute(sa.select(AUDIT).order_by(AUDIT.c.n)).all()
            from kinedge.upstream import chain

            with pytest.raises(StoreError, match="chain breaks at row"):
                chain.verify(rows)
            transaction.rollback()
    assert store.verify_audit().n_rows == 5


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


def test_every_answer_names_its_request_and_stays_out_of_caches(client: AppClient) -> None:
    answer = client.get("/v1/episodes", headers={"X-Request-Id": "abc-12345"})
    assert answer.headers["X-Request-Id"] == "abc-12345" and answer.headers["Cache-Control"] == "no-store"
    made = {
        client.get("/v1/x", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        for given in ("short", "a b c d e f")
    }
    assert len(made) == 2 and all(len(id) == 16 for id in made)


def test_gaps_can_be_asked_for_one_subject(client: AppClient) -> None:
    for i, (subject, sequence) in enumerate([("p01", 3), ("p02", 2)]):
        put(client, envelope(i, subject=subject, sequence=sequence))
    assert client.get("/v1/gateways/gw-1/missing?subject=p02").json()["missing"] == [
        {"subject": "p02", "first": 1, "last": 1}
    ]


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
