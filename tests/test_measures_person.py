"""A person's measures from chunks to hours, days and changes: resumed, forward only, and told once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.measures.day import Estimate, MeasuredDay
from kinedge.edge.measures.person import PersonMeasures
from kinedge.edge.measures.watch import DayWatch
from kinedge.errors import SignalError

G = 9.80665
RATE = 50
MORNING_S = 1_700_000_000 // 86_400 * 86_400 + 9 * 3600
CONFIG = MeasuresConfig(timezone="UTC", off_body_min=5)


def wrist(seconds, *, seed=0, moving=True):
    """Reaches of irregular length of a raised forearm, or a wrist at rest in a lap."""
    rng = np.random.default_rng(seed)
    n = seconds * RATE
    t = np.arange(n) / RATE
    values = np.zeros((n, 6), np.float32)
    values[:, 0], values[:, 2] = 0.5 * G, 0.87 * G
    if moving:
        phase = 2 * np.pi * np.cumsum(0.5 + 0.4 * np.sin(0.37 * t) + 0.2 * rng.normal(size=n)) / RATE
        values[:, 1] = 4.0 * np.sin(phase)
        values[:, 5] = 1.5 * np.maximum(np.sin(phase), 0)
    return values + rng.normal(scale=0.03, size=values.shape).astype(np.float32)


def feed(person, left, right, *, start_s=0, offset_s=MORNING_S, cuts=None, flush=True):
    """Push both wrists in pieces, of ten seconds if nobody says otherwise."""
    changes, at = [], 0
    cuts = range(10 * RATE, len(left), 10 * RATE) if cuts is None else cuts
    for end in [*sorted(c for c in cuts if c < len(left)), len(left)]:
        time = (np.arange(at, end, dtype=np.int64) + start_s * RATE) * 20_000_000
        for name, values in (("wrist_left", left), ("wrist_right", right)):
            part = values[at:end]
            there = np.ones(part.shape, bool)
            person.push(name, time, part, there, ~there, interval_ns=20_000_000)
        changes += person.advance(utc_offset_s=offset_s)
        at = end
    return changes + (person.advance(utc_offset_s=offset_s, flush=True) if flush else [])


def day_of(person):
    return [r.content for r in person.rows() if r.level == "day"][-1]


def test_samples_become_hours_and_a_day_with_wear_and_intervals():
    person = PersonMeasures(CONFIG, affected="left")
    left = np.vstack([wrist(120), wrist(240, moving=False)])
    feed(person, left, wrist(360, seed=1), offset_s=MORNING_S + 3600 - 180)
    rows = {(r.level, r.start): r.content for r in person.rows()}
    hour = MORNING_S // 3600
    assert set(rows) == {("hour", hour), ("hour", hour + 1), ("day", MORNING_S // 86_400)}
    assert rows["hour", hour]["worn_s"] == 180 and rows["hour", hour + 1]["worn_s"] == 180
    day = rows["day", MORNING_S // 86_400]
    assert day["worn_s"] == 360 and not day["complete"]
    assert day["measures"]["use_ratio"]["value"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("factor", [1 / G, 2.0, 1000 / G])
def test_a_wrist_in_another_unit_has_not_done_less_but_was_not_received(factor):
    person = PersonMeasures(CONFIG, affected="left")
    left = np.vstack([wrist(30, moving=False), wrist(270)])
    left[:, :3] *= factor
    feed(person, left, wrist(300, seed=1))
    day = day_of(person)
    assert day["missing_s"] >= 290 and day["worn_s"] <= 10
    assert day["measures"]["active_h_left"]["value"] == pytest.approx(0, abs=0.001)
    person.keep()
    again = PersonMeasures(CONFIG, affected="left")
    again.restore(person.states())
    feed(again, left[1500:], wrist(270, seed=1), start_s=300)
    assert day_of(again)["missing_s"] >= 560  # known from before: nothing of it is believed for a second


def test_ratios_are_of_the_affected_arm_and_named_by_side():
    left, right = np.vstack([wrist(60), wrist(120, moving=False)]), wrist(180, seed=1)
    ratios = {}
    for side in ("left", "right"):
        person = PersonMeasures(CONFIG, affected=side)
        feed(person, left, right)
        measures = day_of(person)["measures"]
        ratios[side] = measures["use_ratio"]["value"]
        assert measures["active_h_left"]["value"] < measures["active_h_right"]["value"]
    assert ratios["left"] == pytest.approx(1 / ratios["right"], rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40 * RATE), max_size=6))
def test_any_chunking_gives_the_same_rows(cuts):
    whole, parts = PersonMeasures(CONFIG), PersonMeasures(CONFIG)
    feed(whole, wrist(40), wrist(40, seed=1))
    feed(parts, wrist(40), wrist(40, seed=1), cuts=cuts)
    assert whole.rows() == parts.rows()


def test_a_restart_counts_nothing_twice_and_books_what_it_missed():
    left, right = wrist(300), wrist(300, seed=1)
    one = PersonMeasures(CONFIG)
    feed(one, left[: 200 * RATE], right[: 200 * RATE])
    saved = one.states()
    feed(one, left[200 * RATE : 230 * RATE], right[200 * RATE : 230 * RATE], start_s=200)  # killed before it was saved
    two = PersonMeasures(CONFIG)
    assert two.restore(saved) == []
    feed(two, left[150 * RATE :], right[150 * RATE :], start_s=1150, offset_s=MORNING_S - 1000)  # another boot's clock
    day = day_of(two)
    assert day["worn_s"] == 300 and day["missing_s"] == 0
    three = PersonMeasures(CONFIG)
    three.restore(saved)
    feed(three, left[260 * RATE :], right[260 * RATE :], start_s=260)
    assert day_of(three)["worn_s"] == 240 and day_of(three)["missing_s"] == 60


def test_a_clock_that_is_set_back_repeats_no_second():
    person = PersonMeasures(CONFIG)
    feed(person, wrist(100), wrist(100, seed=1))
    feed(person, wrist(60), wrist(60, seed=1), start_s=100, offset_s=MORNING_S - 40)
    assert day_of(person)["worn_s"] == 120


def test_only_what_changed_is_told_again():
    person = PersonMeasures(CONFIG)
    feed(person, wrist(60), wrist(60, seed=1), offset_s=MORNING_S + 3570)
    assert len(person.rows()) == 3
    person.keep()
    feed(person, wrist(20), wrist(20, seed=1), start_s=60, offset_s=MORNING_S + 3570)
    assert [(r.level, r.start % 24) for r in person.rows() if r.level == "hour"] == [("hour", 10)]


def test_a_state_of_other_settings_keeps_its_trend_at_least():
    person = PersonMeasures(CONFIG)
    feed(person, wrist(20), wrist(20, seed=1))
    other = PersonMeasures(MeasuresConfig(timezone="UTC", arm_rate_hz=100))
    notes = other.restore(person.states())
    assert len(notes) == 1 and "its trend goes on" in notes[0]
    longer = PersonMeasures(MeasuresConfig(timezone="UTC", arm_rate_hz=100, learning_days=20))
    assert "trend start anew" in longer.restore(person.states())[0]


def test_hours_and_days_are_those_of_the_place():
    person = PersonMeasures(MeasuresConfig(timezone="Asia/Kolkata"))
    feed(person, wrist(10), wrist(10, seed=1), offset_s=MORNING_S // 86_400 * 86_400 + 86_400 - 3600)
    assert {r.start for r in person.rows() if r.level == "day"} == {MORNING_S // 86_400 + 1}
    assert {r.start % 24 for r in person.rows() if r.level == "hour"} == {4}


def test_a_sensor_slower_than_its_grid_is_refused_and_not_filled_up():
    person = PersonMeasures(MeasuresConfig(arms=None, legs=("ankle_left",), leg_rate_hz=200))
    time = np.arange(100, dtype=np.int64) * 10_000_000
    there = np.ones((100, 6), bool)
    with pytest.raises(SignalError, match="gives 100 Hz and the grid of gait has 200 Hz"):
        person.push("ankle_left", time, np.zeros((100, 6), np.float32), there, ~there, interval_ns=10_000_000)


def test_sensors_without_a_side_and_unknown_zones_are_refused():
    with pytest.raises(ValidationError, match="names no side"):
        MeasuresConfig(arms=("wrist", "hand"))
    with pytest.raises(ValidationError, match="one sensor of each side"):
        MeasuresConfig(legs=("ankle_left", "foot_left"))
    with pytest.raises(ValidationError, match="no time zone"):
        MeasuresConfig(timezone="Mars/Phobos")


def arm_day(day, *, ratio, share, worn_h=12.0):
    measures = {"use_ratio": Estimate(ratio, ratio * 0.98, ratio * 1.02), "active_share": Estimate(share)}
    return MeasuredDay("arm", day, worn_h, 0.0, 0.0, 1.0, measures)


def watched(days, *, affected=True):
    watch = DayWatch("arm", affected=affected)
    state, told, said = watch.initial_state(), [], []
    for day in days:
        word, changes, state = watch.step(day, state)
        told += changes
        said.append(word.state)
    return told, said


def noisy(level, n, seed):
    return level + np.random.default_rng(seed).normal(scale=0.02, size=n)


def test_less_of_one_arm_is_told_once_with_its_beginning():
    ratios = np.concatenate([noisy(0.7, 20, 0), noisy(0.5, 10, 1)])
    told, said = watched([arm_day(i, ratio=r, share=0.4) for i, r in enumerate(ratios)])
    assert [c.kind for c in told] == ["one_arm_lower"] and told[0].measure == "use_ratio"
    assert 18 <= told[0].since_day <= 21 <= told[0].day <= 24
    assert told[0].value.value == pytest.approx(0.5, abs=0.06) and told[0].expected == pytest.approx(0.7, abs=0.05)
    assert told[0].shortfall > told[0].threshold and said[:10] == ["learning"] * 10 and said[-1] == "one_arm_lower"


def test_less_of_both_arms_is_another_change():
    shares = np.concatenate([noisy(0.4, 20, 2), noisy(0.2, 10, 3)])
    ratios = noisy(0.7, 30, 4)
    told, _ = watched([arm_day(i, ratio=r, share=s) for i, (r, s) in enumerate(zip(ratios, shares, strict=True))])
    assert [c.kind for c in told] == ["both_arms_lower"] and told[0].measure == "active_share"


def test_less_of_one_arm_is_not_also_told_as_less_of_both():
    ratios = np.concatenate([noisy(0.7, 20, 0), noisy(0.4, 10, 1)])
    shares = np.concatenate([noisy(0.4, 20, 2), noisy(0.33, 10, 3)])
    told, _ = watched([arm_day(i, ratio=r, share=s) for i, (r, s) in enumerate(zip(ratios, shares, strict=True))])
    assert told[0].kind == "one_arm_lower"


def test_recovery_is_told_by_nobody():
    ratios = np.linspace(0.3, 0.8, 60) + noisy(0, 60, 5)
    told, said = watched([arm_day(i, ratio=r, share=0.3 + i / 200) for i, r in enumerate(ratios)])
    assert told == [] and "one_arm_lower" not in said


def test_without_an_affected_side_either_arm_may_fall_behind():
    for after in (0.6, 1.6):
        ratios = np.concatenate([noisy(1.0, 20, 0), noisy(after, 10, 1)])
        told, _ = watched([arm_day(i, ratio=r, share=0.4) for i, r in enumerate(ratios)], affected=False)
        assert [c.kind for c in told] == ["arms_less_even"]
        assert told[0].value.value == pytest.approx(0.6, abs=0.06) and told[0].expected == pytest.approx(1, abs=0.05)


def test_a_change_that_passes_may_be_told_again_and_an_unworn_day_ends_nothing():
    ratios = [*noisy(0.7, 20, 0), *noisy(0.4, 6, 1), *noisy(0.7, 30, 2), *noisy(0.4, 6, 3)]
    days = [arm_day(i, ratio=r, share=0.4) for i, r in enumerate(ratios)]
    told, _ = watched(days)
    assert [c.kind for c in told] == ["one_arm_lower"] * 2
    gap = [*days[:25], arm_day(25, ratio=0.7, share=0.4, worn_h=1.0), *days[23:26]]
    told, said = watched(gap)
    assert len(told) == 1 and said[25] == "unsure"


def gait_day(day, *, contact, steps=3000.0, impact=None):
    measures = {"contact_symmetry_index": Estimate(contact, contact - 0.5, contact + 0.5, "%")}
    measures |= {f"steps_{side}": Estimate(steps) for side in ("left", "right")}
    if impact is not None:
        measures["impact_symmetry_index"] = Estimate(impact, unit="%")
    return MeasuredDay("gait", day, 1.5, 0.0, 0.0, 1.0, measures)


def test_legs_that_become_less_alike_are_told_and_a_short_walk_says_nothing():
    watch = DayWatch("gait")
    state, told = watch.initial_state(), []
    for day, contact in enumerate([*noisy(-2.0, 15, 0), *noisy(-12.0, 6, 1)]):
        word, changes, state = watch.step(gait_day(day, contact=contact), state)
        told += changes
    assert [c.kind for c in told] == ["contact_less_even"] and word.state == "contact_less_even"
    assert told[0].value.value == pytest.approx(12, abs=0.2) and told[0].expected == pytest.approx(2, abs=0.3)
    assert told[0].value.low < 12 < told[0].value.high
    word, _, _ = watch.step(gait_day(30, contact=-12.0, steps=50.0), state)
    assert word.trends["contact_symmetry_index"].state == "unsure"
