"""Raw blobs at the collector: in pieces over a poor radio, within a budget, and in a folder or S3."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from database_server import url_of
from sample_episodes import sample_fields, sample_raw
from test_collector import BLOB, AppClient, code, envelope, put

from kinedge.canonical import sha256_hex
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.errors import ConfigError, StoreError
from kinedge.upstream import uploads
from kinedge.upstream.api import create_app
from kinedge.upstream.blobs import BlobStore, FolderBlobs, S3Blobs, open_blobs
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore, Outcome

PIECE = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[CollectorStore]:
    opened = CollectorStore(url)
    yield opened
    opened.close()


@pytest.fixture
def client(store: CollectorStore) -> AppClient:
    return AppClient(create_app(CollectorSettings(max_piece_bytes=5000), store=store))


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
