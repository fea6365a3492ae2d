"""Equal samples of a coarse sensor are its resolution, not a fault; a fault is found all the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.bundle import Manifest, read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.reliability import ReliabilityMonitor
from kinedge.edge.resolution import finest
from kinedge.edge.sensor_health import SensorHealth
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.units import STANDARD_GRAVITY_M_S2

F32 = NDArray[np.float32]

HOP = 50
STEP_M_S2 = 0.1  # ten bits over 5 g, as accelerometers on patients' legs had them
STEP_RAD_S = 0.05


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(DEFAULT_BUNDLE).manifest


def coarse(values: F32) -> F32:
    """Samples as a sensor of few bits gives them: (n, n_samples, 12), acceleration and rotation of two wrists."""
    step = np.tile(np.repeat([STEP_M_S2, STEP_RAD_S], 3), 2)
    return (np.round(values.astype(np.float64) / step) * step).astype(np.float32)


@pytest.fixture(scope="module")
def people() -> F32:
    """Three people for a minute: one walks, one uses the arms, one mostly rests; (3, n_samples, 12)."""
    mixes = ({"gait": 1.0}, {"arm": 1.0}, {"rest": 0.7, "arm": 0.3})
    configs = [SimulationConfig(duration_s=60, subject_seed=80 + i, activity_mix=m) for i, m in enumerate(mixes)]
    return np.stack([simulate(c).values for c in configs])


def watch(manifest: Manifest, values: F32) -> list[SensorHealth]:
    monitor = ReliabilityMonitor(manifest)
    state, found = monitor.initial_state(len(values)), []
    for k in range(values.shape[1] // HOP):
        now = np.ascontiguousarray(values[:, k * HOP : (k + 1) * HOP])
        health, state = monitor.step(now, np.ones(now.shape, bool), state)
        found.append(health)
    return found


def test_a_coarse_sensor_is_not_called_stuck_or_clipped_for_what_it_cannot_resolve(
    manifest: Manifest, people: F32
) -> None:
    values = coarse(people)
    assert np.mean(np.diff(values[1], axis=0) == 0) > 0.1  # a tenth of its samples is the one before
    found = watch(manifest, values)
    walker = [np.stack([getattr(h, part) for h in found])[:, 0] for part in ("repeated", "clipped")]
    assert np.quantile(walker, 0.95) <= 0.05 and not any(h.out[0].any() for h in found)
    everybody = np.stack([h.clipped for h in found])  # arms that rest are flat at such a resolution, but not clipped
    assert np.median(everybody) < 0.02 and np.quantile(everybody, 0.95) <= 0.15


def test_a_coarse_sensor_that_gives_a_buffer_again_while_its_wearer_moves_is_stuck(
    manifest: Manifest, people: F32
) -> None:
    values = coarse(people[:1]).copy()
    values[:, 1500:, :6] = np.tile(values[:, 1500:1525, :6], (1, 60, 1))
    last = watch(manifest, values)[-1]
    assert last.repeated[0, 0] > 0.5 and last.repeated[0, 1] < 0.1
    assert last.clipped[0, 0] == 0  # the extremes are given again as all else is


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_same_few_samples_in_another_order_are_no_buffer_given_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    manifest = read_bundle(DEFAULT_BUNDLE).manifest
    few = coarse(rng.uniform(-3, 3, (1, 25, 12)).astype(np.float32))
    again = np.concatenate([few, few, few, few], axis=1)
    shuffled = np.concatenate([few] + [few[:, rng.permutation(25)] for _ in range(3)], axis=1)
    assert watch(manifest, again)[-1].repeated.min() > 0.9
    assert watch(manifest, shuffled)[-1].repeated.max() <= 0.4  # three on end come by chance, too


def test_a_coarse_sensor_whose_range_is_too_small_is_clipped(manifest: Manifest, people: F32) -> None:
    values = coarse(people[:1]).copy()
    middle, half = np.median(values[..., :6], axis=1, keepdims=True), values[..., :6].std(axis=1, keepdims=True)
    values[..., :6] = np.clip(values[..., :6], middle - half, middle + half)
    found = watch(manifest, values)
    assert np.median([h.clipped[:, 0] for h in found]) > 0.1
    assert np.median([h.clipped[:, 1] for h in found]) == 0
    assert np.mean([h.repeated[:, 0] > 0.05 for h in found]) < 0.2  # its corners come again, but in no order


@pytest.mark.parametrize("range_g", [8, 16])
def test_ordinary_movement_at_sixteen_bits_is_not_clipped_where_it_turns_slowly_or_rests(
    manifest: Manifest, people: F32, range_g: int
) -> None:
    lsb = np.repeat([range_g * STANDARD_GRAVITY_M_S2 / 32768, np.deg2rad(125 * range_g) / 32768], 3)
    step = np.tile(lsb, 2)
    counted = (np.round(people / step) * step).astype(np.float32)
    clipped = np.stack([h.clipped for h in watch(manifest, counted)])
    assert (clipped > 0.05).mean() < 0.02 and clipped.max() < 0.3


def test_a_range_that_is_set_too_small_on_the_way_is_seen_within_half_a_minute(manifest: Manifest, people: F32) -> None:
    values = people[:1].copy()
    middle, half = np.median(values[..., :6], axis=1, keepdims=True), values[..., :6].std(axis=1, keepdims=True)
    values[:, 1000:, :6] = np.clip(values[:, 1000:, :6], middle - half, middle + half)
    found = [float(h.clipped[0, 0]) for h in watch(manifest, values)]
    assert max(found[:20]) < 0.05 < min(found[50:])


def test_a_flat_line_is_no_chance_however_coarse_the_sensor(manifest: Manifest, people: F32) -> None:
    values = coarse(people[:1]).copy()
    values[:, 1500:, :6] = values[:, 1500:1501, :6]
    last = watch(manifest, values)[-1]
    assert last.repeated[0, 0] == 1 and last.out[0, 0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.25, 3.0]), st.floats(0, 0.6))
def test_the_resolution_of_a_channel_is_its_smallest_step(seed: int, step: float, lost: float) -> None:
    rng = np.random.default_rng(seed)
    levels = np.concatenate([[0, 1], rng.integers(-40, 40, 48)])
    values = (rng.permutation(levels) * step).astype(np.float32)
    valid = (rng.random(50) >= lost) | (values == 0) | np.isclose(values, step)
    assert finest(values, valid) == pytest.approx(step, rel=1e-4)
    assert finest(values, np.zeros(50, bool)) == 0
    assert finest(np.full(50, 2.5, np.float32), valid) == 0
