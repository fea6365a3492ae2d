"""Days of measures on their way upstream: each arrives once, and the latest row of a day is the one that counts."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measures_feeder import START_UTC_S, feed
from sample_episodes import sample_fields
from test_uplink import Answering

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.edge.measures.person import MeasuresRow
from kinedge.edge.measures_outbox import MeasuresOutbox
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.edge.vault import Vault, is_sealed
from kinedge.errors import KinedgeError, OutboxError
from kinedge.measures_envelope import MeasuresEnvelope, measures_envelope, parse_measures

DAY = "2023-11-14"


def day_fields(i: int = 0, **changes: Any) -> dict[str, Any]:
    """Fields of a day, without id and time."""
    return {
        "site": "home",
        "gateway": "gw-1",
        "subject": "p01",
        "part": "arm",
        "day": str(date(2023, 11, 14) + timedelta(days=i)),
        "complete": True,
        "worn_s": 36_000.0 + i,
        "unworn_s": 7_200.0,
        "missing_s": 60.0,
        "walking_s": 3_000.0,
        "measures": {"use_ratio": {"value": 0.61, "low": 0.55, "high": 0.67, "unit": ""}},
        "watched": {
            "state": "as_usual",
            "trends": {"use_ratio": {"state": "as_usual", "expected": 0.6, "spread": 0.05, "short": 0.2}},
        },
        "config_digest": sha256_hex(b"config"),
        "kinedge_version": "0.1.0",
    } | changes


def day(i: int = 0, *, as_of_utc_ns: int = 1_700_000_000_000_000_000, **changes: Any) -> MeasuresEnvelope:
    return measures_envelope(**day_fields(i, **changes), as_of_utc_ns=as_of_utc_ns)


def queue(store: EpisodeStore, *days: dict[str, Any]) -> MeasuresOutbox:
    outbox = MeasuresOutbox(store.database)
    with store.database.writing() as connection:
        for fields in days:
            outbox.queue(connection, fields)
    return outbox


def test_a_row_comes_back_from_its_bytes_and_its_id_is_that_of_its_content() -> None:
    e = day()
    assert parse_measures(e.to_bytes()) == e and parse_measures(e.to_bytes()).to_bytes() == e.to_bytes()
    assert e.id != day(as_of_utc_ns=1).id != day(worn_s=1.0, as_of_utc_ns=1).id
    content = json.loads(e.to_bytes())
    with pytest.raises(OutboxError, match="id does not follow"):
        parse_measures(canonical_json(content | {"worn_s": 1.0}))
    for bad in ({"day": "2023-02-30"}, {"worn_s": -1.0}, {"worn_s": float("nan")}, {"part": "head"}, {"more": 1}):
        with pytest.raises(OutboxError):
            measures_envelope(**(day_fields() | bad), as_of_utc_ns=1)
    with pytest.raises(OutboxError, match="the limit is"):
        parse_measures(b" " * 70_000)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_rows_are_one_error_and_what_is_read_says_the_same_again(data: st.DataObject) -> None:
    content = json.loads(day().to_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.sampled_from([*content, "other"]))] = data.draw(_JSON)
    content["id"] = data.draw(st.sampled_from([content["id"], "0" * 64]))
    try:
        body = json.dumps(content).encode()
    except ValueError:
        return
    body = data.draw(st.sampled_from([body, body[:-3], b"\xff" + body]))
    try:
        read = parse_measures(body)
    except KinedgeError:
        return
    assert parse_measures(read.to_bytes()) == read


def test_a_newer_row_takes_the_place_of_one_that_waits_whatever_the_clock_says(tmp_path: Path) -> None:
    now = 2_000_000
    with EpisodeStore(tmp_path / "edge.db", wall_clock_ns=lambda: now) as store:
        outbox = queue(store, day_fields(complete=False))
        (first,) = outbox.due()
        now -= 1_000_000
        queue(store, day_fields(complete=False, worn_s=40_000.0))
        (second,) = outbox.due()
        assert outbox.body(first) is None, "it was overtaken"
        outbox.ack(first)
        body = outbox.body(second)
        assert body is not None and parse_measures(body).as_of_utc_ns == 2_000_001
        assert parse_measures(body).worn_s == 40_000.0
        outbox.ack(second)
        assert outbox.due() == [] and outbox.counts() == {"DONE": 1}
        queue(store, day_fields(), day_fields(1))
        assert [d.day for d in outbox.due()] == [19_675, 19_676], "the day that is over goes again, oldest first"


def test_what_makes_no_row_is_told_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        row = MeasuresRow("arm", "day", 1, {"worn_s": 5.0})
        MeasuresStore(store.database).save("p01", [row], {}, outgoing=[day_fields(worn_s=1e9)])
        assert len(MeasuresStore(store.database).rows()) == 1
        assert MeasuresOutbox(store.database).due() == []
        (told,) = store.events("measures_not_sendable")
    assert "worn_s" in told["reason"]


def test_days_are_sealed_on_their_way_and_go_when_the_person_is_forgotten(tmp_path: Path) -> None:
    def bodies(store: EpisodeStore) -> list[bytes]:
        with store.database.reading() as connection:
            return [bytes(b) for (b,) in connection.execute("SELECT body FROM measures_outbox")]

    with EpisodeStore(tmp_path / "edge.db") as store:
        queue(store, day_fields())
        assert b"use_ratio" in bodies(store)[0]
    key = Vault(tmp_path / "keys", b"k" * 32)
    with EpisodeStore(tmp_path / "edge.db", vault=key) as store:
        assert is_sealed(bodies(store)[0]), "what was plain is sealed when the file is opened"
        outbox = queue(store, day_fields(1), day_fields(1, subject="p02"))
        assert all(is_sealed(b) for b in bodies(store))
        assert {parse_measures(outbox.body(d) or b"").subject for d in outbox.due()} == {"p01", "p02"}
        store.forget("p01")
        assert [d.subject for d in outbox.due()] == ["p02"]


async def steps(store: EpisodeStore, handler: Callable[[httpx.Request], httpx.Response], n: int) -> Uplink:
    now = 0

    def clock() -> int:
        return now

    client = httpx.AsyncClient(transport=Answering(handler))
    limits = UplinkLimits(first_backoff_s=0.1)
    async with Uplink(
        store, "http://127.0.0.1:1", client=client, limits=limits, monotonic_ns=clock, rng=random.Random(1)
    ) as uplink:
        for _ in range(n):
            await uplink.step()
            now += 3 * 10**9
    await client.aclose()
    return uplink


def test_episodes_go_first_then_days_then_raw_data(tmp_path: Path) -> None:
    asked: list[str] = []

    def collector(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.split("/")[2] + request.url.path[-4:])
        return httpx.Response(201, json={"id": request.url.path.split("/")[3], "status": "accepted"})

    with EpisodeStore(tmp_path / "edge.db") as store:
        raw = b"raw" * 100
        id = store.commit(sample_fields(0, raw=raw), raw).id
        outbox = queue(store, day_fields(), day_fields(1))
        days = [d.id for d in outbox.due()]
        uplink = asyncio.run(steps(store, collector, 4))
        assert outbox.counts() == {"DONE": 2}
    assert asked == [f"episodes{id[-4:]}", f"measures{days[0][-4:]}", f"measures{days[1][-4:]}", "episodes/raw"]
    assert (uplink.counters.sent, uplink.counters.measures) == (2, 2)


@pytest.mark.parametrize("status", [404, 405])
def test_a_collector_of_before_is_asked_once_an_hour_and_gets_its_episodes(tmp_path: Path, status: int) -> None:
    n_asked = 0

    def collector(request: httpx.Request) -> httpx.Response:
        nonlocal n_asked
        if "/measures/" in request.url.path:
            n_asked += 1
            return httpx.Response(status, json={"error": {"code": "not_found", "message": "Not Found"}})
        return httpx.Response(201, json={"id": request.url.path.split("/")[3], "status": "accepted"})

    with EpisodeStore(tmp_path / "edge.db") as store:
        outbox = queue(store, *(day_fields(i) for i in range(5)))
        store.commit(sample_fields(0))
        uplink = asyncio.run(steps(store, collector, 10))
        store.commit(sample_fields(3))
        uplink = asyncio.run(steps(store, collector, 1))
        assert outbox.counts() == {"READY": 5} and uplink.counters.sent == 1
    assert n_asked == 1 and uplink.counters.last_error is None


def test_a_day_that_is_refused_or_chokes_the_collector_holds_up_no_other(tmp_path: Path) -> None:
    refused: list[str] = []

    def collector(request: httpx.Request) -> httpx.Response:
        e = parse_measures(request.content)
        if e.day == "2023-11-14":
            refused.append(e.id)
            return httpx.Response(422, json={"error": {"code": "invalid_envelope", "message": "no"}})
        if e.day == "2023-11-15" and len(refused) < 2:
            refused.append("choked")
            return httpx.Response(500, json={"error": {"code": "fault", "message": "?"}})
        return httpx.Response(201, json={"id": e.id, "status": "accepted"})

    with EpisodeStore(tmp_path / "edge.db") as store:
        outbox = queue(store, *(day_fields(i) for i in range(3)))
        uplink = asyncio.run(steps(store, collector, 6))
        assert outbox.counts() == {"DONE": 2, "FAILED": 1}
        assert [e["measures"] for e in store.events("measures_quarantined")] == refused[:1]
    assert uplink.counters.measures == 2


def test_days_wait_while_nothing_gets_through(tmp_path: Path) -> None:
    def collector(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no network")

    with EpisodeStore(tmp_path / "edge.db") as store:
        outbox = queue(store, *(day_fields(i) for i in range(3)))
        uplink = asyncio.run(steps(store, collector, 8))
        assert outbox.counts() == {"READY": 3}
    assert "no network" in str(uplink.counters.last_error)


def test_a_running_gateway_queues_the_day_under_way_and_days_of_before(tmp_path: Path) -> None:
    before = START_UTC_S // 86_400 - 1
    with EpisodeStore(tmp_path / "edge.db") as store:
        content = {
            k: v for k, v in day_fields().items() if k.endswith("_s") or k in ("complete", "measures", "watched")
        }
        MeasuresStore(store.database).save("p-001", [MeasuresRow("arm", "day", before, content)], {})
    asyncio.run(feed(tmp_path / "edge.db", 0, 150))
    with EpisodeStore(tmp_path / "edge.db") as store:
        outbox = MeasuresOutbox(store.database)
        rows = [parse_measures(outbox.body(d) or b"") for d in outbox.due()]
        assert [(r.day, r.complete) for r in rows] == [("2023-11-13", True), (DAY, False)]
        assert rows[1].site == "s" and rows[1].gateway == "g" and rows[1].watched is None
        assert rows[1].worn_s <= 61, "the first row of a day, and no more of it within three hours"
        first = rows[1].id
    asyncio.run(feed(tmp_path / "edge.db", 150, 160))
    with EpisodeStore(tmp_path / "edge.db") as store:
        outbox = MeasuresOutbox(store.database)
        assert [d.id == first for d in outbox.due()] == [False, False], "a restart tells the day again"
        assert len(outbox.due()) == 2
