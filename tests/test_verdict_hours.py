"""How often each answer was given, by the hour: exact, durable, sealed, forgotten with the person."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.caution import Decision
from kinedge.edge.reasons import Reason
from kinedge.edge.schema import APPLICATION_ID, MIGRATIONS
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault
from kinedge.edge.verdict_hours import VerdictHours, VerdictTally
from kinedge.errors import StoreError

NOON_NS = (1_700_000_000 // 86_400 * 86_400 + 12 * 3600) * 10**9
HOUR_NS = 3600 * 10**9
BASIS = {"model_digest": "a" * 64, "config_digest": "b" * 64, "kinedge_version": "0.1.0"}


def said(decision: Decision, *reasons: tuple[str, str | None]) -> Any:
    """Return what the tally reads of a verdict."""
    found = tuple(Reason(code, code, 5.0 - i, sensor) for i, (code, sensor) in enumerate(reasons))
    return SimpleNamespace(decision=decision, of_all=decision, reasons=found)


BUILDER: Any = SimpleNamespace(hop_s=0.5, provenance=BASIS)
NORMAL, ODD = said(Decision.NORMAL), said(Decision.ANOMALOUS)
LOST = said(Decision.UNSURE, ("no_data", "wrist_left"), ("between", None))


def open_store(folder: Path, *, key: bytes | None = None, read_only: bool = False) -> EpisodeStore:
    vault = None if key is None else Vault(folder / "edge.db.keys", key)
    return EpisodeStore(folder / "edge.db", vault=vault, read_only=read_only)


def test_answers_and_their_heaviest_reasons_are_counted_by_the_hour(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        for i, verdict in enumerate([NORMAL, NORMAL, LOST, ODD]):
            tally.add("p-001", verdict, BUILDER, end_utc_ns=NOON_NS + i * 10**9 + 1)
        tally.add("p-001", LOST, BUILDER, end_utc_ns=NOON_NS + HOUR_NS)  # ends with the hour: still of it
        tally.add("p-001", NORMAL, BUILDER, end_utc_ns=NOON_NS + HOUR_NS + 1)
        tally.add("p-002", NORMAL, BUILDER, end_utc_ns=NOON_NS + 1)
        assert asyncio.run(tally.keep())
        first, second = VerdictHours(store.database).rows(subject="p-001")
    assert first.counts == {"normal": 2, "unsure": 2, "anomalous": 1} and second.counts == {"normal": 1}
    assert first.reasons == {("no_data", "wrist_left"): 2} and first.hop_s == 0.5
    assert first.basis == BASIS and second.hour == first.hour + 1 == NOON_NS // HOUR_NS + 1


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([NORMAL, ODD, LOST]), st.integers(0, 5), st.booleans()), max_size=40))
def test_however_often_it_is_kept_the_sum_is_what_was_said(tmp_path_factory: Any, script: list[Any]) -> None:
    with open_store(tmp_path_factory.mktemp("store")) as store:
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        for verdict, hour, keep in script:
            tally.add("p", verdict, BUILDER, end_utc_ns=NOON_NS + hour * HOUR_NS + 1)
            if keep:
                assert asyncio.run(tally.keep())
        asyncio.run(tally.keep())
        rows = VerdictHours(store.database).rows()
    assert sum(sum(r.counts.values()) for r in rows) == len(script)
    assert sum(r.counts.get("unsure", 0) for r in rows) == sum(v is LOST for v, _, _ in script)


def test_another_model_in_the_same_hour_has_a_row_of_its_own(tmp_path: Path) -> None:
    other: Any = SimpleNamespace(hop_s=0.25, provenance={**BASIS, "model_digest": "c" * 64})
    with open_store(tmp_path) as store:
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        tally.add("p", NORMAL, BUILDER, end_utc_ns=NOON_NS + 1)
        tally.add("p", NORMAL, other, end_utc_ns=NOON_NS + 2)
        asyncio.run(tally.keep())
        assert sorted(r.hop_s for r in VerdictHours(store.database).rows()) == [0.25, 0.5]


def test_local_hours_follow_the_clock_of_the_place_also_by_half_hours(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for zone, subject in (("Asia/Kolkata", "india"), ("UTC", "utc")):
            tally = VerdictTally(VerdictHours(store.database), timezone=zone, note=print)
            tally.add(subject, NORMAL, BUILDER, end_utc_ns=NOON_NS + 45 * 60 * 10**9)
            asyncio.run(tally.keep())
        hours = {r.subject: r.hour for r in VerdictHours(store.database).rows()}
    assert hours["india"] == hours["utc"] + 6  # 12:45 UTC is 18:15 there


def test_what_a_disk_refuses_waits_and_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    with open_store(tmp_path) as store:
        hours = VerdictHours(store.database)
        tally = VerdictTally(hours, timezone="UTC", note=notes.append)
        tally.add("p", NORMAL, BUILDER, end_utc_ns=NOON_NS + 1)
        with monkeypatch.context() as patched:

            def refuse(_: object) -> None:
                tally.add("p", LOST, BUILDER, end_utc_ns=NOON_NS + 2)  # said while the disk is busy refusing
                raise StoreError("the disk is full")

            patched.setattr(hours, "add", refuse)
            assert not asyncio.run(tally.keep())
        assert asyncio.run(tally.keep()) and "disk is full" in notes[0]
        assert hours.rows()[0].counts == {"normal": 1, "unsure": 1}


def test_a_disk_that_refuses_for_ever_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinedge.edge.verdict_hours._MAX_WAITING", 4)
    with open_store(tmp_path) as store:
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        for hour in range(10):
            tally.add("p", NORMAL, BUILDER, end_utc_ns=NOON_NS + hour * HOUR_NS + 1)
        assert tally.n_dropped == 6


def test_sealed_hours_say_nothing_on_the_disk_and_go_with_the_person(tmp_path: Path) -> None:
    key = bytes(range(32))
    with open_store(tmp_path) as store:  # before there was a key
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        tally.add("p", LOST, BUILDER, end_utc_ns=NOON_NS + 1)
        asyncio.run(tally.keep())
    with open_store(tmp_path, key=key) as store:
        hours = VerdictHours(store.database)
        assert hours.seal_what_is_plain() == 1 and hours.seal_what_is_plain() == 0
        tally = VerdictTally(hours, timezone="UTC", note=print)
        tally.add("p", LOST, BUILDER, end_utc_ns=NOON_NS + 2)
        asyncio.run(tally.keep())
        assert hours.rows()[0].counts == {"unsure": 2}
    assert not any(b"no_data" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    with open_store(tmp_path, read_only=True) as store, pytest.raises(StoreError, match="sealed"):
        VerdictHours(store.database).rows()
    with open_store(tmp_path, key=key) as store:
        store.forget("p")
        assert VerdictHours(store.database).rows() == []


def test_a_file_from_before_has_no_hours_and_says_nothing_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "edge.db") as connection:
        for statements in MIGRATIONS[:2]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with open_store(tmp_path, read_only=True) as store:
        assert VerdictHours(store.database).rows() == []


def test_a_damaged_hour_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        tally = VerdictTally(VerdictHours(store.database), timezone="UTC", note=print)
        tally.add("p", LOST, BUILDER, end_utc_ns=NOON_NS + 1)
        asyncio.run(tally.keep())
        with store.database.writing() as connection:
            connection.execute("UPDATE verdict_hours SET content = x'7b7d'")
        with pytest.raises(StoreError, match="hour of answers is damaged"):
            VerdictHours(store.database).rows()


def test_hours_of_answers_go_when_old_episodes_go(tmp_path: Path) -> None:
    now = [NOON_NS]
    with EpisodeStore(tmp_path / "edge.db", wall_clock_ns=lambda: now[0]) as store:
        hours = VerdictHours(store.database)
        tally = VerdictTally(hours, timezone="UTC", note=print)
        for day in (0, 40):
            now[0] = NOON_NS + day * 24 * HOUR_NS
            tally.add("p-001", NORMAL, BUILDER, end_utc_ns=now[0])
            assert asyncio.run(tally.keep())
        store.prune(older_than_s=0, episodes_older_than_s=60 * 86_400)
        assert len(hours.rows()) == 2
        store.prune(older_than_s=0, episodes_older_than_s=30 * 86_400)
        (kept,) = hours.rows()
    assert kept.hour == (NOON_NS - 1) // HOUR_NS + 40 * 24
