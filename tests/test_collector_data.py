"""What the collector keeps and gives: filters, exports, reviews, order of arrival, an audit that shows changes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from database_server import url_of
from sample_episodes import sample_fields, sample_raw
from test_collector import AppClient, code, envelope, put

from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.errors import StoreError
from kinedge.upstream import refusals
from kinedge.upstream.api import create_app
from kinedge.upstream.schema import AUDIT
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore
from kinedge.upstream.summary import Filter


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
