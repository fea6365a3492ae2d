"""Caution: three answers, each with its reasons; "unsure" whenever something stands in the way."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weighed_blocks import BLOCK_S, CONFIG, HOP_S, SENSORS, ask, calibration, scores, unusual, weigh

from kinedge.config import load_toml
from kinedge.edge.calibration import UNSCORED
from kinedge.edge.caution import BeliefState, CautionConfig, Decision
from kinedge.edge.judgement import Judgement
from kinedge.edge.narrative import abstention
from kinedge.edge.reasons import reasons_of
from kinedge.edge.scores import BlockScores
from kinedge.errors import ConfigError


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


def test_what_is_unlike_a_newcomer_s_last_minutes_is_not_called_normal_though_others_move_so() -> None:
    calm, s = BeliefState.initial(1, 2, 2), scores()
    for _ in range(40):
        belief, calm = weigh(s, unusual(-3, -3, 0.9), calm, enrolled=False)
    assert belief.decision[0] == Decision.NORMAL and not belief.unlike.any()
    as_others = unusual(-3, 0.4, 0.3)  # usual in the cohort, and far above what this person showed
    at_most = weigh(s, as_others, calm, enrolled=False)[0].unlike[0, 1]
    assert at_most == pytest.approx(3.0 - (-3.0 + 3.0 * 0.4))  # three nats, in place of the block's own -1.8
    state = calm
    for _ in range(4):
        belief, state = weigh(s, as_others, state, enrolled=False)
    assert belief.decision[0] == Decision.UNSURE and belief.anomalous[0] == 0
    assert belief.unlike[0, 0] == 0 < belief.unlike[0, 1]
    (first, *_) = reasons_of(0, s, as_others, belief, SENSORS, CONFIG)
    assert first.code == "unlike" and "last minutes" in abstention(first)
    assert "dernières minutes" in abstention(first, language="fr")
    known = calm
    for _ in range(4):
        belief, known = weigh(s, as_others, known, enrolled=True)  # of theirs, the enrolment tells what is usual
    assert belief.decision[0] == Decision.NORMAL


@pytest.mark.parametrize("enrolled", [True, False])
def test_what_is_calmer_than_anything_ratios_were_fitted_on_says_nothing_and_is_told(enrolled: bool) -> None:
    s, answers = scores(), {}
    for u in (-3.0, -4.5, -7.0, -99.0):
        state = BeliefState.initial(1, 2, 2)
        for _ in range(8):
            belief, state = weigh(s, unusual(u, u, 0.9), state, enrolled=enrolled)
        answers[u] = belief
    assert answers[-3.0].normal[0] > answers[-4.5].normal[0] > answers[-7.0].normal[0] == answers[-99.0].normal[0] == 0
    assert answers[-3.0].decision[0] == Decision.NORMAL
    far = answers[-7.0]
    assert far.decision[0] == Decision.UNSURE and far.anomalous[0] == 0
    (first, *_) = reasons_of(0, s, unusual(-7.0, -7.0, 0.9), far, SENSORS, CONFIG)
    assert first.code == "quiet" and first.truth == 1 and "calibrated on" in abstention(first)
    assert "calibré" in abstention(first, language="fr")
    half, _ = weigh(s, unusual(-5.8, 0.95, 0.9), enrolled=enrolled)
    (first, *_) = reasons_of(0, s, unusual(-5.8, 0.95, 0.9), half, SENSORS, CONFIG)
    assert first.code == "quiet" and first.truth == pytest.approx(1 - 0.2 / 3)


def test_calm_is_no_reason_where_something_speaks_for_a_change_or_the_sensor_is_not_heard() -> None:
    decision, belief, reasons = ask(scores(), unusual(-7, 1.05, 0.2))
    assert decision is Decision.UNSURE and belief.anomalous[0] > 0
    assert [r.code for r in reasons] == ["between"]
    silent = scores(missing=np.array([[1.0, 0.0]]))
    assert "quiet" not in [r.code for r in ask(silent, unusual(UNSCORED, -1.0, 0.9))[2]]


def test_a_change_at_one_sensor_is_called_whatever_the_other_is_calmer_than() -> None:
    decision, _, _ = ask(scores(), unusual(-20, 4, 0.001))
    assert decision is Decision.ANOMALOUS


def test_before_it_is_known_what_a_newcomer_shows_others_alone_are_the_measure() -> None:
    s, state = scores(), BeliefState.initial(1, 2, 2)
    for u in (-3, -3, -3, -0.5, -0.5, -0.5):
        belief, state = weigh(s, unusual(u, u, 0.6), state, enrolled=False)
        assert not belief.unlike.any()
    assert belief.decision[0] == Decision.NORMAL


def test_what_lasts_becomes_like_a_newcomer_s_last_minutes_again() -> None:
    s, state = scores(), BeliefState.initial(1, 2, 2)
    for u in (*[-3] * 30, *[-0.6] * 90):
        belief, state = weigh(s, unusual(u, u, 0.6), state, enrolled=False)
    assert belief.decision[0] == Decision.NORMAL


@pytest.mark.parametrize(("u", "p"), [(2.0, 0.05), (4.0, 0.1)])
def test_of_a_newcomer_what_counts_needs_less_belief_and_less_rarity_than_of_the_enrolled(u: float, p: float) -> None:
    assert CONFIG.min_belief_newcomer < CONFIG.min_belief_anomalous and CONFIG.alpha_newcomer > CONFIG.alpha
    state = BeliefState.initial(1, 2, 2)
    for _ in range(40):
        _, state = weigh(scores(), unusual(-1, -1, 0.7), state, enrolled=False)
    said = [weigh(scores(), unusual(u, -1, p), state, enrolled=e)[0] for e in (False, True)]
    assert said[0].anomalous[0] <= said[1].anomalous[0]
    assert [Decision(int(b.decision[0])) for b in said] == [Decision.ANOMALOUS, Decision.UNSURE]


def test_of_a_newcomer_what_is_surely_believed_need_not_be_rare_in_the_cohort() -> None:
    state, said = BeliefState.initial(1, 2, 2), {}
    for _ in range(40):
        _, state = weigh(scores(), unusual(-2, -2, 0.7), state, enrolled=False)
    for u in np.linspace(0.5, 4.0, 60):
        for enrolled in (False, True):
            belief, _ = weigh(scores(), unusual(u, -1, 0.6), state, enrolled=enrolled)
            said[float(belief.anomalous[0]), enrolled] = Decision(int(belief.decision[0]))
    assert CONFIG.min_belief_newcomer < CONFIG.sure_newcomer < CONFIG.min_belief_anomalous
    assert {d for (b, enrolled), d in said.items() if not enrolled and b > CONFIG.sure_newcomer} == {Decision.ANOMALOUS}
    others = [d for (b, enrolled), d in said.items() if enrolled or b <= CONFIG.sure_newcomer]
    assert Decision.ANOMALOUS not in others
    assert any(CONFIG.min_belief_newcomer < b <= CONFIG.sure_newcomer for b, enrolled in said if not enrolled)
    assert any(b > CONFIG.sure_newcomer for b, enrolled in said if enrolled)


@given(
    us=st.lists(st.tuples(st.floats(-3, 6), st.floats(-3, 6)), min_size=1, max_size=12),
    missing=st.floats(0, 0.6),
)
def test_of_a_newcomer_nothing_is_surer_than_of_somebody_who_is_enrolled_and_shows_the_same(
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
        assert new[0].normal[0] <= known[0].normal[0] + 1e-12
        assert new[0].anomalous[0] <= known[0].anomalous[0] + 1e-12
        assert new[0].normal[0] + new[0].anomalous[0] <= 1
        assert (known[0].withheld == 0).all() and (known[0].unlike == 0).all() and (new[0].unlike >= 0).all()


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


def test_evidence_between_the_two_is_unsure_and_says_so() -> None:
    decision, _, reasons = ask(scores(), unusual(0.9, 1.0, 0.05))
    assert decision is Decision.UNSURE
    assert reasons[0].code == "between"


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
