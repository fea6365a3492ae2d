"""A sensor that moves later or earlier beside the others than it did is told, and which one it is."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.native import NativeTiming
from kinedge.edge.state_rows import take_rows
from kinedge.edge.timing import UNTOLD, Timing
from kinedge.signals import IMU6, SensorSpec
from kinedge.training.rotations import about, matrix

RATE_HZ, HOP = 50.0, 50
ACC = IMU6[:3]
GYR = IMU6[3:]


def manifest(n_sensors: int = 3, *, channels: tuple[str, ...] = ACC, hop: int = HOP, rate_hz: float = RATE_HZ) -> Any:
    specs = [SensorSpec(f"sensor_{i}", channels) for i in range(n_sensors)]
    return SimpleNamespace(sensors=specs, sensor_specs=specs, hop=hop, rate_hz=rate_hz)


def steps(
    duration_s: float, *, n_sensors: int = 3, late_s: float = 0.0, from_s: float = 1e9, seed: int = 0
) -> np.ndarray:
    """Return acceleration (n, 3 n_sensors) of somebody who walks; the first sensor is behind from some moment on."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    strides = np.cumsum(rng.normal(1.1, 0.03, int(duration_s) + 9)) - 1.0
    out = np.zeros((len(t), 3 * n_sensors))
    for i in range(n_sensors):
        at = t - 0.15 * i - np.where(t >= from_s, late_s, 0.0) * (i == 0)
        since = at[:, None] - strides
        out[:, 3 * i + 2] = 9.81 + 8 * np.exp(-((since / 0.08) ** 2)).sum(axis=1)
    return out + rng.normal(0, 0.3, out.shape)


def watch(timing: Timing, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return ``late`` (n_hops, n_sensors) of one stream."""
    there = np.ones(values.shape, bool) if valid is None else valid
    state, found, hop = timing.initial_state(1), [], timing._hop
    for start in range(0, len(values) - hop + 1, hop):
        part = slice(start, start + hop)
        x, ok = np.ascontiguousarray(values[None, part], np.float32), np.ascontiguousarray(there[None, part])
        found.append(timing.advance(x, ok, state, np.arange(1))[0])
    return np.array(found)


@pytest.mark.parametrize("late_s", [0.3, -0.3])
def test_a_sensor_that_gets_behind_or_ahead_is_told_within_seconds_and_named(late_s: float) -> None:
    late = watch(Timing(manifest()), steps(60, late_s=late_s, from_s=40.0))
    before, after = late[10:40], late[43:50]
    assert before.max() < 0
    assert after[:, 0].min() > 0.2
    assert (after.argmax(axis=1) == 0).all()


def test_it_is_told_through_gaps_too() -> None:
    rng = np.random.default_rng(1)
    values = steps(60, late_s=0.3, from_s=40.0)
    valid = np.repeat(np.repeat(rng.random((len(values) // 5, 3)) > 0.3, 5, axis=0), 3, axis=1)
    late = watch(Timing(manifest()), np.where(valid, values, np.nan), valid)
    assert late[43:50, 0].min() > late[10:40].max()
    assert (late[43:50].argmax(axis=1) == 0).all()


def test_until_somebody_has_moved_for_some_seconds_nothing_is_told() -> None:
    rng = np.random.default_rng(0)
    resting = rng.normal(0, 0.05, (1500, 9)) + 5.0
    assert (watch(Timing(manifest()), resting) == UNTOLD).all()
    walking = watch(Timing(manifest()), steps(30))
    assert (walking[:2] == UNTOLD).all()
    assert (walking[8:] > UNTOLD).all()


def test_who_rests_after_having_walked_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    values = steps(60)
    values[2000:] = 5.0 + rng.normal(0, 0.05, (1000, 9))
    late = watch(Timing(manifest()), values)
    assert late[10:40].max() < -0.1
    assert np.abs(late[50:]).max() < 0.03


def test_a_sensor_that_falls_silent_tells_nothing_of_itself_and_the_others_go_on() -> None:
    values = steps(60, late_s=0.3, from_s=40.0)
    valid = np.ones(values.shape, bool)
    valid[1500:, 6:] = False
    late = watch(Timing(manifest()), values, valid)
    assert np.abs(late[38, 2]) < 0.05
    assert late[38, :2].max() < -0.1
    assert late[43:50, :2].min() > 0.1  # of two, both move otherwise beside each other


def test_a_delay_that_stays_becomes_usual_in_some_minutes() -> None:
    late = watch(Timing(manifest()), steps(600, late_s=0.3, from_s=60.0))
    assert late[65, 0] > 0.2
    assert late[590, 0] < 0


def test_it_does_not_matter_how_a_sensor_sits() -> None:
    values = steps(40, late_s=0.3, from_s=30.0)
    turned = values.copy()
    turned[:, :3] = values[:, :3] @ matrix(about("x", 1.1))[0].T
    np.testing.assert_allclose(watch(Timing(manifest()), values), watch(Timing(manifest()), turned), atol=1e-3)


def test_sensors_without_acceleration_are_watched_by_their_turning() -> None:
    values = steps(60, late_s=0.3, from_s=40.0)
    late = watch(Timing(manifest(channels=GYR)), values)
    np.testing.assert_array_equal(late, watch(Timing(manifest()), values))
    both = np.concatenate(
        [np.concatenate([values[:, c], 0 * values[:, c]], axis=1) for c in np.split(np.arange(9), 3)], 1
    )
    np.testing.assert_array_equal(late, watch(Timing(manifest(channels=IMU6)), both))


@pytest.mark.parametrize("n_sensors", [1, 9])
def test_of_a_single_sensor_or_very_many_nothing_is_told(n_sensors: int) -> None:
    timing = Timing(manifest(n_sensors))
    late = watch(timing, steps(20, n_sensors=n_sensors))
    assert (late == UNTOLD).all()
    state = timing.initial_state(4)
    assert not any(getattr(state, f.name).size for f in fields(state))  # and nothing is kept for it
    assert timing.in_c().tell(state) if NativeTiming.is_there() else True


def test_two_sensors_are_later_than_each_other() -> None:
    late = watch(Timing(manifest(2)), steps(60, n_sensors=2, late_s=0.3, from_s=40.0))
    np.testing.assert_array_equal(late[:, 0], late[:, 1])
    assert late[43:50].min() > 0.1


@pytest.mark.parametrize(
    ("hop", "rate_hz"), [(1, 1.0), (31, 62.0), (7, 10.0), (1, 1000.0), (500, 1000.0), (10_000, 1000.0), (10_000, 10.0)]
)
def test_any_hop_is_parted_in_bins_and_what_is_remembered_stays_small(hop: int, rate_hz: float) -> None:
    timing = Timing(manifest(3, hop=hop, rate_hz=rate_hz))
    assert hop % round(timing.bin_s * rate_hz) == 0
    assert 2 <= timing.n_lags <= 16
    state = timing.initial_state(1)
    assert sum(getattr(state, f.name).nbytes for f in fields(state)) < 3000
    values = np.random.default_rng(0).normal(0, 3, (3 * hop, 9))
    assert np.isfinite(watch(timing, values)).all()


def test_streams_do_not_hang_on_each_other() -> None:
    timing, rng = Timing(manifest()), np.random.default_rng(0)
    whole = np.stack([steps(30, seed=s) for s in range(4)]).astype(np.float32)
    together, alone = timing.initial_state(4), [timing.initial_state(1) for _ in range(4)]
    for start in range(0, 1500, HOP):
        rows = rng.permutation(4)[: int(rng.integers(1, 5))]
        x = np.ascontiguousarray(whole[rows, start : start + HOP])
        found = timing.advance(x, np.ones(x.shape, bool), together, rows)
        for i, row in enumerate(rows):
            one = timing.advance(x[i : i + 1], np.ones((1, *x.shape[1:]), bool), alone[row], np.arange(1))
            np.testing.assert_array_equal(one[0], found[i])
    for row in range(4):
        part = take_rows(together, np.array([row]))
        for f in fields(part):
            np.testing.assert_array_equal(getattr(part, f.name), getattr(alone[row], f.name))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-20, 1.0, 1e20, 3e38]), st.floats(0, 1))
def test_it_is_finite_whatever_is_measured(seed: int, size: float, lost: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.uniform(-1, 1, (30 * HOP, 9)) * size).astype(np.float32)
    valid = rng.random(values.shape) >= lost
    values[~valid] = rng.choice([np.nan, np.inf, -np.inf])
    timing = Timing(manifest())
    assert np.isfinite(watch(timing, values, valid)).all()
