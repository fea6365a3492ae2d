"""An axis that stands at one number while its sensor moves is told, and what only looks like it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kinedge.bundle import Manifest, read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.dashboard.words import sentence_words
from kinedge.edge.figures import figures_of
from kinedge.edge.held_axes import HeldAxes
from kinedge.edge.hop_facts import look_at
from kinedge.edge.narrative import abstention
from kinedge.edge.offline import verdicts_of
from kinedge.edge.range_ends import RangeEnds
from kinedge.edge.reliability import HealthState, ReliabilityMonitor
from kinedge.edge.scoring import Scorer
from kinedge.edge.sensor_health import channels_of
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.signals import Quantity
from kinedge.training.simulate import SimulationConfig, simulate

F32 = NDArray[np.float32]
HOP = 50
COUNT = np.tile(np.repeat([16 * 9.80665 / 32768, np.deg2rad(2000) / 32768], 3), 2)  # of sixteen bits
GYR_Y = 4


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(DEFAULT_BUNDLE).manifest


def moves(rng: np.random.Generator, n: int, n_channels: int = 3) -> F32:
    return np.asarray(rng.normal(size=(n, n_channels)), np.float32)


def numbers(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the last of each sensor's axes that are held, counted from 1."""
    return np.asarray(np.sign(bits) * np.frexp(np.abs(bits))[1])


def watch(
    hops: Sequence[F32],
    *,
    scale: float = 1.0,
    quantity: Quantity | Sequence[Quantity] = Quantity.ACC,
    valid: Any = None,
    clipped: float = 0.0,
    coarse: float = 0.0,
    alone: bool = True,
) -> list[float]:
    """Let one sensor show hops, and tell which axis is held in each, counted from 1; negative where several are."""
    n = hops[0].shape[1]
    ends = RangeEnds([slice(0, n)], np.ones(n), 1.0)
    axes = HeldAxes(
        [slice(0, n)],
        np.full(n, scale),
        [quantity] * n if isinstance(quantity, Quantity) else quantity,
        HOP,
        1.0,
        alone=alone,
    )
    state: Any = SimpleNamespace(
        reach=ends.initial(1), held=np.zeros((1, 1)), coarse=np.full((1, n), coarse), clipped=np.full((1, 1), clipped)
    )
    found = []
    for k, hop in enumerate(hops):
        there = np.ones((1, HOP, n), bool) if valid is None else valid[k][None]
        facts = look_at(hop[None], there)
        axis, state.held, state.coarse, held = axes.step(hop[None], there, facts, state)
        _, state.reach = ends.step(hop[None], there, facts, state.reach, held=held)
        found.append(numbers(axis)[0, 0])
    return found


def hops_of(x: F32) -> list[F32]:
    return [x[k : k + HOP] for k in range(0, len(x) - HOP + 1, HOP)]


def held_from(x: F32, start: int, axis: int, end: int | None = None) -> F32:
    x = x.copy()
    x[start:end, axis] = (x[:start, axis].max() + x[:start, axis].min()) / 2
    return x


def simulated(seed: int, seconds: float = 60.0, *, rest: float = 0.2) -> F32:
    mix = {"rest": rest, "gait": 0.4, "arm": 0.4} if rest else {"gait": 1.0}
    found = simulate(SimulationConfig(duration_s=seconds, subject_seed=760_000 + seed, activity_mix=mix)).values
    return np.asarray(np.round(found / COUNT) * COUNT, np.float32)


def judge(manifest: Manifest, streams: F32) -> tuple[NDArray[np.float64], HealthState]:
    """Return which axis of each sensor is held, counted from 1, hop after hop (n_hops, n_streams, n_sensors)."""
    monitor = ReliabilityMonitor(manifest)
    state, found = monitor.initial_state(len(streams)), []
    for k in range(0, streams.shape[1] - manifest.hop + 1, manifest.hop):
        now = np.ascontiguousarray(streams[:, k : k + manifest.hop])
        there = np.ones(now.shape, bool)
        facts = monitor.look_at(now, there)
        found.append(numbers(monitor.advance(now, there, state, np.arange(len(streams)), facts=facts).held))
    return np.array(found), state


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_is_held_from_a_quarter_of_a_hop_on_until_it_moves(axis: int) -> None:
    x = moves(np.random.default_rng(axis), 8 * HOP)
    late, early = (hops_of(held_from(x, start, axis, 5 * HOP + 10)) for start in (3 * HOP - 11, 3 * HOP - 12))
    assert watch(late) == [0, 0, 0, axis + 1, axis + 1, 0, 0, 0]
    assert watch(early) == [0, 0, axis + 1, axis + 1, axis + 1, 0, 0, 0]


def test_what_rests_is_not_held_but_what_was_held_before_stays_so() -> None:
    x = moves(np.random.default_rng(3), 6 * HOP)
    x[2 * HOP : 4 * HOP] = x[2 * HOP]  # all of it: nothing tells
    assert watch(hops_of(x)) == [0] * 6
    x = held_from(moves(np.random.default_rng(3), 6 * HOP), HOP, 1)
    x[2 * HOP : 4 * HOP] = x[2 * HOP]
    assert watch(hops_of(x)) == [0, 2, 2, 2, 2, 2]
    x = held_from(moves(np.random.default_rng(3), 6 * HOP), HOP, 1, 2 * HOP)
    x[4 * HOP :] = x[4 * HOP]  # it has moved since
    assert watch(hops_of(x)) == [0, 2, 0, 0, 0, 0]


def test_silence_is_no_answer_and_changes_none() -> None:
    x = held_from(moves(np.random.default_rng(4), 6 * HOP), HOP, 2)
    x[4 * HOP : 5 * HOP] = x[4 * HOP]  # at rest: it is known from before
    valid = [np.full((HOP, 3), k not in (2, 3)) for k in range(6)]
    assert watch(hops_of(x), valid=valid) == [0, 3, 0, 0, 3, 3]


def test_several_axes_are_told_and_remembered_one_by_one_and_then_all_of_the_sensor_is_kept_from_the_model() -> None:
    x = held_from(held_from(moves(np.random.default_rng(17), 9 * HOP, 4), HOP, 0, 7 * HOP), 2 * HOP, 2)
    x[4 * HOP : 5 * HOP] = x[4 * HOP]  # at rest: both are known from before
    valid = [np.ones((HOP, 4), bool) for _ in range(9)]
    valid[5][:, 2] = False  # of which nothing is heard then
    assert watch(hops_of(x), valid=valid) == [0, 1, -3, -3, -3, 1, -3, 3, 3]


def test_an_axis_of_a_sensor_that_the_model_is_shown_turned_is_in_three_so_that_none_of_them_is_shown(
    manifest: Manifest,
) -> None:
    monitor = ReliabilityMonitor(manifest)
    usual = simulated(7, rest=0)
    broken, at = usual.copy(), 20 * manifest.hop + 13
    broken[at:, 1] = broken[at, 1]
    streams = np.stack([broken, broken])
    shown = streams.copy()
    shown[1, :, 3:6] *= -1
    one, other = monitor.initial_state(2), monitor.initial_state(2)
    for k in range(0, streams.shape[1] - manifest.hop + 1, manifest.hop):
        raw, values = (np.ascontiguousarray(part[:, k : k + manifest.hop]) for part in (streams, shown))
        there = np.ones(values.shape, bool)
        facts = monitor.look_at(values, there, np.ones(values.shape, bool))
        health = monitor.advance(values, there, one, np.arange(2), facts=facts, raw=raw)
        expected, other = monitor.step(values, there, other, facts=facts, raw=raw)
        np.testing.assert_array_equal(health.held, expected.held)
    np.testing.assert_array_equal(health.held, [[2, 0], [-2, 0]])
    np.testing.assert_array_equal(health.out, [[False, False], [True, False]])
    used = monitor.repair(values, there, ~there, health)[3]
    assert used is not None
    expected_used = np.ones((2, manifest.n_channels), bool)
    expected_used[0, 1] = expected_used[1, :6] = False
    np.testing.assert_array_equal(used, expected_used)
    assert not monitor.leaves(health)


def test_a_model_that_never_was_without_a_channel_does_without_the_sensor(manifest: Manifest) -> None:
    x = held_from(moves(np.random.default_rng(19), 3 * HOP), HOP, 1)
    assert watch(hops_of(x), alone=False) == [0, -2, -2]
    broken, at = simulated(8, rest=0), 20 * manifest.hop + 13
    broken[at:, 1] = broken[at, 1]
    for share, sign in ((0.0, -1), (0.01, 1)):
        judged_by = manifest.model_copy(update={"channel_dropout": share})
        assert set(judge(judged_by, broken[None])[0][-10:, 0, 0]) == {sign * 2.0}


def test_of_a_sensor_of_more_channels_than_there_are_bits_those_are_watched_that_have_one() -> None:
    x = moves(np.random.default_rng(18), 4 * HOP, 60)
    assert watch(hops_of(held_from(x, HOP, 51))) == [0, 52, 52, 52]
    assert watch(hops_of(held_from(x, HOP, 52))) == [0] * 4
    of_two = channels_of(np.array([[1.0, -5.0], [2.0, 0.0]]), np.array([2, 3]))
    np.testing.assert_array_equal(of_two, [[True, False, True, False, True], [False, True, False, False, False]])
    np.testing.assert_array_equal(channels_of(np.array([[-(2.0**51)]]), np.array([60])), np.arange(60)[None] == 51)


def test_samples_that_are_missing_are_not_equal_ones() -> None:
    x = held_from(moves(np.random.default_rng(5), 3 * HOP), HOP, 0, HOP + 14)
    valid = [np.ones((HOP, 3), bool) for _ in range(3)]
    assert watch(hops_of(x), valid=valid) == [0, 1, 0]
    valid[1][7] = False
    assert watch(hops_of(x), valid=valid) == [0, 0, 0]
    others_lost = [np.ones((HOP, 3), bool) for _ in range(3)]
    others_lost[1][:14, 1:] = False  # nothing is known of them meanwhile
    assert watch(hops_of(x), valid=others_lost) == [0, 0, 0]


def test_the_longest_run_of_a_hop_is_looked_at() -> None:
    x = moves(np.random.default_rng(12), 3 * HOP)
    x[HOP + 2 : HOP + 6, 1] = x[HOP + 2, 1]
    x[HOP + 20 : HOP + 40, 1] = np.median(x[HOP : HOP + 20, 1])
    assert watch(hops_of(x)) == [0, 2, 0]


def test_an_axis_that_never_moved_is_not_told_nor_one_that_no_sensor_of_the_cohort_has() -> None:
    x = moves(np.random.default_rng(6), 5 * HOP)
    x[:, 1] = 4.2
    assert watch(hops_of(x)) == [0] * 5
    x = held_from(moves(np.random.default_rng(6), 5 * HOP), HOP, 1)
    assert watch(hops_of(x)) == [0, 2, 2, 2, 2]
    assert watch(hops_of(x), scale=0.1) == [0] * 5  # what a device fills in that does not measure it
    assert watch(hops_of(x), scale=2.0, quantity=Quantity.MAG) == [0] * 5  # read more slowly than it is reported


def test_a_gyroscope_that_reads_nothing_rests_or_turns_in_one_plane() -> None:
    x = moves(np.random.default_rng(14), 4 * HOP)
    x[HOP:, 2] = 0.05
    assert watch(hops_of(x), quantity=Quantity.ACC) == [0, 3, 3, 3]
    assert watch(hops_of(x), quantity=Quantity.GYR) == [0] * 4
    x[HOP:, 2] = 0.15
    assert watch(hops_of(x), quantity=Quantity.GYR) == [0, 3, 3, 3]


def test_the_end_of_a_range_is_not_a_held_axis_and_neither_is_anything_of_a_sensor_that_clips() -> None:
    x = moves(np.random.default_rng(7), 6 * HOP)
    x[2 * HOP : 4 * HOP, 0] = x[:, 0].max() + 1  # further than ever
    x[2 * HOP + 20 : 2 * HOP + 40, 1] = x[:, 1].min() - 1
    assert watch(hops_of(x)) == [0] * 6
    inside = held_from(moves(np.random.default_rng(8), 6 * HOP), 2 * HOP, 0)
    assert watch(hops_of(inside)) == [0, 0, 1, 1, 1, 1]
    assert watch(hops_of(inside), clipped=0.06) == [0] * 6


def test_others_that_hardly_move_tell_nothing() -> None:
    x = held_from(moves(np.random.default_rng(13), 4 * HOP), HOP, 0)
    x[HOP:, 1:] *= 0.02 / np.ptp(x[HOP:, 1:], axis=0)
    assert watch(hops_of(x)) == [0] * 4
    x[HOP:, 1:] *= 12
    assert watch(hops_of(x)) == [0, 1, 1, 1]


def test_what_another_quantity_does_tells_nothing() -> None:
    x = held_from(moves(np.random.default_rng(15), 4 * HOP), HOP, 0)
    x[HOP:, 1] = x[HOP, 1] + 1e-4 * x[HOP:, 2]
    assert watch(hops_of(x), quantity=[Quantity.ACC, Quantity.ACC, Quantity.GYR]) == [0] * 4
    assert watch(hops_of(x), quantity=Quantity.ACC) == [0, 1, 1, 1]


def test_a_coarse_axis_settles_by_standing_while_others_move_with_gaps_too_and_not_while_all_rest() -> None:
    x = held_from(moves(np.random.default_rng(16), 40 * HOP), HOP, 0)
    gaps = [np.ones((HOP, 3), bool) for _ in range(40)]
    for there in gaps:
        there[30] = False
    assert watch(hops_of(x), coarse=1.0, valid=gaps)[-20:] == [1] * 20
    x[HOP : 30 * HOP, 1:] = x[HOP, 1:]
    assert watch(hops_of(x), coarse=1.0)[:38] == [0] * 38


def test_a_held_axis_does_not_tell_how_far_it_reaches() -> None:
    ends, there = RangeEnds([slice(0, 3)], np.ones(3), 1.0), np.ones((1, HOP, 3), bool)
    hop = moves(np.random.default_rng(9), HOP)[None]
    before = np.stack([np.full((1, 3), v, np.float32) for v in (5.0, -5.0, 2.0, -2.0)], axis=1)
    _, after = ends.step(hop, there, look_at(hop, there), before, held=np.array([[False, True, False]]))
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    assert (after[..., ::2] != before[..., ::2]).all()
    x = moves(np.random.default_rng(9), 300 * HOP)
    held = held_from(x[: 250 * HOP], 3 * HOP, 0)
    assert watch(hops_of(held))[3:] == [1] * 247  # also long after what it reached before would be forgotten


def test_an_axis_that_stands_for_a_moment_now_and_then_is_coarse_and_is_told_once_it_no_longer_does() -> None:
    x = moves(np.random.default_rng(10), 60 * HOP)
    for k in range(0, 20):
        x[k * HOP + 7 : k * HOP + 12, 0] = x[k * HOP + 7, 0]
    early, late = held_from(x, 22 * HOP, 0), held_from(x, 40 * HOP, 0)
    found = watch(hops_of(early), coarse=1.0)
    assert found[:31] == [0] * 31 and found[32:] == [1] * 28  # it stands, while the others move: seconds settle it
    assert watch(hops_of(late), coarse=1.0) == [0] * 40 + [1] * 20
    four = x.copy()
    for k in range(0, 60):
        four[k * HOP + 7 : k * HOP + 11, 0] = four[k * HOP + 7, 0]
    assert watch(hops_of(held_from(four, 40 * HOP, 0))[39:42]) == [0, 1, 1]


@pytest.mark.parametrize(("counts", "every"), [(32768, 1.0), (32768, 1.04), (2048, 1.0), (2048, 1.04)])
def test_people_of_sensors_fine_and_coarse_have_no_held_axis_wherever_the_grid_lies_between_samples(
    manifest: Manifest, counts: int, every: float
) -> None:
    people = np.stack([simulated(seed) for seed in range(20, 26)])
    count = COUNT * 32768 / counts
    coarse = np.round(people / count) * count
    at = np.arange(0.37, people.shape[1] - 1, every)
    i, part = at.astype(int), (at % 1)[None, :, None]
    seen = coarse if every == 1 else coarse[:, i] + (coarse[:, i + 1] - coarse[:, i]) * part
    found = judge(manifest, np.asarray(seen, np.float32))[0]
    assert found.any(axis=2).mean() <= (0 if counts > 2048 else 0.01)


def test_simulated_people_are_told_apart_from_those_with_a_held_axis_at_sixteen_bits(manifest: Manifest) -> None:
    assert not judge(manifest, np.stack([simulated(seed) for seed in range(6)]))[0].any()
    usual = np.stack([simulated(seed, rest=0) for seed in range(6)])
    assert not judge(manifest, usual)[0].any()
    broken, at = usual.copy(), 20 * manifest.hop + 13
    for i, stream in enumerate(broken):
        stream[at:, 6 + i] = stream[at, 6 + i]
    found, state = judge(manifest, broken)
    assert not found[:, :, 0].any()
    after = found[21:, :, 1]
    assert (after == np.arange(1, 7))[3:].mean() > 0.9 and ((after == 0) | (after == np.arange(1, 7))).all()
    np.testing.assert_array_equal(state.held[:, 1], 2.0 ** np.arange(6))


def test_people_who_clip_are_not_said_to_have_a_held_axis_once_that_is_known(manifest: Manifest) -> None:
    people = np.stack([simulated(seed) for seed in range(6)])
    middle, half = np.median(people, axis=1, keepdims=True), people.std(axis=1, keepdims=True)
    clipped = np.clip(people, middle - half, middle + half)
    found, _ = judge(manifest, np.concatenate([people[:, : 20 * manifest.hop], clipped], axis=1))
    assert (found[35:] > 0).mean() < 0.02


def test_a_recording_with_a_held_axis_goes_on_without_it_and_says_which_in_both_languages(scorer: Scorer) -> None:
    recording = simulate(SimulationConfig(duration_s=120, subject_seed=760_102, activity_mix={"gait": 1.0}))
    values = recording.values.copy()
    values[3000:, GYR_Y] = values[3000, GYR_Y]
    verdicts = verdicts_of(scorer, replace(recording, values=values))
    late = [v for v in verdicts if v.end_tick > 3100]
    before = [v for v in verdicts if 1500 < v.end_tick <= 3000]
    normal, was_normal = (np.mean([v.decision.word == "normal" for v in part]) for part in (late, before))
    assert normal > 0.8 * was_normal > 0.3, "a held axis takes away the axis, not the answer"
    for v in late:
        reason = v.reasons[0]
        assert (reason.code, reason.sensor, reason.truth, reason.measured) == ("held", scorer.sensors[0], 1.0, None)
        assert reason.text == f"{scorer.channels[GYR_Y]} stands at one number while the sensor moves"
        assert (reason.channel, verdict_as_json("p", v)["reasons"][0]["channel"]) == ("gyr_y", "gyr_y")
        assert figures_of(v, wall_time_utc_ns=1).reasons[0].channel == "gyr_y"
        assert "the turning about y of the left wrist stands still" in abstention(reason)
        french = abstention(reason, language="fr")
        assert "la rotation autour de y du capteur du poignet gauche ne change plus" in french
        if v.decision is Decision.NORMAL:
            said = sentence_words(v, [v], hop_s=1.0)
            assert said is not None and said["en"].startswith("As usual, but the turning about y of the left wrist")
            assert said["fr"].startswith("Comme d'habitude, mais la rotation autour de y")
    as_before = next(v for v in verdicts if v.decision is Decision.NORMAL)
    assert sentence_words(as_before, [as_before], hop_s=1.0) is None
    before = [v for v in verdicts if v.end_tick <= 3000]
    assert not any(r.code == "held" for v in before for r in v.reasons)
