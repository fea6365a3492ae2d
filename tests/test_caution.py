"""Caution: three answers, each with its reasons; "unsure" whenever something stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinedge.edge.calibration import UNSCORED, Calibration, Unusualness
from kinedge.edge.caution import Belief, CautionConfig, Decision, Reason, believe, reasons_of
from kinedge.edge.scores import BlockScores

SENSORS = ("wrist_left", "wrist_right")
CONFIG = CautionConfig(alpha=0.01)


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


def calibration() -> Calibration:
    return Calibration(
        knots=np.array([[0.0, 0.0], [1.0, 1.0]]),
        center=np.zeros((2, 12)),
        spread=np.ones((2, 12)),
        reference=np.zeros(1),
        likelihood=np.array([[-3.0, 3.0], [-3.0, 3.0]]),
        precision=np.eye(12),
        additive=np.zeros(1),
    )


def ask(s: BlockScores, u: Unusualness) -> tuple[Decision, Belief, tuple[Reason, ...]]:
    belief = believe(s, u, calibration(), CONFIG)
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
    one = ask(scores(), unusual(-5, 4, 0.001))[1]
    both = ask(scores(), unusual(4, 4, 0.001))[1]
    assert one.anomalous[0] == both.anomalous[0]


def test_unusual_but_not_rare_is_unsure_and_says_so() -> None:
    decision, _, reasons = ask(scores(), unusual(-1, 4, 0.2))
    assert decision is Decision.UNSURE
    assert reasons[0].code == "not_rare"


def test_evidence_between_the_two_is_unsure_and_says_so() -> None:
    decision, _, reasons = ask(scores(), unusual(-1, 1.0, 0.05))
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


shares = st.floats(0, 1)
us = st.floats(-10, 10)


@given(left=us, right=us, p=st.floats(0.0001, 1), m=st.tuples(shares, shares), s=st.tuples(shares, shares))
def test_beliefs_are_masses_and_worse_data_never_makes_surer(
    left: float, right: float, p: float, m: tuple[float, float], s: tuple[float, float]
) -> None:
    u = unusual(left, right, p)
    good = ask(scores(), u)[1]
    poor = ask(scores(missing=np.array([m]), saturated=np.array([s])), u)[1]
    for belief in (good, poor):
        assert belief.normal[0] >= 0
        assert belief.anomalous[0] >= 0
        assert belief.normal[0] + belief.anomalous[0] <= 1 + 1e-12
    assert poor.normal[0] <= good.normal[0] + 1e-12
    if min(m[0], m[1]) < 0.9:
        assert poor.reliability.max() <= good.reliability.max()


@given(left=us, right=us, p=st.floats(0.0001, 1), m=st.tuples(shares, shares))
def test_every_unsure_answer_has_a_reason(left: float, right: float, p: float, m: tuple[float, float]) -> None:
    decision, _, reasons = ask(scores(missing=np.array([m])), unusual(left, right, p))
    if decision is Decision.UNSURE:
        assert reasons
    assert [r.weight for r in reasons] == sorted((r.weight for r in reasons), reverse=True)
