"""Answers about episodes: kept in the audit chain, and in a calibration only when somebody asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import sample_fields

from kinedge.cli.app import main
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import read_enrolment
from kinedge.edge.episodes import RAW_MEDIA_TYPE, pack_raw
from kinedge.edge.feedback import answer_episode, answers_in, enter_dismissed, note_recalibration
from kinedge.edge.offline import score_recording
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.envelope import Envelope
from kinedge.errors import StoreError
from kinedge.recording import Recording
from kinedge.training.anomalies import inject

Person = Callable[..., Recording]
START_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def usual(person: Person) -> Recording:
    return person(240.0, seed=830_000)


@pytest.fixture(scope="module")
def odd(person: Person) -> Recording:
    """Forty seconds, from the eleventh to the thirty-sixth with noise that is ordinary for whoever dismisses it."""
    return inject(person(40.0, seed=830_000), "noise_burst", 500, 1800, sensor="wrist_right", strength=2.0)


def kept(store: EpisodeStore, recording: Recording, *, i: int = 0, subject: str = "p-001") -> Envelope:
    """Keep an episode that lasted from the tenth second to the thirty-fifth."""
    start = START_NS + i * 60_000_000_000
    channels = recording.channel_names
    raw = pack_raw(recording.values, recording.valid, channels, start_utc_ns=start, rate_hz=recording.rate_hz)
    fields = sample_fields(i, subject=subject, start_utc_ns=start + 10 * 10**9, end_utc_ns=start + 35 * 10**9)
    described = {
        "media_type": RAW_MEDIA_TYPE,
        "rate_hz": recording.rate_hz,
        "n_samples": len(recording),
        "channels": channels,
        "start_utc_ns": start,
    }
    return store.commit({**fields, "raw": described}, raw)


def builder_of(scorer: Scorer, recording: Recording) -> EnrolmentBuilder:
    builder, hop = EnrolmentBuilder(scorer), scorer.manifest.hop
    for end, scores, surprise in score_recording(scorer, recording):
        rows = slice(end - hop, end)
        builder.add(scores, surprise, 0, hop=end // hop, values=recording.values[rows], valid=recording.valid[rows])
    return builder


def test_an_answer_is_written_while_the_gateway_runs_and_the_last_one_counts(tmp_path: Path, odd: Recording) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        envelope = kept(store, odd)
        answer_episode(path, envelope.id[:10], "confirmed", wall_clock_ns=lambda: 1)
        answer_episode(path, envelope.id, "dismissed", wall_clock_ns=lambda: 2)
        kept(store, odd, i=1)  # the gateway goes on writing into the same chain
        assert store.verify_audit().n_rows >= 4
        (one,) = answers_in(store)
        assert (one.envelope.id, one.answer, one.answered_utc_ns) == (envelope.id, "dismissed", 2)
        assert one.raw is not None
        assert answers_in(store, subject="p-002") == []
        answer_episode(path, envelope.id, "withdrawn")
        assert answers_in(store) == []


def test_answers_about_nothing_or_about_several_are_refused(tmp_path: Path, odd: Recording) -> None:
    path = tmp_path / "edge.db"
    with pytest.raises(StoreError, match="nothing was written"):
        answer_episode(path, "0123456789", "dismissed")
    assert not path.exists()
    with EpisodeStore(path) as store:
        before = store.verify_audit()
        with pytest.raises(StoreError, match="no such episode"):
            answer_episode(path, "0123456789", "dismissed")
        with pytest.raises(StoreError, match="at least 8"):
            answer_episode(path, "*", "dismissed")
        assert store.verify_audit() == before
    (tmp_path / "other.db").write_bytes(b"no database, but long enough to be taken for one" * 30)
    with pytest.raises(StoreError, match="nothing was written"):
        answer_episode(tmp_path / "other.db", "0123456789", "dismissed")


def test_answers_do_not_count_once_the_chain_is_broken(tmp_path: Path, odd: Recording) -> None:
    import sqlite3

    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        answer_episode(path, kept(store, odd).id, "confirmed")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE audit SET detail = replace(detail, 'confirmed', 'dismissed')")
    with EpisodeStore(path, read_only=True) as store, pytest.raises(StoreError, match="audit chain breaks"):
        answers_in(store)


def test_a_dismissed_episode_becomes_usual_and_nothing_else_changes_by_itself(
    tmp_path: Path, scorer: Scorer, usual: Recording, odd: Recording
) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        envelope = kept(store, odd)
        other = kept(store, odd, i=1)
    answer_episode(path, envelope.id, "dismissed")
    answer_episode(path, other.id, "confirmed")
    plain = read_enrolment(builder_of(scorer, usual).finish("p-001", source="", allow_short=True, made_s=0))
    builder = builder_of(scorer, usual)
    with EpisodeStore(path, read_only=True) as store:
        entered = list(enter_dismissed(builder, scorer, answers_in(store)))
    assert [(e.episode, e.why_not) for e in entered] == [(envelope.id, "")]
    assert entered[0].n_blocks == builder.n_trusted == 25
    builder.note_feedback({e.episode: e.answer for e in entered})
    taught = read_enrolment(builder.finish("p-001", source="", allow_short=True, made_s=0))
    assert taught.manifest.feedback == {envelope.id: "dismissed"} and not plain.manifest.feedback
    assert taught.manifest.usable_s == plain.manifest.usable_s and taught.manifest.audit == plain.manifest.audit
    assert taught.manifest.n_blocks == plain.manifest.n_blocks + 25

    def largest_u(enrolment: object) -> float:
        calibration = enrolment.baseline.calibration(scorer.calibration, scorer.groups)  # type: ignore[attr-defined]
        found = [calibration.assess(s, scorer.groups).score[0] for _, s, _ in score_recording(scorer, odd)]
        return float(np.median(found[14:34]))

    assert largest_u(taught) < 0.5 * largest_u(plain)
    note_recalibration(path, entered, subject="p-001", enrolment_digest=taught.digest)
    with EpisodeStore(path, read_only=True) as store:
        assert store.verify_audit().n_rows == 5


def test_a_dismissed_episode_that_cannot_enter_says_why(tmp_path: Path, scorer: Scorer, odd: Recording) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        envelope = kept(store, odd)
        store.commit(sample_fields(5, subject="p-001"))
        bare = store.episodes(subject="p-001", limit=1)[0].envelope
        slow = kept(store, replace(odd, rate_hz=25.0), i=7)
        one = kept(store, odd.select(odd.sensors[:1]), i=9)
    for id in (envelope.id, bare.id, slow.id, one.id):
        answer_episode(path, id, "dismissed")
    builder = EnrolmentBuilder(scorer)
    with EpisodeStore(path, read_only=True) as store:
        told = {e.episode: e.why_not for e in enter_dismissed(builder, scorer, answers_in(store))}
    assert told[envelope.id] == ""
    assert "no longer here" in told[bare.id]
    assert "25 Hz" in told[slow.id]
    assert "wrist_right" in told[one.id]


def test_the_command_answers_and_lists(tmp_path: Path, odd: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as store:
        envelope = kept(store, odd)
    assert main(["feedback", envelope.id[:12], "--dismissed", "--store", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "episode": envelope.id,
        "subject": "p-001",
        "answer": "dismissed",
    }
    assert main(["feedback", "--store", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["episode"] == envelope.id and row["answer"] == "dismissed" and row["has_raw"]
    assert main(["feedback", envelope.id, "--dismissed", "--confirmed", "--store", str(path)]) == 1
    assert "say one of" in capsys.readouterr().err


def test_an_enrolment_with_feedback_lists_what_entered_and_leaves_a_row(
    tmp_path: Path, usual: Recording, odd: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinedge.firmware_bridge.recorder import SessionWriter
    from kinedge.signals import ImuChunk

    with SessionWriter(tmp_path / "monday", facts={"subject": "p-001"}) as writer:
        for sensor in usual.sensors:
            writer.describe(sensor)
        for start in range(0, len(usual), 50):
            rows = slice(start, min(start + 50, len(usual)))
            times = (np.arange(rows.start, rows.stop, dtype=np.int64) + 1) * 20_000_000
            for sensor in usual.sensors:
                at = usual.columns(sensor.name)
                values, valid = usual.values[rows, at], usual.valid[rows, at]
                host_ns = int(times[-1]) + 5_000_000
                writer.write(ImuChunk(sensor.name, times, values, valid, ~valid, 20_000_000, host_time_ns=host_ns))
    with EpisodeStore(tmp_path / "edge.db") as store:
        dismissed, confirmed = kept(store, odd), kept(store, odd, i=1)
        kept(store, odd, i=2, subject="p-002")
    for envelope, answer in ((dismissed, "--dismissed"), (confirmed, "--confirmed")):
        assert main(["feedback", envelope.id, answer, "--store", str(tmp_path / "edge.db")]) == 0
    capsys.readouterr()
    out = tmp_path / "p-001.enrolment"
    command = ["enrol", str(tmp_path / "monday"), "--out", str(out), "--allow-short", "--json"]
    assert main([*command, "--feedback", str(tmp_path / "edge.db")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "at most one false episode per 8 hours" in told["promise"]
    answers = {a["episode"]: a for a in told["answers"]}
    assert answers[dismissed.id]["n_blocks"] == 25 and not answers[dismissed.id]["why_not"]
    assert "not recorded here" in answers[confirmed.id]["why_not"]
    assert read_enrolment(out).manifest.feedback == {dismissed.id: "dismissed"}
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        (row,) = store.events("recalibrated")
    assert row == {
        "subject": "p-001",
        "enrolment_digest": told["digest"],
        "entered": {dismissed.id: "dismissed"},
    }
