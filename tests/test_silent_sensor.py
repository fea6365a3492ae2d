"""Where one sensor is silent, the others are still held against each other."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from coordinated import HALF, walker
from hypothesis import given
from hypothesis import strategies as st
from weighed_blocks import scores

from kinedge.edge.calibration import UNSCORED, Calibration
from kinedge.edge.coordination import MOST, Coordination, enough_told, least_squares, line, line_without, stack_lines
from kinedge.edge.personal import Blocks, Detectors, fit_baseline
from kinedge.edge.scores import NO_STEP
from kinedge.edge.timing import UNTOLD
from kinedge.edge.verdict import VerdictBatch
from kinedge.training.coordination import fit_coordination

GROUPS = [slice(0, 2), slice(2, 4), slice(4, 6)]


def together() -> Coordination:
    found = fit_coordination([walker(s) for s in range(6)])
    assert found is not None
    return replace(found, weights=replace(found.weights, weight=np.array([1.0, 2.0, 0.5])))


def deaf(intensity: np.ndarray, silent: int) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities with one sensor not heard, and which were."""
    heard, told = intensity.copy(), np.ones(intensity.shape, bool)
    heard[:, silent], told[:, silent] = NO_STEP, False
    return heard, told


@pytest.mark.parametrize("silent", [0, 1, 2, 3])
def test_the_line_without_a_sensor_is_that_of_least_squares_without_it_and_what_is_left_scatters_so(
    silent: int,
) -> None:
    rng = np.random.default_rng(silent)
    x = rng.normal(size=(4000, 1)) + rng.normal(size=(4000, 4)) @ rng.normal(0, 0.6, (4, 4))
    center, apart = x.mean(axis=0), x - x.mean(axis=0)
    level, wider = line_without(least_squares(center, apart.T @ apart / len(x)), *deaf(x, silent))
    others = [j for j in range(4) if j != silent]
    fewer = least_squares(center[others], apart[:, others].T @ apart[:, others] / len(x))
    np.testing.assert_allclose(level[:, others], line(fewer, x[:, others]), atol=0.02)
    with_it = (x - line(least_squares(center, apart.T @ apart / len(x)), x))[:, others].std(axis=0)
    np.testing.assert_allclose(wider[0, others] * with_it, (x - level)[:, others].std(axis=0), rtol=0.02)


def test_of_whom_every_sensor_is_heard_nothing_changes() -> None:
    lines, x = together().lines, walker(100).intensity
    some, told = deaf(x, 1)
    told[::2], some[::2] = True, x[::2]
    np.testing.assert_array_equal(lines.signed(some, told)[::2], lines.signed(x)[::2])
    np.testing.assert_array_equal(lines.signed(x, np.ones(x.shape, bool)), lines.signed(x))


@pytest.mark.parametrize("silent", [0, 1])
def test_a_limb_that_moves_half_as_far_beside_the_one_that_is_left_is_unusual(silent: int) -> None:
    lines, x = together().lines, walker(100, n=2000).intensity
    usual = lines.unusual(*deaf(x, silent))
    assert (usual[:, 1 - silent : 3 : 1 + silent] > 1).mean() < 0.08
    x[:, 2] += HALF
    changed = lines.signed(*deaf(x, silent))
    assert (changed[:, 2] < -1).mean() > 0.9


def test_each_stream_is_held_against_lines_of_its_own_whichever_sensor_it_lacks() -> None:
    found = [fit_coordination([walker(s, n=n) for s in people]) for n, people in ((400, range(3)), (150, range(4, 7)))]
    lines = [c.lines for c in found if c is not None]
    told = np.array([[True, False, True], [True, True, False]])
    x = np.where(told, walker(9, n=2).intensity, NO_STEP)
    both = stack_lines(lines).signed(x, told)
    for row, own in enumerate(lines):
        np.testing.assert_array_equal(both[row], own.signed(x[[row]], told[[row]])[0])


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_coordination_is_told_of_two_sensors_and_more_of_which_at_most_one_is_silent(heard: list[bool]) -> None:
    enough = enough_told(np.array([heard]))[0]
    assert enough == (sum(heard) >= 2 and heard.count(False) <= 1)


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3), st.integers(0, 2), st.floats(-9, 9), st.floats(-9, 9))
def test_it_is_finite_and_bounded_whatever_the_lines_are(x: list[float], silent: int, a: float, b: float) -> None:
    lines = together().lines
    mix = lines.mix.copy()
    mix[0, 1], mix[1, 0] = a, b
    v = replace(lines, mix=mix).unusual(*deaf(np.array([x]), silent))
    assert ((v >= 0) & (v <= MOST)).all()


@pytest.fixture
def known() -> Calibration:
    found = together()
    far = replace(found.weights, late_weight=np.array([0.0, 0.0, 1.5]), reference=np.linspace(-1, 9, 101))
    return Calibration(
        knots=np.array([[-9.0] * 3, [9.0] * 3]),
        center=np.zeros((2, 6)),
        spread=np.ones((2, 6)),
        reference=np.linspace(-3, 3, 101),
        likelihood=np.tile([-1.0, 1.0, 0, 0, 0, 0], (3, 1)),
        precision=np.eye(6),
        additive=np.ones(1),
        coordination=replace(found, weights=far),
    )


def test_a_silent_sensor_adds_nothing_and_takes_nothing_from_what_the_others_add(known: Calibration) -> None:
    assert known.coordination is not None
    x, told = deaf(walker(100, n=1).intensity, 1)
    x[0, 2] += 2 * HALF
    late = np.array([[0.0, 5.0, 9.0]])
    scored = np.repeat(told, 2, axis=1)
    block = scores(channel=np.zeros((1, 6)), scored=scored, intensity=x, late=late)
    found = known.assess(block, GROUPS)
    more = known.coordination.added(x, late, told)
    assert more[0, 2] > 1
    np.testing.assert_array_equal(found.sensor[0, [0, 2]], more[0, [0, 2]])
    assert found.sensor[0, 1] == UNSCORED
    assert not known.apart(found.sensor, x).any()  # ranked and judged as where all were heard
    moved, out_of_step = known.coordination.beside(x, late, told)
    assert moved[0, 2] < 0 < out_of_step[0, 2]
    assert moved[0, 1] == out_of_step[0, 1] == 0
    parts = {"scores": block, "unusual": found, "sensors": ("a", "b", "c"), "coordination": known.coordination}
    batch: Any = VerdictBatch(**{f.name: parts.get(f.name) for f in fields(VerdictBatch)})  # type: ignore[arg-type]
    assert [list(part.values()) for part in batch._beside(0)] == [moved[0].tolist(), out_of_step[0].tolist()]


def test_of_one_sensor_that_is_left_its_own_surprise_is_all_there_is(known: Calibration) -> None:
    assert known.coordination is not None
    x = np.array([[NO_STEP, NO_STEP, 3.0]])
    scored = np.repeat([[False, False, True]], 2, axis=1)
    block = scores(channel=np.zeros((1, 6)), scored=scored, intensity=x, late=np.full((1, 3), 9.0))
    found = known.assess(block, GROUPS)
    np.testing.assert_array_equal(found.sensor, [[UNSCORED, UNSCORED, 0.0]])
    assert known.apart(found.sensor, x).all()
    plain = replace(known, coordination=None, reference=known.coordination.weights.reference).assess(block, GROUPS)
    np.testing.assert_array_equal(found.p_value, plain.p_value)


def test_the_alarm_goes_on_holding_the_others_against_each_other(known: Calibration) -> None:
    x = walker(100, n=600).intensity
    channel = np.random.default_rng(0).normal(size=(600, 6))
    blocks = Blocks(channel, x, np.full(x.shape, NO_STEP), np.full(x.shape, UNTOLD), np.arange(600))
    watch = Detectors([fit_baseline(blocks, np.eye(6), cohort=known, groups=GROUPS)], GROUPS)
    later, told = deaf(walker(100, n=1200).intensity[600:], 1)
    u = np.where(np.repeat(told, 2, axis=1), channel, UNSCORED)

    def beside(intensity: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [watch.assess(u[[i]], intensity[[i]], blocks.before[:1])[0][:, -3:] for i in range(len(u))]
        )

    usual = beside(later)
    assert (usual[:, 1] == UNSCORED).all() and (usual[:, [0, 2]] > UNSCORED).all()
    assert (usual[:, [0, 2]] > 1).mean() < 0.05
    later[:, 2] += HALF
    assert (beside(later)[:, 2] > 1).mean() > 0.8
