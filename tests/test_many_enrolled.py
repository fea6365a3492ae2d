"""Many enrolled people in one step: each is watched, aligned and called as if they were alone on the board."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from turns import random_turns, turned

from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.frame_watch import FrameWatch
from kinedge.edge.orientation import FrameEstimator
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.training.simulate import SimulationConfig, simulate

WRISTS = ("wrist_left", "wrist_right")
PEOPLE = ("stayed-on", "stayed-on-too", "put-on", "put-on-too", "nobody-knows")


def walk(session: int, seconds: float) -> Recording:
    return simulate(
        SimulationConfig(
            sensors=WRISTS,
            duration_s=seconds,
            subject_seed=824_000,
            session_seed=session,
            activity_mix={"gait": 0.8, "rest": 0.2},
        )
    )


@pytest.fixture(scope="module")
def enrolment(scorer: Scorer) -> Enrolment:
    return enrol_recordings(scorer, [walk(1, 120.0)], subject="p", allow_short=True, made_s=0)


@pytest.fixture(scope="module")
def days() -> dict[str, Recording]:
    first, second = walk(5, 64.0), walk(7, 64.0)
    otherwise = [turned(day, random_turns(k, 2)) for k, day in enumerate((first, second))]
    return dict(zip(PEOPLE, (first, second, *otherwise, first), strict=True))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinedge.edge.people.ALIGN_AFTER_S", 36.0)


def follow(
    scorer: Scorer, enrolment: Enrolment, days: dict[str, Recording], who: tuple[str, ...], *, seed: int, n_phases: int
) -> dict[str, list[Verdict]]:
    """Follow some people through their days, cut at random, with the same packets lost whoever is there."""
    enrolled = {s: replace(enrolment, manifest=enrolment.manifest.model_copy(update={"subject": s})) for s in who[:4]}
    enrolled.pop("nobody-knows", None)
    people = People(scorer, who, enrolled)
    for subject in who:
        if subject.startswith("stayed-on"):
            people.same_wearing(subject)
    alarm = AlarmConfig(hours_per_false_episode=0.25)
    pipeline = Pipeline(scorer, who, people=people, make_clock=FixedClock, alarm=alarm, n_phases=n_phases)
    if pipeline._watch is not None:
        pipeline._watch._state.n_heard[:] = 10_000  # the ten minutes are over
    lost = {(s, spec): np.random.default_rng([seed, i, j]).random(330) < 0.003
            for i, s in enumerate(PEOPLE) for j, spec in enumerate(WRISTS)}  # fmt: skip
    found: dict[str, list[Verdict]] = {s: [] for s in who}
    rng, at = np.random.default_rng([seed, len(who)]), 0
    while at < len(days[who[0]]):
        end = min(at + int(rng.integers(1, 120)), len(days[who[0]]))
        for subject in who:
            day = days[subject]
            time = (np.arange(at, end, dtype=np.int64) + 1) * 20_000_000
            for spec in day.sensors:
                c = day.columns(spec.name)
                valid = day.valid[at:end, c] & ~lost[subject, spec.name][np.arange(at, end) // 10, None]
                chunk = ImuChunk(spec.name, time, day.values[at:end, c], valid, ~valid, 20_000_000)
                pipeline.push(subject, chunk, channels=spec.channels)
        at = end
        for scored in pipeline.advance():
            found[scored.subject].append(scored.batch.verdict(scored.stream))
    return found


@settings(
    deadline=None,
    max_examples=3,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**31), n_phases=st.sampled_from([1, 7, 50]))
def test_many_people_in_one_step_get_the_verdicts_of_each_alone_in_any_chunks(
    scorer: Scorer, enrolment: Enrolment, days: dict[str, Recording], soon: None, seed: int, n_phases: int
) -> None:
    together = follow(scorer, enrolment, days, PEOPLE, seed=seed, n_phases=n_phases)
    for subject in PEOPLE:
        alone = follow(scorer, enrolment, days, (subject,), seed=seed, n_phases=n_phases)[subject]
        assert len(alone) >= 60
        assert together[subject] == alone


def test_those_people_are_aligned_and_alarmed_about_so_that_the_comparison_says_something(
    scorer: Scorer, enrolment: Enrolment, days: dict[str, Recording], soon: None
) -> None:
    found = follow(scorer, enrolment, days, PEOPLE, seed=0, n_phases=7)
    assert {v.basis.alignment for v in found["put-on"]} >= {"pending", "done"}
    assert found["put-on"][20].watched is not None and found["put-on"][20].watched.unplaced == WRISTS
    assert max(v.watched.evidence for v in found["stayed-on"] if v.watched is not None) > 0
    assert all(v.watched is None for v in found["nobody-knows"])


SPECS = (SensorSpec("a", IMU6), SensorSpec("b", ("acc_x", "acc_y", "acc_z")), SensorSpec("c", IMU6))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31), hop=st.sampled_from([7, 25, 50, 90]))
def test_frames_learned_of_many_are_those_learned_of_each(seed: int, hop: int) -> None:
    rng, rate_hz = np.random.default_rng(seed), 10.0  # windows of 40 samples
    n, n_people = 900, 4
    steps = np.sin(2 * np.pi * np.arange(n)[:, None] / rng.integers(5, 14, n_people))
    values = (rng.normal(size=(n_people, n, 15)) + 4 * steps.T[:, :, None]).astype(np.float32)
    valid = rng.random((n_people, n, 15)) > 0.0005
    watch = FrameWatch(SPECS, n_people, rate_hz=rate_hz)
    alone = [FrameEstimator(SPECS, rate_hz=rate_hz) for _ in range(n_people)]
    for row in range(n_people):
        watch.begin(np.array([row]))
    for start in range(0, n - hop, hop):
        rows = np.flatnonzero(rng.random(n_people) < 0.8)
        part = slice(start, start + hop)
        if start == 450 // hop * hop:
            watch.end(1)
            watch.begin(np.array([1]))
            alone[1].clear()
        watch.add(rows, values[rows, part], valid[rows, part])
        for row in rows.tolist():
            alone[row].add(values[row, part], valid[row, part])
    for row in range(n_people):
        ours, theirs = watch.frames(row), alone[row].frames()
        assert all(np.array_equal(getattr(ours, f), getattr(theirs, f)) for f in ("gravity", "axis", "cross"))
        # beyond 15 windows what tells the scatter is kept in single precision
        few = theirs.walking_s <= 60
        assert np.array_equal(ours.error_rad[few], theirs.error_rad[few])
        assert np.allclose(ours.error_rad, theirs.error_rad, rtol=1e-3)
        assert watch.walked_s[row].tolist() == theirs.walking_s.tolist()
    watch.clear(np.arange(n_people), np.tile([True, True, False], (n_people, 1)))
    assert not watch.walked_s[:, :2].any()
    assert [watch.frames(row).walking_s[2] for row in range(n_people)] == watch.walked_s[:, 2].tolist()
