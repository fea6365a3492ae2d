"""Frames learned in walking, and how far they bring a sensor back that was put on anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import degrees, random_turns, turned

from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.offline import frames_of
from kinedge.edge.orientation import FrameEstimator, align, rotate_samples, triads_of
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.training.simulate import ImuModel, SimulationConfig, simulate

Person = Callable[..., Recording]
SENSORS = ("wrist_left", "wrist_right", "ankle_left")


def walk(
    seed: int, session: int, *, seconds: float = 150.0, sensors: tuple[str, ...] = SENSORS, donning_deg: float = 6.0
) -> Recording:
    return simulate(
        SimulationConfig(
            sensors=sensors,
            duration_s=seconds,
            subject_seed=seed,
            session_seed=session,
            activity_mix={"gait": 0.8, "rest": 0.2},
            imu=ImuModel(donning_deg=donning_deg),
        )
    )


@pytest.fixture(scope="module")
def walked() -> Recording:
    return walk(820_000, 1)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**31))
def test_any_way_of_mounting_is_found_in_the_same_walk(walked: Recording, seed: int) -> None:
    turns = random_turns(seed, 3)
    found = align(frames_of(turned(walked, turns)), frames_of(walked))
    assert found.usable.all()
    assert (degrees(found.rotation @ turns) < 0.5).all()
    assert np.rad2deg(found.angle_rad) == pytest.approx(degrees(turns), abs=0.5)


@pytest.mark.parametrize("seed", [821_000, 822_000, 823_000])
def test_on_another_day_a_turned_sensor_comes_back_within_what_is_told(seed: int) -> None:
    perfect = [walk(seed, s, donning_deg=0.0) for s in (1, 2)]
    turns = random_turns(seed, 3)
    found = align(frames_of(turned(perfect[1], turns)), frames_of(perfect[0]))
    off = degrees(found.rotation @ turns)
    assert found.usable.all()
    assert (off < 4.0).all(), off
    assert (off < 3 * np.rad2deg(found.error_rad)).all()


def test_who_does_not_walk_gives_no_frame_and_is_left_as_they_are() -> None:
    config = SimulationConfig(duration_s=60.0, subject_seed=3, activity_mix={"rest": 1.0})
    frames = frames_of(simulate(config))
    assert frames.walking_s.max() == 0
    found = align(frames, frames)
    assert not found.usable.any()
    assert np.isinf(found.error_rad).all()
    assert (found.rotation == np.eye(3)).all()


def test_a_window_with_a_gap_is_not_learned_from(walked: Recording) -> None:
    valid = walked.valid.copy()
    valid[::150] = False  # one sample in three seconds
    assert frames_of(replace(walked, valid=valid)).walking_s.max() == 0


def test_frames_do_not_depend_on_how_the_samples_are_cut(walked: Recording) -> None:
    rng = np.random.default_rng(0)
    estimator = FrameEstimator(walked.sensors, rate_hz=walked.rate_hz)
    edges = [0, *np.sort(rng.integers(1, len(walked), 60)), len(walked)]
    for a, b in pairwise(edges):
        estimator.add(walked.values[a:b], walked.valid[a:b])
    whole = frames_of(walked)
    assert (estimator.frames().gravity == whole.gravity).all()
    assert (estimator.frames().cross == whole.cross).all()
    estimator.clear()
    assert estimator.walking_s == 0


def test_a_turned_axis_is_as_good_as_the_worst_of_three_and_other_streams_stay() -> None:
    specs = (SensorSpec("a", (*IMU6, "mag_x", "mag_y", "mag_z")), SensorSpec("b", ("acc_x", "acc_z")))
    triads, owner = triads_of(specs)
    assert triads.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert owner.tolist() == [0, 0, 0]
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 4, 11)).astype(np.float32)
    valid, saturated = np.ones(values.shape, bool), np.zeros(values.shape, bool)
    valid[0, 1, 4] = False
    saturated[0, 2, 0] = True
    turns = np.stack([random_turns(2, 2), np.tile(np.eye(3), (2, 1, 1))]).astype(np.float32)
    out, ok, end = rotate_samples(values, valid, saturated, turns, triads, owner)
    assert out[0, 0, 3:6] == pytest.approx(turns[0, 0] @ values[0, 0, 3:6], abs=1e-6)
    assert not ok[0, 1, 3:6].any()
    assert ok[0, 1, :3].all()
    assert (out[0, 1, 3:6] == 0).all()
    assert end[0, 2].tolist() == [True] * 3 + [False] * 8
    assert out[1] == pytest.approx(values[1], abs=1e-6)
    assert (out[0, :, 9:] == values[0, :, 9:]).all()


@pytest.fixture(scope="module")
def days(scorer: Scorer) -> tuple[Enrolment, Recording]:
    """An enrolment, and another day on which both sensors were put on badly."""
    wrists = ("wrist_left", "wrist_right")
    first, later = (walk(824_000, s, seconds=200.0, sensors=wrists) for s in (1, 2))
    enrolment = enrol_recordings(scorer, [first], subject="p", allow_short=True)
    return enrolment, turned(later, random_turns(7, 2))


def run(scorer: Scorer, days: tuple[Enrolment, Recording], *, n: int, realign_at: int | None = None) -> list[Verdict]:
    enrolment, recording = days
    people = People(scorer, ["p"], {"p": enrolment})
    pipeline = Pipeline(scorer, ["p"], people=people, make_clock=FixedClock)
    verdicts = []
    for i, start in enumerate(range(0, len(recording), n)):
        rows = slice(start, min(start + n, len(recording)))
        time = (np.arange(rows.start, rows.stop, dtype=np.int64) + 1) * 20_000_000
        for spec in recording.sensors:
            c = recording.columns(spec.name)
            valid = recording.valid[rows, c]
            chunk = ImuChunk(spec.name, time, recording.values[rows, c], valid, ~valid, 20_000_000)
            pipeline.push("p", chunk, channels=spec.channels)
        verdicts += [s.batch.verdict(s.stream) for s in pipeline.advance()]
        if i == realign_at:
            people.realign("p")
    return verdicts


def test_a_session_is_turned_once_and_its_ordinary_walking_is_ordinary_again(
    scorer: Scorer, days: tuple[Enrolment, Recording]
) -> None:
    verdicts = run(scorer, days, n=50)
    states = [v.basis.alignment for v in verdicts]
    at = states.index("done")
    assert states == ["pending"] * at + ["done"] * (len(states) - at)
    before = [v.score for v in verdicts[6:at]]
    fresh = verdicts[at + 1]
    assert fresh.reasons[0].code == "warming_up"  # what the model remembered was turned otherwise
    after = [v.score for v in verdicts[at + 8 :]]
    assert np.median(before) > 1.5
    assert np.median(after) < 0.8
    assert np.mean(np.array(after) > 1) < 0.25 < np.mean(np.array(before) > 1)


def test_any_chunking_turns_at_the_same_hop_with_the_same_verdicts(
    scorer: Scorer, days: tuple[Enrolment, Recording]
) -> None:
    whole, pieces = run(scorer, days, n=50), run(scorer, days, n=37)
    assert whole[: len(pieces)] == pieces[: len(whole)]


def test_realigning_is_pending_until_enough_walking_was_seen_again(
    scorer: Scorer, days: tuple[Enrolment, Recording]
) -> None:
    once = [v.basis.alignment for v in run(scorer, days, n=50)]
    at = once.index("done") + 5
    states = [v.basis.alignment for v in run(scorer, days, n=50, realign_at=at)]
    assert states[:at] == once[:at]
    assert states[at + 2 : at + 50] == ["pending"] * 48
    assert states[-1] == "done"


def test_without_an_enrolment_there_is_nothing_to_align_to(scorer: Scorer) -> None:
    people = People(scorer, ["p"])
    assert people.bases[0].alignment == "none"
    with pytest.raises(ConfigError, match="nothing to align to"):
        people.realign("p")
    with pytest.raises(SignalError, match="same subjects"):
        Pipeline(scorer, ["q"], people=people)
