"""What the desk's page asks of the collector, on both databases: days of measures, lists, calendar, lines, sessions."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_episodes import sample_fields
from test_collector import AppClient, code, envelope, put
from test_collector_data import unsure
from test_measures_upstream import day, day_fields, queue
from test_uplink import Clock, make_uplink, to_app

from kinedge.edge.episodes import RAW_MEDIA_TYPE, pack_raw
from kinedge.edge.measures_outbox import MeasuresOutbox
from kinedge.edge.store import EpisodeStore
from kinedge.errors import BundleError
from kinedge.upstream.api import create_app
from kinedge.upstream.schema import AUDIT, MEASURES, SESSIONS
from kinedge.upstream.series import RAW_MEDIA_TYPE as SHOWN_MEDIA_TYPE
from kinedge.upstream.series import series_of
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore, Outcome

JSON = {"Content-Type": "application/json"}
DAY_NS = 86_400 * 10**9
CHANNELS = ("wrist_left.acc_x", "wrist_left.gyr_z")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CollectorStore]:
    url = f"sqlite:///{tmp_path}/collector.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_url()
    opened = CollectorStore(url)
    yield opened
    opened.close()


@pytest.fixture
def client(store: CollectorStore) -> AppClient:
    return AppClient(create_app(CollectorSettings(), store=store))


def put_day(client: AppClient, e: Any, body: bytes | None = None) -> Any:
    return client.put(f"/v1/measures/{e.id}", content=body or e.to_bytes(), headers=JSON)


def test_the_latest_row_of_a_day_counts_in_whatever_order_they_come(client: AppClient, store: CollectorStore) -> None:
    morning, noon, night = (day(as_of_utc_ns=t, complete=t == 3, worn_s=1000.0 * t) for t in (1, 2, 3))
    assert put_day(client, noon).status_code == 201
    assert put_day(client, noon).json() == {"id": noon.id, "status": "duplicate"}
    late = put_day(client, morning)
    assert (late.status_code, late.json()["status"]) == (200, "superseded")
    assert put_day(client, night).status_code == 201
    other = day(as_of_utc_ns=3, complete=True, worn_s=1.0)
    assert code(put_day(client, other)) == (409, "conflict")
    (row,) = client.get("/v1/measures").json()["days"]
    assert (row["id"], row["worn_s"], row["complete"]) == (night.id, 3000.0, True)
    assert store.counts()["accepted_measures"] == 2
    store.verify_audit()


@pytest.mark.parametrize("body", [b"{", b"{}", b"\x00", b"[" * 50_000, day().to_bytes().replace(b"p01", b"p02")])
def test_what_is_no_day_is_refused_and_counted(client: AppClient, store: CollectorStore, body: bytes) -> None:
    assert code(put_day(client, day(), body)) == (422, "invalid_envelope")
    assert code(client.put(f"/v1/measures/{day().id}", content=b"x" * 70_000, headers=JSON)) == (413, "too_large")
    assert store.counts()["refused"] == 1
    assert client.get("/v1/measures").json() == {"days": [], "next_cursor": None}


def test_days_are_filtered_paged_and_exported(client: AppClient) -> None:
    for i in range(5):
        put_day(client, day(i, subject="p02" if i == 4 else "p01", part="gait" if i == 3 else "arm"))
    cases = {
        "": [0, 1, 2, 3, 4],
        "subject=p01&part=arm": [0, 1, 2],
        "since=2023-11-15&until=2023-11-17": [1, 2],
        "gateway=gw-9": [],
        "order=newest&limit=2": [3, 4],
    }
    for query, expected in cases.items():
        found = client.get(f"/v1/measures?{query}").json()["days"]
        assert [d["day"] for d in found] == [f"2023-11-{14 + i}" for i in expected], query
    first = client.get("/v1/measures?limit=3").json()
    rest = client.get(f"/v1/measures?limit=3&cursor={first['next_cursor']}").json()
    assert [d["day"][-2:] for d in first["days"] + rest["days"]] == ["14", "15", "16", "17", "18"]
    put_day(client, day(0, as_of_utc_ns=2_000_000_000_000_000_000, worn_s=5.0))
    (grown,) = client.get(f"/v1/measures?cursor={rest['days'][-1]['arrival']}").json()["days"]
    assert grown["day"] == "2023-11-14", "who follows the arrivals sees that a day grew"
    assert code(client.get("/v1/measures?since=yesterday")) == (422, "invalid_request")
    assert code(client.get("/v1/measures?limit=801")) == (422, "invalid_request")
    (short, *_) = client.get("/v1/measures?limit=801&brief=true").json()["days"]
    assert short["watched"] == {"state": "as_usual", "trends": {}} and short["measures"] == {} and short["worn_s"] > 0

    lines = client.get("/v1/measures/export?subject=p01").text.splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["measures"]["use_ratio"]["value"] == 0.61
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/measures/export?format=csv").text)))
    assert (rows[0]["measure"], rows[0]["value"], rows[0]["expected"], rows[0]["trend"]) == (
        "use_ratio", "0.61", "0.6", "as_usual",
    )  # fmt: skip
    table = pq.read_table(io.BytesIO(client.get("/v1/measures/export?format=parquet").content))
    assert table.num_rows == len(rows) == 5 and table["worn_s"].to_pylist()[-1] == 5.0


def test_days_of_a_gateway_arrive_over_the_uplink_once(store: CollectorStore, tmp_path: Path) -> None:
    with EpisodeStore(tmp_path / "edge.db") as edge:
        outbox = queue(edge, *(day_fields(i) for i in range(20)))

        async def send() -> None:
            uplink = make_uplink(edge, to_app(store), Clock())
            for _ in range(4):
                await uplink.step()
            assert uplink.counters.measures == 20 and uplink.counters.last_error is None

        asyncio.run(send())
        assert outbox.counts() == {"DONE": 20}
        with edge.database.writing() as connection:  # the answers were lost
            connection.execute("UPDATE measures_outbox SET state = 'READY' WHERE day < 19680")
        assert MeasuresOutbox(edge.database).counts() == {"DONE": 15, "READY": 5}
    with store.database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(MEASURES)) == 20


def test_the_desk_lists_by_start_with_sentences_and_pages_through_all(client: AppClient, store: CollectorStore) -> None:
    order = [3, 0, 4, 1, 2]
    for i in order:
        put(client, unsure(i) if i == 4 else envelope(i))
    store.review(envelope(1).id, "confirm", comment="", who="anna")
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"/v1/desk/episodes?limit=2{cursor and f'&cursor={cursor}'}").json()
        seen += [line["sentence"]["en"][:9] for line in page["episodes"]]
        cursor = page["next_cursor"]
    assert seen == [f"Episode {i}" for i in (4, 3, 2, 1, 0)]
    oldest = client.get("/v1/desk/episodes?order=oldest&limit=2").json()
    assert [line["start_utc_ns"] for line in oldest["episodes"]] == [envelope(i).start_utc_ns for i in (0, 1)]
    (line,) = client.get("/v1/desk/episodes?status=confirmed").json()["episodes"]
    assert (line["kind"], line["top_sensor"], line["has_raw"]) == ("moment", "wrist_left", False)
    (line,) = client.get("/v1/desk/episodes?decision=unsure").json()["episodes"]
    assert line["id"] == unsure(4).id
    for bad in ("cursor=1", "cursor=9-9-9", "order=best", "limit=0", f"cursor={'9' * 40}-1"):
        assert client.get(f"/v1/desk/episodes?{bad}").status_code == 422, bad
    assert client.get(f"/v1/desk/episodes?cursor={'9' * 19}-{'9' * 18}").status_code == 200


def test_one_episode_comes_with_reviews_and_its_neighbours(client: AppClient, store: CollectorStore) -> None:
    mine = [envelope(i) for i in (0, 3, 6)]  # of one person
    for e in [*mine, envelope(1)]:
        put(client, e)
    store.review(mine[1].id, "comment", comment="<b>seen</b>", who="anna")
    found = client.get(f"/v1/desk/episodes/{mine[1].id}").json()
    assert found["envelope"] == json.loads(mine[1].to_bytes())
    assert (found["earlier"], found["later"]) == (mine[0].id, mine[2].id)
    assert found["reviews"][0]["comment"] == "<b>seen</b>" and found["line"]["status"] == "new"
    first = client.get(f"/v1/desk/episodes/{mine[0].id}").json()
    assert (first["earlier"], first["later"]) == (None, mine[1].id)
    assert code(client.get(f"/v1/desk/episodes/{'0' * 64}")) == (404, "not_found")


def test_a_calendar_counts_local_days_across_summer_time(client: AppClient) -> None:
    # 2023-03-26, 01:30 UTC is 03:30 in Paris; 2023-03-25, 23:30 UTC is already the 26th there
    for i, start in enumerate((1_679_787_000, 1_679_794_200, 1_679_868_000)):
        put(client, envelope(0, start_utc_ns=start * 10**9, end_utc_ns=(start + 1) * 10**9, sequence=i + 1))
    put(
        client, envelope(1, start_utc_ns=1_679_794_200 * 10**9, end_utc_ns=1_679_794_201 * 10**9, trail=unsure(1).trail)
    )

    def days(zone: str) -> list[tuple[str, str, int, int]]:
        found = client.get(f"/v1/timeline?zone={zone}").json()
        assert found["whole"]
        return [(d["subject"], d["day"][5:], d["anomalous"], d["unsure"]) for d in found["days"]]

    assert days("Europe/Paris") == [("p01", "03-26", 2, 0), ("p01", "03-27", 1, 0), ("p02", "03-26", 0, 1)]
    assert days("UTC") == [("p01", "03-25", 1, 0), ("p01", "03-26", 2, 0), ("p02", "03-26", 0, 1)]
    for bad in ("Mars/Base", "../../etc/passwd", "Europe/", "Europe"):
        assert client.get("/v1/timeline", params={"zone": bad}).status_code == 422, bad
    assert client.get("/v1/timeline?subject=p02").json()["days"][0]["new"] == 1


def test_people_are_those_with_episodes_or_measures(client: AppClient) -> None:
    put(client, envelope(0))
    put(client, envelope(3))
    put_day(client, day(subject="p01"))
    put_day(client, day(subject="p09"))
    people = client.get("/v1/subjects").json()["subjects"]
    assert [(p["subject"], p["n_episodes"], p["n_new"], p["last_day"]) for p in people] == [
        ("p01", 2, 2, "2023-11-14"),
        ("p09", 0, 0, "2023-11-14"),
    ]
    assert [p["subject"] for p in client.get("/v1/subjects?after=p01").json()["subjects"]] == ["p09"]


def with_samples(values: Any, valid: Any) -> tuple[Any, bytes]:
    raw = pack_raw(values, valid, CHANNELS, start_utc_ns=10**18, rate_hz=50.0)

    return envelope(0, raw=raw), raw


def test_lines_keep_every_peak_and_every_gap(client: AppClient, store: CollectorStore) -> None:
    n = 4001
    values = np.zeros((n, 2), np.float32)
    values[1234, 0], values[1235, 0], values[:, 1] = 50.0, -40.0, np.sin(np.arange(n) / 20)
    valid = np.ones((n, 2), bool)
    valid[2000:2400, 1] = False
    e, raw = with_samples(values, valid)
    put(client, e)
    assert code(client.get(f"/v1/episodes/{e.id}/series")) == (404, "not_found")
    assert store.put_raw(e.id, raw) is Outcome.ACCEPTED
    found = client.get(f"/v1/episodes/{e.id}/series?points=100").json()
    assert (found["n_samples"], found["samples_per_point"], found["rate_hz"]) == (n, 41, 50.0)
    acc, gyr = found["channels"]
    assert (acc["sensor"], acc["channel"], acc["unit"], gyr["unit"]) == ("wrist_left", "acc_x", "m/s²", "rad/s")
    assert len(acc["low"]) == len(acc["high"]) == 98
    assert max(acc["high"]) == pytest.approx(50, abs=0.01) and min(acc["low"]) == pytest.approx(-40, abs=0.01)
    gone = [i for i, v in enumerate(gyr["low"]) if v is None]
    assert gone == list(range(49, 58)), "what was not received is a gap"
    assert gyr["missing"][48] == pytest.approx(9 / 41, abs=1e-3) and set(acc["missing"]) == {0.0}
    whole = client.get(f"/v1/episodes/{e.id}/series?points=2000").json()
    assert whole["samples_per_point"] == 3
    assert client.get(f"/v1/episodes/{e.id}/series?points=100000").status_code == 422
    assert SHOWN_MEDIA_TYPE == RAW_MEDIA_TYPE


def test_a_blob_that_is_no_slice_says_so(client: AppClient, store: CollectorStore) -> None:
    for i, raw in enumerate((b"no zip", b"PK\x03\x04" + bytes(100))):
        e = envelope(i, raw=raw)
        put(client, e)
        assert store.put_raw(e.id, raw) is Outcome.ACCEPTED
        assert code(client.get(f"/v1/episodes/{e.id}/series")) == (404, "not_readable")


_ARRAYS = {
    "counts": st.lists(st.lists(st.integers(-32768, 32767), min_size=2, max_size=2), max_size=6),
    "scale_si": st.lists(st.floats(), max_size=3),
    "channels": st.lists(st.sampled_from([*CHANNELS, "\ud800.acc_x", "x" * 99 + ".acc_x", "acc", ""]), max_size=3),
    "start_utc_ns": st.integers(-(2**63), 2**63 - 1),
    "rate_hz": st.floats(),
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_blob_becomes_lines_that_json_can_hold_or_one_error(data: st.DataObject) -> None:
    good = {"counts": [[1, 2]], "scale_si": [1.0, 2.0], "channels": list(CHANNELS), "start_utc_ns": 5, "rate_hz": 50.0}
    wrong = data.draw(st.sets(st.sampled_from([*good]), max_size=2))
    content = {name: data.draw(_ARRAYS[name]) if name in wrong else value for name, value in good.items()}
    dtype = data.draw(st.sampled_from([np.int16, np.int16, np.float64, np.int64]))
    out = io.BytesIO()
    np.savez(out, **{k: np.array(v, dtype if k == "counts" else None) for k, v in content.items()})  # type: ignore[arg-type]
    try:
        series = series_of(out.getvalue(), where="a blob", max_points=10)
    except BundleError as e:
        assert "a blob" in str(e) and (wrong or dtype is not np.int16)
        return
    json.dumps(series, allow_nan=False, ensure_ascii=False).encode()
    assert len(series["channels"][0]["low"]) <= 10


TOKEN = "a-token-of-a-desk"


def browser(store: CollectorStore, **options: Any) -> AppClient:
    return AppClient(create_app(CollectorSettings(token=TOKEN, **options), store=store))


def test_a_session_begins_with_a_token_and_ends_at_once(store: CollectorStore) -> None:
    page = browser(store)
    nobody = page.get("/v1/session").json()
    assert (nobody["authorised"], nobody["by_token"], nobody["by_provider"]) == (False, True, False)
    assert code(page.request("POST", "/v1/session", json={"token": "x" * 16})) == (401, "unauthorized")
    answer = page.request("POST", "/v1/session", json={"token": TOKEN, "name": "A. Martin\n"})
    assert answer.status_code == 201 and answer.json()["may_review"]
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    me = {"Cookie": cookie.split(";")[0]}
    assert page.get("/v1/session", headers=me).json()["name"] == "desk (A. Martin)"
    e = envelope()
    store.put_episode(e.id, e.to_bytes())
    assert page.get("/v1/desk/episodes", headers=me).status_code == 200
    url, said = f"/v1/episodes/{e.id}/reviews", {"action": "confirm"}
    for other in (
        {},
        {"X-Kinedge": "1", "Origin": "https://elsewhere.example"},
        {"X-Kinedge": "1", "Origin": "null"},
        {"X-Kinedge": "1", "Sec-Fetch-Site": "same-site"},
    ):
        assert code(page.request("POST", url, json=said, headers=me | other)) == (403, "cross_site"), other
    ours = me | {"X-Kinedge": "1", "Origin": "http://127.0.0.1"}
    assert page.request("POST", url, json=said, headers=ours).status_code == 201
    assert store.reviews(e.id)[0].reviewer == "desk (A. Martin)"
    assert code(page.put(f"/v1/episodes/{e.id}", content=e.to_bytes(), headers=ours | JSON)) == (403, "forbidden")
    assert page.request("POST", "/v1/session/end", headers=ours).status_code == 200
    assert code(page.get("/v1/desk/episodes", headers=me)) == (401, "unauthorized")
    assert page.get("/v1/session", headers=me).json()["authorised"] is False
    with store.database.reading() as connection:
        events = list(connection.scalars(sa.select(AUDIT.c.event).order_by(AUDIT.c.n)))
        assert connection.scalar(sa.select(sa.func.count()).select_from(SESSIONS)) == 0
    assert [e for e in events if e.startswith("signed")] == ["signed_in", "signed_out"]


def test_a_session_ends_with_its_hours_and_survives_a_restart(store: CollectorStore) -> None:
    page = browser(store, session_hours=2)
    cookie = page.request("POST", "/v1/session", json={"token": TOKEN}).headers["Set-Cookie"]
    assert "Max-Age=7200" in cookie
    me = {"Cookie": cookie.split(";")[0]}
    assert browser(store).get("/v1/desk/episodes", headers=me).status_code == 200, "another process of the fleet"
    changed = AppClient(create_app(CollectorSettings(token="another-token-of-it"), store=store))
    assert code(changed.get("/v1/desk/episodes", headers=me)) == (401, "unauthorized"), "a new token ends all of them"
    now = store.database.wall_clock_ns()
    store.database.wall_clock_ns = lambda: now + 7_201 * 10**9
    assert code(browser(store).get("/v1/desk/episodes", headers=me)) == (401, "unauthorized")
    for odd in ("kinedge_session=", "kinedge_session=%00", 'a="\\', "kinedge_session=" + "x" * 5000, "x" * 9000):
        assert browser(store).get("/v1/desk/episodes", headers={"Cookie": odd}).status_code == 401, odd


def test_a_page_of_somebody_else_changes_nothing_at_an_open_desk(client: AppClient, store: CollectorStore) -> None:
    e = envelope()
    put(client, e)
    url, said = f"/v1/episodes/{e.id}/reviews", {"action": "dismiss"}
    for origin in ("https://evil.example", "http://127.0.0.1:8080", "null"):
        assert code(client.request("POST", url, json=said, headers={"Origin": origin})) == (403, "cross_site")
    assert client.request("POST", url, json=said, headers={"Origin": "http://127.0.0.1"}).status_code == 201
    assert client.request("POST", url, json=said).status_code == 201, "a program sends no origin"


def test_the_page_comes_whole_under_a_strict_policy(client: AppClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["Cache-Control"] == "no-cache"
    import re

    for path in re.findall(r'(?:src|href)="\./([^"]+)"', page.text):
        part = client.get(f"/{path}")
        assert part.status_code == 200 and "immutable" in part.headers["Cache-Control"], path
        assert client.request("HEAD", f"/{path}").status_code == 200
    for path in ("/assets/../index.html", "/assets/%2e%2e/desk.py", "/assets/x", "/pages.py", "/static/index.html"):
        assert client.get(path).status_code == 404, path
    assert "default-src 'none'" in client.get("/v1/episodes").headers["Content-Security-Policy"]
    assert sample_fields(0)["sentence"] not in page.text, "data comes later, to whoever may see it"
