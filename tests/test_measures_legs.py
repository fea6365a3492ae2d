"""Days of legs: steps, contact, impacts, load, symmetry and regularity; what was not heard is not counted."""

from __future__ import annotations

import numpy as np
import pytest

from kinedge.edge.measures.legs import LegColumns, LegsUse
from kinedge.edge.measures.seconds import SecondCutter, state_from_arrays, state_to_arrays
from kinedge.errors import SignalError

G = 9.80665
RATE = 200


def leg(seconds, *, rate=RATE, late_s=0.0, stance_s=0.6, peak_g=6.0):
    """A shank of 0.5 s swings, a stance of ``stance_s`` and an impact of ``peak_g``."""
    t = np.arange(seconds * rate) / rate
    rotation, impact = np.zeros(len(t)), np.zeros(len(t))
    for begin in np.arange(0.5 + late_s, seconds - 1, stance_s + 0.5):
        swing = (t - begin) / 0.4
        inside = (swing >= 0) & (swing < 1)
        rotation[inside] += 5.0 * np.sin(np.pi * swing[inside])
        for at, size in ((begin - 0.05, -2.0), (begin + 0.45, -2.5)):
            rotation += size * np.exp(-(((t - at) / 0.02) ** 2))
        impact += (peak_g - 1) * G * np.exp(-(((t - begin - 0.45) / 0.01) ** 2))
    rng = np.random.default_rng(seconds)
    values = np.zeros((len(t), 6))
    values[:, 2], values[:, 4] = G + impact, rotation
    return values + rng.normal(scale=0.02, size=values.shape)


def trunk(seconds, *, rate=RATE, stride_s=1.1):
    t = np.arange(seconds * rate) / rate
    shake = G * (1 + 0.3 * np.sin(4 * np.pi * t / stride_s) + 0.05 * np.sin(2 * np.pi * t / stride_s))
    return np.stack([0 * t, 0 * t, shake], axis=1)


def both(seconds, **right):
    return np.hstack([leg(seconds), leg(seconds, late_s=0.55, **right), trunk(seconds)])


def measure(rate=RATE, *, with_trunk=True):
    legs = [LegColumns("left", slice(0, 6)), LegColumns("right", slice(6, 12))]
    return LegsUse(rate, legs=legs, trunk=slice(12, 15) if with_trunk else None)


def day_of(use, values, *, rate=RATE, valid=None, saturated=None, first_s=9 * 3600):
    state = use.initial_state()
    valid = np.ones(values.shape, bool) if valid is None else valid
    for second in SecondCutter(rate, values.shape[1]).push(0, values.astype(np.float32), valid, saturated):
        _, state = use.step(second, state, local_s=first_s + second.index)
    return use.day(state), state


def test_a_walk_is_booked_with_its_steps_contacts_impacts_load_and_regularity():
    day, _ = day_of(measure(), both(120))
    found = {name: e.value for name, e in day.measures.items()}
    assert day.worn_h == pytest.approx(120 / 3600) and day.missing_h == 0
    expected = (120 - 1.5) / 1.1
    assert found["steps_left"] == pytest.approx(expected, abs=4) and found["steps_right"] == pytest.approx(
        expected, abs=4
    )
    assert found["contact_s_left"] == pytest.approx(0.6, abs=0.01) and found["stride_s"] == pytest.approx(1.1, abs=0.01)
    assert found["impact_g_left"] == pytest.approx(6.0, abs=0.3)
    assert found["impacts_low"] + found["impacts_medium"] == found["steps_left"] + found["steps_right"]
    assert found["contact_symmetry_index"] == pytest.approx(0, abs=2)
    assert found["step_regularity"] > 0.9 and found["stride_regularity"] > 0.9
    assert day.walking_h * 3600 == pytest.approx(115, abs=8) and found["load_per_min"] > 0


def test_a_leg_that_stays_down_longer_and_lands_harder_shows_on_its_side():
    values = np.hstack([leg(120), leg(120, peak_g=9.0), trunk(120)])
    day, _ = day_of(measure(), values)
    assert day.measures["impact_symmetry_index"].value == pytest.approx((9 - 6) / 7.5 * 100, abs=4)
    assert day.measures["impact_symmetry_angle"].value > 0
    day, _ = day_of(measure(), np.hstack([leg(120), leg(120, stance_s=0.66), trunk(120)]))
    assert day.measures["contact_symmetry_index"].value == pytest.approx(0.06 / 0.63 * 100, abs=2)


def test_rates_that_cannot_carry_a_number_do_not_give_it():
    slow = np.hstack([leg(60, rate=50), leg(60, rate=50, late_s=0.55), trunk(60, rate=50)])
    day, _ = day_of(measure(50), slow, rate=50)
    assert "impact_g_left" not in day.measures and "impacts_low" not in day.measures
    assert "load_per_min" not in day.measures and day.measures["steps_left"].value > 40


def test_a_clipped_impact_is_counted_as_such():
    values = both(60)
    day, _ = day_of(measure(), values, saturated=np.repeat(values[:, 2:3] > 4 * G, values.shape[1], axis=1))
    assert day.measures["impacts_clipped"].value >= day.measures["steps_left"].value > 40


def test_a_pause_ends_the_count_of_strides():
    still = np.tile(np.hstack([[0, 0, G, 0, 0, 0], [0, 0, G, 0, 0, 0], [0, 0, G]]), (10 * RATE, 1))
    short = both(14)  # fewer than 15 strides in a row
    day, state = day_of(measure(), np.vstack([short, still] * 4))
    assert day.measures["step_regularity"].value is None
    assert day.measures["steps_left"].value > 30 and int(state.trunk.n_strides) < 15


def test_what_was_not_heard_of_one_leg_is_missing_for_both():
    values = both(60)
    valid = np.ones(values.shape, bool)
    valid[20 * RATE : 40 * RATE, 8] = False
    day, _ = day_of(measure(), values, valid=valid)
    assert day.missing_h * 3600 == pytest.approx(20) and day.worn_h * 3600 == pytest.approx(40)


def test_the_state_is_saved_restored_and_small():
    use = measure()
    values = both(30).astype(np.float32)
    on = off = use.initial_state()
    for i, second in enumerate(SecondCutter(RATE, 15).push(0, values, np.ones(values.shape, bool))):
        _, on = use.step(second, on, local_s=i)
        _, off = use.step(second, state_from_arrays(use.initial_state(), state_to_arrays(off)), local_s=i)
    a, b = state_to_arrays(on), state_to_arrays(off)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert sum(v.nbytes for v in a.values()) < 400_000


def test_one_leg_alone_has_no_symmetry():
    use = LegsUse(100, legs=[LegColumns("left", slice(0, 6))])
    day, _ = day_of(use, leg(30, rate=100), rate=100)
    assert day.measures["steps_left"].value > 20
    assert not any("symmetry" in name for name in day.measures)


def test_columns_that_are_no_leg_are_refused():
    with pytest.raises(SignalError, match="six columns"):
        LegsUse(100, legs=[LegColumns("left", slice(0, 3))])
    with pytest.raises(SignalError, match="three columns"):
        LegsUse(100, legs=[LegColumns("left", slice(0, 6))], trunk=slice(6, 12))
