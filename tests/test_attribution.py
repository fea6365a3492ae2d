"""Where the surprise starts: hit rates against labelled root causes, and on channels and sensors that were spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weighed_blocks import BLOCK_S, CONFIG, HOP_S, calibration
from weighed_blocks import scores as a_block

from kinedge.benchmarks.attribution import bench_attribution, hit_rate
from kinedge.benchmarks.attribution_gait import SPOILT, bench_gait_attribution, spoil, time_explanations
from kinedge.benchmarks.explained import Case, Explained
from kinedge.edge.attribution import by_sensor, energies, fewest, gather, smallest_set
from kinedge.edge.caution import BeliefState, Decision
from kinedge.edge.judgement import Judged, Judgement
from kinedge.edge.offline import score_recording, verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording
from kinedge.training.anomalies import inject
from kinedge.training.settings import FitConfig


def _machines(path: Path, causes: list[str]) -> Path:
    """Write a machine of six waves; channels 2 and 5 (from 1) jump in samples 300 to 320, 4 in 500 to 510."""
    rng = np.random.default_rng(0)
    t = np.arange(800)[:, None]
    train, test = (np.sin(t / np.arange(5, 11)) + 0.1 * rng.normal(size=(800, 6)) for _ in range(2))
    test[300:321, [1, 4]] += 3
    test[500:511, 3] -= 2
    np.savez(path, **{"m-1/train": train, "m-1/test": test, "interp": np.array(json.dumps({"m-1": causes}))})
    return path


def test_hit_rate_counts_true_channels_at_the_top_of_the_ranking() -> None:
    order = np.array([3, 1, 0, 2, 4])
    assert hit_rate(order, (3, 1), share=1.0) == 1
    assert hit_rate(order, (3, 0), share=1.0) == 0.5
    assert hit_rate(order, (3, 0), share=1.5) == 1
    assert hit_rate(order, (4,), share=1.5) == 0


def test_channels_that_jump_are_ranked_first(tmp_path: Path) -> None:
    found = bench_attribution(_machines(tmp_path / "m.npz", ["300-320:2,5", "500-510:4"]))
    rates = {row["what"]: row["hit_rate_100"] for row in found["rows"]}
    assert rates["residual given its own past, peak"] == 1
    assert rates["residual given all channels, peak"] == 1
    assert len(rates) == 6
    assert found["settings"]["segments"] == 2


def test_wrong_labels_score_low(tmp_path: Path) -> None:
    found = bench_attribution(_machines(tmp_path / "m.npz", ["300-320:1,3", "500-510:6"]))
    assert found["rows"][0]["hit_rate_100"] == 0


@pytest.mark.parametrize("cause", ["300-320", "320-300:1", "300-9000:1", "300-320:0", "300-320:7", "x-y:1"])
def test_causes_outside_the_data_are_refused(tmp_path: Path, cause: str) -> None:
    with pytest.raises(SignalError, match="cause"):
        bench_attribution(_machines(tmp_path / "m.npz", [cause]))


def test_what_holds_no_machines_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for path in (tmp_path / "missing.npz", tmp_path / "other.npz", _machines(tmp_path / "none.npz", [])):
        with pytest.raises(ConfigError):
            bench_attribution(path)


def test_a_noisy_wrist_is_not_excused_by_the_forecaster_s_own_doubt(
    scorer: Scorer, person: Callable[..., Recording]
) -> None:
    # noise on one wrist widens the forecast of that wrist, and misleads that of the other: z shows the wrong one
    rest = person(60.0, seed=820_000)
    noisy = inject(rest, "noise_burst", 1500, 2750, sensor="wrist_right", strength=2.0)
    right = {"drop": 0, "excess": 0}
    n = 0
    for end, scores, _ in score_recording(scorer, noisy):
        if 1500 + scorer.manifest.block <= end <= 2750:
            n += 1
            unusual = scorer.calibration.assess(scores, scorer.groups)
            for method, energy in energies(scores, unusual).items():
                share = by_sensor(method, energy, scorer.groups)[0]
                right[method] += int(share.argmax()) == scorer.sensors.index("wrist_right")
    assert n > 20 and right["excess"] >= 0.95 * n


def test_the_verdict_explains_by_the_method_of_its_calibration(
    scorer: Scorer, person: Callable[..., Recording]
) -> None:
    noisy = inject(person(40.0, seed=820_001), "noise_burst", 1000, 2000, sensor="wrist_left", strength=2.0)
    told = Scorer(scorer.bundle, calibration=replace(scorer.calibration, additive=np.ones(1)))
    verdicts = [v for v in verdicts_of(told, noisy)[22:40] if v.decision is not Decision.NORMAL]
    assert np.mean([v.top_sensor == "wrist_left" for v in verdicts]) >= 0.8
    for verdict in verdicts:
        assert sum(verdict.channel_share.values()) == pytest.approx(1)
        named = [verdict.channel_share[c] for c in verdict.smallest_set]
        assert sum(named) >= 0.8 and sum(named[:-1]) < 0.8 and named == sorted(named, reverse=True)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=30),
)
def test_gathered_shares_add_up_to_one_and_keep_what_nothing_was_added_to(blocks: list[tuple[int, float]]) -> None:
    shares = np.eye(3)[[0]]
    for where, fresh in blocks:
        after = gather(shares, np.eye(3)[[where]], np.array([fresh]))
        assert after.sum() == pytest.approx(1) and (after >= 0).all()
        if fresh in (0, 1):
            np.testing.assert_array_equal(after, np.eye(3)[[where]] if fresh else shares)
        shares = after


def test_an_episode_s_explanation_counts_where_the_walk_as_it_was_has_none(
    scorer: Scorer, person: Callable[..., Recording]
) -> None:
    walk, wrist = person(40.0, seed=820_005), scorer.sensors.index("wrist_right")
    noisy = inject(walk, "noise_burst", 1000, 1400, sensor="wrist_right", strength=2.0)
    for first, n_episodes in ((walk, 1), (noisy, 0)):
        explained = Explained(scorer, "S01", 0, [Case("noise_burst", 2.0, None, wrist)], start=1000, end=1400)
        forms = [first, noisy, noisy]
        values, valid = (np.stack([getattr(f, name) for f in forms]) for name in ("values", "valid"))
        state, told = scorer.initial_state(3), []
        for end in range(scorer.manifest.hop, len(walk) + 1, scorer.manifest.hop):
            at = slice(end - scorer.manifest.hop, end)
            nothing = np.zeros_like(valid[:, at])
            batch, state = scorer.step(values[:, at], valid[:, at], nothing, state, end_tick=end)
            told += explained.step(batch, values[:, at], valid[:, at])
        episodes = explained.end()
        assert len(episodes) == n_episodes and all(t.episode and t.sensor for t in episodes)
        alarms = [t for t in told if t.alarm]
        assert bool(alarms) == bool(n_episodes) and sum(t.first for t in alarms) == n_episodes


def test_which_axis_stands_still_is_told_first_and_right_where_it_is_the_one_that_was_spoilt(
    scorer: Scorer, person: Callable[..., Recording]
) -> None:
    walk, wrist, axis = person(40.0, seed=820_005), scorer.sensors.index("wrist_right"), 7
    still = walk.values.copy()
    still[1010:, axis] = still[1010, axis]
    cases = [Case("stuck", 1.0, axis, wrist), Case("stuck", 1.0, 6, wrist), Case("stuck", 1.0, axis - 6, 1 - wrist)]
    explained = Explained(scorer, "S01", 0, cases, start=1000, end=1400)
    n, hop = 1 + 2 * len(cases), scorer.manifest.hop
    values = np.stack([walk.values] + [still] * (n - 1))
    valid, state, told = np.ones(values.shape, bool), scorer.initial_state(n), []
    for end in range(hop, len(walk) + 1, hop):
        at = slice(end - hop, end)
        batch, state = scorer.step(values[:, at], valid[:, at], ~valid[:, at], state, end_tick=end)
        told += [t for t in explained.step(batch, values[:, at], valid[:, at]) if t.told]
    assert [(t.case, t.channel, t.sensor) for t in told] == [
        (cases[0], True, True),
        (cases[1], False, True),
        (cases[2], False, False),
    ]


def test_one_channel_far_out_is_not_outvoted_by_many_a_little_off() -> None:
    energy = np.array([[9.0, 0.0, 0.0, 4.0, 4.0, 4.0]])
    groups = (slice(0, 3), slice(3, 6))
    assert by_sensor("excess", energy, groups).argmax() == 0 and by_sensor("drop", energy, groups).argmax() == 1


def test_the_fewest_channels_that_account_for_most_are_named() -> None:
    assert fewest(np.array([0.1, 0.6, 0.0, 0.3])) == (1, 3)
    assert fewest(np.array([1.0, 0.0])) == (0,)
    assert fewest(np.zeros(3)) == ()
    assert fewest(np.full(10, 0.1)) == tuple(range(8))


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_channel_is_changed_as_its_kind_says(kind: str) -> None:
    x = np.sin(np.arange(200) / 9).astype(np.float32)
    half, full = (
        spoil(x, kind, strength=s, deviation=float(x.std()), rng=np.random.default_rng(1)) - x for s in (0.5, 1.0)
    )
    assert half.shape == x.shape and np.abs(full).max() > 0.1
    if kind != "stuck":
        np.testing.assert_allclose(full, 2 * half, atol=1e-5)
    with pytest.raises(SignalError, match="no way to spoil"):
        spoil(x, "eaten", strength=1.0, deviation=1.0, rng=np.random.default_rng(1))


def test_explanations_are_timed_at_alarms_and_abstentions(scorer: Scorer) -> None:
    rows = time_explanations(scorer, n_rounds=2)
    assert {r["what"].split(",")[0] for r in rows} == {"explanation at an alarm", "explanation at an abstention"}
    assert all(r["median_us"] > 0 for r in rows)


def test_spoilt_walks_are_explained_end_to_end(shared_data: Path) -> None:
    pytest.importorskip("torch")
    found = bench_gait_attribution(
        {"gait_healthy": shared_data / "gait_healthy.npz"},
        fit=FitConfig(max_epochs=0, window=64, var_order=4, width=8, dilations=(1, 2)),
        people=2,
        walks=1,
    )
    rows = {r["what"]: r for r in found["rows"]}
    every = rows["gait_healthy, cohort, one channel, all"]
    assert every["verdicts"] >= 50 and every["people"] == 2
    noticed = rows["gait_healthy, cohort, one channel, noticed"]
    assert 1 / 18 < noticed["channel"] <= noticed["sensor"] + 0.2 and noticed["channel_95"][0] <= noticed["channel"]
    assert "explanation at an alarm, 18 channels" in rows


def test_data_that_are_no_walks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="no data set"):
        bench_gait_attribution({"smd": tmp_path / "smd.npz"})


def test_the_smallest_set_is_what_solving_anew_for_every_set_gives() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        mixed = rng.normal(size=(6, 6))
        precision = np.linalg.inv(mixed @ mixed.T + 0.2 * np.eye(6))
        z = rng.normal(size=(40, 6)) * rng.uniform(0.2, 4, size=6)
        y = z @ precision
        moments, total = y.T @ y, float((y * z).sum())
        chosen: list[int] = []
        left = list(range(6))
        while left:
            falls = []
            for c in left:
                rows = np.ix_([*chosen, c], [*chosen, c])
                falls.append(float(np.trace(np.linalg.solve(precision[rows], moments[rows]))))
            best = int(np.argmax(falls))
            chosen.append(left.pop(best))
            if falls[best] >= 0.8 * total:
                break
        assert smallest_set(z, np.ones(z.shape, bool), precision) == tuple(chosen)


def told_of(blocks: list[dict[int, float]], *, enrolled: bool, method: str) -> list[Judged]:
    """Judge blocks one after another; of each, ``u`` of the channels that are not at -1."""
    judgement = Judgement((slice(0, 6), slice(6, 12)), CONFIG, hop_s=HOP_S, block_s=BLOCK_S)
    against = replace(
        calibration(enrolled=enrolled), reference=np.zeros(200), additive=np.array([float(method == "excess")])
    )
    state, told = BeliefState.initial(1, 2, 12), []
    for odd in blocks:
        u = np.full((1, 12), -1.0)
        u[0, list(odd)] = list(odd.values())
        block = a_block(channel=u, drop=np.maximum(u, 0.0) ** 2)
        told.append(judgement.advance(block, against, state, np.arange(1)))
    return told


@pytest.mark.parametrize("method", ["drop", "excess"])
def test_what_a_newcomer_shows_anyway_is_not_named_for_a_change_elsewhere(method: str) -> None:
    usual, changed = {7: 3.0}, {7: 3.1, 2: 2.5}
    *_, before, after = told_of([usual] * 20 + [{7: 2.9, 2: 0.3}, changed], enrolled=False, method=method)
    assert before.belief.decision[0] == Decision.UNSURE and before.channel_share.argmax() == 7  # nothing else counts
    assert after.belief.decision[0] == Decision.ANOMALOUS
    assert (after.channel_share.argmax(), after.sensor_share.argmax()) == (2, 0)
    *_, known = told_of([usual] * 20 + [changed], enrolled=True, method=method)
    assert (known.channel_share.argmax(), known.sensor_share.argmax()) == (7, 1)  # of theirs, nothing is usual


@pytest.mark.parametrize("method", ["drop", "excess"])
def test_a_newcomer_s_change_that_lasts_goes_on_being_named(method: str) -> None:
    noisy = {2: 4.0, 7: 1.5}
    told = told_of([{}] * 15 + [{2: 4.0}] * 40 + [noisy], enrolled=False, method=method)
    assert {int(t.channel_share.argmax()) for t in told[15:]} == {2}


def test_once_next_to_nothing_is_left_of_a_newcomer_s_change_what_is_unusual_now_is_named_again() -> None:
    *_, over = told_of([{7: 3.0}] * 20 + [{7: 3.0, 2: 4.0}] * 2 + [{7: 3.0}] * 25, enrolled=False, method="excess")
    assert over.belief.decision[0] == Decision.UNSURE
    assert over.channel_share.argmax() == 7


def test_what_a_newcomer_shows_while_a_sensor_is_not_heard_is_not_learned() -> None:
    silent = np.array([[0.0, 1.0]])  # the second sensor's data are missing
    judgement = Judgement((slice(0, 6), slice(6, 12)), CONFIG, hop_s=HOP_S, block_s=BLOCK_S)
    state, odd = BeliefState.initial(1, 2, 12), np.full((1, 12), 3.0)
    for _ in range(5):
        judgement.advance(a_block(channel=odd, missing=silent), calibration(enrolled=False), state, np.arange(1))
    assert (state.channel_shown[0, :6] > 0).all() and not state.channel_shown[0, 6:].any()
