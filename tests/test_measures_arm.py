"""Arm use: counts, functional use, smoothness, wear, days; against a formula, a reference or a second way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.measures.arm import ArmUse, ArmUseConfig, arm_estimates
from kinedge.edge.measures.counts import ActivityCounts, GrossMovement
from kinedge.edge.measures.day import by_hour, estimate, median_of
from kinedge.edge.measures.filters import BlockFilter, Resampler
from kinedge.edge.measures.seconds import Second, SecondCutter, state_from_arrays, state_to_arrays
from kinedge.edge.measures.smoothness import Movements, ldlj_a, sparc
from kinedge.edge.measures.walking import Walking
from kinedge.errors import SignalError

G = 9.80665
RATE = 50


def minimum_jerk(n):
    t = np.linspace(0, 1, n)
    return 30 * t**2 - 60 * t**3 + 30 * t**4


def two_strokes(n):
    return minimum_jerk(n) + 0.7 * np.roll(minimum_jerk(n), n // 3)


def waving(rate, seconds):
    t = np.arange(seconds * rate) / rate
    x = 0.4 * np.sin(2 * np.pi * 0.8 * t) + 0.1 * np.sin(2 * np.pi * 3 * t)
    return G * np.stack([x, 0.2 * np.cos(2 * np.pi * 1.3 * t), 1 + 0.3 * np.sin(2 * np.pi * 0.5 * t)], axis=1)


def wrist(rng, seconds, *, moving=True, rate=RATE):
    """A raised forearm that reaches now and then, or lies still."""
    n = seconds * rate
    t = np.arange(n) / rate
    values = np.zeros((n, 6))
    values[:, 0], values[:, 2] = 0.5 * G, 0.87 * G
    if moving:
        # reaches of irregular length, so that it is no walking
        phase = 2 * np.pi * np.cumsum(0.5 + 0.4 * np.sin(0.37 * t) + 0.2 * rng.normal(size=n)) / rate
        values[:, 1] = 4.0 * np.sin(phase)
        values[:, 5] = 1.5 * np.maximum(np.sin(phase), 0)
    return values + rng.normal(scale=0.01, size=values.shape)


def days_of(values, *, config=None, first_s=8 * 3600, valid=None, stop=None):
    """Run a person (n, 12) through the measure; returns days that ended, the day under way, the state."""
    measure = ArmUse(RATE, paretic=slice(0, 6), other=slice(6, 12), config=config)
    state, ended = measure.initial_state(), []
    valid = np.ones(values.shape, bool) if valid is None else valid
    for second in SecondCutter(RATE, 12).push(0, values.astype(np.float32), valid):
        day, state = measure.step(second, state, local_s=first_s + second.index)
        ended += [day] if day else []
    return ended, measure.day(state), state


@pytest.mark.parametrize(("profile", "n", "reference"), [
    (minimum_jerk, 100, -1.401275956813009), (minimum_jerk, 50, -1.3966076707736508),
    (two_strokes, 100, -1.6806967908385864), (two_strokes, 50, -1.5802899126863403),
])  # fmt: skip
def test_sparc_equals_another_implementation(profile, n, reference):
    # scikit-digital-health 0.17.18, features.SPARC
    assert sparc(profile(n), float(n)) == pytest.approx(reference, abs=1e-6)


def test_a_jerky_movement_is_less_smooth_by_both_measures():
    t = np.linspace(0, 1, 100)
    smooth, jerky = minimum_jerk(100), minimum_jerk(100) * (1 + 0.5 * np.sin(2 * np.pi * 8 * t))
    assert sparc(jerky, 100.0) < sparc(smooth, 100.0) - 0.3
    acc = [np.stack([np.gradient(s, 0.01), 0 * s, 0 * s], axis=1) for s in (smooth, jerky)]
    assert ldlj_a(acc[1], 100.0) < ldlj_a(acc[0], 100.0) - 1


@pytest.mark.parametrize("speed", [np.zeros(50), np.ones(3), np.full(50, np.nan), np.ones((5, 5))])
def test_no_movement_has_no_smoothness(speed):
    with pytest.raises(SignalError, match="smoothness"):
        sparc(speed, 50.0)


@pytest.mark.parametrize("rate", [30, 50, 100, 128])
def test_counts_agree_with_another_implementation_at_any_rate(rate):
    # scikit-digital-health 0.17.18, get_activity_counts, seconds 20 to 40: 3617.8, without the rounding at 10 Hz
    measure = ActivityCounts(rate)
    state, counts = measure.initial_state(), []
    for second in waving(rate, 40).reshape(40, rate, 3):
        n, state = measure.step(second, state)
        counts.append(n)
    assert sum(counts[20:]) == pytest.approx(3617.8, rel=0.025)
    assert sum(counts[20:]) == pytest.approx(3554.7, rel=0.002)


def test_gravity_alone_counts_nothing_in_any_direction():
    measure = ActivityCounts(RATE)
    for direction in np.eye(3):
        state = measure.initial_state()
        for _ in range(5):
            n, state = measure.step(np.tile(G * direction, (RATE, 1)), state)
            assert n == 0


def test_a_block_filter_is_the_recursion_sample_by_sample():
    rng = np.random.default_rng(0)
    b, a = np.array([0.2, -0.1, 0.05]), np.array([1.0, -1.2, 0.5])
    x, y = rng.normal(size=60), np.zeros(60)
    for k in range(60):
        y[k] = sum(b[i] * x[k - i] for i in range(3) if k >= i) - sum(a[i] * y[k - i] for i in (1, 2) if k >= i)
    block = BlockFilter.of(b, a, length=20)
    state, parts = np.zeros((2, 1)), []
    for part in x.reshape(3, 20, 1):
        out, state = block.step(part, state)
        parts.append(out[:, 0])
    np.testing.assert_allclose(np.concatenate(parts), y, atol=1e-12)
    np.testing.assert_allclose(block.step(np.ones((20, 1)), block.resting_at(np.ones(1)))[0], b.sum() / a.sum())


@pytest.mark.parametrize(("rate_in", "rate_out"), [(50, 30), (128, 30), (100, 100), (25, 30)])
def test_resampling_keeps_slow_waves_and_delays_them_by_half_the_kernel(rate_in, rate_out):
    resampler = Resampler.between(rate_in, rate_out)
    t = np.arange(4 * rate_in) / rate_in
    history = np.zeros((resampler.n_history, 1))
    out = []
    for part in np.sin(2 * np.pi * 1.5 * t).reshape(4, rate_in, 1):
        y, history = resampler.step(part, history)
        out.append(y[:, 0])
    late_s = resampler.n_history / 2 / rate_in
    expected = np.sin(2 * np.pi * 1.5 * (np.arange(4 * rate_out) / rate_out - late_s))
    np.testing.assert_allclose(np.concatenate(out)[2 * rate_out :], expected[2 * rate_out :], atol=2e-3)


def test_a_raised_moving_forearm_is_in_use_and_a_hanging_or_resting_one_is_not():
    measure = GrossMovement(RATE)
    t = np.arange(20 * RATE) / RATE
    shake = 0.4 * G * np.sin(2 * np.pi * 1.2 * t)
    up, down, rest = (np.stack([x, shake * s, z], axis=1) for x, z, s in (
        (0.5 * G + 0 * t, 0.8 * G + 0 * t, 1), (-0.9 * G + 0 * t, 0.4 * G + 0 * t, 1),
        (0.5 * G + 0 * t, 0.8 * G + 0 * t, 0),
    ))  # fmt: skip
    shares = []
    for acc in (up, down, rest):
        state, used = measure.initial_state(), []
        for second in acc.reshape(20, RATE, 3):
            use, state = measure.step(second, state)
            used.append(use.mean())
        shares.append(np.mean(used[3:]))
    assert shares[0] == 1 and shares[1] == 0 and shares[2] == 0


def test_posture_holds_between_its_two_thresholds():
    measure = GrossMovement(RATE)
    shake = 0.4 * G * np.sin(2 * np.pi * 1.2 * np.arange(4 * RATE) / RATE)

    def held_at(degrees):
        pitch = np.radians(degrees)
        return np.stack([G * np.sin(pitch) + 0 * shake, shake, G * np.cos(pitch) + 0 * shake], axis=1)

    state, last = measure.initial_state(), []
    for degrees in (20, -15, -50, -15):
        for second in held_at(degrees).reshape(4, RATE, 3):
            use, state = measure.step(second, state)
        last.append(bool(use[-1]))
    assert last == [True, True, False, False]


def test_walking_is_told_from_reaching():
    rng = np.random.default_rng(1)
    t = np.arange(12 * RATE) / RATE
    gait = G * (1 + 0.2 * np.sin(2 * np.pi * 1.8 * t))[:, None] * np.array([0.1, 0.2, 0.97])
    reach = wrist(rng, 12)[:, :3]
    said = []
    for acc in (gait, reach):
        walking = Walking(RATE, 1)
        state = walking.initial_state()
        for second in acc.reshape(12, RATE, 1, 3):
            yes, state = walking.step(second, state)
        said.append(yes)
    assert said == [True, False]


def test_movements_are_rated_whole_whatever_second_they_cross():
    speed = np.concatenate([np.zeros(30), 3 * minimum_jerk(80), np.zeros(40)])
    whole = sparc(speed[speed > 0.5], RATE)
    for shift in range(0, RATE, 7):
        movements = Movements(RATE)
        padded = np.zeros(5 * RATE)
        padded[shift : shift + len(speed)] = speed
        state, found = movements.initial_state(), []
        for second in padded.reshape(5, RATE):
            rated, state = movements.step(second, state)
            found += rated
        assert found == [pytest.approx(whole)]


def test_a_movement_that_is_too_long_is_not_rated():
    movements = Movements(RATE)
    state, found = movements.initial_state(), []
    for second in [np.full(RATE, 2.0)] * 9 + [np.zeros(RATE)]:
        rated, state = movements.step(second, state)
        found += rated
    assert not found


def test_the_arm_that_does_less_has_the_lower_ratio():
    rng = np.random.default_rng(2)
    paretic = np.vstack([wrist(rng, 60), wrist(rng, 180, moving=False)])
    _, day, _ = days_of(np.hstack([paretic, wrist(rng, 240)]))
    found = {name: e.value for name, e in day.measures.items()}
    assert day.worn_h == pytest.approx(240 / 3600) and day.missing_h == day.unworn_h == 0
    assert found["use_ratio"] == pytest.approx(60 / 240, abs=0.06)
    assert found["magnitude_ratio"] < -1
    assert found["active_h_other"] == pytest.approx(240 / 3600, rel=0.1)
    counts, state = ActivityCounts(RATE), ActivityCounts(RATE).initial_state()
    summed = 0.0
    for second in paretic[:, :3].reshape(-1, RATE, 3):
        told, state = counts.step(second, state)
        summed += told
    assert found["counts_per_min_paretic"] == pytest.approx(summed / 4, rel=0.02)
    assert found["counts_per_min_paretic"] < found["counts_per_min_other"]
    assert found["active_share"] == pytest.approx(150 / 240, abs=0.06)
    assert found["sparc_other"] is not None and -6 < found["sparc_other"] < -1


def test_a_wrist_left_on_the_table_was_not_worn_from_its_first_still_second():
    rng = np.random.default_rng(3)
    config = ArmUseConfig(off_body_s=120)
    off = np.vstack([wrist(rng, 60), wrist(rng, 200, moving=False), wrist(rng, 40)])
    _, day, _ = days_of(np.hstack([off, wrist(rng, 300)]), config=config)
    assert day.unworn_h * 3600 == pytest.approx(200, abs=3)
    assert day.worn_h * 3600 == pytest.approx(100, abs=3)


def test_a_short_rest_of_one_arm_is_worn():
    rng = np.random.default_rng(4)
    config = ArmUseConfig(off_body_s=120)
    rest = np.vstack([wrist(rng, 30), wrist(rng, 100, moving=False), wrist(rng, 30)])
    _, day, _ = days_of(np.hstack([rest, np.vstack([wrist(rng, 80), wrist(rng, 80, moving=False)])]), config=config)
    assert day.unworn_h == 0 and day.worn_h * 3600 == pytest.approx(160)


def test_what_was_not_received_is_neither_rest_nor_wear():
    rng = np.random.default_rng(5)
    values = np.hstack([wrist(rng, 100), wrist(rng, 100)])
    valid = np.ones(values.shape, bool)
    valid[20 * RATE : 50 * RATE, 2] = False
    _, day, _ = days_of(values, valid=valid)
    assert day.missing_h * 3600 == pytest.approx(30) and day.worn_h * 3600 == pytest.approx(70)


def test_a_stretch_that_was_not_received_is_booked_in_its_own_blocks():
    measure = ArmUse(RATE, paretic=slice(0, 6), other=slice(6, 12))
    blocks = measure.unheard(measure.initial_state(), 590, 1800).books.total().blocks
    assert blocks[:4, 2].tolist() == [10, 600, 600, 0] and blocks.sum() == 1210


def test_a_day_ends_at_local_midnight_and_carries_its_own_hours():
    rng = np.random.default_rng(6)
    ended, day, state = days_of(np.hstack([wrist(rng, 120), wrist(rng, 120)]), first_s=86400 * 20000 - 50)
    assert [d.day for d in ended] == [19999] and day.day == 20000
    assert ended[0].worn_h == pytest.approx(50 / 3600) and day.worn_h == pytest.approx(70 / 3600)
    assert by_hour(state.books.total().blocks)[0, 0] == 70


def test_the_ratio_has_an_interval_once_there_are_hours():
    hours = np.zeros((24, 10))
    hours[9:11, 0], hours[9:11, 4:6] = 3600, [1000, 1400]
    assert arm_estimates(hours, ("p", "o"))["use_ratio"].low is None
    for hour in range(9, 15):
        hours[hour, 0], hours[hour, 4:6] = 3600, [1000 + 40 * hour, 2000 - 30 * hour]
    found = arm_estimates(hours, ("p", "o"))["use_ratio"]
    assert found.value == pytest.approx(hours[:, 4].sum() / hours[:, 5].sum())
    assert found.low < found.value < found.high < 2 * found.low and found.error > 0


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    edges = np.linspace(-4, 4, 81)
    hits = []
    for _ in range(400):
        hours = rng.normal(scale=0.7, size=12)[:, None] + rng.normal(size=(12, 200))  # an hour is alike
        groups = np.stack(
            [np.bincount(np.searchsorted(edges, np.concatenate(hours[g::8])), minlength=82) for g in range(8)]
        )
        found = estimate(lambda h: median_of(edges, h), groups)
        hits.append(found.low < 0 < found.high)
    assert 0.9 < np.mean(hits) < 0.99


def test_a_median_is_linear_within_its_bin_and_none_without_data():
    edges = np.array([0.0, 1.0, 2.0])
    assert median_of(edges, np.array([0, 3, 1, 0])) == pytest.approx(2 / 3)
    assert median_of(edges, np.array([5, 1, 0, 0])) == 0 and median_of(edges, np.array([0, 0, 1, 5])) == 2
    assert median_of(edges, np.zeros(4)) is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 180), min_size=1, max_size=8), st.integers(0, 60))
def test_any_chunking_gives_the_same_state(sizes, first_tick):
    rng = np.random.default_rng(8)
    values = np.hstack([wrist(rng, 9), wrist(rng, 9)]).astype(np.float32)
    valid = rng.random(values.shape) > 0.02

    def run(chunks):
        measure = ArmUse(RATE, paretic=slice(0, 6), other=slice(6, 12))
        cutter, state, tick, at = SecondCutter(RATE, 12), measure.initial_state(), first_tick, 0
        for n in chunks:
            for second in cutter.push(tick, values[at : at + n], valid[at : at + n]):
                _, state = measure.step(second, state, local_s=second.index)
            tick, at = tick + n, at + n
        return state_to_arrays(state)

    cut = [*sizes]
    whole, parts = run([len(values)]), run([*cut, max(0, len(values) - sum(cut))])
    assert all(np.array_equal(whole[k], parts[k]) for k in whole)


def test_a_state_goes_on_after_a_restart_as_if_nothing_had_been():
    rng = np.random.default_rng(9)
    values = np.hstack([wrist(rng, 20), wrist(rng, 20)]).astype(np.float32)
    measure = ArmUse(RATE, paretic=slice(0, 6), other=slice(6, 12))
    seconds = list(SecondCutter(RATE, 12).push(0, values, np.ones(values.shape, bool)))
    on = off = measure.initial_state()
    for i, second in enumerate(seconds):
        _, on = measure.step(second, on, local_s=i)
        if i == 11:
            saved = state_to_arrays(on)
            off = state_from_arrays(measure.initial_state(), saved)
        elif i > 11:
            _, off = measure.step(second, off, local_s=i)
    a, b = state_to_arrays(on), state_to_arrays(off)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert sum(v.nbytes for v in a.values()) < 128_000


@pytest.mark.parametrize("harm", ["missing", "unused", "shape", "nan"])
def test_a_damaged_state_is_refused(harm):
    measure = ArmUse(RATE, paretic=slice(0, 6), other=slice(6, 12))
    saved = state_to_arrays(measure.initial_state())
    if harm == "missing":
        saved.pop("books.sure.blocks")
    elif harm == "unused":
        saved["extra"] = np.zeros(1)
    elif harm == "shape":
        saved["books.sure.ratio"] = np.zeros(3)
    else:
        saved["books.late.blocks"] = np.full((144, 10), np.nan)
    with pytest.raises(SignalError, match="start anew"):
        state_from_arrays(measure.initial_state(), saved)


def test_seconds_go_forward_only_and_gaps_leave_seconds_marked():
    cutter = SecondCutter(RATE, 2)
    ones = np.ones((30, 2), np.float32)
    assert not list(cutter.push(0, ones, ones > 0))
    first, *more = cutter.push(130, ones, ones > 0)
    assert first.index == 0 and first.valid[:30].all() and not first.valid[30:].any()
    assert [s.index for s in more] == [2] if more else True
    with pytest.raises(SignalError, match="forward only"):
        list(cutter.push(0, ones, ones > 0))
    with pytest.raises(SignalError, match="expected"):
        list(cutter.push(500, ones[:, :1], ones[:, :1] > 0))


def test_a_gap_is_filled_for_the_filters_by_what_was_before_it():
    values, valid = np.arange(8, dtype=np.float32).reshape(4, 2), np.ones((4, 2), bool)
    valid[[0, 2], 1] = False
    filled, share = Second(0, values, valid).held(slice(0, 2), np.array([-1.0, -2.0]))
    np.testing.assert_array_equal(filled, [[-1, -2], [2, 3], [2, 3], [6, 7]])
    assert share == 0.5


@pytest.mark.parametrize("rate", [33.3, 10.0])
def test_a_rate_that_has_no_whole_seconds_is_refused(rate):
    with pytest.raises(SignalError, match="whole grid rate"):
        ArmUse(rate, paretic=slice(0, 6), other=slice(6, 12))
