"""The benchmark of caution: its faults are what they say, its measures known by hand, its rows of other people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinedge.benchmarks.caution import _against_both, _by_network, _pooled, bench_caution, look
from kinedge.benchmarks.caution_cases import FAULTS, FROM_THE_START, faulted, real_sessions, simulated_sessions
from kinedge.benchmarks.caution_measures import Seen, area_under_risk, band, plain, utility
from kinedge.bundle import read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError
from kinedge.training.simulate import SimulationConfig, simulate

NORMAL, ANOMALOUS, UNSURE = (int(d) for d in Decision)


def test_an_unsure_answer_is_worth_what_its_name_says_and_classes_count_half_each() -> None:
    changed = np.array([True, False, False, False])
    all_unsure = utility(np.full(4, UNSURE), changed)
    assert (all_unsure.u65, all_unsure.u80, all_unsure.unsure) == pytest.approx((0.65, 0.80, 1.0))
    right = utility(np.where(changed, ANOMALOUS, NORMAL), changed)
    assert (right.u65, right.u80, right.missed, right.false_calls) == (1, 1, 0, 0)
    missed = utility(np.full(4, NORMAL), changed)
    assert (missed.u65, missed.missed, missed.false_calls) == (0.5, 1, 0)


@given(st.lists(st.tuples(st.floats(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_a_perfect_order_has_no_risk_and_no_order_has_half(rows: list[tuple[float, bool]]) -> None:
    changed = np.array([c for _, c in rows])
    if changed.all() or not changed.any():
        return
    assert area_under_risk(np.where(changed, 1.0, -1.0), changed) == 0
    assert area_under_risk(np.where(changed, -1.0, 1.0), changed) == pytest.approx(1)
    assert area_under_risk(np.zeros(len(changed)), changed) == pytest.approx(0.5)
    assert 0 <= area_under_risk(np.array([x for x, _ in rows]), changed) <= 1


def test_wrong_answers_cost_less_where_they_are_the_least_confident() -> None:
    changed = np.array([True, False, True, False])
    sure = area_under_risk(np.array([-3.0, -2.0, 1.0, -0.5]), changed)
    doubtful = area_under_risk(np.array([-0.5, -2.0, 1.0, -3.0]), changed)
    assert doubtful < sure


def test_rivals_answer_by_their_limits_alone() -> None:
    assert plain(np.array([0.5, 2.0]), above=1.0).tolist() == [NORMAL, ANOMALOUS]
    p = np.array([0.001, 0.05, 0.5])
    assert band(p, rare=0.01, common=0.1).tolist() == [ANOMALOUS, UNSURE, NORMAL]


def test_rivals_go_by_surprise_alone_however_the_sensors_move_together() -> None:
    bundle = read_bundle(DEFAULT_BUNDLE)
    calibration = Scorer(bundle).calibration
    known = calibration.coordination
    assert known is not None
    heavy = replace(known, weights=replace(known.weights, weight=known.weights.weight + 2))
    sessions = simulated_sessions([810_000], sessions_each=1)
    seen = []
    for coordination in (known, heavy):
        scorer = Scorer(bundle, calibration=replace(calibration, coordination=coordination))
        ours, rivals = (look(scorer, sessions, "clean", watched=watched) for watched in (True, False))
        assert ours is not None and rivals is not None
        seen.append((ours, rivals))
    np.testing.assert_array_equal(seen[0][1].score, seen[1][1].score)
    np.testing.assert_array_equal(seen[0][1].p_value, seen[1][1].p_value)
    assert (seen[0][0].confidence != seen[1][0].confidence).any()
    # ranked among what the cohort shows by surprise alone
    reference = known.weights.reference
    n = len(reference)
    below = np.searchsorted(reference, seen[0][1].score, side="left")
    np.testing.assert_allclose(seen[0][1].p_value, (1 + n - below) / (n + 1))


def test_faults_strike_from_their_start_on_and_nothing_else() -> None:
    (session,) = simulated_sessions([850_000], sessions_each=1)
    before = session.recording
    for name, fault in FAULTS.items():
        recording, struck = faulted(session, name)  # type: ignore[misc]  # there are two sides here
        same = (recording.values == before.values) & (recording.valid == before.valid)
        start = 0 if name in FROM_THE_START else session.fault_start
        assert same[:start].all()
        others = [c for s in before.sensors if s.name not in struck for c in range(12)[before.columns(s.name)]]
        assert same[:, others].all()
        assert same.all() == (name == "clean")
        assert len(struck) == {0: 0, 1: 1, 2: 2, -1: 2}[fault.sensors]
        again, _ = faulted(session, name)  # type: ignore[misc]
        assert (again.values == recording.values).all() and (again.valid == recording.valid).all()


@pytest.mark.parametrize(("name", "rate"), [("10 % loss", 0.1), ("30 % loss", 0.3)])
def test_loss_comes_in_bursts_at_its_rate(name: str, rate: float) -> None:
    sessions = simulated_sessions(range(850_000, 850_004), sessions_each=3)
    lost = np.concatenate([~faulted(s, name)[0].valid[s.fault_start :, [0, 6]] for s in sessions])  # type: ignore[index]
    assert abs(lost.mean() - rate) < 0.04
    ends = (lost[1:] != lost[:-1]).mean()
    assert ends < 2 * rate / 10  # runs of about twenty samples


def test_a_range_ends_at_one_deviation_of_what_moves_and_never_within_the_noise_of_rest() -> None:
    session = simulated_sessions([850_003], sessions_each=1)[0]
    clipped = faulted(session, "saturation")
    assert clipped is not None
    before, after = session.recording.values[session.fault_start :], clipped[0].values[session.fault_start :]
    altered = (before != after).any(axis=0)
    assert altered.sum() == 6 and altered.reshape(2, 6).all(axis=1).sum() == 1  # all channels of one sensor
    rests = replace(
        session.recording, values=session.recording.values.mean(axis=0) + 0.04 * np.sin(session.recording.values)
    )
    asleep = faulted(replace(session, recording=rests), "saturation")
    assert asleep is not None
    np.testing.assert_array_equal(asleep[0].values, rests.values)


def test_real_sessions_hold_one_change_in_ordinary_movement() -> None:
    recording = simulated_sessions([850_001], sessions_each=1)[0].recording
    sessions = real_sessions([recording], longest_s=40.0)
    assert len(sessions) == 8
    for s in sessions:
        assert [(r.start, r.end) for r in s.recording.labels] == [s.change]
        assert s.fault_start < s.change[0] < s.change[1] < len(s.recording)


def test_the_table_shows_every_fault_and_what_it_costs() -> None:
    found = bench_caution(
        DEFAULT_BUNDLE, n_subjects=2, n_tuning=2, faults=("clean", "dead sensor", "swap"), first_seed=850_010
    )
    rows = {r["what"]: r for r in found["rows"]}
    assert set(rows) == {"simulated, clean", "simulated, dead sensor", "simulated, swap"}
    dead = rows["simulated, dead sensor"]
    assert dead["missed"] == 0  # with an arm unseen nothing is called normal
    assert dead["right_reason"] == 1
    assert dead["unsure"] > rows["simulated, clean"]["unsure"]
    assert rows["simulated, clean"]["u80"] > 0.8
    assert found["settings"]["caution"]["without_sensor"] == "unsure"
    assert dead["unsure_others"] < dead["unsure"] and dead["missed_others"] > 0
    assert dead["false_calls_others"] == dead["false_calls"]  # nothing but "normal" is said more often
    swap = rows["simulated, swap"]
    assert all(swap[f"{k}_others"] == swap[k] for k in ("u65", "u80", "missed", "unsure"))


def judged(decisions: Sequence[int]) -> Seen:
    """Return two blocks of a person who changed, and two of one who did not, with what was said of them."""
    of = {f.name: np.zeros(4) for f in fields(Seen)}
    return Seen(**{**of, "decision": np.array(decisions), "changed": np.arange(4) < 2})


def test_a_person_whom_several_networks_judge_is_one_person_and_each_networks_answers_count() -> None:
    right, wrong = [ANOMALOUS, ANOMALOUS, NORMAL, NORMAL], [NORMAL, NORMAL, ANOMALOUS, ANOMALOUS]
    parts = [
        (person, network, {"clean": (judged(answers), judged(right))})
        for network, person, answers in ((0, "a", right), (0, "b", wrong), (1, "b", right), (1, "a", right))
    ]
    seen, alone = _pooled(parts)["clean"]
    assert len(seen) == len(alone) == 16
    assert len(set(seen.subject)) == 2 and len(set(seen.session)) == 4
    b = seen.subject == seen.subject[4]
    np.testing.assert_array_equal(np.flatnonzero(b), np.arange(4, 12))
    assert _by_network("walks", parts) == {"walks, clean": [0.5, 1.0]}
    assert _by_network("walks", parts[:2]) == {}


def test_an_unknown_data_set_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        bench_caution(DEFAULT_BUNDLE, data={"nowhere": tmp_path})


def test_the_cohort_and_the_enrolment_judge_the_very_same_blocks_of_the_second_half() -> None:
    scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
    person = simulate(SimulationConfig(duration_s=150, subject_seed=860_001)).select(scorer.manifest.sensor_specs)
    both = _against_both(scorer, [person], ("clean",), lambda _: None)
    (cohort, _), (own, _) = (both[f"second half{x}"]["clean"] for x in (" by the cohort", ", enrolled"))
    assert len(own) > 20 and own.changed.any() and not own.changed.all()
    for name in ("changed", "session", "hop", "subject"):
        assert (vars(cohort)[name] == vars(own)[name]).all()
    assert (cohort.score != own.score).any()
    assert _against_both(scorer, [person.slice(0, 1000)], ("clean",), lambda _: None) == {}
