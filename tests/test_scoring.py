"""Block scores, calibration and likelihood ratios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from kinedge.benchmarks.crowd import untrained_bundle
from kinedge.edge.calibration import UNSCORED, Calibration
from kinedge.edge.engine import Surprise
from kinedge.edge.hop_facts import FAR, look_at
from kinedge.edge.offline import align_recording, score_recording, verdicts_of
from kinedge.edge.scores import NO_STEP, BlockScorer, BlockScores
from kinedge.edge.scoring import Scorer, ScoringState
from kinedge.edge.state_rows import put_rows, take_rows
from kinedge.edge.timing import UNTOLD
from kinedge.edge.verdict import VerdictBatch
from kinedge.errors import BundleError, SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import IMU6, SensorSpec
from kinedge.training.calibrating import SubjectScores, fit_calibration
from kinedge.training.likelihood import fit_likelihood_ratio

Person = Callable[..., Recording]


def one_hop(scorer: Scorer, values: np.ndarray, valid: np.ndarray, saturated: np.ndarray) -> BlockScores:
    """Score two equal hops of a surprise of 1 nat everywhere: a full block."""
    blocks = BlockScorer(scorer.manifest, scorer.calibration.precision)
    state = blocks.initial_state(1)
    shape = (1, scorer.manifest.hop, len(scorer.manifest.horizons), scorer.manifest.n_channels)
    ok = np.broadcast_to(valid[None, :, None], shape)
    surprise = Surprise(np.where(ok, 1.0, 0).astype(np.float32), np.where(ok, 1.0, 0).astype(np.float32), ok)
    for _ in range(scorer.manifest.block // scorer.manifest.hop):
        scores, state = blocks.step(surprise, values[None], valid[None], saturated[None], state)
    return scores


def moving(scorer: Scorer) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(scorer.manifest.hop, scorer.manifest.n_channels)).astype(np.float32)


def test_a_score_is_the_mean_surprise_of_the_samples_that_were_there(scorer: Scorer) -> None:
    values, nothing = moving(scorer), np.zeros((scorer.manifest.hop, scorer.manifest.n_channels), bool)
    valid = ~nothing
    valid[10:30, 0] = False
    scores = one_hop(scorer, values, valid, nothing)
    assert np.allclose(scores.channel, 1.0)
    assert np.allclose(scores.power, 1.0)
    assert scores.missing[0, 0] == pytest.approx(0.4)
    assert scores.missing[0, 1] == 0
    assert scores.full[0]


def test_a_channel_with_too_few_samples_is_not_scored(scorer: Scorer) -> None:
    values, nothing = moving(scorer), np.zeros((scorer.manifest.hop, scorer.manifest.n_channels), bool)
    valid = ~nothing
    valid[5:, :6] = False
    scores = one_hop(scorer, values, valid, nothing)
    assert not scores.scored[0, :6].any()
    assert scores.scored[0, 6:].all()
    unusual = scorer.calibration.assess(scores, scorer.groups)
    assert unusual.sensor[0, 0] == UNSCORED
    assert unusual.sensor[0, 1] > UNSCORED


def test_a_sensor_that_stands_still_to_the_last_bit_is_flat_and_a_noisy_one_is_not(scorer: Scorer) -> None:
    nothing = np.zeros((scorer.manifest.hop, scorer.manifest.n_channels), bool)
    values = moving(scorer)
    values[:, :6] = values[0, :6]
    scores = one_hop(scorer, values, ~nothing, nothing)
    assert scores.flat[0].tolist() == [True, False]


def test_saturation_is_the_share_of_the_worst_channel(scorer: Scorer) -> None:
    nothing = np.zeros((scorer.manifest.hop, scorer.manifest.n_channels), bool)
    saturated = nothing.copy()
    saturated[:10, 7] = True
    scores = one_hop(scorer, moving(scorer), ~nothing, saturated)
    assert scores.saturated[0].tolist() == [0.0, 0.2]


def test_scores_of_a_person_with_a_tremor_rise_where_the_tremor_is(scorer: Scorer, person: Person) -> None:
    from kinedge.training.anomalies import inject

    r = inject(person(40.0), "tremor", 1200, 1700, sensor="wrist_right", seed=1)
    sensor = np.array([scorer.calibration.assess(s, scorer.groups).sensor[0] for _, s, _ in score_recording(scorer, r)])
    before, during = sensor[10:23], sensor[27:33]
    assert during[:, 1].min() > np.median(before[:, 1]) + 0.5
    assert np.median(during[:, 1]) > np.median(during[:, 0])


def test_each_block_knows_how_much_everybody_moved_in_the_block_that_ended_a_hop_ago(scorer: Scorer) -> None:
    hop, c = scorer.manifest.hop, scorer.manifest.n_channels
    rng = np.random.default_rng(3)
    state, last = scorer.initial_state(2), np.full((2, len(scorer.sensors)), NO_STEP)
    for k in range(5):
        values = (rng.normal(size=(2, hop, c)) * (k + 1)).astype(np.float32)
        ok = np.ones(values.shape, bool)
        batch, state = scorer.step(values, ok, ~ok, state, end_tick=(k + 1) * hop)
        np.testing.assert_array_equal(batch.scores.before, last)
        last = batch.scores.intensity
    assert (last > NO_STEP).all()


def random_scores(scorer: Scorer, n: int, seed: int = 0) -> BlockScores:
    rng = np.random.default_rng(seed)
    c, s = scorer.manifest.n_channels, len(scorer.sensors)
    return BlockScores(
        channel=rng.normal(size=(n, c)),
        scored=np.ones((n, c), bool),
        intensity=rng.normal(-2, 3, size=(n, s)),
        before=rng.normal(-2, 3, size=(n, s)),
        power=rng.random((n, c)),
        drop=rng.random((n, c)),
        missing=np.zeros((n, s)),
        saturated=np.zeros((n, s)),
        flat=np.zeros((n, s), bool),
        full=np.ones(n, bool),
        late=np.where(rng.random((n, s)) < 0.3, UNTOLD, rng.normal(size=(n, s))),
    )


def test_the_usual_score_is_linear_between_knots_goes_on_below_and_stays_above(scorer: Scorer) -> None:
    cal = scorer.calibration
    knots = cal.knots[:, 0]
    for intensity in (-99.0, *knots, 0.5 * (knots[1] + knots[2]), 99.0):
        at = np.array([[intensity] * len(scorer.sensors)])
        center, spread = cal.usual(at, scorer.groups)
        for c in range(6):
            assert spread[0, c] == pytest.approx(np.interp(intensity, knots, cal.spread[:, c]))
            if knots[0] <= intensity <= knots[-1]:
                assert center[0, c] == pytest.approx(np.interp(intensity, knots, cal.center[:, c]))
    step = knots[1] - knots[0]
    below = cal.usual(np.array([[knots[0] - step] * len(scorer.sensors)]), scorer.groups)[0]
    assert below[0, 0] == pytest.approx(2 * cal.center[0, 0] - cal.center[1, 0])
    above = cal.usual(np.array([[knots[-1] + 50] * len(scorer.sensors)]), scorer.groups)[0]
    assert above[0, 0] == pytest.approx(cal.center[-1, 0])
    far = cal.usual(np.array([[-1e9] * len(scorer.sensors)]), scorer.groups)[0]
    assert np.isfinite(far).all()


def test_the_p_value_counts_the_reference_and_never_reaches_zero(scorer: Scorer) -> None:
    scores = random_scores(scorer, 50)
    unusual = scorer.calibration.assess(scores, scorer.groups)
    ref = scorer.calibration.reference
    for score, p in zip(unusual.score, unusual.p_value, strict=True):
        assert p == pytest.approx((1 + (ref >= score).sum()) / (len(ref) + 1))
    huge = scorer.calibration.assess(replace(scores, channel=scores.channel + 1e6), scorer.groups)
    assert (huge.p_value == 1 / (len(ref) + 1)).all()


def test_on_people_like_the_cohort_the_p_value_is_not_too_small_too_often() -> None:
    rng = np.random.default_rng(5)
    scorer_manifest = _manifest()

    def subject(name: str) -> SubjectScores:
        shift = rng.normal(0, 0.3)
        channel, intensity = shift + rng.gumbel(size=(400, 6)), rng.normal(size=(400, 1))
        return SubjectScores(name, channel, intensity, intensity, np.full((400, 1), UNTOLD))

    cal = fit_calibration(scorer_manifest, [subject(str(i)) for i in range(30)], rng.normal(size=(500, 6)))
    rare = []
    for i in range(60):
        s = subject(f"new{i}")
        scores = BlockScores(
            s.channel, np.ones((400, 6), bool), s.intensity, s.before, s.channel, s.channel,
            np.zeros((400, 1)), np.zeros((400, 1)), np.zeros((400, 1), bool), np.ones(400, bool), s.late,
        )  # fmt: skip
        rare.append((cal.assess(scores, (slice(0, 6),)).p_value <= 0.05).mean())
    assert 0.02 < np.mean(rare) < 0.08


def _manifest() -> object:
    from kinedge.bundle import Manifest

    return Manifest.model_validate(
        {
            "name": "t", "created_utc": "", "kinedge_version": "", "intended_use": "t",
            "sensors": [{"name": "a", "channels": IMU6}], "rate_hz": 50, "horizons": [1], "receptive_field": 1,
            "hop": 50, "block": 100, "center": [0] * 6, "scale": [1] * 6, "clip": 1, "student_t_nu": [[3] * 6],
            "inputs": [], "outputs": [], "state_size": 1, "precisions": {"fp32": "m"}, "n_parameters": 0,
            "parts": {n: {"sha256": "0" * 64, "n_bytes": 0} for n in ("m", "calibration.npz")},
        }
    )  # fmt: skip


def test_too_little_ordinary_movement_is_refused() -> None:
    few = SubjectScores("a", np.zeros((10, 6)), *[np.zeros((10, 1))] * 3)
    with pytest.raises(SignalError, match="at least 20 blocks"):
        fit_calibration(_manifest(), [few], np.zeros((10, 6)))  # type: ignore[arg-type]


def test_a_likelihood_ratio_rises_with_unusualness_and_crosses_one_between_the_classes() -> None:
    rng = np.random.default_rng(0)
    b0, b1 = fit_likelihood_ratio(rng.normal(0, 0.5, 500), rng.normal(2, 0.5, 300))
    assert b1 > 0
    assert 0.5 < -b0 / b1 < 1.5
    assert fit_likelihood_ratio(rng.normal(2, 0.5, 50), rng.normal(0, 0.5, 50))[1] == 0
    with pytest.raises(SignalError, match="at least 5"):
        fit_likelihood_ratio(np.zeros(3), np.ones(50))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("reference", lambda a: a[::-1].copy(), "sorted"),
        ("reference", lambda a: a[:0], "not empty"),
        ("spread", lambda a: a * 0, "positive"),
        ("knots", lambda a: a[::-1].copy(), "increasing"),
        ("knots", lambda a: a[0, 0], "calibration array"),
        ("center", lambda a: a[:, 1:], "expected"),
        ("likelihood", lambda a: a.astype(str), "not float"),
    ],
)
def test_a_calibration_that_cannot_be_one_is_refused(
    scorer: Scorer, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    arrays = scorer.calibration.to_arrays()
    with pytest.raises(BundleError, match=message):
        Calibration.from_arrays({**arrays, name: np.asarray(change(arrays[name]))}, scorer.manifest)
    with pytest.raises(BundleError, match="missing or unused"):
        Calibration.from_arrays({k: v for k, v in arrays.items() if k != name}, scorer.manifest)


def test_rows_taken_and_put_back_leave_the_others_alone(scorer: Scorer) -> None:
    state = scorer.initial_state(3).engine
    part = take_rows(state, np.array([1]))
    changed = put_rows(state, np.array([1]), replace(part, n_seen=part.n_seen + 7))
    assert changed.n_seen.tolist() == [0, 7, 0]
    assert state.n_seen.tolist() == [0, 0, 0]


def test_a_recording_at_another_rate_comes_to_the_grid_with_its_labels() -> None:
    n = 128 * 10
    t = np.arange(n) / 128
    values = np.tile(np.sin(2 * np.pi * t)[:, None], (1, 6)).astype(np.float32)
    r = Recording((SensorSpec("a"),), 128.0, values, np.ones((n, 6), bool), labels=(Region(256, 512, "freeze"),))
    aligned = align_recording(r, rate_hz=64)
    assert len(aligned) == pytest.approx(640, abs=3)
    assert aligned.labels[0].start == pytest.approx(128, abs=2)
    assert aligned.labels[0].end == pytest.approx(256, abs=2)
    inside = aligned.valid[:, 0]
    expected = np.sin(2 * np.pi * (np.arange(len(aligned)) + 1) / 64)
    assert np.abs(aligned.values[inside, 0] - expected[inside]).max() < 0.05


def test_verdicts_of_several_people_at_once_are_those_of_each_alone(scorer: Scorer, person: Person) -> None:
    a, b = person(12.0), person(12.0, seed=800_001)
    state = scorer.initial_state(2)
    hop = scorer.manifest.hop
    alone = verdicts_of(scorer, b)
    for i in range(len(a) // hop):
        rows = slice(i * hop, (i + 1) * hop)
        values = np.stack([a.values[rows], b.values[rows]])
        valid = np.stack([a.valid[rows], b.valid[rows]])
        batch, state = scorer.step(values, valid, ~valid, state, end_tick=(i + 1) * hop)
        got = batch.verdict(1)
        assert got.decision == alone[i].decision
        assert got.score == pytest.approx(alone[i].score, rel=1e-4, abs=1e-4)


def test_a_state_written_in_place_gives_the_bits_of_one_that_is_not_and_leaves_others_alone(scorer: Scorer) -> None:
    m, n = scorer.manifest, 70
    rng = np.random.default_rng(0)
    values = rng.normal(np.array(m.center), np.array(m.scale), (n, 6 * m.hop, m.n_channels)).astype(np.float32)
    valid, saturated = rng.random(values.shape) > 0.02, rng.random(values.shape) > 0.99
    valid[::3] = True
    pure, kept = scorer.initial_state(n), scorer.initial_state(n).owned()
    for k in range(6):
        hop = [a[:, k * m.hop : (k + 1) * m.hop] for a in (values, valid, saturated)]
        expected, pure = scorer.step(*hop, pure, end_tick=0)
        order = rng.permutation(n)
        for rows in (None,) if k % 2 else (np.sort(order[:40]), order[40:]):
            own = hop if rows is None else [a[rows] for a in hop]
            before = kept.owned()
            found, kept = scorer.advance(*own, kept, rows, end_tick=0)
            at = slice(None) if rows is None else rows
            assert_same_batch(found, expected, at)
            others = np.setdiff1d(np.arange(n), np.arange(n) if rows is None else rows)
            assert_same(kept.take(others), before.take(others))
    assert_same(kept, pure)


def assert_same_batch(found: VerdictBatch, expected: VerdictBatch, at: Any) -> None:
    for part in ("scores", "surprise", "unusual", "belief", "health"):
        for f in fields(getattr(expected, part)):
            own, other = (getattr(getattr(batch, part), f.name) for batch in (found, expected))
            assert own.dtype == other.dtype and np.array_equal(own, other[at], equal_nan=True), (part, f.name)
    for name in ("channel_share", "sensor_share", "movement"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)[at]), name


@pytest.mark.parametrize("model", ["shipped", "feet alike", "one sensor"])
def test_a_hop_in_one_piece_gives_the_bits_of_its_parts_whatever_is_wrong_with_sensors(
    scorer: Scorer, model: str
) -> None:
    if model != "shipped":
        names = ("foot_left", "foot_right") if model == "feet alike" else ("lower_back",)
        made = untrained_bundle([SensorSpec(name, IMU6) for name in names], rate_hz=50, n_parameters=1000)
        scorer = Scorer(made)
    assert scorer.sides.watches == (model == "feet alike")
    m, n, in_one_piece = scorer.manifest, 9, []
    rng = np.random.default_rng(1)
    hops = rng.normal(np.array(m.center), np.array(m.scale), (8, n, m.hop, m.n_channels)).astype(np.float32)
    half = m.n_channels // 2
    there = np.ones(hops.shape, bool)
    hops[2:5, 1, :, :half] = hops[2:5, 1, :, half:]  # one sensor twice
    hops[:, 2, :, :half] = 0.0  # one that lies there
    there[3:, 3, :, :half] = False  # one that is silent
    there[4, 4] = rng.random(there[4, 4].shape) > 0.1
    hops[1:, 5] = hops[:-1, 5]  # a stuck buffer
    hops[4, 0, :, 1] = m.center[1]  # an axis that is held, and nothing else is wrong
    pure, kept = scorer.initial_state(n), scorer.initial_state(n).owned()
    pure.health.coarse[:] = kept.health.coarse[:] = 0.0  # as after a minute
    pieces = (np.arange(n), np.array([7, 0, 8]), np.array([4]))
    for k, (values, valid) in enumerate(zip(hops, there, strict=True)):
        rows = pieces[k % 3]
        hop = values[rows], valid[rows], np.zeros(valid[rows].shape, bool)
        clock_ms = None if k % 4 else np.full((len(rows), len(m.sensors)), 60.0)
        turned = {} if k % 2 == 0 else {"raw": np.round(4 * hop[0][..., ::-1]) / 4}  # as if the sensors sat otherwise
        expected, after = scorer.step(*hop, pure.take(rows), end_tick=0, clock_ms=clock_ms, **turned)
        pure = pure.put(rows, after)
        found, kept = scorer.advance(*hop, kept, rows, end_tick=0, clock_ms=clock_ms, **turned)
        assert_same_batch(found, expected, slice(None))
        assert k != 4 or abs(found.health.held[1, 0]) == 2
        assert found.verdict(0) == expected.verdict(0)
        assert_same(kept, pure)
        in_one_piece.append("_found" in vars(found))
    native = scorer.engine.backend.name.startswith("native")
    assert sum(in_one_piece) >= 4 if native else not any(in_one_piece)
    assert not in_one_piece[4], "a sensor with a held axis is kept from the model"


def assert_same(a: ScoringState, b: ScoringState) -> None:
    for own, other in (
        (a.engine, b.engine),
        (a.blocks, b.blocks),
        (a.health, b.health),
        (a.belief, b.belief),
        (a.sides, b.sides),
        (a.timing, b.timing),
    ):
        for f in fields(own):
            assert np.array_equal(getattr(own, f.name), getattr(other, f.name)), f.name


def test_a_verdict_told_before_does_not_change_when_its_state_goes_on(scorer: Scorer) -> None:
    m, rng = scorer.manifest, np.random.default_rng(0)
    state = scorer.initial_state(2).owned()
    hops = rng.normal(np.array(m.center), np.array(m.scale), (8, 2, m.hop, m.n_channels)).astype(np.float32)
    hops[:5] = np.minimum(hops[:5], np.array(m.center) + 0.5 * np.array(m.scale)).astype(np.float32)  # clipped
    valid = np.ones(hops[0].shape, bool)
    told = []
    for k, values in enumerate(hops):
        rows = None if k % 3 else np.array([1, 0])
        batch, state = scorer.advance(values, valid, ~valid, state, rows, end_tick=0)
        told.append((batch, [batch.verdict(i) for i in range(2)]))
    assert all([batch.verdict(i) for i in range(2)] == verdicts for batch, verdicts in told)


def test_facts_of_a_hop_are_those_that_anybody_would_count(scorer: Scorer) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(-4, 5, (40, 50, 12)).astype(np.float32)
    valid, saturated = rng.random(values.shape) > 0.1, rng.random(values.shape) > 0.9
    valid[::2], valid[1, :, 3] = True, False
    facts = look_at(
        np.where(valid, values, np.nan).astype(np.float32), valid, saturated, pairs=[(slice(0, 6), slice(6, 12))]
    )
    x = np.ma.array(values.astype(np.float64), mask=~valid)
    assert np.array_equal(facts.n_valid, valid.sum(axis=1))
    assert np.array_equal(facts.n_saturated, saturated.sum(axis=1))
    assert np.array_equal(facts.low, x.min(axis=1).filled(FAR))
    assert np.array_equal(facts.high, x.max(axis=1).filled(-FAR))
    there = valid.any(axis=1)
    assert np.array_equal(facts.n_high[there], (x == x.max(axis=1)[:, None]).sum(axis=1).filled(0)[there])
    assert np.array_equal(facts.n_low[there], (x == x.min(axis=1)[:, None]).sum(axis=1).filled(0)[there])
    assert np.allclose(facts.level, x.mean(axis=1).filled(0), atol=1e-5)
    assert np.allclose(facts.power, (x.var(axis=1) * valid.sum(axis=1)).filled(0), rtol=1e-4)
    steps = np.ma.diff(x, axis=1)
    assert np.array_equal(facts.step2, (steps**2).sum(axis=1).filled(0))
    moved = (x - x.mean(axis=1)[:, None]).filled(0)
    assert np.allclose(facts.shared[0], (moved[..., :6] * moved[..., 6:]).sum(axis=1), atol=1e-2)
    for i in (0, 1, 31, 39):  # whoever else is there
        alone = look_at(values[i : i + 1], valid[i : i + 1])
        assert np.array_equal(alone.power, facts.power[i : i + 1]) and np.array_equal(
            alone.step2, facts.step2[i : i + 1]
        )
