"""Which way the sensors of both sides were put on, told by the forecaster."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kinedge.bundle import read_bundle
from kinedge.edge import reliability, sides
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.enrol import EnrolmentBuilder, enrol_recordings
from kinedge.edge.pipeline import Scored
from kinedge.edge.reasons import reasons_of
from kinedge.edge.scoring import Scorer, ScoringState
from kinedge.edge.verdict import VerdictBatch
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.simulate import SimulationConfig, simulate

WALK_S = 40


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The shipped model, whose wrists sit so differently that their levels tell them: here they may not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reliability, "_SIDES_APART", np.inf)
        return Scorer(read_bundle(DEFAULT_BUNDLE))


def person(seed: int, **activities: float) -> Recording:
    return simulate(SimulationConfig(duration_s=WALK_S, subject_seed=seed, session_seed=seed, activity_mix=activities))


def exchanged(values: NDArray[np.float32]) -> NDArray[np.float32]:
    half = values.shape[-1] // 2
    return np.concatenate([values[..., half:], values[..., :half]], axis=-1)


def follow(
    scorer: Scorer, values: NDArray[np.float32], state: ScoringState, *, valid: NDArray[np.bool_] | None = None
) -> tuple[list[VerdictBatch], ScoringState]:
    hop, found = scorer.manifest.hop, []
    valid = np.ones(values.shape, bool) if valid is None else valid
    for k in range(values.shape[1] // hop):
        part = slice(k * hop, (k + 1) * hop)
        x, there = np.ascontiguousarray(values[:, part]), np.ascontiguousarray(valid[:, part])
        batch, state = scorer.step(x, there, np.zeros(x.shape, bool), state, end_tick=(k + 1) * hop)
        found.append(batch)
    return found, state


@pytest.fixture(scope="module")
def both_ways(scorer: Scorer) -> tuple[list[VerdictBatch], ScoringState]:
    """A walk as named, and the same with the wrists exchanged."""
    values = person(3, gait=1.0).values[None]
    return follow(scorer, np.concatenate([values, exchanged(values)]), scorer.initial_state(2))


def test_wrists_put_on_the_wrong_way_round_are_named_within_ten_seconds_of_walking(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    batches, state = both_ways
    assert state.sides.exchanged[:, 0].tolist() == [False, True]
    sure = [b.health.swapped[1].min() >= 1 for b in batches if b.health is not None]
    assert sure.index(True) <= 10
    last = batches[-1]
    reasons = reasons_of(1, last.scores, last.unusual, last.belief, last.sensors, last.config, health=last.health)
    assert last.belief.decision[1] == Decision.UNSURE
    assert reasons[0].code == "swapped"


def test_exchanged_sides_lead_the_reasons_also_where_packets_are_lost(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    """Loss comes and goes; while sides are exchanged nothing can be normal, whatever arrives."""
    walk = exchanged(person(3, gait=1.0).values[None])[:, : 6 * scorer.manifest.hop]
    there = np.ones(walk.shape, bool)
    there[:, np.arange(walk.shape[1]) % 10 < 3] = False
    batches, _ = follow(scorer, walk, both_ways[1].take(np.array([1])), valid=there)
    for b in batches[1:]:
        first, *others = reasons_of(0, b.scores, b.unusual, b.belief, b.sensors, b.config, health=b.health)
        assert first.code == "swapped" and first.weight > 5
        assert "missing" in {r.code for r in others}


def test_a_hop_is_judged_with_what_it_says_of_the_sides(scorer: Scorer) -> None:
    walk, state, hop = exchanged(person(3, gait=1.0).values[None]), scorer.initial_state(1), scorer.manifest.hop
    told = []
    for k in range(10):
        (batch,), state = follow(scorer, walk[:, k * hop : (k + 1) * hop], state)
        assert batch.health is not None
        blank = replace(batch.health, swapped=np.zeros_like(batch.health.swapped))
        known = scorer.sides.tell(blank, state.sides, np.arange(1)).swapped
        np.testing.assert_array_equal(batch.health.swapped, known)
        told.append(known.max())
    assert any(0 < t < 1 for t in told) and told[-1] == 1


def test_as_named_nothing_is_said_and_the_second_forecast_ends(
    both_ways: tuple[list[VerdictBatch], ScoringState],
) -> None:
    batches, state = both_ways
    assert all(b.health is not None and not b.health.swapped[0].any() for b in batches)
    assert state.sides.pair[0] == -1
    assert any(b.belief.decision[0] == Decision.NORMAL for b in batches)


def test_once_exchanged_back_the_forecast_is_that_of_sensors_put_on_rightly(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    batches, _ = both_ways
    back = [b.health is not None and b.health.swapped[1].min() >= 1 for b in batches].index(True)
    for batch in batches[back + 1 :]:  # from the next hop on: the second forecast has seen them so all along
        np.testing.assert_array_equal(batch.surprise.nats[1], batch.surprise.nats[0])


def test_hops_stay_exchanged_back_while_what_speaks_for_that_grows_less(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    batches, after = both_ways
    state = after.owned()
    state.sides.evidence[1] = -0.1  # less than a doubt is from, and it has not turned
    health = batches[-1].health
    assert health is not None
    blank = replace(health, swapped=np.zeros_like(health.swapped))
    assert scorer.sides.tell(blank, state.sides, np.arange(2)).swapped.tolist() == [[0, 0], [1, 1]]


def test_nobody_is_enrolled_with_left_and_right_exchanged(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    walk = person(3, gait=1.0).values[None]
    values = np.concatenate([walk, exchanged(walk)])
    built = [EnrolmentBuilder(scorer) for _ in values]
    for batch in both_ways[0]:
        hop = values[:, batch.end_tick - scorer.manifest.hop : batch.end_tick]
        for row, builder in enumerate(built):
            builder.add_scored(Scored("p", batch, row, hop, np.ones(hop.shape, bool)))
    built[0].finish("p", source="test", allow_short=True, made_s=0)
    with pytest.raises(SignalError, match="wrist_left and wrist_right read exchanged"):
        built[1].finish("p", source="test", allow_short=True, made_s=0)


def test_nobody_is_enrolled_from_a_recording_with_left_and_right_exchanged(scorer: Scorer) -> None:
    walk = person(3, gait=1.0)
    enrol_recordings(scorer, [walk], allow_short=True, made_s=0)
    with pytest.raises(SignalError, match="wrist_left and wrist_right read exchanged"):
        enrol_recordings(scorer, [replace(walk, values=exchanged(walk.values))], allow_short=True, made_s=0)


def test_what_one_exchanged_sensor_goes_through_is_not_put_down_to_the_other(
    scorer: Scorer, both_ways: tuple[list[VerdictBatch], ScoringState]
) -> None:
    walk = exchanged(person(3, gait=1.0).values[None])
    half, seconds = walk.shape[2] // 2, scorer.manifest.hop * 110
    _, state = follow(scorer, walk, both_ways[1].take(np.array([1])))
    long = np.resize(walk, (1, seconds, walk.shape[2])).copy()
    there = np.ones(long.shape, bool)
    rng = np.random.default_rng(0)
    level = walk[0, 0, half:] + rng.normal(0, 1e-3, (seconds, half))
    long[0, :, half:] = level  # it lies on a table, and then its battery is empty
    there[0, 40 * scorer.manifest.hop :, half:] = False
    _, state = follow(scorer, long.astype(np.float32), state, valid=there)
    assert state.sides.away[0, 0].tolist() == [False, True]
    assert state.sides.exchanged.all()


def test_what_changes_once_the_sides_are_known_is_not_taken_for_an_exchange(scorer: Scorer) -> None:
    values = person(4, gait=1.0).values[None].copy()
    later = values.shape[1] // 2
    values[:, later:] = exchanged(values[:, later:])
    _, state = follow(scorer, values, scorer.initial_state(1))
    assert not state.sides.exchanged.any()


def test_sensors_that_both_were_off_are_looked_at_anew(scorer: Scorer) -> None:
    walk = person(5, gait=1.0).values[None]
    _, state = follow(scorer, walk, scorer.initial_state(1))
    gone = np.zeros((1, 65 * scorer.manifest.hop, walk.shape[2]), np.float32)
    _, state = follow(scorer, gone, state, valid=np.zeros(gone.shape, bool))
    _, state = follow(scorer, exchanged(walk), state)
    assert state.sides.exchanged.all()


def test_one_sensor_that_was_off_alone_cannot_have_changed_sides(scorer: Scorer) -> None:
    walk = person(5, gait=1.0).values[None]
    _, state = follow(scorer, walk, scorer.initial_state(1))
    known = state.sides.evidence.copy()
    valid = np.ones((1, 65 * scorer.manifest.hop, walk.shape[2]), bool)
    valid[..., walk.shape[2] // 2 :] = False
    values = np.zeros(valid.shape, np.float32)
    values[:, :, : walk.shape[2] // 2] = np.resize(walk, valid.shape)[..., : walk.shape[2] // 2]
    _, state = follow(scorer, values, state, valid=valid)
    np.testing.assert_array_equal(state.sides.evidence, known)


def test_who_sits_still_costs_no_second_forecast(scorer: Scorer) -> None:
    _, state = follow(scorer, person(6, rest=1.0).values[None], scorer.initial_state(1))
    assert state.sides.n_seen.tolist() == [0]
    assert not state.sides.evidence.any()


def test_a_forecaster_that_cannot_tell_gives_up_after_a_minute_of_moving(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "_CLEAR", 1e9)  # as if both ways surprised it alike
    walk = person(3, gait=1.0).values[None]
    _, state = follow(scorer, walk, scorer.initial_state(1))
    assert state.sides.pair.tolist() == [0]
    _, state = follow(scorer, walk, state)
    assert state.sides.pair.tolist() == [-1]
    assert not state.sides.evidence.any()


def test_what_is_known_of_the_sides_does_not_depend_on_who_else_is_in_the_step(scorer: Scorer) -> None:
    mixed = [person(7, gait=1.0).values, exchanged(person(8, gait=0.5, arm=0.5).values), person(9, rest=1.0).values]
    values = np.stack(mixed)
    _, together = follow(scorer, values, scorer.initial_state(3))
    for i in range(3):
        _, alone = follow(scorer, values[i : i + 1], scorer.initial_state(1))
        for f in fields(alone.sides):
            np.testing.assert_array_equal(getattr(together.sides, f.name)[i], getattr(alone.sides, f.name)[0])


def test_a_state_that_is_written_to_becomes_the_same_as_one_that_is_handed_on(scorer: Scorer) -> None:
    values = exchanged(person(3, gait=1.0).values[None])
    _, expected = follow(scorer, values, scorer.initial_state(1))
    hop, state = scorer.manifest.hop, scorer.initial_state(3).owned()
    for k in range(values.shape[1] // hop):
        x = np.ascontiguousarray(values[:, k * hop : (k + 1) * hop])
        there = np.ones(x.shape, bool)
        _, state = scorer.advance(x, there, ~there, state, np.array([2]), end_tick=(k + 1) * hop)
    for f in fields(expected.sides):
        np.testing.assert_array_equal(getattr(state.sides, f.name)[2], getattr(expected.sides, f.name)[0])
    np.testing.assert_array_equal(state.engine.model[2], expected.engine.model[0])


def test_a_model_whose_levels_tell_the_sides_carries_no_second_forecast() -> None:
    state = Scorer(read_bundle(DEFAULT_BUNDLE)).initial_state(5)
    assert sum(getattr(state.sides, f.name).nbytes for f in fields(state.sides)) <= 5 * 8
