"""Sensors watched: what is wrong with them is told from samples alone, the same for any batch, chunk and restart."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.bundle import Manifest, read_bundle
from kinedge.edge.calibration import UNSCORED
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.reliability import HealthState, ReliabilityMonitor, SensorHealth
from kinedge.edge.sensor_health import N_FOUND
from kinedge.training.simulate import SimulationConfig, simulate

HOP = 50


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(DEFAULT_BUNDLE).manifest


@pytest.fixture(scope="module")
def worn() -> np.ndarray:
    """Return (4, n, 12): a minute of four people who walk; simulated arms that wait are as still as tables."""
    gait = {"gait": 1.0}
    configs = [SimulationConfig(duration_s=60, subject_seed=70 + i, activity_mix=gait) for i in range(4)]
    return np.stack([simulate(c).values for c in configs])


def watch(manifest, values, valid=None, *, u=None, state=None) -> tuple[list[SensorHealth], HealthState]:
    monitor = ReliabilityMonitor(manifest)
    state = state or monitor.initial_state(len(values))
    valid = np.ones(values.shape, bool) if valid is None else valid
    found = []
    for k in range(values.shape[1] // HOP):
        part = slice(k * HOP, (k + 1) * HOP)
        health, state = monitor.step(values[:, part], valid[:, part], state)
        state = monitor.learn(np.full((len(values), 2), UNSCORED) if u is None else u[k], state)
        found.append(health)
    return found, state


def test_nothing_speaks_against_sensors_that_are_worn(manifest, worn):
    for health in watch(manifest, worn)[0]:
        assert (health.repeated == 0).all() and (health.clipped == 0).all()
        assert (health.twin == -1).all() and not health.copy.any()
        assert (health.swapped == 0).all() and (health.shifted == 0).all()
        assert not health.out.any()


def test_a_stuck_buffer_repeats_itself_and_a_resting_sensor_does_not(manifest, worn):
    values = worn.copy()
    values[:, 1500:, :6] = np.tile(values[:, 1500:1510, :6], (1, 150, 1))
    health = watch(manifest, values)[0][-1]
    assert (health.repeated[:, 0] > 0.85).all() and (health.repeated[:, 1] == 0).all()
    assert health.out[:, 0].all() and not health.out[:, 1].any()


def test_lost_samples_are_no_repeats(manifest, worn):
    valid = np.ones(worn.shape, bool)
    valid[:, 200:260], valid[:, 400:500, :6] = False, False
    for health in watch(manifest, worn, valid)[0]:
        assert (health.repeated == 0).all() and (health.twin == -1).all()


def test_a_range_that_is_too_small_is_seen_without_being_told(manifest, worn):
    values = worn.copy()
    middle, half = np.median(values[..., :6], axis=1, keepdims=True), values[..., :6].std(axis=1, keepdims=True)
    values[..., :6] = np.clip(values[..., :6], middle - half, middle + half)
    found = watch(manifest, values)[0]
    assert (np.median([h.clipped[:, 0] for h in found], axis=0) > 0.1).all()
    assert max(float(h.clipped[:, 1].max()) for h in found) == 0


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_two_sensors_that_give_one_signal_are_found_and_the_original_is_known_by_its_level(manifest, worn, noise):
    values = worn.copy()
    values[..., 6:] = values[..., :6] + noise * np.random.default_rng(0).normal(size=values[..., :6].shape)
    health = watch(manifest, values.astype(np.float32))[0][-1]
    assert (health.twin == [1, 0]).all()
    assert health.copy[:, 1].all()
    assert health.copy[:, 0].sum() <= 2  # the left one reads as left ones do; where that is not clear, both are out


def test_a_sensor_on_a_table_is_off_body_sooner_while_the_other_arm_moves(manifest, worn):
    rng = np.random.default_rng(0)
    table = np.concatenate([np.tile([0, 0, 9.81], (worn.shape[1], 1)), np.zeros((worn.shape[1], 3))], axis=1)
    table = table + rng.normal(size=table.shape) * np.repeat([0.007, 0.0007], 3)
    one = worn.copy()
    one[..., :6] = table
    both = one.copy()
    both[..., 6:] = table
    at = {}
    for name, values in (("one", one), ("both", both)):
        found = watch(manifest, values.astype(np.float32))[0]
        at[name] = next(k for k, h in enumerate(found) if (h.off_body[:, 0] == 1).all())
        assert all((h.off_body[:, 1] == 0).all() for h in found) == (name == "one")
    assert at["one"] < at["both"] <= 30


def test_exchanged_sides_are_found_and_exchanged_back_for_the_model(manifest, worn):
    values = np.concatenate([worn[..., 6:], worn[..., :6]], axis=2)
    found = watch(manifest, values)[0]
    assert (found[15].swapped == 1).all()
    monitor = ReliabilityMonitor(manifest)
    hop, valid = values[:, :HOP], np.ones(values[:, :HOP].shape, bool)
    valid[:, 0, 0] = False
    seen, there, clipped, used = monitor.repair(hop, valid, ~valid, found[15])
    assert (seen == worn[:, :HOP]).all() and used.all()
    assert not there[:, 0, 6].any() and there[:, 0, 0].all() and clipped[:, 0, 6].all()
    assert (hop == values[:, :HOP]).all()  # nothing of the input changed


def test_sides_that_sit_alike_are_never_called_exchanged(manifest, worn):
    alike = manifest.model_copy(update={"center": manifest.center[:6] * 2, "scale": manifest.scale[:6] * 2})
    values = np.concatenate([worn[..., 6:], worn[..., :6]], axis=2)
    assert all((h.swapped == 0).all() for h in watch(alike, values)[0])


def test_unusual_for_minutes_with_gravity_elsewhere_is_a_shift_and_a_short_change_is_none(manifest):
    rest = np.tile(np.array([0, 0, 9.8, 0, 0, 0] * 2), (1, 360 * HOP, 1))
    rest = rest + np.random.default_rng(0).normal(size=rest.shape) * 0.3
    turned = rest.copy()
    turned[:, 120 * HOP :, :3] = turned[:, 120 * HOP :, [2, 1, 0]]
    odd = np.zeros((360, 1, 2))
    odd[120:, :, 0] = 3.0
    short = odd.copy()
    short[150:] = 0
    for values, u, expected in ((turned, odd, 1.0), (rest, odd, 0.0), (turned, short, 0.0)):
        found = watch(manifest, values.astype(np.float32), u=u)[0]
        assert found[-1].shifted[0].tolist() == [expected, 0.0]
        assert all(h.shifted[0, 0] == 0 for h in found[:180])  # a minute of change is still a change


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.6), cut=st.integers(1, 9))
def test_streams_do_not_touch_each_other_and_a_state_goes_on_where_it_stopped(manifest, worn, seed, share, cut):
    values = worn[:, : 10 * HOP]
    valid = np.random.default_rng(seed).random((4, 10 * HOP, 1)) >= share
    valid = np.repeat(valid, 12, axis=2)
    whole, last = watch(manifest, values, valid)
    for row in range(4):
        own, state = watch(manifest, values[[row]], valid[[row]])
        for f in fields(HealthState):
            np.testing.assert_array_equal(getattr(state, f.name)[0], getattr(last, f.name)[row])
        for f in fields(SensorHealth):
            np.testing.assert_array_equal(getattr(own[-1], f.name)[0], getattr(whole[-1], f.name)[row])
    _, before = watch(manifest, values[:, : cut * HOP], valid[:, : cut * HOP])
    stored = {f.name: getattr(before, f.name).copy() for f in fields(HealthState)}
    rest, after = watch(manifest, values[:, cut * HOP :], valid[:, cut * HOP :], state=HealthState(**stored))
    for f in fields(HealthState):
        np.testing.assert_array_equal(getattr(after, f.name), getattr(last, f.name))
        np.testing.assert_array_equal(getattr(before, f.name), stored[f.name])  # it was not changed
    assert len(rest) == 10 - cut


def test_what_stands_where_samples_are_missing_means_nothing(manifest, worn):
    valid = np.random.default_rng(0).random(worn.shape) > 0.2
    junk = np.where(valid, worn, np.nan).astype(np.float32)
    with np.errstate(invalid="ignore"):
        a, b = watch(manifest, worn, valid)[1], watch(manifest, junk, valid)[1]
    for f in fields(HealthState):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))


@pytest.mark.parametrize("n_streams", [1, 2])
def test_the_samples_looked_at_stay_as_they_were(manifest, worn, n_streams):
    values = worn[:n_streams, :HOP].copy()
    valid = np.ones(values.shape, bool)
    valid[:, 10:20, :6] = False
    before = values.copy()
    monitor = ReliabilityMonitor(manifest)
    monitor.step(values, valid, monitor.initial_state(n_streams))
    np.testing.assert_array_equal(values, before)


def test_a_state_is_small(manifest):
    state = ReliabilityMonitor(manifest).initial_state(1)
    assert sum(getattr(state, f.name).nbytes for f in fields(state)) < 8 * 1024


def test_the_copied_foot_of_real_walks_is_found_and_no_other_pair(shared_data):
    from kinedge.training.datasets import load_fog_stanford

    names = ("lumbar", "ankle_left", "ankle_right", "foot_left", "foot_right")
    n_copied = 0
    for recording in load_fog_stanford(shared_data / "fog_stanford.npz", sensors=names)[:8]:
        manifest = _manifest_of(recording)
        monitor = ReliabilityMonitor(manifest)
        state = monitor.initial_state(1)
        copied = "foot_left=ankle_left" in recording.notes.get("duplicate_imus", "")
        n_copied += copied
        hop = manifest.hop
        for k in range(len(recording) // hop):
            part = slice(k * hop, (k + 1) * hop)
            health, state = monitor.step(recording.values[None, part], recording.valid[None, part], state)
            twin = health.twin[0].tolist()
            if k >= 2:
                assert twin == ([-1, 3, -1, 1, -1] if copied else [-1] * 5)
    assert n_copied > 0


def _manifest_of(recording) -> Manifest:
    base = read_bundle(DEFAULT_BUNDLE).manifest
    n = recording.values.shape[1]
    fields_of = {
        "sensors": [{"name": s.name, "channels": list(s.channels)} for s in recording.sensors],
        "rate_hz": recording.rate_hz,
        "hop": 128,
        "block": 256,
        "center": recording.values.mean(axis=0).tolist(),
        "scale": np.maximum(recording.values.std(axis=0), 0.05).tolist(),
        "student_t_nu": [[3.0] * n] * len(base.horizons),
        "inputs": [
            {"name": "x", "shape": [-1, -1, n]},
            {"name": "mask", "shape": [-1, -1, n]},
            {"name": "state", "shape": [-1, base.state_size]},
        ],
        "outputs": [
            {"name": "mu", "shape": [-1, -1, n * len(base.horizons)]},
            {"name": "log_sigma", "shape": [-1, -1, n * len(base.horizons)]},
            {"name": "state_out", "shape": [-1, base.state_size]},
        ],
    }
    return Manifest.model_validate({**base.model_dump(mode="json"), **fields_of})


def test_health_of_fine_sensors_takes_nothing():
    fine = SensorHealth.fine(3, 2)
    assert not fine.out.any() and (fine.twin == -1).all()
    assert replace(fine, clipped=np.full((3, 2), 0.5)).out.all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_nothing_is_kept_from_the_model_of_sensors_that_are_known_to_be_fine(seed):
    rng = np.random.default_rng(seed)
    found = rng.random((N_FOUND, 3, 2)) * rng.choice([0.051, 0.2, 1.0])
    health = SensorHealth.of(found, np.full((3, 2), -1), rng.random((3, 2)) < rng.choice([0.0, 0.1]))
    assert not (health.is_fine and health.out.any())
    assert SensorHealth.of(found * 0, health.twin, health.copy).is_fine == (not health.copy.any())
    assert not replace(health).is_fine and not SensorHealth.of(found + np.nan, health.twin, health.copy).is_fine
