"""Alarms in the pipeline: enrolled people are promised something, others are not; what is not valid is unsure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.caution import Decision
from kinedge.edge.config import GatewayConfig
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.episodes import EpisodeBuilder
from kinedge.edge.people import People
from kinedge.edge.personal import detector_names
from kinedge.edge.pipeline import Pipeline, Scored
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.errors import ConfigError
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.training.anomalies import inject

Person = Callable[..., Recording]
ENROLLED_S, LATER_S = 600.0, 780.0


def chunks_of(recording: Recording, *, n: int = 250) -> list[ImuChunk]:
    found = []
    for start in range(0, len(recording), n):
        rows = slice(start, min(start + n, len(recording)))
        time = (np.arange(rows.start, rows.stop, dtype=np.int64) + 1) * 20_000_000
        for sensor in recording.sensors:
            values = recording.values[rows, recording.columns(sensor.name)]
            valid = recording.valid[rows, recording.columns(sensor.name)]
            found.append(
                ImuChunk(sensor.name, time, values, valid, ~valid, 20_000_000, host_time_ns=int(time[-1]) + 5_000_000)
            )
    return found


@pytest.fixture(scope="module")
def day(person: Person) -> Recording:
    return person(ENROLLED_S + LATER_S, seed=820_000)


@pytest.fixture(scope="module")
def people(scorer: Scorer, day: Recording) -> People:
    first = day.slice(0, round(ENROLLED_S * day.rate_hz))
    enrolment = enrol_recordings(scorer, [first], subject="p-001", allow_short=True, made_s=0)
    found = People(scorer, ["p-001", "p-002"], {"p-001": enrolment})
    found.same_wearing("p-001")
    return found


@pytest.fixture(scope="module")
def later(day: Recording) -> Recording:
    """The rest of the day, the last half minute with noise on one wrist."""
    rest = day.slice(round(ENROLLED_S * day.rate_hz), len(day))
    end = len(rest) - 250
    return inject(rest, "noise_burst", end - 1500, end, sensor="wrist_right", strength=2.0)


def scored_of(
    scorer: Scorer, people: People, recording: Recording, *, alarm: AlarmConfig | None, order: Sequence[str]
) -> dict[str, list[Scored]]:
    pipeline = Pipeline(scorer, people.subjects, people=people, alarm=alarm)
    found: dict[str, list[Scored]] = {s: [] for s in people.subjects}
    for i, chunk in enumerate(chunks_of(recording), start=1):
        for subject in order:
            pipeline.push(subject, chunk, channels=recording.sensors[0].channels)
        if i % len(recording.sensors) == 0:  # all sensors have told the same time
            for scored in pipeline.advance():
                found[scored.subject].append(scored)
    for scored in pipeline.advance(flush=True):
        found[scored.subject].append(scored)
    return found


@pytest.fixture(scope="module")
def watched(scorer: Scorer, people: People, later: Recording) -> dict[str, list[Scored]]:
    return scored_of(scorer, people, later, alarm=AlarmConfig(), order=("p-001", "p-002"))


def test_a_session_starts_with_no_valid_calibration_and_says_so(watched: dict[str, list[Scored]]) -> None:
    first = [s.batch.verdict(s.stream) for s in watched["p-001"][:590]]
    assert all(v.decision is Decision.UNSURE for v in first)
    early = first[299]
    assert early.watched is not None and not early.watched.valid and 0.4 < early.watched.learned < 0.6
    assert any(r.code == "not_valid" and "of the first 10 minutes" in r.text for r in early.reasons)
    assert "at most one false episode per 8 hours" in early.watched.promise
    assert verdict_as_json("p-001", early)["calibration_valid"] is False


def test_after_ten_minutes_answers_are_given_and_a_change_alarms(watched: dict[str, list[Scored]]) -> None:
    verdicts = [s.batch.verdict(s.stream) for s in watched["p-001"]]
    settled = verdicts[620:735]
    assert all(v.watched is not None and v.watched.valid for v in settled)
    assert not any(v.watched.alarm for v in settled if v.watched is not None)
    assert any(v.decision is Decision.NORMAL for v in settled)
    alarms = [i for i, v in enumerate(verdicts) if v.watched is not None and v.watched.alarm]
    assert alarms and 745 <= alarms[0] <= 775
    assert verdicts[alarms[0]].decision is Decision.ANOMALOUS


def test_people_without_an_enrolment_are_promised_nothing_and_judged_as_before(
    scorer: Scorer, people: People, later: Recording, watched: dict[str, list[Scored]]
) -> None:
    short = later.slice(0, 3000)
    plain = scored_of(scorer, people, short, alarm=None, order=("p-001", "p-002"))
    for a, b in zip(watched["p-002"], plain["p-002"], strict=False):
        assert a.batch.verdict(a.stream).watched is None
        assert a.batch.verdict(a.stream).score == b.batch.verdict(b.stream).score
        assert a.batch.verdict(a.stream).decision == b.batch.verdict(b.stream).decision


def test_an_episode_of_an_enrolled_person_opens_with_the_alarm_alone(
    scorer: Scorer, watched: dict[str, list[Scored]]
) -> None:
    provenance = {"model_digest": "a" * 64, "config_digest": "b" * 64, "kinedge_version": "0"}
    manifest = scorer.manifest
    builder = EpisodeBuilder(
        "p-001",
        channels=scorer.channels,
        rate_hz=manifest.rate_hz,
        hop=manifest.hop,
        block=manifest.block,
        provenance=provenance,
    )
    opened, alarmed = [], []
    for i, s in enumerate(watched["p-001"]):
        verdict = s.batch.verdict(s.stream)
        was_open = builder.is_open
        builder.step(verdict, s.values, s.valid, end_utc_ns=10**18 + i * 10**9)
        if builder.is_open and not was_open:
            opened.append(i)
        if verdict.watched is not None and verdict.watched.alarm:
            alarmed.append(i)
    assert opened and opened[0] == alarmed[0] and set(opened) <= set(alarmed)


def test_a_model_without_an_enrolled_cohort_cannot_promise(scorer: Scorer, people: People) -> None:
    poor = Scorer(scorer.bundle, calibration=replace(scorer.calibration, enrolled=None))
    with pytest.raises(ConfigError, match="without an enrolled cohort"):
        Pipeline(poor, people.subjects, people=people, alarm=AlarmConfig())


def test_the_alarm_is_part_of_what_decides() -> None:
    base = {"site": "s", "gateway": "g", "people": [{"subject": "p-001", "devices": [{"port": "/dev/null"}]}]}
    plain = GatewayConfig.model_validate(base)
    promised = GatewayConfig.model_validate({**base, "alarm": {"hours_per_false_episode": 24}})
    assert plain.digest() != promised.digest()
    with pytest.raises(ValueError, match="hours_per_false_episode"):
        GatewayConfig.model_validate({**base, "alarm": {"hours_per_false_episode": 0}})


def test_a_block_with_many_gaps_says_nothing_to_detectors_that_the_sensor_is_part_of(
    scorer: Scorer, people: People, day: Recording
) -> None:
    part = day.slice(30_000, 33_000)
    valid = part.valid.copy()
    valid[1000:, part.columns("wrist_right")] &= (np.arange(2000) % 5 < 3)[:, None]  # two of five samples are lost
    pipeline = Pipeline(scorer, people.subjects, people=people, alarm=AlarmConfig())
    for chunk in chunks_of(replace(part, valid=valid)):
        pipeline.push("p-001", chunk, channels=part.sensors[0].channels)
    assert pipeline.advance(flush=True)
    assert pipeline._watch is not None
    names = detector_names(scorer.sensors, scorer.channels, together=True)
    known = pipeline._watch._state.known[0].all(axis=1)
    assert len(names) == len(known)
    for name, heard in zip(names, known, strict=True):
        assert heard == ("left" in name and "beside" not in name), name
