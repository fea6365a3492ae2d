"""Caution with sensors that are missing, wrong or unsure of their clock: they are named, and never called normal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from weighed_blocks import CONFIG, SENSORS, ask, scores, unusual, unwell, weigh

from kinedge.edge.calibration import UNSCORED, Unusualness
from kinedge.edge.caution import Belief, BeliefState, Decision
from kinedge.edge.narrative import abstention
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.reliability import SensorHealth


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


def test_what_was_missing_just_before_is_named_when_it_left_the_answer_open() -> None:
    _, state = weigh(scores(missing=np.array([[0.4, 0.0]])), unusual(0.9, 0.9, 0.1))
    now = scores(missing=np.array([[0.01, 0.0]]))
    belief, _ = weigh(now, unusual(0.9, 0.9, 0.1), state)
    (first, *_) = reasons_of(0, now, unusual(0.9, 0.9, 0.1), belief, SENSORS, CONFIG)
    assert belief.decision[0] == Decision.UNSURE
    assert (first.code, first.sensor) == ("missing", "wrist_left")
    assert first.text == "data from wrist_left was missing just before"


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


@pytest.mark.parametrize(("gone", "clipped", "first"), [(0.7, 0.4, "saturated"), (0.7, 0.1, "missing")])
def test_a_block_of_which_most_was_lost_is_a_reason_by_the_share_lost_for_the_seconds_before_bridge_it(
    gone: float, clipped: float, first: str
) -> None:
    now = scores(missing=np.array([[gone, 0.0]]), saturated=np.array([[0.0, clipped]]))
    decision, _, reasons = ask(now, unusual(-1, -1, 0.7))
    assert decision is Decision.UNSURE
    assert reasons[0].code == first
    (missing,) = (r for r in reasons if r.code == "missing")
    assert missing.weight == pytest.approx(-1.5 * np.log(1 - gone))
    assert missing.truth == 1.0


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
        (unwell(held=[-6.0, 0.0]), "held", "one axis of the left wrist stands still", "un axe du capteur"),
        (unwell(units=[1.0, 0.0], acc_m_s2=[1.0, 9.8]), "units", "no body shows", "aucun corps"),
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


def test_a_held_axis_is_named_by_its_number_where_the_names_of_channels_are_not_known() -> None:
    for held in (2.0, -2.0, -6.0):
        reason = ask_about(unwell(held=[held, 0.0]), unusual(-1, -1, 0.7))[2]
        assert reason.channel is None
        assert reason.text == "axis 2 of wrist_left stands at one number while the sensor moves"


def test_a_sensor_of_which_one_axis_is_held_goes_on_answering_and_the_axis_is_named_all_the_same() -> None:
    for u, expected in ((unusual(-1, -1, 0.7), Decision.NORMAL), (unusual(4, -1, 0.001), Decision.ANOMALOUS)):
        decision, belief, reason = ask_about(unwell(held=[4.0, 0.0]), u)
        assert decision is expected
        assert (reason.code, reason.sensor, belief.reliability[0, 0]) == ("held", "wrist_left", 1.0)


@pytest.mark.parametrize(
    ("health", "says", "measured"),
    [
        (unwell(units=[1.0, 0.0], acc_m_s2=[1.02, 9.8]), "reads 1.0 m/s^2 in the mean, and a body shows 9.8", 1.02),
        (unwell(units=[1.0, 0.0], acc_m_s2=[19.6, 9.8]), "reads 20 m/s^2 in the mean, and a body shows 9.8", 19.6),
        (unwell(units=[1.0, 0.0], gyr_rad_s=[57.0, 1.0]), "turns at 57 rad/s on and on, faster than any limb", None),
        (unwell(units=[1.0, 0.0], unturned=[1.0, 0.0]), "reads less turning than what it feels between rests", None),
    ],
)
def test_what_no_body_shows_is_told_by_what_it_reads(health: SensorHealth, says: str, measured: float | None) -> None:
    reason = ask_about(health, unusual(-1, -1, 0.7))[2]
    assert reason.code == "units" and says in reason.text and reason.measured == measured


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


def test_what_lies_on_a_table_is_named_before_the_side_it_would_seem_to_be_on() -> None:
    """The level of a sensor that nobody wears says nothing of left and right."""
    swapped, lying = [1.0, 1.0], [0.0, 1.0]
    assert ask_about(unwell(swapped=swapped), unusual(-1, -1, 0.7))[2].code == "swapped"
    reason = ask_about(unwell(swapped=swapped, off_body=lying), unusual(-1, -1, 0.7))[2]
    assert (reason.code, reason.sensor) == ("off_body", "wrist_right")
