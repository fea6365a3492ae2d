"""Steps, impacts, load, symmetry and regularity; on made signals with known answers, and on labelled walks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinedge.edge.measures.gait import (
    GaitEvents,
    PlayerLoad,
    impact_bins,
    regularity,
    sagittal,
    symmetry_angle_percent,
    symmetry_index_percent,
)
from kinedge.edge.measures.seconds import SecondCutter, state_from_arrays, state_to_arrays
from kinedge.errors import SignalError

G = 9.80665


def shank(rate, seconds, *, stride_s=1.1, first_s=0.5, axis=(0.3, 0.9, -0.3)):
    """Swings of 0.4 s between a trough at toe-off and one at contact; returns signal (n, 6), toe-offs and contacts."""
    t = np.arange(seconds * rate) / rate
    rotation, impact = np.zeros(len(t)), np.zeros(len(t))
    toe_offs, contacts = [], []
    for begin in np.arange(first_s, seconds - 1, stride_s):
        swing = (t - begin) / 0.4
        inside = (swing >= 0) & (swing < 1)
        rotation[inside] += 5.0 * np.sin(np.pi * swing[inside])
        for at, size in ((begin - 0.05, -2.0), (begin + 0.45, -2.5)):
            rotation += size * np.exp(-(((t - at) / 0.02) ** 2))
        impact += 5.0 * G * np.exp(-(((t - begin - 0.45) / 0.01) ** 2))
        toe_offs.append(begin - 0.05)
        contacts.append(begin + 0.45)
    direction = np.array(axis) / np.linalg.norm(axis)
    acc = np.array([0.0, 0.0, G]) + impact[:, None] * np.array([0.0, 0.0, 1.0])
    return np.hstack([acc, rotation[:, None] * direction]), np.array(toe_offs), np.array(contacts)


def steps_of(values, rate, *, place="shank"):
    events = GaitEvents(rate, place=place)
    state, steps = events.initial_state(), []
    for i, second in enumerate(values.reshape(-1, rate, 6)):
        found, state = events.step(i, second, np.zeros(rate, bool), state)
        steps += found
    return steps


@pytest.mark.parametrize("rate", [50, 100, 200])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, -1, 0), (0.3, 0.9, -0.3)])
def test_steps_are_found_to_a_sample_whatever_the_strap_s_direction(rate, axis):
    values, toe_offs, contacts = shank(rate, 20, axis=axis)
    steps = steps_of(values, rate)
    inside = (contacts > 2.5) & (contacts < 17)
    for to, ic in zip(toe_offs[inside], contacts[inside], strict=True):
        step = min(steps, key=lambda s: abs(s.contact_s - ic))
        assert abs(step.contact_s - ic) <= 1.5 / rate and abs(step.toe_off_s - to) <= 1.5 / rate
    assert len({s.contact_s for s in steps}) == len(steps) <= len(contacts)


def test_stance_time_and_peak_are_those_of_the_movement():
    values, _, _ = shank(200, 30)
    steps = steps_of(values, 200)[2:]
    assert np.median([s.stance_s for s in steps]) == pytest.approx(1.1 - 0.5, abs=0.01)
    assert np.median([s.peak_g for s in steps]) == pytest.approx(6.0, abs=0.1)
    assert not any(s.clipped for s in steps)


def test_a_clipped_impact_says_so():
    values, _, contacts = shank(100, 12)
    events = GaitEvents(100)
    state, steps = events.initial_state(), []
    saturated = values[:, 2] > 4 * G
    for i, second in enumerate(values.reshape(-1, 100, 6)):
        found, state = events.step(i, second, saturated[i * 100 : (i + 1) * 100], state)
        steps += found
    assert steps and all(s.clipped for s in steps) and len(contacts) > len(steps)


def test_standing_still_has_no_steps():
    rng = np.random.default_rng(0)
    values = np.tile([0, 0, G, 0, 0, 0], (2000, 1)) + rng.normal(scale=0.05, size=(2000, 6))
    assert steps_of(values, 100) == []


def test_the_stance_before_a_pause_is_not_invented():
    values, _, _ = shank(100, 10)
    pause = np.tile([0, 0, G, 0, 0, 0.0], (500, 1))
    steps = steps_of(np.vstack([values, pause, values]), 100)
    after = [s for s in steps if s.swing_s > 15]
    assert after[0].stance_s is None and all(s.stance_s for s in after[1:])


def test_a_gait_state_is_saved_and_restored():
    values, _, _ = shank(100, 16)
    events = GaitEvents(100)
    seconds = values.reshape(-1, 100, 6)
    state, whole, parts = events.initial_state(), [], []
    for i, second in enumerate(seconds):
        found, state = events.step(i, second, np.zeros(100, bool), state)
        whole += found
    state = events.initial_state()
    for i, second in enumerate(seconds):
        found, state = events.step(i, second, np.zeros(100, bool), state)
        parts += found
        state = state_from_arrays(events.initial_state(), state_to_arrays(state))
    assert whole == parts and whole


def test_a_foot_that_pushes_off_faster_than_it_swings_keeps_its_sign():
    t = np.arange(400) / 100
    rotation = np.zeros(400)
    for begin in (0.3, 1.4, 2.5):
        rotation += -8 * np.exp(-(((t - begin) / 0.06) ** 2)) + 4.5 * np.exp(-(((t - begin - 0.3) / 0.13) ** 4))
    for sign in (1, -1):
        found, _ = sagittal(sign * rotation[:, None] * np.array([0.6, 0.0, 0.8]), 100)
        np.testing.assert_allclose(found, rotation, atol=1e-9)


def test_labelled_walks_have_their_steps_found(shared_data):
    # people 8 to 10 of 14; thresholds were chosen on 1 to 7
    from kinedge.training.datasets import DATASETS

    path = shared_data / "gait_healthy.npz"
    marks = np.load(path, allow_pickle=False)
    found = missed = false = 0
    late_s = []
    for recording in DATASETS["gait_healthy"](path):
        walk = recording.source.rsplit("/", 1)[-1]
        if recording.subject.lstrip("s") not in {"8", "9", "10"} and walk.split("-")[0] not in {"8", "9", "10"}:
            continue
        meta = json.loads(str(marks[f"{walk}/meta"]))
        for i, (sensor, key) in enumerate(
            zip(recording.sensors, ("", "LeftFootEvents", "RightFootEvents"), strict=True)
        ):
            if not key:
                continue
            labels = np.array(json.loads(meta[key]) if isinstance(meta[key], str) else meta[key])
            columns = slice(6 * i, 6 * i + 6)
            assert sensor.name.startswith("foot")
            events = GaitEvents(100, place="foot")
            state, steps, heard, last = events.initial_state(), [], [], np.zeros(6)
            for second in SecondCutter(100, 6).push(0, recording.values[:, columns], recording.valid[:, columns]):
                values, share = second.held(slice(0, 6), last)
                last = values[-1]
                heard.append(share >= 0.8)
                if not heard[-1]:
                    state = events.initial_state()
                    continue
                new, state = events.step(second.index, values, np.zeros(100, bool), state)
                steps += new
            for off, on in labels / 100:
                k = int((off + on) / 2)
                if k < 4 or k > len(heard) - 4 or not all(heard[k - 4 : k + 4]):
                    continue
                near = [s for s in steps if off - 0.1 <= s.swing_s <= on + 0.1]
                found, missed = found + bool(near), missed + (not near)
                late_s += [near[0].contact_s - on] if near else []
            first, last_mark = (m / 100 for m in meta["TrialBoundaries"])
            mids = labels.mean(axis=1) / 100
            false += sum(first + 1 < s.swing_s < last_mark - 1 and np.abs(mids - s.swing_s).min() > 0.3 for s in steps)
    assert found > 200
    assert missed / (found + missed) < 0.08 and false / found < 0.04
    assert abs(np.median(late_s)) <= 0.03 and np.median(np.abs(late_s - np.median(late_s))) <= 0.02


def test_player_load_of_a_known_wave_is_the_same_at_every_rate():
    # |da| of 0.5 g sin(2 pi t) sums to 4 * 0.5 g a second
    for rate in (100, 200, 400):
        t = np.arange(10 * rate) / rate
        acc = np.stack([0.5 * G * np.sin(2 * np.pi * t), 0 * t, G + 0 * t], axis=1)
        load = PlayerLoad(rate)
        state, loads = load.initial_state(), []
        for second in acc.reshape(10, rate, 3):
            one, state = load.step(second, state)
            loads.append(one)
        assert np.mean(loads[2:]) == pytest.approx(0.02, rel=0.01)


def test_player_load_below_its_rate_is_refused():
    with pytest.raises(SignalError, match="100 Hz"):
        PlayerLoad(50)


def test_impacts_fall_into_their_bins_at_the_edges():
    assert impact_bins(np.array([1, 5.99, 6, 20.9, 21, 40.0])) == (2, 2, 2)
    assert impact_bins(np.array([])) == (0, 0, 0)


def test_symmetry_has_its_sign_and_its_own_scale():
    assert symmetry_index_percent(1.0, 1.0) == symmetry_angle_percent(1.0, 1.0) == 0
    assert symmetry_index_percent(0.9, 1.1) == pytest.approx(20)
    assert symmetry_angle_percent(0.9, 1.1) == pytest.approx(6.35, abs=0.02)
    assert symmetry_index_percent(1.1, 0.9) == pytest.approx(-20)
    for bad in ((0, 0), (-1, 1)):
        with pytest.raises(SignalError, match="symmetry"):
            symmetry_index_percent(*bad)
        with pytest.raises(SignalError, match="symmetry"):
            symmetry_angle_percent(*bad)


def test_regularity_falls_at_the_step_when_the_two_steps_differ():
    t = np.arange(30 * 100) / 100
    even = np.sin(2 * np.pi * t / 0.55)
    limping = even + 0.8 * np.sin(2 * np.pi * t / 1.1)
    step, stride = regularity(even, 100, stride_s=1.1)
    assert step == pytest.approx(1, abs=0.03) and stride == pytest.approx(1, abs=0.03)
    step, stride = regularity(limping, 100, stride_s=1.1)
    assert step < 0.5 and stride > 0.95
    with pytest.raises(SignalError, match="15 strides"):
        regularity(even[:1000], 100, stride_s=1.1)
