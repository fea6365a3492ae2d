"""Nothing is promised before it is known how the sensors sit today, and what was off the body is not known any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import random_turns, turned

from kinedge.edge.alarm import AlarmConfig, Alarms
from kinedge.edge.calibration import UNSCORED, EnrolledCohort
from kinedge.edge.caution import Decision
from kinedge.edge.dashboard.words import calibration_words
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.people import ALIGN_AFTER_S, People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.promise import Watched, placing
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.edge.wearing import SILENT_S, STILL_S, WearWatch
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.training.simulate import ImuModel, SimulationConfig, simulate

WRISTS = ("wrist_left", "wrist_right")
LEFT, RIGHT, BOTH = (np.array(mask) for mask in ([True, False], [False, True], [True, True]))
Walker = tuple[Enrolment, Recording, Recording]


@pytest.fixture(scope="module")
def walker(scorer: Scorer) -> Walker:
    """An enrolment, another day of walking on which both sensors were put on badly, and one on which they were not."""
    first, later = (
        simulate(
            SimulationConfig(
                sensors=WRISTS,
                duration_s=duration_s,
                subject_seed=824_000,
                session_seed=session,
                activity_mix={"gait": 0.8, "rest": 0.2},
                imu=ImuModel(donning_deg=6.0),
            )
        )
        for session, duration_s in ((1, 100.0), (2, 150.0))
    )
    return enrol_recordings(scorer, [first], subject="p", allow_short=True), turned(later, random_turns(7, 2)), later


def people_of(scorer: Scorer, walker: Walker) -> People:
    return People(scorer, ["p"], {"p": walker[0]})


def walk(people: People, day: Recording, *, start_s: int = 0, heard: tuple[bool, bool] = (True, True)) -> list[str]:
    """Let somebody walk; return what is said of the alignment second by second."""
    valid = day.valid & np.repeat(heard, 6)
    said = []
    for k in range(start_s, len(day) // 50):
        part = slice(50 * k, 50 * (k + 1))
        people.learn(np.array([0]), day.values[None, part], valid[None, part])
        said.append(people.bases[0].alignment)
    return said


def test_it_is_known_how_sensors_sit_once_they_walked_and_not_any_more_once_they_were_off(
    scorer: Scorer, walker: Walker
) -> None:
    people = people_of(scorer, walker)
    assert not people.known.any()
    assert walk(people, walker[1])[-1] == "done" and people.known.all()
    turns = people.save()["rotations"].copy()
    people.taken_off(np.array([0]), LEFT[None])
    assert people.bases[0].alignment == "partly" and people.known.tolist() == [[False, True]]
    assert (people.save()["rotations"] == turns).all()  # until it is known otherwise
    assert walk(people, walker[1])[-1] == "done" and people.known.all()
    assert (people.save()["rotations"][0, 1] == turns[0, 1]).all()  # the other one was not looked at


def test_nobody_waits_for_a_sensor_that_is_silent_and_it_is_aligned_when_it_comes(
    scorer: Scorer, walker: Walker
) -> None:
    people = people_of(scorer, walker)
    assert walk(people, walker[1], heard=(False, True))[-1] == "partly"
    assert people.known.tolist() == [[False, True]] and people.learning
    assert walk(people, walker[1])[-1] == "done" and people.known.all() and not people.learning


def test_walking_while_a_sensor_is_off_teaches_nothing_about_it(scorer: Scorer, walker: Walker) -> None:
    people = people_of(scorer, walker)
    walk(people, walker[1].slice(0, 2000))
    people.taken_off(np.array([0]), BOTH[None])
    assert not people.known.any() and people.bases[0].alignment == "pending"
    assert "done" not in walk(people, walker[1].slice(0, 2000))  # begins anew


def test_what_could_not_be_told_is_given_up_after_ten_minutes_and_looked_at_again_once_it_was_off(
    scorer: Scorer, walker: Walker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinedge.edge.people._GIVE_UP_S", ALIGN_AFTER_S)
    vague = replace(walker[0], frames=replace(walker[0].frames, error_rad=np.full((2, 2), 1.0)))
    people = People(scorer, ["p"], {"p": vague})
    assert walk(people, walker[1])[-1] == "failed" and not people.known.any() and not people.learning
    people.taken_off(np.array([0]), LEFT[None])
    assert people.bases[0].alignment == "pending" and people.learning


def test_sensors_that_stayed_on_since_the_enrolment_are_known_without_a_step(scorer: Scorer, walker: Walker) -> None:
    people = people_of(scorer, walker)
    people.same_wearing("p")
    assert people.bases[0].alignment == "same" and people.known.all() and not people.learning
    again = people_of(scorer, walker)
    again.load(people.save(), {0: 0})
    assert again.bases[0].alignment == "same" and again.known.all() and not again.learning
    again.taken_off(np.array([0]), RIGHT[None])
    assert again.bases[0].alignment == "partly"
    third = people_of(scorer, walker)
    third.load(again.save(), {0: 0})
    assert third.known.tolist() == [[True, False]] and third.learning
    third.realign("p")
    assert third.bases[0].alignment == "pending" and not third.known.any()
    with pytest.raises(ConfigError, match="not enrolled"):
        People(scorer, ["q"]).same_wearing("q")


def test_an_enrolment_without_walking_or_poses_is_known_only_while_nothing_is_taken_off(
    scorer: Scorer, walker: Walker
) -> None:
    enrolment = replace(
        walker[0], frames=replace(walker[0].frames, anisotropy=np.zeros(2), walking_s=np.zeros(2)), poses=None
    )
    people = People(scorer, ["p"], {"p": enrolment})
    assert people.bases[0].alignment == "none" and not people.known.any()
    people.same_wearing("p")
    people.taken_off(np.array([0]), LEFT[None])
    assert people.bases[0].alignment == "none" and people.known.tolist() == [[False, True]]


@given(
    course=st.lists(st.tuples(st.booleans(), st.floats(0, 900), st.floats(0, 900)), min_size=1, max_size=30),
    at=st.integers(0, 29),
)
def test_what_was_silent_or_still_for_long_is_off_whatever_came_between(
    course: list[tuple[bool, float, float]], at: int
) -> None:
    watch, silent_s, n_off = WearWatch(1, 1, hop_s=1.0), 0.0, 0
    for k, (heard, gap_s, still_s) in enumerate(course):
        if k == at:  # people come and go
            watch = watch.rearranged([-1, 0]).rearranged([1])
        gap_s = max(0.0, gap_s - 450)  # none, half of the time
        row, gap = np.array([0]), np.array([gap_s]) if gap_s else None
        off = watch.look(row, gap, np.array([[0.0 if heard else 1.0]]), np.array([[still_s]]))
        silent_s += gap_s
        assert (off is not None and off[0, 0]) == (silent_s >= SILENT_S or still_s >= STILL_S)
        n_off += off is not None
        silent_s = 0.0 if heard else silent_s + 1.0
        assert watch.seen_off(0) == n_off and watch.silent_s[0, 0] == pytest.approx(silent_s)


def alarms() -> Alarms:
    cohort = EnrolledCohort(
        reference=np.zeros(20),
        likelihood=np.zeros((2, 2)),
        levels=np.array([1.0]),
        limits=np.array([[0.0016, 0.087, 0.21, 0.35, 0.35]]),
        n_subjects=np.array([14.0]),
    )
    return Alarms(cohort, n_detectors=3, block_s=60.0, config=AlarmConfig())


@given(st.lists(st.tuples(st.booleans(), st.floats(-1, 4), st.booleans()), min_size=1, max_size=60))
def test_nothing_is_valid_while_it_is_not_known_and_the_ten_minutes_begin_then(
    course: list[tuple[bool, float, bool]],
) -> None:
    detector = alarms()
    state, plain = detector.initial_state(2), detector.initial_state(1)
    since = 0
    for placed, level, heard in course:
        u = np.full((2, 3), level if heard else UNSCORED)
        step, state = detector.step(u, np.full((2, 3), 9.0), state, placed=np.array([placed, True]))
        alone, plain = detector.step(u[:1], np.full((1, 3), 9.0), plain)
        since = since + heard if placed else 0
        assert step.learned[0] == min(since / 10, 1)
        if not placed:
            assert not step.valid[0] and not step.alarm[0]
        assert (step.alarm[1], step.valid[1], step.evidence[1]) == (alone.alarm[0], alone.valid[0], alone.evidence[0])


def play(pipeline: Pipeline, day: Recording, *, from_s: int, seconds: int) -> list[Verdict]:
    """Send seconds of a day, over and over if it is shorter."""
    verdicts = []
    for k in range(from_s, from_s + seconds):
        rows = np.arange(50 * k, 50 * (k + 1)) % (len(day) // 50 * 50)
        time = (np.arange(50 * k, 50 * (k + 1), dtype=np.int64) + 1) * 20_000_000
        for spec in day.sensors:
            c = day.columns(spec.name)
            chunk = ImuChunk(spec.name, time, day.values[rows, c], day.valid[rows, c], ~day.valid[rows, c], 20_000_000)
            pipeline.push("p", chunk, channels=spec.channels)
        verdicts += [s.batch.verdict(s.stream) for s in pipeline.advance()]
    return verdicts


def test_a_sensor_that_lay_on_the_table_ends_the_promise_when_it_is_worn_again(scorer: Scorer, walker: Walker) -> None:
    people = people_of(scorer, walker)
    people.same_wearing("p")
    day = walker[2]
    pipeline = Pipeline(scorer, ["p"], people=people, make_clock=FixedClock, alarm=AlarmConfig())
    lying = replace(day, values=day.values.copy())
    left = day.columns("wrist_left")
    quiet = np.random.default_rng(0).normal(0, 0.003, (len(day), 6)).astype(np.float32)
    lying.values[:, left] = quiet + np.array([0, 0, 9.81, 0, 0, 0], np.float32)
    worn = play(pipeline, day, from_s=0, seconds=20)[-1]
    assert worn.watched is not None and worn.watched.unplaced == () and worn.watched.learned > 0
    before = pipeline.seen_off("p")
    away = play(pipeline, lying, from_s=20, seconds=320)[-1]
    assert people.known.tolist() == [[False, True]] and pipeline.seen_off("p") > before
    assert away.watched is not None and away.watched.unplaced == ()  # of what the other one says, it is known
    back = play(pipeline, day, from_s=340, seconds=20)[-1]
    assert back.watched is not None and back.watched.unplaced == ("wrist_left",) and back.watched.learned == 0
    assert back.decision is Decision.UNSURE and back.basis.alignment == "partly"
    assert any(r.code == "not_placed" and "the left wrist): walk for a minute" in r.text for r in back.reasons)
    line = verdict_as_json("p", back)
    assert line["unplaced"] == ["wrist_left"] and line["calibration_valid"] is False and line["valid_in_s"] == 600
    saved = pipeline.save()
    again = Pipeline(scorer, ["p"], people=people_of(scorer, walker), make_clock=FixedClock, alarm=AlarmConfig())
    again.load(saved, {0: 0})
    assert again.people.known.tolist() == [[False, True]] and again.people.bases[0].alignment == "partly"


def test_what_is_not_known_is_told_with_what_to_do_about_it_in_both_languages() -> None:
    said = placing(WRISTS, ("walking", "poses"))
    assert "the left wrist and the right wrist" in said and "walk for a minute or take the guided poses" in said
    french = placing(["wrist_left"], ("poses",), language="fr")
    assert "le poignet gauche" in french and "prendre les postures guidées" in french and "marcher" not in french
    assert "enrol again" in placing(WRISTS, ())
    watched = Watched(False, False, 0.0, 0.0, 0.05, "all", "", unplaced=("wrist_left",), ways=("walking",))
    words = calibration_words(watched, personal=True, aligned="pending")
    assert words["en"] == watched.why_invalid[0].lower() + watched.why_invalid[1:]
    assert "marcher une minute" in words["fr"] and words["fr"].startswith("calibrage non valable")
