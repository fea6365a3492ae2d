"""Guided poses: how a sensor sits is found without a step of walking, and refused where it was not shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import degrees, random_turns, turned

from kinedge.cli.app import main
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.pose import POSES, Held, PoseFrames, StillWatch, align_poses, frames_of_poses
from kinedge.edge.pose_guide import PoseGuide
from kinedge.edge.pose_marks import MARK_S, MarkedPoses, frames_of_labels, parse_marks
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.training.poses import PoseHabit, pose_recording
from kinedge.training.simulate import ImuModel, SimulationConfig, mounting, simulate

SENSORS = ("wrist_left", "wrist_right", "ankle_left")
WRISTS = ("wrist_left", "wrist_right")
SITS = {"rest": 0.4, "arm": 0.6}
EXACT = PoseHabit(repeat_deg=(0.0, 0.0))


def day(seed: int, session: int, sensors: tuple[str, ...] = SENSORS, *, donning_deg: float = 25.0) -> SimulationConfig:
    imu = ImuModel(donning_deg=donning_deg)
    return SimulationConfig(sensors=sensors, subject_seed=seed, session_seed=session, imu=imu, activity_mix=SITS)


def frames(recording: Recording) -> PoseFrames:
    found = frames_of_labels([recording])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def posed() -> Recording:
    return pose_recording(day(830_000, 1), EXACT)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_any_way_of_mounting_is_found_from_the_same_poses(posed: Recording, seed: int) -> None:
    turns = random_turns(seed, 3)
    found = align_poses(frames(turned(posed, turns)), frames(posed)).alignment
    assert found.usable.all()
    assert (degrees(found.rotation @ turns) < 0.2).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(840_000, 2**31))
def test_on_another_day_any_mounting_comes_back_within_what_is_told_noise_bias_and_bad_repeating_included(
    seed: int,
) -> None:
    first, later = day(seed, 1), day(seed, 2)
    turns = random_turns(seed, 3)
    found = align_poses(frames(turned(pose_recording(later), turns)), frames(pose_recording(first)))
    true = np.stack([mounting(first, s).T @ mounting(later, s) for s in SENSORS]) @ turns.transpose(0, 2, 1)
    off = degrees(found.alignment.rotation @ true.transpose(0, 2, 1))
    ok = found.alignment.usable
    # both poses of an ankle taken 25 degrees otherwise, the same way round, turn it by 5 times what is told: 2 of 1,660
    assert (off[ok] < 7 * np.rad2deg(found.alignment.error_rad[ok])).all(), (off, found)


def test_the_uncertainty_that_is_told_is_as_large_as_the_errors_that_are_made() -> None:
    ratios = []
    for seed in range(850_000, 850_040):
        first, later = day(seed, 1), day(seed, 2)
        found = align_poses(frames(pose_recording(later)), frames(pose_recording(first))).alignment
        true = np.stack([mounting(first, s).T @ mounting(later, s) for s in SENSORS])
        off = np.deg2rad(degrees(found.rotation @ true.transpose(0, 2, 1)))
        ratios += (off / found.error_rad)[found.usable].tolist()
    assert len(ratios) > 90
    assert 0.6 < np.sqrt(np.mean(np.square(ratios))) < 1.4


def test_repeating_poses_badly_is_seen_and_told_as_more_uncertainty() -> None:
    well, badly = (
        frames(pose_recording(day(831_000, 1), PoseHabit(repeat_deg=(sd, sd), rounds=4))) for sd in (1.0, 14.0)
    )
    assert (badly.error_rad > 1.5 * well.error_rad).all()


def still(n: int = 500, *, acc: tuple[float, float, float] = (0.0, 0.0, 9.81)) -> np.ndarray:
    rows = np.zeros((n, 6), np.float32)
    rows[:, :3] = acc
    return rows + np.random.default_rng(0).normal(0, 0.01, rows.shape).astype(np.float32)


def watched(rows: np.ndarray, valid: np.ndarray | None = None) -> tuple[Held, StillWatch]:
    watch = StillWatch(pose_recording_specs(), rate_hz=50.0)
    watch.add(rows.astype(np.float32), np.ones(rows.shape, bool) if valid is None else valid)
    return watch.held(), watch


def pose_recording_specs() -> tuple:  # type: ignore[type-arg]
    return pose_recording(day(1, 1, ("wrist_left",)), PoseHabit(rounds=1)).sensors


def test_what_is_held_still_is_gravity_and_what_is_not_says_why() -> None:
    held, watch = watched(still())
    assert held.why == ("",) and watch.still_s.tolist() == [5.0] and watch.all_held
    np.testing.assert_allclose(held.gravity[0], [0, 0, 1], atol=1e-3)
    t = np.arange(500) / 50
    moving = still()
    moving[:, 3] += np.sin(2 * np.pi * 2 * t)
    assert watched(moving)[0].why == ("moving",)
    slow = still()
    angle = 0.06 * t  # 3.4 degrees a second, below what a gyroscope's bias may be
    slow[:, 0], slow[:, 2] = 9.81 * np.sin(angle), 9.81 * np.cos(angle)
    assert watched(slow)[0].why == ("drifting",)
    assert watched(still(acc=(0.0, 0.0, 12.0)))[0].why == ("not_gravity",)
    lost = np.ones((500, 6), bool)
    lost[::20] = False
    assert watched(still(), lost)[0].why == ("no_data",)
    assert watched(still(200))[0].why == ("moving",)  # four seconds are no five


def test_a_biased_or_slightly_wrong_sensor_is_taken_all_the_same() -> None:
    rows = still()
    rows[:, 3:] += 0.1  # 6 degrees a second of bias
    rows[:, :3] *= 1.02
    assert watched(rows)[0].why == ("",)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(0, 3))
def test_any_chunking_holds_the_same_gravity_and_leads_the_same_way(cuts: list[int], seed: int) -> None:
    recording = pose_recording(day(832_000 + seed, 1), PoseHabit(rounds=1))
    whole = StillWatch(recording.sensors, rate_hz=50.0)
    whole.add(recording.values, recording.valid)
    pieces = StillWatch(recording.sensors, rate_hz=50.0)
    guides = [PoseGuide(recording.sensors, rate_hz=50.0, rounds=1, ready_s=4.0) for _ in range(2)]
    guides[0].add(recording.values, recording.valid)
    at = 0
    for cut in [*cuts, len(recording)]:
        rows = slice(at, min(at + cut, len(recording)))
        pieces.add(recording.values[rows], recording.valid[rows])
        guides[1].add(recording.values[rows], recording.valid[rows])
        at = rows.stop
    np.testing.assert_array_equal(whole.held().gravity, pieces.held().gravity)
    a, b = (g.step for g in guides)
    assert (a.phase, a.number, a.left_s) == (b.phase, b.number, b.left_s)


def test_a_sensor_that_points_the_same_way_in_both_poses_is_refused() -> None:
    recording = pose_recording(day(833_000, 1, ("wrist_left", "lower_back")), EXACT)
    found = align_poses(frames(recording), frames(recording))
    assert found.why == ("", "not_enrolled")  # a trunk that stays upright
    assert np.isinf(found.alignment.error_rad[1]) and (found.alignment.rotation[1] == np.eye(3)).all()


def one(*gravity: tuple[float, float, float]) -> PoseFrames:
    held = [(i, Held(np.array([g]) / np.linalg.norm(g), np.zeros(1), ("",))) for i, g in enumerate(gravity)]
    return frames_of_poses(held, n_poses=len(POSES))


def test_poses_that_disagree_with_the_enrolment_or_were_not_held_are_refused() -> None:
    enrolled = one((0, 0, 1), (1, 0, 0))
    assert align_poses(one((0, 0, 1), (1, 0, 0.8)), enrolled).why == ("other_pose",)  # 51 degrees apart, not 90
    assert align_poses(one((0, 0, 1), (0.1, 0, 1)), enrolled).why == ("same_direction",)
    assert align_poses(one((0, 0, 1)), enrolled).why == ("moving",)
    assert align_poses(enrolled, one((0, 0, 1))).why == ("not_enrolled",)
    near = one((0, 0, 1), (np.sin(0.4), 0, np.cos(0.4)))  # 23 degrees apart tell little
    assert align_poses(near, near).why == ("uncertain",)
    with pytest.raises(SignalError, match="poses 0 to 1"):
        frames_of_poses([])
    with pytest.raises(SignalError, match="cannot be held against"):
        align_poses(frames(pose_recording(day(1, 1))), enrolled)


def test_the_guide_waits_for_who_moves_and_goes_on_without_them_only_when_told() -> None:
    recording = pose_recording(day(834_000, 1, WRISTS), PoseHabit(rounds=1, hold_s=60.0))
    values = recording.values.copy()
    values[:, 9:] += np.random.default_rng(0).normal(0, 1, (len(values), 3)).astype(np.float32)  # a trembling arm
    guide = PoseGuide(recording.sensors, rate_hz=50.0, rounds=1, ready_s=4.0)
    guide.add(values[: 35 * 50], recording.valid[: 35 * 50])
    assert guide.step.phase == "stuck" and guide.step.why == ("", "moving")
    guide.add(values[:500], recording.valid[:500])
    assert guide.step.phase == "stuck"  # nothing goes on by itself
    guide.repeat()
    assert (guide.step.phase, guide.step.number) == ("ready", 0)
    with pytest.raises(SignalError, match="under way"):
        guide.repeat()
    guide.add(values[: 35 * 50], recording.valid[: 35 * 50])
    guide.go_on()
    assert (guide.step.phase, guide.step.number, guide.step.pose) == ("ready", 1, "table")
    second = slice(64 * 50, 64 * 50 + 35 * 50)
    guide.add(values[second], recording.valid[second])
    guide.go_on()
    assert guide.done
    assert guide.frames().usable.tolist() == [True, False]
    nobody = PoseGuide(recording.sensors, rate_hz=50.0, rounds=1, ready_s=1.0)
    silent = np.zeros((40 * 50, 12), np.float32)
    nobody.add(silent, np.zeros(silent.shape, bool))
    assert nobody.step.why == ("no_data", "no_data")
    with pytest.raises(SignalError, match="no sensor was still"):
        nobody.go_on()


def test_marks_are_read_and_looked_for_after_their_time() -> None:
    marks = parse_marks(["table=0:19", "down=6"])
    assert [(m.pose, m.start_s) for m in marks] == [(0, 6.0), (1, 19.0)]
    for bad in (["down=x"], ["standing=3"], ["down=3"], ["down3"]):
        with pytest.raises(ConfigError, match="pose"):
            parse_marks(bad)
    recording = pose_recording(day(835_000, 1), PoseHabit(rounds=1, hold_s=9.0))
    found = MarkedPoses(parse_marks(["down=4", "table=17"]), recording.sensors, rate_hz=50.0)
    for start in range(0, len(recording), 50):
        rows = slice(start, start + 50)
        found.add(recording.values[rows], recording.valid[rows], start_s=start / 50)
    assert found.frames().usable.all()
    np.testing.assert_allclose(found.frames().gravity, frames(recording).gravity, atol=0.02)
    absent = MarkedPoses(parse_marks(["down=4", "table=999"]), recording.sensors, rate_hz=50.0)
    absent.add(recording.values, recording.valid, start_s=0.0)
    with pytest.raises(ConfigError, match=r"pose table at 999 s: no sensor was still for 5 s"):
        absent.frames()
    assert MARK_S > 5


@pytest.fixture(scope="module")
def sitter(scorer: Scorer) -> tuple[Enrolment, Recording, Recording]:
    """Somebody who never walks: enrolled with poses; poses and a day on which the sensors were put on badly."""
    config = replace(day(836_000, 1, WRISTS, donning_deg=6.0), duration_s=200.0)
    usual = [pose_recording(config), simulate(config)]
    enrolment = enrol_recordings(scorer, usual, subject="p", allow_short=True)
    later, turns = replace(config, session_seed=2), random_turns(9, 2)
    return enrolment, turned(pose_recording(later), turns), turned(simulate(later), turns)


def play(pipeline: Pipeline, recording: Recording, *, first_tick: int = 0) -> list:  # type: ignore[type-arg]
    time = (first_tick + np.arange(len(recording), dtype=np.int64) + 1) * 20_000_000
    for spec in recording.sensors:
        c = recording.columns(spec.name)
        valid = recording.valid[:, c]
        pipeline.push(
            "p", ImuChunk(spec.name, time, recording.values[:, c], valid, ~valid, 20_000_000), channels=spec.channels
        )
    return pipeline.advance()


def test_an_enrolment_keeps_its_poses_and_one_without_them_is_as_before(
    scorer: Scorer, sitter: tuple[Enrolment, Recording, Recording]
) -> None:
    enrolment = sitter[0]
    assert enrolment.manifest.poses == POSES
    assert enrolment.poses is not None and enrolment.poses.usable.all()
    assert enrolment.frames.anisotropy.max() == 0  # nobody walked
    without = enrol_recordings(scorer, [simulate(replace(day(7, 1, WRISTS), duration_s=120.0))], allow_short=True)
    assert without.poses is None and without.manifest.poses == ()
    people = People(scorer, [without.manifest.subject], {without.manifest.subject: without})
    assert people.bases[0].alignment == "none"
    with pytest.raises(ConfigError, match="no poses to align to"):
        people.pose(without.manifest.subject, enrolment.poses)


def test_poses_through_the_pipeline_make_a_badly_put_on_day_ordinary_again(
    scorer: Scorer, sitter: tuple[Enrolment, Recording, Recording]
) -> None:
    enrolment, poses, later = sitter

    def run(*, posed: bool) -> list:  # type: ignore[type-arg]
        pipeline = Pipeline(scorer, ["p"], people=People(scorer, ["p"], {"p": enrolment}), make_clock=FixedClock)
        guide = PoseGuide(scorer.manifest.sensor_specs, rate_hz=50.0, ready_s=4.0)
        for scored in play(pipeline, poses):
            guide.add(scored.values, scored.valid)
        assert guide.done
        if posed:
            assert pipeline.use_poses("p", guide.frames()).why == ("", "")
        return [s.batch.verdict(s.stream) for s in play(pipeline, later, first_tick=len(poses))]

    aligned, left = run(posed=True), run(posed=False)
    assert {v.basis.alignment for v in aligned} == {"done"} and {v.basis.alignment for v in left} == {"pending"}
    assert aligned[0].reasons[0].code == "warming_up"  # what the model remembered was turned otherwise
    near, far = (np.array([v.score for v in verdicts[8:]]) for verdicts in (aligned, left))
    assert np.median(near) < np.median(far) - 0.15
    assert np.mean(near > 1) < 0.7 * np.mean(far > 1)


def test_what_was_turned_by_poses_stays_turned_over_a_restart_and_until_the_sensors_are_put_on_again(
    scorer: Scorer, sitter: tuple[Enrolment, Recording, Recording]
) -> None:
    enrolment, poses, _ = sitter
    people = People(scorer, ["p"], {"p": enrolment})
    people.pose("p", frames(poses))
    again = People(scorer, ["p"], {"p": enrolment})
    assert again.bases[0].alignment == "pending"
    again.load(people.save(), {0: 0})
    assert again.bases[0].alignment == "done"
    np.testing.assert_array_equal(again.save()["rotations"], people.save()["rotations"])
    again.realign("p")
    assert again.bases[0].alignment == "pending" and again.save()["turned"].all()


def test_one_sensor_that_failed_leaves_the_others_aligned(
    scorer: Scorer, sitter: tuple[Enrolment, Recording, Recording]
) -> None:
    enrolment, poses, _ = sitter
    valid = poses.valid.copy()
    valid[:, 6:] = False
    people = People(scorer, ["p"], {"p": enrolment})
    found = people.pose("p", frames(replace(poses, valid=valid)))
    assert found.why == ("", "moving")
    assert people.bases[0].alignment == "partly"
    saved = people.save()["rotations"][0]
    assert degrees(saved)[0] > 5 and (saved[1] == np.eye(3)).all()


def test_an_enrolment_is_made_from_a_recording_with_marked_poses_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(day(837_000, 1, WRISTS), duration_s=60.0)
    poses, usual = pose_recording(config), simulate(config)
    whole = replace(
        usual,
        values=np.concatenate([poses.values, usual.values]),
        valid=np.concatenate([poses.valid, usual.valid]),
        labels=(),
    )
    time = (np.arange(len(whole), dtype=np.int64) + 1) * 20_000_000
    with SessionWriter(tmp_path / "monday", facts={"subject": "p-007"}) as writer:
        for spec in whole.sensors:
            writer.describe(spec)
        for start in range(0, len(whole), 5):
            rows = slice(start, start + 5)
            for spec in whole.sensors:
                c, none = whole.columns(spec.name), np.zeros((5, 6), bool)
                arrived_ns = int(time[rows][-1]) + 1_000_000
                writer.write(
                    ImuChunk(
                        spec.name, time[rows], whole.values[rows, c], ~none, none, 20_000_000, host_time_ns=arrived_ns
                    )
                )
    out = tmp_path / "p-007.enrolment"
    command = ["enrol", str(tmp_path / "monday"), "--out", str(out), "--allow-short", "--json"]
    assert main([*command, "--pose", "down=0:04"]) == 1
    assert "table is not marked" in capsys.readouterr().err
    assert main([*command, "--guided-poses"]) == 1
    assert "live gateway" in capsys.readouterr().err
    marks = ["down=4", "table=0:16", "down=28", "table=40"]
    assert main([*command, *(part for m in marks for part in ("--pose", m))]) == 0
    assert json.loads(capsys.readouterr().out)["poses"] == list(POSES)
    found = read_enrolment(out).poses
    assert found is not None and found.usable.all() and (found.n_held == 2).all()
    np.testing.assert_allclose(found.gravity, frames(poses).gravity, atol=0.03)


def test_poses_in_a_file_that_do_not_fit_are_refused(sitter: tuple[Enrolment, Recording, Recording]) -> None:
    from kinedge.edge.enrolment import pack_enrolment
    from kinedge.errors import BundleError

    enrolment = sitter[0]
    assert enrolment.poses is not None
    fields = enrolment.manifest.model_dump(mode="json", exclude={"parts", "poses"})
    packed = pack_enrolment(fields, enrolment.baseline, enrolment.frames, enrolment.poses)
    assert read_enrolment(packed).digest == enrolment.digest
    for bad in (
        replace(enrolment.poses, gravity=2 * enrolment.poses.gravity),
        replace(enrolment.poses, error_rad=-enrolment.poses.error_rad),
        replace(enrolment.poses, gravity=np.full_like(enrolment.poses.gravity, np.nan)),
        replace(enrolment.poses, n_held=enrolment.poses.n_held[:1]),
    ):
        with pytest.raises((BundleError, ValueError)):
            read_enrolment(pack_enrolment(fields, enrolment.baseline, enrolment.frames, bad))
