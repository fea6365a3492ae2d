"""Verdicts to episodes: when they open and close, what they hold, what is written down while they last."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from kinedge.arrays import arrays_from_npz
from kinedge.canonical import sha256_hex
from kinedge.edge.caution import Decision
from kinedge.edge.episodes import EpisodeBuilder, EpisodeConfig, EpisodeDraft, pack_raw
from kinedge.edge.reasons import Reason
from kinedge.edge.verdict import Verdict
from kinedge.envelope import Envelope, episode_id

CHANNELS = ("wrist_left.acc_x", "wrist_right.gyr_z")
T0 = 1_700_000_000 * 10**9
N, A, U = Decision.NORMAL, Decision.ANOMALOUS, Decision.UNSURE


def verdict(decision: Decision, *, score: float = 3.0, p: float = 0.001, reason: str = "between") -> Verdict:
    return Verdict(
        end_tick=0,
        host_time_ns=0,
        decision=decision,
        score=score,
        p_value=p,
        belief_normal=0.1,
        belief_anomalous=0.8,
        reasons=(Reason(reason, f"because {reason}", 1.0),) if decision is U else (),
        sensor_score={"wrist_left": 0.0, "wrist_right": score},
        sensor_reliability={"wrist_left": 1.0, "wrist_right": 1.0},
        sensor_missing={"wrist_left": 0.0, "wrist_right": 0.0},
        sensor_share={"wrist_left": 0.25, "wrist_right": 0.75},
        channel_share={"wrist_left.acc_x": 0.25, "wrist_right.gyr_z": 0.75},
    )


def builder(**config: float) -> EpisodeBuilder:
    provenance = {"model_digest": "a" * 64, "config_digest": "b" * 64, "kinedge_version": "0"}
    return EpisodeBuilder(
        "p-1",
        channels=CHANNELS,
        rate_hz=50,
        hop=50,
        block=100,
        provenance=provenance,
        config=EpisodeConfig.model_validate(config),
    )


def feed(b: EpisodeBuilder, decisions: list[Decision], *, start: int = 0, **kwargs: object) -> list[list[EpisodeDraft]]:
    out = []
    for i, d in enumerate(decisions):
        hop = np.full((50, 2), start + i, np.float32)
        at = T0 + (start + i + 1) * 10**9
        out.append(b.step(verdict(d, **kwargs), hop, np.ones((50, 2), bool), end_utc_ns=at))  # type: ignore[arg-type]
    return out


def test_one_anomalous_verdict_opens_nothing() -> None:
    b = builder()
    assert feed(b, [N, N, A, N, N, A, N, N, U, A, U, N]) == [[]] * 12
    assert not b.is_open


def test_two_of_three_open_an_episode_that_is_written_down_at_once() -> None:
    b = builder()
    out = feed(b, [N, N, A, N, A])
    assert [len(d) for d in out] == [0, 0, 0, 0, 1]
    draft = out[-1][0]
    assert not draft.closed
    assert draft.fields["start_utc_ns"] == T0 + 1 * 10**9  # the block of the first hit began 2 s before its end
    assert draft.fields["ended"] == "restarted"  # true if nothing is ever written after it


def test_without_a_promise_what_lasts_but_is_not_rare_opens_nothing_until_it_is() -> None:
    b = builder()
    assert feed(b, [A] * 5, p=0.03) == [[]] * 5
    assert feed(b, [A], start=5, p=0.002) == [[]]
    assert [len(d) for d in feed(b, [A], start=6, p=0.002)] == [1]
    assert [len(d) for d in feed(builder(open_p=0.05), [A, A], p=0.03)] == [0, 1]


def test_an_episode_closes_as_usual_after_quiet_and_its_fields_make_an_envelope() -> None:
    b = builder()
    out = feed(b, [N, A, A, A, U, N, N, N, N])
    closed = [d for ds in out for d in ds if d.closed]
    assert len(closed) == 1
    fields = closed[0].fields
    assert fields["ended"] == "as_usual"
    assert fields["end_utc_ns"] == T0 + 4 * 10**9
    assert fields["unsure_share"] == pytest.approx(1 / 9, abs=1e-5)
    identity = {k: fields[k] for k in ("subject", "sensors", "start_utc_ns", "model_digest")}
    id_ = episode_id(**identity, site="s", gateway="g", raw_sha256=fields["raw"]["sha256"])
    envelope = Envelope.model_validate({**fields, "id": id_, "site": "s", "gateway": "g", "sequence": 1})
    assert envelope.contributions[0].sensor == "wrist_right"
    assert envelope.contributions[0].share == pytest.approx(0.75)
    assert "right wrist turned" in envelope.sentence
    assert envelope.explanation is not None and "poignet droit" in envelope.explanation.text["fr"]
    assert envelope.explanation.share == pytest.approx(0.75)
    assert [p.decision for p in envelope.trail] == ["normal", "anomalous", "anomalous", "anomalous", "unsure"] + [
        "normal"
    ] * 4
    assert envelope.trail[4].reasons == ("because between",)


@pytest.mark.parametrize(("reason", "ended"), [("no_data", "sensor_lost"), ("between", "unclear")])
def test_an_end_in_unsure_is_never_called_as_usual(reason: str, ended: str) -> None:
    b = builder()
    feed(b, [A, A])
    out = feed(b, [U] * 5, start=2, reason=reason)
    assert out[-1][0].fields["ended"] == ended


def test_a_very_long_episode_is_closed_and_continued_as_the_next() -> None:
    b = builder(max_s=20)
    drafts = [d for ds in feed(b, [A] * 50) for d in ds]
    closed = [d for d in drafts if d.closed]
    assert [d.fields["ended"] for d in closed] == ["length_limit"] * len(closed)
    assert len(closed) == 2
    assert len({d.key for d in drafts}) == 3


def test_while_it_lasts_it_is_written_down_again_and_again_under_one_key() -> None:
    b = builder(draft_every=5)
    drafts = [d for ds in feed(b, [A] * 22) for d in ds]
    assert len(drafts) == 5
    assert len({d.key for d in drafts}) == 1
    assert drafts[-1].fields["raw"]["n_samples"] > drafts[0].fields["raw"]["n_samples"]


def test_stopping_closes_what_is_open_and_only_that() -> None:
    b = builder()
    assert b.stop() == []
    feed(b, [A, A, A])
    (draft,) = b.stop()
    assert draft.closed
    assert draft.fields["ended"] == "stopped"
    assert b.stop() == []


def test_the_raw_slice_holds_the_samples_around_the_episode_and_its_digest() -> None:
    b = builder(pre_roll_s=3)
    out = feed(b, [N] * 20 + [A, A] + [N] * 5)
    draft = out[-1][0]
    arrays = arrays_from_npz(draft.raw, where="raw")
    values = arrays["counts"] * arrays["scale_si"]
    assert draft.fields["raw"]["sha256"] == sha256_hex(draft.raw)
    start_s = (int(arrays["start_utc_ns"]) - T0) / 1e9
    assert start_s <= 18 - 3
    assert values[0, 0] == pytest.approx(start_s, abs=0.01)  # the hop that begins at second k holds the value k
    assert values[-1, 0] == pytest.approx(26, abs=0.01)


def test_missing_samples_stay_missing_in_the_raw_slice() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    valid = np.array([[True, False], [True, True]])
    data = pack_raw(values, valid, CHANNELS, start_utc_ns=T0, rate_hz=50.0)
    counts = np.load(io.BytesIO(data), allow_pickle=False)["counts"]
    assert counts[0, 1] == -32768
    assert counts[1, 1] != -32768
    assert pack_raw(values, valid, CHANNELS, start_utc_ns=T0, rate_hz=50.0) == data


def test_an_episode_is_about_what_stood_out_most() -> None:
    b = builder(open_hits=1, open_window=1, quiet=2)
    faint = replace(
        verdict(A, score=2.0),
        sensor_share={"wrist_left": 1.0, "wrist_right": 0.0},
        channel_share={"wrist_left.acc_x": 1.0, "wrist_right.gyr_z": 0.0},
    )
    loud = replace(
        verdict(A, score=5.0),
        sensor_share={"wrist_left": 0.0, "wrist_right": 1.0},
        channel_share={"wrist_left.acc_x": 0.0, "wrist_right.gyr_z": 1.0},
    )
    drafts: list[EpisodeDraft] = []
    for i, v in enumerate([faint, faint, faint, loud, loud, verdict(N), verdict(N)]):
        hop = np.zeros((50, 2), np.float32)
        drafts += b.step(v, hop, np.ones((50, 2), bool), end_utc_ns=T0 + (i + 1) * 10**9)
    first, *_ = drafts[-1].fields["contributions"]
    assert first["sensor"] == "wrist_right" and first["share"] == pytest.approx(50 / 62, abs=1e-6)
    assert drafts[-1].fields["explanation"]["share"] == pytest.approx(1.0)
