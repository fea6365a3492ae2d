"""Answers that leave a sensor out: surer than others, said by name, and nowhere shown as about all of them."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from weighed_blocks import BLOCK_S, CONFIG, HOP_S, calibration, scores, unusual, weigh

from kinedge.bundle import read_bundle
from kinedge.cli.live import LiveView, Track
from kinedge.edge.calibration import UNSCORED, Unusualness
from kinedge.edge.caution import Belief, BeliefState, CautionConfig, Decision, believe
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.dashboard.tracks import PersonTrack
from kinedge.edge.dashboard.words import sentence_words
from kinedge.edge.episodes import _trail_point
from kinedge.edge.narrative import usual_without
from kinedge.edge.reliability import SensorHealth
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.timing import UNTOLD
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.training.simulate import SimulationConfig, simulate

us = st.floats(-10, 10)
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
        *(np.zeros((1, FOUR)), np.ones((1, FOUR), bool), np.zeros((1, FOUR)), np.zeros((1, FOUR))),
        *(np.ones((1, FOUR)), np.ones((1, FOUR))),
        missing=at("silent", 1.0) + at("half", 0.6),
        saturated=at("clipped", 0.7),
        flat=at("flat", 1.0) > 0,
        full=np.ones(1, bool),
        late=np.full((1, FOUR), UNTOLD),
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
