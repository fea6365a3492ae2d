"""Caution: three answers, each with its reasons; "unsure" whenever something stands in the way."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kinedge.bundle import read_bundle
from kinedge.cli.live import LiveView, Track
from kinedge.config import load_toml
from kinedge.edge.calibration import UNSCORED, Calibration, Unusualness
from kinedge.edge.caution import Belief, BeliefState, CautionConfig, Decision, believe
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.dashboard.tracks import PersonTrack
from kinedge.edge.dashboard.words import sentence_words
from kinedge.edge.episodes import _trail_point
from kinedge.edge.judgement import Judgement
from kinedge.edge.narrative import abstention, usual_without
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.reliability import SensorHealth
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.errors import ConfigError
from kinedge.training.simulate import SimulationConfig, simulate

SENSORS = ("wrist_left", "wrist_right")
CONFIG = CautionConfig()
HOP_S, BLOCK_S = 1.0, 2.0


def scores(**changes: Any) -> BlockScores:
    base = BlockScores(
        channel=np.zeros((1, 12)),
        scored=np.ones((1, 12), bool),
        intensity=np.zeros((1, 2)),
        power=np.ones((1, 12)),
        drop=np.ones((1, 12)),
        missing=np.zeros((1, 2)),
        saturated=np.zeros((1, 2)),
        flat=np.zeros((1, 2), bool),
        full=np.ones(1, bool),
    )
    return replace(base, **changes)


def unusual(left: float, right: float, p: float) -> Unusualness:
    sensor = np.array([[left, right]])
    return Unusualness(np.zeros((1, 12)), sensor, sensor.max(axis=1), np.array([p]), np.zeros((1, 12)))


def calibration(*, enrolled: bool = True) -> Calibration:
    return Calibration(
        knots=np.array([[0.0, 0.0], [1.0, 1.0]]),
        center=np.zeros((2, 12)),
        spread=np.ones((2, 12)),
        reference=np.zeros(1),
        likelihood=np.array([[-3.0, 3.0], [-3.0, 3.0]]),
        precision=np.eye(12),
        additive=np.zeros(1),
        of_one=np.array(float(enrolled)),
    )


def weigh(
    s: BlockScores,
    u: Unusualness,
    state: BeliefState | None = None,
    *,
    hop_s: float = HOP_S,
    enrolled: bool = True,
    **known: Any,
) -> tuple[Belief, BeliefState]:
    before = state or BeliefState.initial(1, 2, 2)
    known_of = calibration(enrolled=enrolled)
    return believe(s, u, known_of, CONFIG, before, hop_s=hop_s, block_s=BLOCK_S, **known)


def ask(s: BlockScores, u: Unusualness) -> tuple[Decision, Belief, tuple[Reason, ...]]:
    belief = weigh(s, u)[0]
    return Decision(int(belief.decision[0])), belief, reasons_of(0, s, u, belief, SENSORS, CONFIG)


def test_ordinary_movement_in_good_data_is_normal_without_reasons() -> None:
    decision, belief, reasons = ask(scores(), unusual(-1, -1, 0.7))
    assert decision is Decision.NORMAL
    assert belief.anomalous[0] == 0
    assert reasons == ()


def test_rare_movement_in_good_data_is_anomalous() -> None:
    decision, belief, _ = ask(scores(), unusual(-1, 4, 0.001))
    assert decision is Decision.ANOMALOUS
    assert belief.normal[0] == 0


def test_a_normal_arm_does_not_outvote_the_abnormal_one() -> None:
    decision, one, _ = ask(scores(), unusual(-5, 4, 0.001))
    both = ask(scores(), unusual(4, 4, 0.001))[1]
    assert decision is Decision.ANOMALOUS
    assert one.lean[0] >= both.lean[0] - np.log(2) - 1e-9


def test_what_no_block_shows_by_itself_is_believed_when_it_lasts() -> None:
    s, u, state = scores(), unusual(-1, 1.2, 0.04), BeliefState.initial(1, 2, 2)
    decisions = []
    for _ in range(6):
        belief, state = weigh(s, u, state)
        decisions.append(Decision(int(belief.decision[0])))
    assert decisions[0] is Decision.UNSURE
    assert decisions[-1] is Decision.ANOMALOUS


def test_of_the_evidence_for_a_change_a_block_brought_what_was_not_there_before() -> None:
    first, state = weigh(scores(), unusual(-1, 4, 0.001))
    assert first.fresh[0] == 1
    again, after = weigh(scores(), unusual(4, -1, 0.001), state)
    assert 0.5 < again.fresh[0] < 1  # odds fade to at most nine to one, and this block brings nine nats
    ordinary, _ = weigh(scores(), unusual(-1, -1, 0.7), after)
    assert ordinary.fresh[0] == 0
    silent, _ = weigh(scores(missing=np.ones((1, 2))), unusual(UNSCORED, UNSCORED, 1.0), after)
    assert silent.fresh[0] == 0
    assert weigh(scores(), unusual(-1, -1, 0.7))[0].fresh[0] == 1  # nothing speaks for one: the block is told as it is


def block(odd: int, excess: float, elsewhere: float) -> BlockScores:
    channel, drop = np.full((1, 12), elsewhere), np.full((1, 12), 0.1)
    channel[0, odd], drop[0, odd] = excess, 9.0
    return scores(channel=channel, drop=drop)


def test_while_a_change_is_believed_what_is_named_is_where_it_was() -> None:
    judgement = Judgement((slice(0, 6), slice(6, 12)), CONFIG, hop_s=HOP_S, block_s=BLOCK_S)
    cohort = replace(calibration(), reference=np.zeros(200))
    state, every = BeliefState.initial(1, 2, 12), np.arange(1)
    begun = judgement.advance(block(7, 4.0, -1.0), cohort, state, every)
    assert begun.belief.decision[0] == Decision.ANOMALOUS and begun.channel_share.argmax() == 7
    after = judgement.advance(block(2, 0.9, 0.8), cohort, state, every)  # belief remembers, the block is ordinary
    assert after.belief.anomalous[0] > 0
    np.testing.assert_array_equal(after.channel_share, begun.channel_share)
    np.testing.assert_array_equal(after.sensor_share, begun.sensor_share)
    stronger = judgement.advance(block(2, 6.0, -1.0), cohort, state, every)
    assert stronger.channel_share.argmax() == 2 and stronger.sensor_share.argmax() == 0
    for _ in range(3):
        over = judgement.advance(block(5, -1.0, -1.0), cohort, state, every)
    assert (
        over.belief.normal[0] > 0 and over.channel_share.argmax() == 5
    )  # nothing is left: the block speaks for itself


def test_one_odd_block_in_ordinary_movement_is_doubted_first() -> None:
    state = BeliefState.initial(1, 2, 2)
    for _ in range(5):
        _, state = weigh(scores(), unusual(-1, -1, 0.7), state)
    odd = weigh(scores(), unusual(-1, 1.6, 0.02), state)[0]
    assert odd.decision[0] != Decision.ANOMALOUS
    assert weigh(scores(), unusual(-1, 1.6, 0.02))[0].decision[0] == Decision.ANOMALOUS


def test_a_newcomer_who_is_unusual_from_the_start_is_neither_anomalous_nor_normal_and_is_to_be_enrolled() -> None:
    state = BeliefState.initial(1, 2, 2)
    s, u = scores(), unusual(-1, 3.0, 0.005)
    for _ in range(30):
        belief, state = weigh(s, u, state, enrolled=False)
        assert belief.decision[0] == Decision.UNSURE
    (first, *_) = reasons_of(0, s, u, belief, SENSORS, CONFIG)
    assert first.code == "newcomer"
    assert "enrol" in abstention(first)
    assert "référence personnelle" in abstention(first, language="fr")
    known, _ = weigh(s, u, enrolled=True)
    assert known.decision[0] == Decision.ANOMALOUS


def test_a_newcomer_who_changes_is_called_and_one_who_stays_as_they_are_is_not() -> None:
    state = BeliefState.initial(1, 2, 2)
    for _ in range(40):
        _, state = weigh(scores(), unusual(1.2, -1, 0.04), state, enrolled=False)
    changed = state
    for _ in range(3):
        after, changed = weigh(scores(), unusual(4.0, -1, 0.001), changed, enrolled=False)
        same, state = weigh(scores(), unusual(1.2, -1, 0.04), state, enrolled=False)
    assert after.decision[0] == Decision.ANOMALOUS
    assert same.decision[0] == Decision.UNSURE


@pytest.mark.parametrize(("u", "p"), [(2.0, 0.05), (4.0, 0.1)])
def test_of_a_newcomer_what_counts_needs_less_belief_and_less_rarity_than_of_the_enrolled(u: float, p: float) -> None:
    assert CONFIG.min_belief_newcomer < CONFIG.min_belief_anomalous and CONFIG.alpha_newcomer > CONFIG.alpha
    state = BeliefState.initial(1, 2, 2)
    for _ in range(40):
        _, state = weigh(scores(), unusual(-1, -1, 0.7), state, enrolled=False)
    said = [weigh(scores(), unusual(u, -1, p), state, enrolled=e)[0] for e in (False, True)]
    assert said[0].anomalous[0] <= said[1].anomalous[0]
    assert [Decision(int(b.decision[0])) for b in said] == [Decision.ANOMALOUS, Decision.UNSURE]


@given(
    us=st.lists(st.tuples(st.floats(-3, 6), st.floats(-3, 6)), min_size=1, max_size=12),
    missing=st.floats(0, 0.6),
)
def test_what_is_withheld_of_a_newcomer_makes_nothing_normal_and_nothing_anomalous(
    us: list[tuple[float, float]], missing: float
) -> None:
    states = [BeliefState.initial(1, 2, 2)] * 2
    for left, right in us:
        s = scores(missing=np.array([[missing, 0.0]]))
        known, new = (
            weigh(s, unusual(left, right, 0.01), state, enrolled=enrolled)
            for state, enrolled in zip(states, (True, False), strict=True)
        )
        states = [known[1], new[1]]
        assert new[0].normal[0] == known[0].normal[0]
        assert new[0].anomalous[0] <= known[0].anomalous[0] + 1e-12
        assert new[0].normal[0] + new[0].anomalous[0] <= 1
        assert (known[0].withheld == 0).all()


def usual_seconds(n: int) -> tuple[Belief, BeliefState]:
    belief, state = weigh(scores(), unusual(-1, -1, 0.7))
    for _ in range(n - 1):
        belief, state = weigh(scores(), unusual(-1, -1, 0.7), state)
    assert belief.decision[0] == Decision.NORMAL
    return belief, state


def test_a_sensor_that_falls_silent_ends_normal_at_once_whatever_was_seen_before() -> None:
    _, state = usual_seconds(20)
    belief, _ = weigh(scores(missing=np.array([[1.0, 0.0]])), unusual(UNSCORED, -1, 0.7), state)
    assert belief.decision[0] == Decision.UNSURE


def test_clipping_is_bridged_for_a_quarter_of_a_minute_by_what_was_seen_before() -> None:
    belief, state = usual_seconds(20)
    decisions = []
    for _ in range(20):
        belief, state = weigh(scores(saturated=np.array([[0.7, 0.0]])), unusual(-1, -1, 0.7), state)
        decisions.append(Decision(int(belief.decision[0])))
    assert decisions == [Decision.NORMAL] * 15 + [Decision.UNSURE] * 5


def test_the_same_seconds_say_the_same_however_often_they_are_looked_at() -> None:
    found = []
    for hop_s in (1.0, 0.5, 0.25):
        state = BeliefState.initial(1, 2, 2)
        for _ in range(round(8 / hop_s)):
            belief, state = weigh(scores(), unusual(-1, 1.3, 0.04), state, hop_s=hop_s)
        found.append(float(belief.lean[0]))
    assert min(found) > 1
    assert np.ptp(found) < 0.3 * np.mean(found)


def test_streams_are_weighed_each_by_itself_and_the_state_before_is_not_changed() -> None:
    seen = [(scores(), unusual(0.5, -1, 0.3)), (scores(missing=np.array([[0.3, 0.0]])), unusual(-1, 2, 0.02))]
    states = [weigh(scores(), unusual(u, -1, 0.5))[1] for u in (-1, 1.5)]

    def joined(parts: list[Any]) -> Any:
        return replace(
            parts[0], **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(parts[0])}
        )

    together = joined(states)
    kept = together.log_odds.copy()
    belief, after = weigh(joined([s for s, _ in seen]), joined([u for _, u in seen]), together)
    assert (together.log_odds == kept).all()
    for k, ((s, u), state) in enumerate(zip(seen, states, strict=True)):
        alone, after_alone = weigh(s, u, state)
        assert (belief.lean[k], belief.normal[k]) == (alone.lean[0], alone.normal[0])
        assert all(np.array_equal(getattr(after, f.name)[k], getattr(after_alone, f.name)[0]) for f in fields(after))
    assert belief.lean[0] != belief.lean[1]


def test_unusual_but_not_rare_is_unsure_and_says_so() -> None:
    decision, _, reasons = ask(scores(), unusual(-1, 4, 0.2))
    assert decision is Decision.UNSURE
    assert reasons[0].code == "not_rare"


def test_what_was_missing_just_before_is_named_when_it_left_the_answer_open() -> None:
    _, state = weigh(scores(missing=np.array([[0.4, 0.0]])), unusual(0.9, 0.9, 0.1))
    now = scores(missing=np.array([[0.01, 0.0]]))
    belief, _ = weigh(now, unusual(0.9, 0.9, 0.1), state)
    (first, *_) = reasons_of(0, now, unusual(0.9, 0.9, 0.1), belief, SENSORS, CONFIG)
    assert belief.decision[0] == Decision.UNSURE
    assert (first.code, first.sensor) == ("missing", "wrist_left")
    assert first.text == "data from wrist_left was missing just before"


def test_evidence_between_the_two_is_unsure_and_says_so() -> None:
    decision, _, reasons = ask(scores(), unusual(0.9, 1.0, 0.05))
    assert decision is Decision.UNSURE
    assert reasons[0].code == "between"


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"missing": np.array([[1.0, 0.0]])}, "no_data", "no data from wrist_left"),
        ({"missing": np.array([[0.0, 0.6]])}, "missing", "60% of the data from wrist_right is missing"),
        ({"saturated": np.array([[0.7, 0.0]])}, "saturated", "wrist_left was at the end of its range 70%"),
        ({"flat": np.array([[False, True]])}, "flat", "flat line on wrist_right"),
        ({"full": np.array([False])}, "warming_up", "warming up"),
    ],
)
def test_data_that_cannot_be_trusted_is_never_called_normal_and_the_reason_is_named(
    changes: dict[str, Any], code: str, text: str
) -> None:
    decision, _, reasons = ask(scores(**changes), unusual(-1, -1, 0.7))
    assert decision is Decision.UNSURE
    assert reasons[0].code == code
    assert text in reasons[0].text


def test_a_missing_sensor_does_not_hide_an_anomaly_at_the_other() -> None:
    decision, _, reasons = ask(scores(missing=np.array([[1.0, 0.0]])), unusual(UNSCORED, 4, 0.001))
    assert decision is Decision.ANOMALOUS
    assert reasons[0].code == "no_data"


def test_when_both_sensors_are_gone_both_are_named() -> None:
    decision, belief, reasons = ask(
        scores(missing=np.ones((1, 2)), scored=np.zeros((1, 12), bool)), unusual(UNSCORED, UNSCORED, 1.0)
    )
    assert decision is Decision.UNSURE
    assert belief.normal[0] == belief.anomalous[0] == 0
    assert {r.sensor for r in reasons if r.code == "no_data"} == set(SENSORS)


def unwell(**changes: Any) -> SensorHealth:
    return replace(SensorHealth.fine(1, 2), **{name: np.array([value]) for name, value in changes.items()})


def ask_about(health: SensorHealth, u: Unusualness, clock_ms: Any = None) -> tuple[Decision, Belief, Reason]:
    s = scores()
    belief = weigh(s, u, health=health, clock_ms=clock_ms)[0]
    reasons = reasons_of(0, s, u, belief, SENSORS, CONFIG, health=health, clock_ms=clock_ms)
    return Decision(int(belief.decision[0])), belief, reasons[0]


@pytest.mark.parametrize(
    ("health", "code", "english", "french"),
    [
        (unwell(repeated=[0.9, 0.0]), "stuck", "repeats", "répète"),
        (unwell(clipped=[0.5, 0.0]), "saturated", "end of its range", "en butée"),
        (unwell(off_body=[1.0, 0.0], still_s=[31.0, 0.0]), "off_body", "worn", "porté"),
        (unwell(twin=[1, 0], copy=[True, True]), "duplicate", "same signal", "même signal"),
        (unwell(swapped=[1.0, 1.0]), "swapped", "left and right", "gauche et droite"),
        (unwell(shifted=[1.0, 0.0]), "shifted", "slip", "glissé"),
    ],
)
def test_a_sensor_that_is_wrong_makes_unsure_and_is_named_in_both_languages(
    health: SensorHealth, code: str, english: str, french: str
) -> None:
    decision, belief, reason = ask_about(health, unusual(-1, -1, 0.7))
    assert decision is Decision.UNSURE
    assert (reason.code, reason.sensor) == (code, "wrist_left")
    assert belief.reliability[0, 0] < 1
    assert english in abstention(reason)
    assert french in abstention(reason, language="fr")


def test_a_change_at_the_other_sensor_is_still_called() -> None:
    decision, _, _ = ask_about(unwell(off_body=[1.0, 0.0]), unusual(-1, 4, 0.001))
    assert decision is Decision.ANOMALOUS


def test_with_sides_exchanged_back_a_change_is_called_but_nothing_is_normal() -> None:
    health = unwell(swapped=[1.0, 1.0])
    assert ask_about(health, unusual(-1, 4, 0.001))[0] is Decision.ANOMALOUS
    assert ask_about(health, unusual(-3, -3, 0.9))[1].normal[0] == 0


@pytest.mark.parametrize(("apart_ms", "decision"), [(20.0, Decision.NORMAL), (60.0, Decision.NORMAL), (200.0, 2)])
def test_clocks_that_may_be_too_far_apart_make_unsure(apart_ms: float, decision: Decision) -> None:
    found, _, *_ = ask_about_clock(apart_ms)
    assert found == decision


def ask_about_clock(apart_ms: float) -> tuple[Decision, str]:
    s, u, ms = scores(), unusual(-1, -1, 0.7), np.array([[apart_ms, apart_ms]])
    belief = weigh(s, u, clock_ms=ms)[0]
    reasons = reasons_of(0, s, u, belief, SENSORS, CONFIG, clock_ms=ms)
    return Decision(int(belief.decision[0])), reasons[0].code if reasons else ""


def test_the_clock_is_named_with_its_figure() -> None:
    assert ask_about_clock(200.0)[1] == "clock"


def test_what_is_not_believed_of_one_is_plausible_of_the_other() -> None:
    belief = ask(scores(), unusual(-1, 1.0, 0.05))[1]
    assert belief.plausible_anomalous[0] == 1 - belief.normal[0] >= belief.anomalous[0]
    assert belief.plausible_normal[0] == 1 - belief.anomalous[0] >= belief.normal[0]


@given(u=st.floats(-3, 3), v=st.floats(-3, 3), r=st.floats(0, 1))
def test_the_lean_grows_with_evidence_and_shrinks_with_trust(u: float, v: float, r: float) -> None:
    low, high = (ask(scores(), unusual(x, x, 0.5))[1].lean[0] for x in sorted((u, v)))
    assert low <= high + 1e-12
    full = ask(scores(), unusual(u, u, 0.5))[1].lean[0]
    less = ask(scores(missing=np.full((1, 2), r)), unusual(u, u, 0.5))[1].lean[0]
    assert abs(less) <= abs(full) + 1e-12


costs = st.floats(0.1, 10)


@given(low=costs, high=costs)
def test_a_dearer_miss_makes_normal_rarer_and_anomalous_commoner(low: float, high: float) -> None:
    low, high = sorted((low, high))
    cheap, dear = CautionConfig(miss_cost=low), CautionConfig(miss_cost=high)
    assert cheap.min_belief_normal <= dear.min_belief_normal
    assert cheap.min_belief_anomalous >= dear.min_belief_anomalous
    assert cheap.alpha <= dear.alpha


def test_the_knob_at_one_is_the_default_and_each_limit_may_be_set_by_itself() -> None:
    assert CautionConfig(miss_cost=1.0) == CautionConfig()
    one = CautionConfig(miss_cost=4.0, min_belief_anomalous=0.6)
    assert one.min_belief_anomalous == 0.6
    assert one.min_belief_normal == CautionConfig(miss_cost=4.0).min_belief_normal
    assert CautionConfig.model_validate_json(one.model_dump_json()) == one


def test_the_knob_says_in_words_what_it_weighs() -> None:
    assert "as much as 4 false calls" in CautionConfig(miss_cost=4).meaning
    assert "a false call weighs as much as 2 missed changes" in CautionConfig(miss_cost=0.5).meaning
    assert "everything else is unsure" in CautionConfig(miss_cost=4).meaning


@pytest.mark.parametrize("value", ["0", "11", '"high"', "-1"])
def test_a_knob_that_makes_no_sense_is_refused_by_name(tmp_path: Path, value: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"miss_cost = {value}\n")
    with pytest.raises(ConfigError, match="miss_cost"):
        load_toml(file, CautionConfig)


shares = st.floats(0, 1)
us = st.floats(-10, 10)


@given(left=us, right=us, p=st.floats(0.0001, 1), m=st.tuples(shares, shares), s=st.tuples(shares, shares))
def test_beliefs_are_masses_and_worse_data_never_makes_surer_than_no_suspicion_would(
    left: float, right: float, p: float, m: tuple[float, float], s: tuple[float, float]
) -> None:
    u = unusual(left, right, p)
    good = ask(scores(), u)[1]
    poor = ask(scores(missing=np.array([m]), saturated=np.array([s])), u)[1]
    for belief in (good, poor):
        assert belief.normal[0] >= 0
        assert belief.anomalous[0] >= 0
        assert belief.normal[0] + belief.anomalous[0] <= 1 + 1e-12
    # a suspicion counts for less in worse data, but never for less than nothing (a ratio of 1, at u = 1 here)
    unsuspected = ask(scores(), unusual(min(left, 1.0), min(right, 1.0), p))[1]
    assert poor.normal[0] <= max(good.normal[0], unsuspected.normal[0]) + 1e-12
    if min(m[0], m[1]) < 0.9:
        assert poor.reliability.max() <= good.reliability.max()


@given(left=us, right=us, p=st.floats(0.0001, 1), m=st.tuples(shares, shares))
def test_every_unsure_answer_has_a_reason(left: float, right: float, p: float, m: tuple[float, float]) -> None:
    decision, _, reasons = ask(scores(missing=np.array([m])), unusual(left, right, p))
    if decision is Decision.UNSURE:
        assert reasons
    assert [r.weight for r in reasons] == sorted((r.weight for r in reasons), reverse=True)


OTHERS = CautionConfig(without_sensor="others")
FOUR = 4
odd_sensor = st.sampled_from(("fine", "silent", "half", "flat", "clipped", "off_body", "stuck", "shifted"))
seconds = st.lists(
    st.tuples(st.tuples(*[odd_sensor] * FOUR), st.tuples(*[us] * FOUR), st.floats(0.0001, 1)), max_size=25
)


def of_four(faults: tuple[str, ...], u: tuple[float, ...], p: float) -> tuple[BlockScores, Unusualness, SensorHealth]:
    def at(name: str, value: float) -> Any:
        return np.array([[value if f == name else 0.0 for f in faults]])

    s = BlockScores(
        *(np.zeros((1, FOUR)), np.ones((1, FOUR), bool), np.zeros((1, FOUR)), np.ones((1, FOUR)), np.ones((1, FOUR))),
        missing=at("silent", 1.0) + at("half", 0.6),
        saturated=at("clipped", 0.7),
        flat=at("flat", 1.0) > 0,
        full=np.ones(1, bool),
    )
    heard = [UNSCORED if f in ("silent", "half") else x for f, x in zip(faults, u, strict=True)]
    sensor = np.array([heard])
    score = Unusualness(np.zeros((1, FOUR)), sensor, sensor.max(axis=1), np.array([p]), np.zeros((1, FOUR)))
    health = SensorHealth.fine(1, FOUR)
    return (
        s,
        score,
        replace(health, off_body=at("off_body", 1.0), repeated=at("stuck", 1.0), shifted=at("shifted", 1.0)),
    )


@given(course=seconds, swapped=st.booleans())
def test_leaving_a_sensor_out_gives_an_answer_where_there_was_none_and_changes_nothing_else(
    course: list[Any], swapped: bool
) -> None:
    own = replace(calibration(), likelihood=np.tile([-3.0, 3.0], (FOUR, 1)))
    states = [BeliefState.initial(1, FOUR, FOUR)] * 2
    for faults, u, p in course:
        s, score, health = of_four(faults, u, p)
        health = replace(health, swapped=np.full((1, FOUR), float(swapped)))
        careful, other = (
            believe(s, score, own, config, state, hop_s=1.0, block_s=2.0, health=health)
            for config, state in zip((CONFIG, OTHERS), states, strict=True)
        )
        for f in fields(BeliefState):
            assert np.array_equal(getattr(careful[1], f.name), getattr(other[1], f.name))
        for f in fields(Belief):
            if f.name not in ("decision", "others", "without"):
                assert np.array_equal(getattr(careful[0], f.name), getattr(other[0], f.name)), f.name
        assert not careful[0].others.any() and not careful[0].without.any()
        without = {faults[i] for i in np.flatnonzero(other[0].without[0])}
        if without:
            assert careful[0].decision[0] == Decision.UNSURE and other[0].decision[0] == Decision.NORMAL
            assert other[0].others[0] > OTHERS.min_belief_others > OTHERS.min_belief_normal
            assert not without & {"fine", "half", "clipped"}  # what comes and goes with movement is never left out
            assert not {"half", "clipped"} & set(faults) and "fine" in faults and not swapped
        else:
            assert careful[0].decision[0] == other[0].decision[0]
        states = [careful[1], other[1]]


def without_left(config: CautionConfig, u: float, n: int = 8) -> list[Belief]:
    state, found = BeliefState.initial(1, 2, 2), []
    silent = scores(missing=np.array([[1.0, 0.0]]))
    for _ in range(n):
        belief, state = believe(
            silent, unusual(UNSCORED, u, 0.7), calibration(), config, state, hop_s=HOP_S, block_s=BLOCK_S
        )
        found.append(belief)
    return found


def test_with_one_arm_silent_the_other_is_called_usual_by_name_once_it_is_very_sure() -> None:
    assert {int(b.decision[0]) for b in without_left(CONFIG, -1)} == {Decision.UNSURE}
    found = without_left(OTHERS, -1)[-1]
    assert found.decision[0] == Decision.NORMAL
    assert found.without.tolist() == [[True, False]]
    assert found.normal[0] == 0  # of the whole nothing is believed
    assert weigh(scores(), unusual(0.7, 0.7, 0.7))[0].decision[0] == Decision.NORMAL
    assert without_left(OTHERS, 0.7)[0].decision[0] == Decision.UNSURE  # enough where all are heard, not here


def test_an_answer_without_a_sensor_says_so_in_both_languages() -> None:
    assert usual_without(["wrist_left"]) == "As usual, without the left wrist."
    both = usual_without(["wrist_left", "ankle_right"], language="fr")
    assert both == "Comme d'habitude, sans le poignet gauche et la cheville droite."


@pytest.mark.parametrize("cost", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_fewer_sensors_need_a_surer_belief(cost: float) -> None:
    config = CautionConfig(miss_cost=cost, without_sensor="others")
    assert config.min_belief_normal < config.min_belief_others < 1
    assert f"from {config.min_belief_others:.2f} on and by name" in config.meaning
    assert "while every sensor can be trusted" in CautionConfig(miss_cost=cost).meaning


def test_a_lesser_belief_for_fewer_sensors_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer sensors need a surer belief"):
        CautionConfig(min_belief_normal=0.8, min_belief_others=0.7)


def test_an_answer_without_a_sensor_is_nowhere_shown_as_one_about_all_of_them() -> None:
    scorer = Scorer(read_bundle(DEFAULT_BUNDLE), caution=OTHERS)
    day = simulate(SimulationConfig(duration_s=40.0, subject_seed=850_001, activity_mix={"gait": 1.0}))
    day = day.select(scorer.manifest.sensor_specs)
    valid, hop = day.valid.copy(), scorer.manifest.hop
    valid[:, day.columns("wrist_left")] = False
    state, verdicts = scorer.initial_state(1), []
    for end in range(hop, len(day) + 1, hop):
        part = slice(end - hop, end)
        hops = day.values[None, part], valid[None, part], np.zeros((1, hop, 12), bool)
        batch, state = scorer.step(*hops, state, end_tick=end)
        verdicts.append(batch.verdict(0))
    one = next(v for v in reversed(verdicts) if v.decision is Decision.NORMAL)
    assert one.without == ("wrist_left",) and one.of_all is Decision.UNSURE and one.belief_normal == 0
    line = verdict_as_json("p", one)
    assert line["without"] == ["wrist_left"] and line["belief_others"] > OTHERS.min_belief_others
    assert (
        line["usual_without"]["en"] == "As usual, without the left wrist." == sentence_words(one, [one], hop_s=1)["en"]
    )  # type: ignore[index]
    assert not {"without", "usual_without"} & set(verdict_as_json("p", verdicts[0]))
    shown = io.StringIO()
    Console(file=shown, width=200).print(LiveView("kinedge").person("p", Track(verdict=one)))
    assert "AS USUAL, WITHOUT THE LEFT WRIST." in shown.getvalue()
    point = _trail_point(one, 10**9)
    assert point.decision == "unsure" and point.reasons[0] == "As usual, without the left wrist."
    track = PersonTrack(1.0)
    track.take(one, 10**18)
    assert track.counts == {"unsure": 1}
