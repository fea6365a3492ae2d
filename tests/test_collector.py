"""The collector: what it takes, what it refuses, and that it never keeps anything twice or half."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_episodes import sample_fields, sample_raw

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.cli import episodes
from kinedge.cli.app import main
from kinedge.edge.store import EpisodeStore
from kinedge.envelope import Envelope, episode_id
from kinedge.errors import ConfigError, LinkError, StoreError
from kinedge.upstream.api import create_app
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings, read_token
from kinedge.upstream.store import CollectorStore, Outcome

JSON = {"Content-Type": "application/json"}
BLOB = {"Content-Type": "application/octet-stream"}


class AppClient:
    """Requests straight into the app; an exception that escapes it escapes here too."""

    def __init__(self, app: FastAPI) -> None:
        self.transport = httpx.ASGITransport(app=app)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CollectorStore]:
    """The same contract for both databases."""
    postgresql = request.param == "postgresql"
    url = request.getfixturevalue("postgres").new_url() if postgresql else f"sqlite:///{tmp_path}/collector.db"
    opened = CollectorStore(url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[CollectorStore]:
    opened = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    yield opened
    opened.close()


@pytest.fixture
def client(store: CollectorStore) -> AppClient:
    return AppClient(create_app(CollectorSettings(), store=store))


def envelope(i: int = 0, *, raw: bytes | None = None, sequence: int = 1, **changes: Any) -> Envelope:
    fields = sample_fields(i, raw=raw, **changes) | {"sequence": sequence}
    if raw is not None:
        fields["raw"] |= {"sha256": sha256_hex(raw), "n_bytes": len(raw)}
    names = ("site", "gateway", "subject", "sensors", "start_utc_ns", "model_digest")
    id = episode_id(**{n: fields[n] for n in names}, raw_sha256=raw and sha256_hex(raw))
    return Envelope.model_validate(fields | {"id": id})


def put(client: AppClient, e: Envelope, body: bytes | None = None, **headers: str) -> Any:
    return client.put(f"/v1/episodes/{e.id}", content=e.to_bytes() if body is None else body, headers=JSON | headers)


def code(answer: Any) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message"} and error["message"]
    return answer.status_code, error["code"]


def test_an_episode_is_new_once_and_comes_back_byte_for_byte(client: AppClient) -> None:
    e = envelope()
    body = b" " + e.to_bytes() + b"\n"
    answer = put(client, e, body)
    assert (answer.status_code, answer.json()) == (201, {"id": e.id, "status": "accepted"})
    answer = put(client, e, body)
    assert (answer.status_code, answer.json()) == (200, {"id": e.id, "status": "duplicate"})
    assert client.get(f"/v1/episodes/{e.id}").content == body
    assert client.get("/v1/episodes").json()["episodes"][0]["id"] == e.id


def test_other_bytes_under_the_same_id_are_a_conflict_that_changes_nothing(
    client: AppClient, store: CollectorStore
) -> None:
    e = envelope()
    put(client, e)
    assert code(put(client, e, e.model_copy(update={"sentence": "other"}).to_bytes())) == (409, "conflict")
    assert code(put(client, e, e.to_bytes() + b" ")) == (409, "conflict")
    assert client.get(f"/v1/episodes/{e.id}").content == e.to_bytes()
    assert store.counts() == {"episodes": 1, "raw_blobs": 0, "accepted": 1, "conflict": 2}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON"),
        (b"{}", "required"),
        (b"null", "object"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"schema": "kinedge.episode/2"}', "schema"),
        (envelope(1).to_bytes(), "path"),
        (envelope(0).to_bytes().replace(b'"subject":"p01"', b'"subject":"p02"'), "id does not follow"),
        (envelope(0).to_bytes()[:-1] + b',"surname":"x"}', "unknown key"),
        (envelope(0).to_bytes()[:-1] + b',"\\ud800\\u0000<b>":"x"}', "."),
        (envelope(0).to_bytes().replace(b'"peak_score":4.5', b'"peak_score":NaN'), "peak_score|JSON"),
        (envelope(0).to_bytes().replace(b'"sequence":1', b'"sequence":99999999999999999999999'), "sequence"),
    ],
)
def test_what_is_no_envelope_is_refused_with_one_clear_message(
    client: AppClient, store: CollectorStore, body: bytes, message: str
) -> None:
    answer = put(client, envelope(0), body)
    assert code(answer) == (422, "invalid_envelope")
    assert re.search(message, answer.json()["error"]["message"])
    assert store.counts() == {"episodes": 0, "raw_blobs": 0, "refused": 1}


def test_a_raw_blob_needs_its_episode_and_its_digest(client: AppClient, store: CollectorStore) -> None:
    raw = sample_raw(1)
    e = envelope(raw=raw)
    url = f"/v1/episodes/{e.id}/raw"
    assert code(client.put(url, content=raw, headers=BLOB)) == (404, "unknown_episode")
    put(client, e)
    assert code(client.get(url)) == (404, "not_found")
    assert code(client.put(url, content=raw + b"x", headers=BLOB)) == (409, "conflict")
    assert client.put(url, content=raw, headers=BLOB).status_code == 201
    assert client.put(url, content=raw, headers=BLOB).status_code == 200
    assert client.get(url).content == raw
    without = envelope(5)
    put(client, without)
    assert code(client.put(f"/v1/episodes/{without.id}/raw", content=raw, headers=BLOB)) == (409, "conflict")
    assert [row["has_raw"] for row in client.get("/v1/episodes").json()["episodes"]] == [True, False]


def test_bodies_are_cut_off_at_their_limit_while_they_stream(store: CollectorStore) -> None:
    client = AppClient(create_app(CollectorSettings(max_envelope_bytes=500, max_raw_bytes=5000), store=store))
    n_given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_given
        while n_given < 1000:
            n_given += 1
            yield b" " * 100

    e = envelope()
    assert code(put(client, e)) == (413, "too_large")
    assert code(client.put(f"/v1/episodes/{e.id}", content=endless(), headers=JSON)) == (413, "too_large")
    assert n_given <= 7, "it read on behind the limit"
    raw_url = f"/v1/episodes/{e.id}/raw"
    assert code(client.put(raw_url, content=bytes(5001), headers=BLOB)) == (413, "too_large")
    assert code(client.put(raw_url, content=bytes(5000), headers=BLOB)) == (404, "unknown_episode")
    assert store.counts()["episodes"] == 0


def test_media_type_encoding_and_digest_are_checked(client: AppClient) -> None:
    e = envelope()
    unsupported = (415, "unsupported_media_type")
    assert code(client.put(f"/v1/episodes/{e.id}", content=e.to_bytes())) == unsupported
    assert code(put(client, e, **{"Content-Type": "text/plain"})) == unsupported
    assert code(put(client, e, **{"Content-Encoding": "gzip"})) == unsupported
    assert code(client.put(f"/v1/episodes/{e.id}/raw", content=b"x", headers=JSON)) == unsupported
    digest = base64.b64encode(hashlib.sha256(e.to_bytes()).digest()).decode()
    assert code(put(client, e, e.to_bytes()[:-1], **{"Content-Digest": f"sha-256=:{digest}:"})) == (
        400,
        "damaged_in_transit",
    )
    assert put(client, e, **{"Content-Digest": f"sha-256=:{digest}:"}).status_code == 201
    assert put(client, e, **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize("id", ["0", "A" * 64, "g" * 64, "0" * 65, "' OR 1=1", "%00" * 64, "0" * 63 + "%0A"])
def test_an_id_that_is_none_never_reaches_the_database(client: AppClient, store: CollectorStore, id: str) -> None:
    assert code(client.put(f"/v1/episodes/{id}", content=b"{}", headers=JSON)) == (422, "invalid_request")
    assert code(client.get(f"/v1/episodes/{id}")) == (422, "invalid_request")
    assert store.counts() == {"episodes": 0, "raw_blobs": 0, "invalid_request": 2}


def test_listing_filters_and_pages_in_order_of_arrival(client: AppClient) -> None:
    order = [4, 0, 3, 1, 2, 5]
    for i in order:
        put(client, envelope(i, sequence=i // 3 + 1, gateway="gw-2" if i == 5 else "gw-1"))

    def numbers(**parameters: Any) -> list[int]:
        rows = client.get("/v1/episodes", params=parameters).json()["episodes"]
        return [(row["start_utc_ns"] - 1_700_000_000_000_000_000) // 60_000_000_000 for row in rows]

    assert numbers() == order
    assert numbers(order="newest") == order[::-1]
    assert numbers(subject="p01") == [0, 3]
    assert numbers(gateway="gw-2") == [5]
    start_of_3 = envelope(3).start_utc_ns
    assert numbers(since=start_of_3) == [4, 3, 5]
    assert numbers(until=start_of_3) == [0, 1, 2]
    for direction, expected in (("oldest", order), ("newest", order[::-1])):
        seen, cursor = [], None
        while True:
            parameters = {"limit": 2, "order": direction} | ({} if cursor is None else {"cursor": cursor})
            seen += numbers(**parameters)
            cursor = client.get("/v1/episodes", params=parameters).json()["next_cursor"]
            if cursor is None:
                break
        assert seen == expected


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "since=-1", "since=9223372036854775808", "until=1e9"),
        *("cursor=a", "order=up", "subject=%27--", "subject=", "gateway=%00"),
    ],
)
def test_query_parameters_are_validated(client: AppClient, query: str) -> None:
    answer = client.get(f"/v1/episodes?{query}")
    assert code(answer) == (422, "invalid_request")
    assert query.partition("=")[0] in answer.json()["error"]["message"]


def test_gaps_in_the_sequence_are_named_per_subject(client: AppClient) -> None:
    for i, (subject, sequence) in enumerate(
        [("p01", 1), ("p01", 2), ("p01", 5), ("p01", 9), ("p02", 3), ("p03", 1), ("p03", 1), ("p03", 2)]
    ):
        put(client, envelope(i, subject=subject, sequence=sequence))
    put(client, envelope(50, gateway="gw-2", sequence=2**53 - 1))
    assert client.get("/v1/gateways/gw-1/missing").json()["missing"] == [
        {"subject": "p01", "first": 3, "last": 4},
        {"subject": "p01", "first": 6, "last": 8},
        {"subject": "p02", "first": 1, "last": 2},
    ]
    assert client.get("/v1/gateways/gw-2/missing").json()["missing"][0]["last"] == 2**53 - 2
    assert client.get("/v1/gateways/gw-1/missing?limit=1").json()["missing"] == [
        {"subject": "p01", "first": 3, "last": 4}
    ]
    assert client.get("/v1/gateways/nobody/missing").json()["missing"] == []


def test_the_token_guards_everything_but_health(store: CollectorStore) -> None:
    client = AppClient(create_app(CollectorSettings(token="0123456789abcdef"), store=store))
    e = envelope()
    wrong = [None, "", "Bearer", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer 0123456789abcdef\u00e9"]
    for value in wrong:
        headers = {} if value is None else {"Authorization": value.encode("latin-1")}
        for method, path in (
            ("PUT", f"/v1/episodes/{e.id}"),
            ("GET", "/v1/episodes"),
            ("GET", "/v1/gateways/g/missing"),
        ):
            assert code(client.request(method, path, headers=headers)) == (401, "unauthorized")
    assert put(client, e, Authorization="Bearer 0123456789abcdef").status_code == 201
    assert client.get("/v1/health").json()["status"] == "ok"


def test_unknown_routes_and_methods_answer_in_the_same_words(client: AppClient) -> None:
    assert code(client.get("/v2/episodes")) == (404, "not_found")
    assert code(client.request("DELETE", f"/v1/episodes/{'0' * 64}")) == (405, "method_not_allowed")
    assert code(client.request("POST", "/v1/episodes")) == (405, "method_not_allowed")


def test_sql_in_every_field_is_only_text(client: AppClient, store: CollectorStore) -> None:
    nasty = "'); DROP TABLE episodes; --\" OR '1'='1"
    e = envelope(
        sensors=(nasty,),
        sentence=nasty,
        kinedge_version=nasty,
        contributions=[{"sensor": nasty[:31], "share": 1.0}],
        trail=[sample_fields(0)["trail"][0] | {"reasons": [nasty, "\0"]}],
    )
    assert put(client, e).status_code == 201
    assert Envelope.model_validate_json(client.get(f"/v1/episodes/{e.id}").content) == e
    for field in ("site", "gateway", "subject", "model_digest"):
        body = canonical_json(json.loads(e.to_bytes()) | {field: nasty})
        assert code(put(client, e, body)) == (422, "invalid_envelope")
    assert store.counts()["episodes"] == 1


def test_a_disk_that_is_full_is_a_reason_to_come_back_later(sqlite_store: CollectorStore) -> None:
    store = sqlite_store
    client = AppClient(create_app(CollectorSettings(), store=store))
    put(client, envelope(0))
    with store.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    answers = [put(client, envelope(i, sentence="x" * 1000)) for i in range(1, 30)]
    full = [a for a in answers if a.status_code == 503]
    assert full and code(full[0]) == (503, "cannot_store") and int(full[0].headers["Retry-After"]) > 0
    stored = [a for a in answers if a.status_code == 201]
    assert store.counts()["episodes"] == 1 + len(stored)


def test_a_database_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check the disk"):
        CollectorStore(f"sqlite:///{tmp_path}/no/such/folder/c.db")
    for url in ("", "nonsense", "oracle+nothing://x", "postgresql+nodriver://x/y"):
        with pytest.raises(ConfigError, match="database URL"):
            CollectorStore(url)


def test_many_gateways_bringing_the_same_episode_at_once_make_it_new_once(store: CollectorStore) -> None:
    bodies = [envelope(i) for i in range(10)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda e: store.put_episode(e.id, e.to_bytes()), bodies * 8))
    assert outcomes.count(Outcome.ACCEPTED) == 10 and outcomes.count(Outcome.DUPLICATE) == 70
    assert len(store.episodes().episodes) == 10


VALID = envelope(3, raw=sample_raw(3)).to_bytes()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip":
            body[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del body[at : at + draw(st.integers(1, 20))]
        elif kind == "insert":
            body[at:at] = draw(
                st.sampled_from([b"\\ud800", b"\\u0000", b'"', b"1e999", b"[[[", b"null", b"\xff", b"-"])
            )
        else:
            body[at:at] = body[at : at + draw(st.integers(1, 200))]
        body = body or bytearray(b"0")
    return bytes(body)


@st.composite
def other_values(draw: st.DrawFn) -> bytes:
    content = json.loads(VALID)
    values = st.none() | st.integers() | st.floats() | st.text(max_size=10) | st.lists(st.integers(), max_size=2)
    for key in draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=3)):
        content[key] = draw(values)
    return json.dumps(content).encode()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300) | mutated() | other_values(), honest_path=st.booleans())
def test_hostile_bodies_are_refused_and_leave_nothing_behind(
    client: AppClient, store: CollectorStore, body: bytes, honest_path: bool
) -> None:
    try:
        parsed: Envelope | None = Envelope.model_validate_json(body)
    except ValueError:
        parsed = None
    id = parsed.id if parsed is not None and honest_path else Envelope.model_validate_json(VALID).id
    answer = client.put(f"/v1/episodes/{id}", content=body, headers=JSON)
    if parsed is None or parsed.id != id:
        assert code(answer) == (422, "invalid_envelope")
        assert store.episode(id) is None or store.episode(id) != body
    else:
        assert answer.status_code in (200, 201, 409)
        kept = store.episode(id)
        assert kept is not None and (kept == body) == (answer.status_code != 409)


def test_a_collector_off_loopback_needs_a_token_and_a_taken_port_is_named(tmp_path: Path) -> None:
    open_settings = CollectorSettings(database_url=f"sqlite:///{tmp_path}/c.db")
    with pytest.raises(ConfigError, match="token"):
        Collector(open_settings, host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match="certificate and a key"):
        Collector(open_settings, port=0, tls_key=tmp_path / "key.pem")
    first = Collector(open_settings, port=0)
    assert first._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "answers would wait for delayed ACKs"
    with pytest.raises(LinkError, match="choose another"):
        Collector(open_settings, port=int(first.url.rpartition(":")[2]))
    first._socket.close()


def test_episodes_lists_what_a_store_and_a_collector_hold(
    sqlite_store: CollectorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert episodes  # importing it registers the command
    database = f"sqlite:///{tmp_path}/collector.db"
    collector = Collector(CollectorSettings(database_url=database), port=0)
    ready = threading.Event()
    thread = threading.Thread(target=collector.run, kwargs={"on_ready": ready.set})
    thread.start()
    try:
        assert ready.wait(60)
        with EpisodeStore(tmp_path / "edge.db") as edge:
            stored = [edge.commit(sample_fields(i)) for i in range(4)]
            for e in stored:
                sqlite_store.put_episode(e.id, e.to_bytes())
        for where in (["--store", str(tmp_path / "edge.db")], ["--url", collector.url]):
            assert main(["episodes", *where, "--json"]) == 0
            rows = json.loads(capsys.readouterr().out)
            assert [row["id"] for row in rows] == [e.id for e in reversed(stored)]
            assert main(["episodes", *where, "--json", "--limit", "1", "--subject", "p02"]) == 0
            assert [row["id"] for row in json.loads(capsys.readouterr().out)] == [stored[1].id]
            assert main(["episodes", stored[2].id, *where]) == 0
            assert json.loads(capsys.readouterr().out)["id"] == stored[2].id
            assert main(["episodes", *where]) == 0
            assert "p03" in capsys.readouterr().out
            assert main(["episodes", "0" * 64, *where]) == 1
        assert main(["episodes", "--url", "http://127.0.0.1:1"]) == 1
        assert main(["episodes"]) == 1
        assert "error:" in capsys.readouterr().err
    finally:
        collector.stop()
        thread.join(10)


def test_a_command_of_collect_does_its_own_work_and_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[object] = []
    monkeypatch.setattr("kinedge.upstream.server.Collector", lambda *_, **kw: served.append(kw))
    assert main(["collect", "audit", "--db", str(tmp_path / "c.db"), "--json"]) == 0
    assert "digest" in json.loads(capsys.readouterr().out) and not served


def test_collect_names_the_extra_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "kinedge.upstream.server")
    assert main(["collect", "--db", str(tmp_path / "c.db"), "--port", "0"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "uvicorn is not installed" in told and "'kinedge[upstream]'" in told
    with pytest.raises(ConfigError, match="no token"):
        read_token(tmp_path / "absent")
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(ConfigError, match="16 characters"):
        read_token(tmp_path / "token")


def test_the_database_is_set_to_survive_a_power_cut(sqlite_store: CollectorStore, tmp_path: Path) -> None:
    store = sqlite_store
    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.put_episode(envelope().id, envelope().to_bytes())
    with sqlite3.connect(tmp_path / "collector.db") as connection:
        assert connection.execute("SELECT count(*) FROM episodes").fetchone() == (1,)


def test_more_uploads_at_once_than_fit_are_asked_to_come_back(store: CollectorStore) -> None:
    app = create_app(CollectorSettings(max_uploads=1), store=store)
    client = AppClient(app)
    app.state.uploads = 1
    answer = put(client, envelope())
    assert code(answer) == (503, "busy") and answer.headers["Retry-After"] == "1"
    app.state.uploads = 0
    assert put(client, envelope()).status_code == 201
    assert app.state.uploads == 0
