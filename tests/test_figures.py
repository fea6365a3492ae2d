"""The numbers behind an abstention: what each reason's sentence is worth, and how an episode's record keeps them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_core import envelope_fields
from test_episodes import T0, A, N, U, builder, verdict
from weighed_blocks import CONFIG, SENSORS, scores, unusual, unwell, weigh

from kinedge.abstention import Abstention, Figures
from kinedge.edge.caution import BeliefState, Decision
from kinedge.edge.episodes import _trail_point
from kinedge.edge.figures import figures_of
from kinedge.edge.promise import Watched
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.verdict import Needed, Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.envelope import MAX_ENVELOPE_BYTES, Envelope, parse_envelope

TEXT = {"en": "Unsure: x.", "fr": "Incertain : x."}
WATCHED = Watched(False, False, 0.25, 0.5, 0.4, "wrist_left", "x", shift=0.1)


def doubt(*reasons: Reason, **changes: Any) -> Verdict:
    return replace(verdict(U), reasons=reasons, belief_normal=0.2, belief_anomalous=0.0, **changes)


@pytest.mark.parametrize(
    ("health", "code", "truth", "measured"),
    [
        (unwell(repeated=[0.9, 0.0]), "stuck", 0.9, 0.9),
        (unwell(off_body=[0.75, 0.0], still_s=[31.0, 0.0]), "off_body", 0.75, 31.0),
        (unwell(twin=[1, 0], copy=[True, True]), "duplicate", 1.0, None),
        (unwell(swapped=[1.0, 1.0]), "swapped", 1.0, 1.0),  # trust is left, as they are exchanged back
        (unwell(shifted=[0.6, 0.0]), "shifted", 0.6, 0.6),
    ],
)
def test_what_is_said_of_a_sensor_is_as_true_as_trust_in_it_is_lost(
    health: Any, code: str, truth: float, measured: float | None
) -> None:
    s, u = scores(), unusual(-1, -1, 0.7)
    belief = weigh(s, u, health=health)[0]
    first = reasons_of(0, s, u, belief, SENSORS, CONFIG, health=health)[0]
    assert (first.code, first.measured) == (code, measured)
    assert first.truth == pytest.approx(truth)


def test_missing_data_are_told_with_their_share() -> None:
    s, u = scores(missing=np.array([[0.4, 0.0]])), unusual(-1, -1, 0.7)
    belief = replace(weigh(s, u)[0], decision=np.array([Decision.UNSURE], np.int8))
    first = reasons_of(0, s, u, belief, SENSORS, CONFIG)[0]
    assert (first.code, first.measured) == ("missing", pytest.approx(0.4))
    assert first.truth == pytest.approx(1 - math.exp(-first.weight))


def test_between_is_the_truer_the_further_both_beliefs_are_from_an_answer() -> None:
    truths = []
    for u in (1.2, 1.22, 1.25):
        s, odd = scores(), unusual(-1, u, 0.05)
        belief = weigh(s, odd)[0]
        first = reasons_of(0, s, odd, belief, SENSORS, CONFIG)[-1]
        nearest = max(belief.normal[0] / CONFIG.min_belief_normal, belief.anomalous[0] / CONFIG.min_belief_anomalous)
        assert first.code == "between" and first.truth == pytest.approx(1 - nearest)
        truths.append(first.truth)
    assert len(set(truths)) > 1 and all(0 <= t <= 1 for t in truths)


def test_a_newcomers_reason_is_as_true_as_a_change_would_have_been_believed() -> None:
    state, s, u = BeliefState.initial(1, 2, 2), scores(), unusual(-1, 1.4, 0.005)
    for _ in range(30):
        belief, state = weigh(s, u, state, enrolled=False)
    (first, *_) = reasons_of(0, s, u, belief, SENSORS, CONFIG)
    assert first.code == "newcomer" and first.weight == pytest.approx(0.1)  # ranked low, and true all the same
    assert first.truth == pytest.approx(1 - math.exp(-belief.withheld[0].max()))
    assert first.truth > 0.5


def test_a_point_of_the_trail_says_its_reasons_as_codes_with_what_they_go_by() -> None:
    v = doubt(Reason("missing", "x", 0.5, "wrist_left", measured=0.41239), Reason("between", "x", 0.1))
    assert _trail_point(v, T0).why == (("missing", "wrist_left", 0.4124), ("between", None, None))
    left_out = replace(verdict(N), without=("wrist_left",))
    assert _trail_point(left_out, T0).why == (("without", "wrist_left", None),)
    assert _trail_point(verdict(N), T0).why == ()


def told(*verdicts: Verdict) -> tuple[Abstention, ...]:
    b = builder(quiet=1000)
    for i, v in enumerate([verdict(A), verdict(A), *verdicts]):
        b.step(v, np.zeros((50, 2), np.float32), np.ones((50, 2), bool), end_utc_ns=T0 + i * 10**9)
    (draft,) = b.stop()
    return tuple(Abstention.model_validate(a) for a in draft.fields["abstentions"])


def test_the_figures_are_those_of_the_block_that_the_reason_took_most_from() -> None:
    light, heavy = (Reason("missing", "x", w, "wrist_left", truth=t) for w, t in ((0.5, 0.39), (0.7, 0.5)))
    needed = Needed(0.43, 0.43, 0.07)
    found = told(doubt(light), doubt(heavy, Reason("between", "x", 0.1)), doubt(light, needed=needed))
    (one,) = found
    assert one.figures is not None and one.share == pytest.approx(3 / 5)
    assert one.figures.wall_time_utc_ns == T0 + 3 * 10**9
    assert (one.figures.truth, one.figures.belief_normal) == (0.5, 0.2)
    assert [(r.code, r.weight) for r in one.figures.reasons] == [("missing", 0.7), ("between", 0.1)]
    assert [(s.sensor, s.share) for s in one.figures.sensors] == [("wrist_right", 0.75), ("wrist_left", 0.25)]
    assert one.figures.needed_normal is None and one.figures.alarm is None


def test_of_reasons_that_weigh_the_same_the_truest_is_kept() -> None:
    blocks = [doubt(Reason("newcomer", "x", 0.1, truth=t)) for t in (0.3, 0.8, 0.5)]
    (one,) = told(*blocks)
    assert one.figures is not None and one.figures.truth == 0.8


def test_what_the_alarm_and_the_setting_say_stands_beside_it() -> None:
    v = doubt(Reason("not_valid", "x", 7.0), watched=WATCHED, needed=Needed(0.43, 0.43, 0.07))
    figures = figures_of(v, wall_time_utc_ns=T0)
    assert figures.alarm is not None
    assert (figures.alarm.valid, figures.alarm.learned, figures.alarm.unlike) == (False, 0.5, 0.4)
    assert (figures.needed_normal, figures.needed_anomalous, figures.needed_p_value) == (0.43, 0.43, 0.07)


def test_what_is_no_number_is_left_out_and_costs_no_episode() -> None:
    v = doubt(
        Reason("clock", "x", 9.0, "wrist_left", measured=float("inf")),
        sensor_score={"wrist_left": -99.0, "wrist_right": 1.0},
        sensor_share={"wrist_left": -1e-9, "wrist_right": 1 + 1e-9},
    )
    content = figures_of(v, wall_time_utc_ns=T0).model_dump(mode="json")
    assert "measured" not in content["reasons"][0] and "alarm" not in content
    assert "score" not in next(s for s in content["sensors"] if s["sensor"] == "wrist_left")


def test_the_figures_of_an_episode_stay_few_however_much_went_wrong() -> None:
    names = tuple(f"sensor_{i:024d}" for i in range(32))
    every = {n: 1.0 for n in names}
    blocks = [
        doubt(
            *(Reason("saturated", "x", 5.0 - i / 10, names[(i + k) % 32], 0.5, 0.123456) for i in range(32)),
            sensor_score=every, sensor_reliability=every, sensor_missing=every, sensor_share=every, watched=WATCHED,
        )
        for k in range(32)
    ]  # fmt: skip
    found = told(*blocks)
    assert len(found) == 32
    size = len(json.dumps([a.model_dump(mode="json") for a in found]))
    assert size < MAX_ENVELOPE_BYTES / 8


def test_an_envelope_of_before_keeps_its_bytes() -> None:
    old = {"code": "no_data", "sensor": None, "share": 0.5, "text": TEXT}
    point = {"wall_time_utc_ns": 1, "decision": "unsure", "score": 0, "p_value": 1, "belief_normal": 0}
    trail = ({**point, "belief_anomalous": 0, "reasons": ("no data",)},)
    envelope = Envelope(**envelope_fields(abstentions=(old,), trail=trail, promise="x"))
    assert not any(key in envelope.to_bytes() for key in (b"figures", b"why", b"promised"))
    assert json.loads(envelope.to_bytes())["abstentions"] == [old]
    assert parse_envelope(envelope.to_bytes()).to_bytes() == envelope.to_bytes()


unit = st.floats(0, 1)
codes = st.sampled_from(["missing", "between", "something_new"])
weighed = st.fixed_dictionaries(
    {"code": codes, "weight": st.floats(0, 20), "truth": unit},
    optional={"sensor": st.just("wrist_left"), "measured": st.floats(0, 1e6)},
)
sensor_figures = st.fixed_dictionaries(
    {"sensor": st.just("wrist_left"), "reliability": unit, "missing": unit, "share": unit},
    optional={"score": st.floats(-99, 99)},
)
alarms = st.fixed_dictionaries(
    {"valid": st.booleans(), "evidence": st.floats(0, 99), "learned": unit, "unlike": unit, "shift": st.floats(-9, 9)}
)
figures = st.fixed_dictionaries(
    {
        "wall_time_utc_ns": st.integers(0, 2**63 - 1),
        "truth": unit,
        "score": st.floats(-99, 99),
        "p_value": unit,
        "belief_normal": unit,
        "belief_anomalous": unit,
        "reasons": st.lists(weighed, max_size=8),
        "sensors": st.lists(sensor_figures, max_size=16),
    },
    optional={"needed_normal": unit, "needed_anomalous": unit, "needed_p_value": unit, "alarm": alarms},
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.none(), figures), max_size=4))
def test_figures_come_back_as_they_went_and_what_is_not_known_is_not_in_the_bytes(found: list[Any]) -> None:
    known = [{"code": "x", "sensor": None, "share": 1.0, "text": TEXT} | ({"figures": f} if f else {}) for f in found]
    promised = {"kind": "e_detector", "hours_per_false_episode": 36.5, "n_subjects": 40, "audit": "doubtful"}
    envelope = Envelope(**envelope_fields(abstentions=known, promised=promised))
    assert json.loads(envelope.to_bytes())["promised"] == promised
    again = parse_envelope(envelope.to_bytes())
    assert again == envelope and again.to_bytes() == envelope.to_bytes()
    assert json.loads(envelope.to_bytes()).get("abstentions", []) == json.loads(json.dumps(known))


@pytest.mark.parametrize(
    "bad", [{"truth": 1.5}, {"score": float("nan")}, {"reasons": [{"code": "x"}] * 9}, {"what": 1}]
)
def test_figures_that_are_none_are_refused(bad: dict[str, Any]) -> None:
    good = {"wall_time_utc_ns": 1, "truth": 1, "score": 0, "p_value": 1, "belief_normal": 0, "belief_anomalous": 0}
    Figures.model_validate(good)
    with pytest.raises(ValueError, match="|".join(bad)):
        Figures.model_validate({**good, **bad})


def test_a_verdict_line_says_how_true_each_reason_is() -> None:
    line = verdict_as_json("p", doubt(Reason("newcomer", "x", 0.1, truth=0.81239)))
    assert line["reasons"][0]["truth"] == 0.8124
