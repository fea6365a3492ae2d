"""Whose surprise it is: a forecaster that one sensor misleads about another is not once it does not hear the one."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kinedge.bundle import read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.edge.without import Without, passed_on
from kinedge.recording import Recording
from kinedge.training.simulate import Perturbation, SimulationConfig, simulate

LEFT, RIGHT = "wrist_left", "wrist_right"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(read_bundle(DEFAULT_BUNDLE))


@pytest.fixture(scope="module")
def tremor() -> Recording:
    """Both arms work; the left one trembles from 34 s on, and the forecaster is more surprised by the right one."""
    trembles = Perturbation("rest_tremor", 34, 56, sensor=LEFT, strength=1.5)
    mix = {"arm": 0.85, "rest": 0.15}
    config = SimulationConfig(
        duration_s=56, subject_seed=11, session_seed=12, activity_mix=mix, perturbations=(trembles,)
    )
    return simulate(config)


def follow(scorer: Scorer, day: Recording, *, silent: str = "") -> list[Verdict]:
    hop, state, found = scorer.manifest.hop, scorer.initial_state(1), []
    valid = day.valid.copy()
    if silent:
        valid[:, day.columns(silent)] = False
    for end in range(hop, len(day) + 1, hop):
        part = slice(end - hop, end)
        x, ok = day.values[None, part], valid[None, part]
        batch, state = scorer.step(x, ok, np.zeros_like(ok), state, end_tick=end)
        found.append(batch.verdict(0))
    return found


@pytest.mark.parametrize("additive", [1.0, 0.0])
def test_a_wrist_that_trembles_is_named_and_not_the_one_that_it_misleads_the_forecaster_about(
    scorer: Scorer, tremor: Recording, additive: float
) -> None:
    scorer = Scorer(scorer.bundle, calibration=replace(scorer.calibration, additive=np.array([additive])))
    told = [v for v in follow(scorer, tremor)[36:] if v.decision is Decision.ANOMALOUS]
    assert len(told) > 15
    misled = [v for v in told if v.sensor_score[RIGHT] > v.sensor_score[LEFT]]
    assert len(misled) > 10
    assert all(v.top_sensor == LEFT for v in told)
    assert np.mean([v.sensor_passed_on[RIGHT][LEFT] for v in misled]) > 0.6
    assert not any(LEFT in v.sensor_passed_on for v in told)
    for v in misled:
        assert sum(v.channel_share.values()) == pytest.approx(1)
        of_left = sum(share for channel, share in v.channel_share.items() if channel.startswith(LEFT))
        assert of_left == pytest.approx(v.sensor_share[LEFT])
        assert v.smallest_set[0].startswith(LEFT)
    line = verdict_as_json("p-1", misled[0])
    assert line["sensor_passed_on"] == {RIGHT: {LEFT: round(misled[0].sensor_passed_on[RIGHT][LEFT], 4)}}


@pytest.mark.parametrize("offset", [0, 12, 25, 37])
def test_it_is_named_wherever_hops_begin(scorer: Scorer, tremor: Recording, offset: int) -> None:
    told = [v for v in follow(scorer, tremor.slice(offset, len(tremor)))[40:] if v.decision is Decision.ANOMALOUS]
    assert len(told) > 12 and all(v.top_sensor == LEFT for v in told)


def test_what_is_left_without_a_sensor_is_what_a_stream_without_it_surprises_by(
    scorer: Scorer, tremor: Recording
) -> None:
    hop, n = scorer.manifest.hop, 46
    state = scorer.initial_state(1)
    for end in range(hop, n * hop + 1, hop):
        x, ok = tremor.values[None, end - hop : end], tremor.valid[None, end - hop : end]
        batch, state = scorer.step(x, ok, np.zeros_like(ok), state, end_tick=end)
    left = scorer.without._left(batch.scores.intensity[0], scorer.calibration, state.without, 0, np.ones(2), [0, 1])
    for i, (silent, other) in enumerate([(LEFT, RIGHT), (RIGHT, LEFT)]):
        alone = follow(scorer, tremor.slice(0, n * hop), silent=silent)[-1]
        # the statistic is u alone where one of two sensors is silent
        assert left[i, 1 - i] == pytest.approx(alone.sensor_score[other], abs=0.1)


def test_it_is_looked_at_where_two_sensors_surprise_once_a_change_was_told_twice_after_four_hops_and_every_32(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[int, list[int]]] = []

    def left(*given: object) -> np.ndarray:
        looks.append((int(state.turn[given[3]]), list(given[5])))  # type: ignore[call-overload]
        return np.zeros((1, 2)) if given[5] == [1] else np.full((1, 2), 9.0)

    monkeypatch.setattr(scorer.without, "_left", left)
    state, rows = scorer.without.initial_state(2), np.arange(2)
    u = np.zeros((2, 12))
    batch: Any = SimpleNamespace(
        scores=SimpleNamespace(intensity=np.zeros((2, 2))),
        unusual=SimpleNamespace(channel=u),
        sensor_share=np.array([[0.6, 0.4]] * 2),
    )
    u[0, :6], u[0, 6:] = 3.0, 2.0
    u[1, :6], u[1, 6:] = 2.0, 0.4  # the other wrist hardly surprises
    anomalous, normal = np.full(2, Decision.ANOMALOUS, np.int8), np.full(2, Decision.NORMAL, np.int8)

    def go_on(n: int, decision: np.ndarray) -> list[int]:
        looks.clear()
        for _ in range(n):
            state.turn[:] += 1
            scorer.without.look(batch, decision, scorer.calibration, state, rows)
        return [turn - int(state.turn[0]) + n for turn, out in looks if out == [1]]

    assert go_on(100, anomalous) == [5, 9, 41, 73]  # not before five seconds are there
    # the left one surprises most, would be named, and is gone without the right one: only then the other way round
    state.looks[:] = 0
    go_on(1, anomalous)
    assert [out for _, out in looks] == [[1], [0]] and state.passed[0, 0, 1] == 1
    assert go_on(15, normal) == [] and go_on(1, anomalous) == [] and state.passed[0].any()  # the same change
    assert go_on(16, normal) == [] and go_on(1, anomalous) == []  # another one: told once
    assert not state.passed.any()
    assert go_on(40, anomalous) == [1, 5, 37]


def test_shares_are_passed_on_but_not_of_who_is_normal(scorer: Scorer) -> None:
    state, rows = scorer.without.initial_state(4), np.array([3, 1, 0])
    state.passed[:2, 1, 0], state.turn[:], state.called[:] = 0.75, 40, 24
    decision = np.array([Decision.ANOMALOUS, Decision.NORMAL, Decision.UNSURE], np.int8)
    channel, sensor = np.tile(np.repeat([0.05, 0.1 / 1.2], 6), (3, 1)), np.tile([0.3, 0.5], (3, 1))
    batch: Any = SimpleNamespace(channel_share=channel, sensor_share=sensor)
    found = scorer.without.shares(batch, decision, state, rows)
    assert found is not None
    np.testing.assert_array_equal(found[0][:2], channel[:2])
    np.testing.assert_array_equal(found[1][:2], sensor[:2])
    assert not found[2][:2].any() and found[2][2, 1, 0] == 0.75
    np.testing.assert_allclose(found[1][2], [0.3 + 0.75 * 0.5, 0.25 * 0.5])
    np.testing.assert_allclose(found[0][2].reshape(2, 6).sum(axis=1), np.array([0.675, 0.125]) / 0.8)
    normal: Any = SimpleNamespace(channel_share=channel[:1], sensor_share=sensor[:1])
    assert scorer.without.shares(normal, decision[1:2], state, rows[1:2]) is None
    state.called[:] = 23  # long ago
    assert scorer.without.shares(batch, decision, state, rows) is None


def test_what_was_not_seen_is_not_made_up(scorer: Scorer, tremor: Recording) -> None:
    state = scorer.without.initial_state(1)
    for k in range(5):
        hop = tremor.values[None, k * 50 : k * 50 + 50]
        seen = np.ones(hop.shape, bool)
        seen[:, :, tremor.columns(RIGHT)] = False
        scorer.without.keep(hop, seen, state, np.array([0]))
    left = scorer.without._left(np.full(2, -3.0), scorer.calibration, state, 0, np.array([7.0, 9.0]), [0, 1])
    assert left[0, 1] == 9 and left[1, 0] < 5  # of the right one nothing is known, so nothing of it is gone


def test_in_c_and_in_numpy_the_same_is_kept_and_a_sensor_that_is_kept_from_the_model_is_not(
    scorer: Scorer, tremor: Recording
) -> None:
    hop, rows = scorer.manifest.hop, np.array([0])
    values = tremor.values[: 12 * hop].copy()
    values[4 * hop :, tremor.columns(RIGHT)] = values[4 * hop, tremor.columns(RIGHT)]  # stands still to the bit
    one, other = scorer.initial_state(1), scorer.initial_state(1).owned()
    for end in range(hop, len(values) + 1, hop):
        x = np.ascontiguousarray(values[None, end - hop : end])
        ok = np.ones(x.shape, bool)
        _, one = scorer.step(x, ok, ~ok, one, end_tick=end)
        _, other = scorer.advance(x, ok, ~ok, other, rows, end_tick=end)
    for f in fields(one.without):
        np.testing.assert_array_equal(getattr(one.without, f.name), getattr(other.without, f.name))
    last = one.without.samples[0, (one.without.turn[0] - 1) % 5]
    assert (last[:, tremor.columns(RIGHT)] == -32768).all() and (last[:, tremor.columns(LEFT)] > -32768).all()
    both = scorer.initial_state(3).put(np.array([2]), one)
    assert both.without.turn.tolist() == [0, 0, 12] and both.take(np.array([2])).without.turn.tolist() == [12]
    whole = scorer.initial_state(2).owned()
    whole.write(np.array([1]), one)
    assert whole.without.turn.tolist() == [0, 12]


def test_nothing_is_passed_on_of_what_is_normal_of_one_sensor_or_where_it_is_not_to_be_asked(
    scorer: Scorer, tremor: Recording
) -> None:
    found = follow(scorer, tremor)
    assert any(v.sensor_passed_on for v in found)
    assert not any(v.sensor_passed_on for v in found if v.decision is Decision.NORMAL)
    plain = follow(Scorer(scorer.bundle, ask_more=False), tremor)
    assert not any(v.sensor_passed_on for v in plain)
    assert any(v.top_sensor == RIGHT for v in plain if v.decision is Decision.ANOMALOUS)
    assert [v.decision for v in plain] == [v.decision for v in found]  # shares alone move by it
    alone = Without(scorer.manifest, scorer.engine, scorer.groups[:1])
    assert not alone.watches and alone.initial_state(3).samples.size == 0


@given(arrays(np.float64, 3, elements=st.floats(-3, 9)), arrays(np.float64, (3, 3), elements=st.floats(-3, 9)))
def test_what_is_passed_on_is_a_share_and_never_both_ways(u: np.ndarray, left: np.ndarray) -> None:
    passed = passed_on(u, left)
    assert (passed >= 0).all() and (passed.sum(axis=1) <= 1 + 1e-12).all() and not np.diag(passed).any()
    assert not ((passed > 0) & (passed.T > 0)).any()


@pytest.mark.parametrize(
    ("left_of_right", "left_of_left", "passed"),
    [
        (0.0, 3.0, [[0, 0], [1, 0]]),  # gone once the first is not heard, which keeps all of its own
        (1.0, 3.0, [[0, 0], [0.75, 0]]),
        (2.5, 3.0, [[0, 0], [0, 0]]),  # less than half
        (0.0, 1.0, [[0, 0], [0, 0]]),  # each is gone without the other: nobody knows
        (9.0, 9.0, [[0, 0], [0, 0]]),  # more than before
    ],
)
def test_the_part_that_goes_is_passed_on_where_it_goes_one_way_alone(
    left_of_right: float, left_of_left: float, passed: list[list[float]]
) -> None:
    found = passed_on(np.array([3.0, 4.0]), np.array([[-1.0, left_of_right], [left_of_left, -1.0]]))
    np.testing.assert_allclose(found, passed)


def test_who_hardly_surprises_has_nothing_to_pass_on() -> None:
    assert not passed_on(np.array([3.0, 0.4]), np.array([[0.0, 0.0], [3.0, 0.0]])).any()


def test_samples_are_kept_as_the_model_saw_them_whatever_they_are(scorer: Scorer) -> None:
    hop, c = scorer.manifest.hop, scorer.manifest.n_channels
    rng = np.random.default_rng(0)
    state, rows = scorer.without.initial_state(3), np.array([2, 0])
    values = rng.normal(scorer.manifest.center, scorer.manifest.scale, (2, hop, c)).astype(np.float32)
    values[0, 0, 0], values[0, 1, 0] = 1e30, -1e30
    seen = rng.random(values.shape) < 0.9
    seen[0, :2, 0] = True
    values[~seen] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.without.keep(values, seen, state, rows)
    assert state.turn.tolist() == [1, 0, 1]
    kept = state.samples[rows, 0]
    np.testing.assert_array_equal(kept != -32768, seen)
    scale = np.array(scorer.manifest.scale)
    again = kept / 512 * scale + np.array(scorer.manifest.center)
    inside = seen & (np.abs(values) < 1e6)
    np.testing.assert_array_less(
        np.abs(again - values)[inside], np.broadcast_to(1.1 * scale / 512, again.shape)[inside]
    )
    assert kept[0, 0, 0] == 32767 and kept[0, 1, 0] == -32767
