"""The episode store and its outbox: what is kept, what goes out next, and what may go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_episodes import GATEWAY, sample_fields, sample_raw
from stored_episodes import claimed, commit

from kinedge.canonical import sha256_hex
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import is_sealed
from kinedge.envelope import parse_envelope
from kinedge.errors import StoreError

DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore(tmp_path / "edge.db") as opened:
        yield opened


def test_a_commit_stores_episode_raw_and_outbox_rows_and_drops_the_draft(store: EpisodeStore) -> None:
    raw = sample_raw(7)
    store.save_draft("p01/1", {"subject": "p01"}, b"so far")
    envelope = store.commit(sample_fields(7, raw=raw), raw, draft_key="p01/1")
    assert envelope.sequence == 1
    assert envelope.raw is not None and envelope.raw.sha256 == sha256_hex(raw) and envelope.raw.n_bytes == len(raw)
    stored = store.episode(envelope.id)
    assert stored is not None and stored.envelope == envelope
    assert (stored.episode_state, stored.raw_state) == ("READY", "READY")
    assert store.raw(envelope.id) == raw
    assert store.open_drafts() == []
    counts = store.counts()
    assert (counts.episodes, counts.ready, counts.raw_blobs, counts.raw_bytes) == (1, 2, 1, len(raw))


def test_committing_the_same_episode_again_changes_nothing_and_returns_the_stored_one(store: EpisodeStore) -> None:
    first = store.commit(sample_fields(1))
    other_words = store.commit(sample_fields(1, sentence="other words"), draft_key="never saved")
    assert other_words == first
    assert store.commit(first) == first
    assert store.counts().episodes == 1
    assert store.commit(sample_fields(4)).sequence == 2


def test_sequence_numbers_run_per_gateway_and_subject(store: EpisodeStore) -> None:
    got = [
        store.commit(sample_fields(i, subject=s)).sequence for i, s in enumerate(["p01", "p02", "p01", "p02", "p03"])
    ]
    assert got == [1, 1, 2, 2, 1]
    assert store.commit(sample_fields(9, subject="p01", gateway="gw-2")).sequence == 1


@pytest.mark.parametrize(
    ("changes", "raw", "message"),
    [
        ({"site": "no spaces allowed"}, None, "site"),
        ({"peak_score": float("nan")}, None, "peak_score"),
        ({"end_utc_ns": 0}, None, "end_utc_ns"),
        ({"unheard_of": 1}, None, "unheard_of"),
        ({"start_utc_ns": 1.5}, None, "start_utc_ns"),
        ({"sensors": None}, None, "envelope"),
        ({"sentence": "\ud800"}, None, "sentence"),
        ({}, b"a blob that nothing describes", "neither"),
        ({"raw": {"sha256": "0" * 64}}, b"another blob", "not the one"),
        ({"raw": {"rate_hz": 50}}, None, "missing"),
    ],
)
def test_what_makes_no_envelope_is_refused_and_takes_no_sequence_number(
    store: EpisodeStore, changes: dict[str, object], raw: bytes | None, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.commit(sample_fields(1) | changes, raw)
    assert store.counts().episodes == 0
    assert store.commit(sample_fields(0)).sequence == 1


def test_an_envelope_too_long_for_the_wire_is_refused_before_it_is_stored(store: EpisodeStore) -> None:
    point = sample_fields(0)["trail"][0]
    with pytest.raises(StoreError, match="shorten the trail"):
        store.commit(sample_fields(0, trail=[{**point, "reasons": ["x" * 1000]}] * 1200))


def test_drafts_survive_a_restart_with_their_last_content(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        store.save_draft("b", {"n": 1})
        store.save_draft("a", {"n": 1}, b"one")
        store.save_draft("a", {"n": 2, "who": "p01"}, b"two")
        store.save_draft("gone", {})
        store.discard_draft("gone", reason="too short")
    with EpisodeStore(path) as store:
        assert [(d.key, d.content, d.raw) for d in store.open_drafts()] == [
            ("b", {"n": 1}, b""),
            ("a", {"n": 2, "who": "p01"}, b"two"),
        ]
        with pytest.raises(StoreError, match="JSON"):
            store.save_draft("a", {"n": float("inf")})
        assert len(store.open_drafts()) == 2


def test_episodes_are_listed_newest_first_and_by_subject(store: EpisodeStore) -> None:
    for i in (2, 0, 3, 1):
        commit(store, i, subject=f"p0{i % 2}")
    starts = [s.envelope.start_utc_ns for s in store.episodes()]
    assert starts == sorted(starts, reverse=True) and len(starts) == 4
    assert {s.envelope.subject for s in store.episodes(subject="p01")} == {"p01"}
    assert len(store.episodes(limit=2)) == 2
    assert store.episodes(subject="' OR 1=1 --") == []


def test_alerts_leave_before_raw_blobs_and_a_raw_blob_waits_for_its_episode(store: EpisodeStore) -> None:
    ids = [commit(store, i, subject=f"p0{i}") for i in range(3)]
    first = claimed(store, limit=2)
    assert [(r.episode_id, r.kind, r.attempts) for r in first] == [(ids[0], "episode", 1), (ids[1], "episode", 1)]
    store.outbox.ack(first[0])
    rest = claimed(store)
    assert [(r.episode_id, r.kind) for r in rest] == [(ids[2], "episode"), (ids[0], "raw")]
    assert store.outbox.body(rest[1]) == sample_raw(0)
    body = store.outbox.body(rest[0])
    assert body is not None and parse_envelope(body).id == ids[2]
    assert claimed(store) == []


def test_a_subject_waits_for_its_earliest_episode_while_others_go_on(store: EpisodeStore) -> None:
    for i, subject in enumerate(["p01", "p01", "p02"]):
        store.commit(sample_fields(i, subject=subject))
    first, second, other = claimed(store)
    store.outbox.release([second])
    store.outbox.retry(first, now_monotonic_ns=0, delay_s=10.0, error="no answer")
    store.outbox.ack(other)
    assert claimed(store, now=9_999_999_999) == []
    again = claimed(store, now=10_000_000_000)
    assert [(r.episode_id, r.attempts) for r in again] == [(first.episode_id, 2), (second.episode_id, 1)]


def test_a_lock_outlives_neither_its_lease_nor_its_process(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        store.commit(sample_fields(0))
        (row,) = claimed(store, now=0)
        assert claimed(store, now=60 * 10**9) == []
        assert [r.attempts for r in claimed(store, now=16 * 60 * 10**9)] == [2]
        store.outbox.retry(row, now_monotonic_ns=10**18, delay_s=300, error="x")
    with EpisodeStore(path) as store:  # the monotonic clock began anew
        assert [r.episode_id for r in claimed(store, now=0)] == [row.episode_id]
    with EpisodeStore(path) as store:
        assert [r.attempts for r in claimed(store, now=0)] == [4]


def test_a_refused_episode_takes_its_raw_blob_into_quarantine_and_frees_the_subject(store: EpisodeStore) -> None:
    first = commit(store, 0)
    second = commit(store, 1)
    rows = claimed(store)
    store.outbox.quarantine(rows[0], "409: other content")
    stored = store.episode(first)
    assert stored is not None and (stored.episode_state, stored.raw_state) == ("FAILED", "FAILED")
    store.outbox.ack(rows[1])
    assert [(r.episode_id, r.kind) for r in claimed(store)] == [(second, "raw")]
    assert store.counts().quarantined == 2
    assert store.raw(first) == sample_raw(0)


def test_an_acknowledgement_stands_even_when_a_late_refusal_follows(store: EpisodeStore) -> None:
    store.commit(sample_fields(0))
    (row,) = claimed(store)
    store.outbox.ack(row)
    store.outbox.quarantine(row, "late")
    store.outbox.retry(row, now_monotonic_ns=0, delay_s=0, error="late")
    assert store.counts().done == 1


def test_an_episode_the_collector_forgot_is_queued_again_even_after_pruning(tmp_path: Path) -> None:
    now = [10**18]
    with EpisodeStore(tmp_path / "edge.db", wall_clock_ns=lambda: now[0]) as store:
        commit(store, 0)
        store.outbox.ack(claimed(store)[0])
        (raw,) = claimed(store)
        now[0] += 10**9
        store.prune(older_than_s=0)
        store.outbox.resend_episode(raw, reason="404")
        store.outbox.retry(raw, now_monotonic_ns=0, delay_s=0, error="404")
        assert [r.kind for r in claimed(store)] == ["episode"]


def test_pruning_removes_acknowledged_work_after_its_days_and_nothing_else(tmp_path: Path) -> None:
    now = [1_700_000_000 * 10**9]
    with EpisodeStore(tmp_path / "edge.db", wall_clock_ns=lambda: now[0]) as store:
        sent, unsent = commit(store, 0), commit(store, 1)
        (row,) = claimed(store, limit=1)
        store.outbox.ack(row)
        (raw,) = store.outbox.claim(0, kinds=("raw",))
        store.outbox.ack(raw)
        now[0] += int(6.9 * DAY_S * 1e9)
        assert store.prune(older_than_s=7 * DAY_S).outbox_rows == 0
        now[0] += int(0.2 * DAY_S * 1e9)
        pruned = store.prune(older_than_s=7 * DAY_S)
        assert (pruned.outbox_rows, pruned.raw_blobs, pruned.raw_bytes) == (2, 1, 2000)
        assert store.raw(sent) is None and store.raw(unsent) == sample_raw(1)
        assert store.counts().episodes == 2 and store.counts().ready == 2
        store.verify_audit()


def test_threads_may_share_a_store(store: EpisodeStore) -> None:
    def work(subject: str) -> None:
        for i in range(20):
            store.commit(sample_fields(i, subject=subject))
            store.save_draft(subject, {"i": i})

    threads = [threading.Thread(target=work, args=(f"t{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        found = store.episodes(subject=f"t{k}")
        assert [s.envelope.sequence for s in found] == list(range(20, 0, -1))
    assert store.verify_audit().n_rows == 84
    assert {s.envelope.gateway for s in store.episodes()} == {GATEWAY}


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=4
    ),
    st.text(min_size=1, max_size=20),
    st.binary(max_size=50).filter(lambda raw: not is_sealed(raw)),  # samples are a zip, and never begin like a seal
)
def test_a_draft_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object], key: str, raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("draft") / "edge.db"
    with EpisodeStore(path) as store:
        store.save_draft(key, content, raw)
        (draft,) = store.open_drafts()
    assert (draft.key, draft.content, draft.raw) == (key, json.loads(json.dumps(content)), raw)


def test_sent_episodes_go_by_age_and_number_and_unsent_ones_never(tmp_path: Path) -> None:
    now = [1_800_000_000 * 10**9]
    with EpisodeStore(tmp_path / "edge.db", wall_clock_ns=lambda: now[0]) as store:
        sent = [commit(store, i, subject="p01") for i in range(6)]
        for row in claimed(store):
            store.outbox.ack(row)
        for row in claimed(store):
            store.outbox.ack(row)
        unsent = [commit(store, i, subject="p02") for i in range(6, 9)]
        now[0] += 10 * 86_400 * 10**9
        kept_long = store.prune(older_than_s=7 * DAY_S, episodes_older_than_s=30 * DAY_S)
        assert (kept_long.raw_blobs, kept_long.episodes) == (6, 0)
        few = store.prune(older_than_s=7 * DAY_S, max_sent_episodes=2)
        assert few.episodes == 4
        assert {s.envelope.id for s in store.episodes()} == {*sent[4:], *unsent}, "the newest stay"
        old = store.prune(older_than_s=7 * DAY_S, episodes_older_than_s=9 * DAY_S, max_sent_episodes=0)
        assert old.episodes == 2
        assert {s.envelope.id for s in store.episodes()} == set(unsent)
        assert store.commit(sample_fields(20, subject="p01")).sequence == 7
        store.verify_audit()
