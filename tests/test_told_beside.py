"""What the other sensors give away is in the verdict and the episode: in numbers, and in a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_episodes import A, N, builder, feed, verdict

from kinedge.edge.caution import Decision
from kinedge.edge.dashboard.words import sentence_words
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.envelope import Envelope, episode_id
from kinedge.training.anomalies import inject
from kinedge.training.simulate import SimulationConfig, simulate

LEFT, RIGHT = "wrist_left", "wrist_right"


def test_a_verdict_tells_which_part_of_a_score_comes_from_the_other_sensors(scorer: Scorer) -> None:
    known = scorer.calibration.coordination
    assert known is not None
    middle = known.lines.middle
    close = replace(known, lines=replace(known.lines, low=middle - 0.5, high=middle + 0.5))  # both arms swing alike
    scorer = Scorer(scorer.bundle, calibration=replace(scorer.calibration, coordination=close))
    walk = SimulationConfig(duration_s=60.0, subject_seed=850_001, session_seed=3, activity_mix={"gait": 1.0})
    whole = simulate(walk).select(scorer.manifest.sensor_specs)
    day, hop = inject(whole, "amplitude_drop", 1500, 3000, sensor=RIGHT), scorer.manifest.hop
    state, verdicts = scorer.initial_state(1), []
    for end in range(hop, 3001, hop):
        part = slice(end - hop, end)
        x, ok = day.values[None, part], day.valid[None, part]
        batch, state = scorer.step(x, ok, ~ok, state, end_tick=end)
        verdicts.append(batch.verdict(0))
        if verdicts[-1].sensor_beside:
            assert batch.coordination is not None
            moved, out_of_step = batch.coordination.beside(
                batch.scores.intensity, batch.scores.late, before=batch.scores.before
            )
            assert list(verdicts[-1].sensor_beside.values()) == moved[0].tolist()
            assert list(verdicts[-1].sensor_out_of_step.values()) == out_of_step[0].tolist()
    told = [v for v in verdicts[34:] if v.decision is Decision.ANOMALOUS]
    assert len(told) > 15
    assert np.mean([v.sensor_beside[RIGHT] for v in told]) < -0.5
    assert np.mean([v.from_others(RIGHT)[0] for v in told]) < -0.3
    assert not any(v.sensor_beside for v in verdicts if v.decision is Decision.NORMAL)


def told(**parts: float) -> Verdict:
    beside = {LEFT: 0.0, RIGHT: parts.get("beside", 0.0)}
    return replace(verdict(A), sensor_beside=beside, sensor_out_of_step={LEFT: 0.0, RIGHT: parts.get("late", 0.0)})


@pytest.mark.parametrize(
    ("beside", "late", "share"), [(-1.5, 0.0, (-0.5, 0.0)), (0.0, 3.0, (0.0, 1.0)), (-4.0, 1.0, (-0.8, 0.2))]
)
def test_the_shares_are_of_the_score_and_never_more(beside: float, late: float, share: tuple[float, float]) -> None:
    assert told(beside=beside, late=late).from_others(RIGHT) == pytest.approx(share)
    assert told(beside=beside, late=late).from_others(LEFT) == (0, 0)


def test_an_episode_says_so_and_keeps_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def envelope_of(one: Verdict) -> Envelope:
        monkeypatch.setattr("test_episodes.verdict", lambda decision, **_: one if decision is A else verdict(N))
        fields = next(d for ds in feed(builder(), [N, A, A, A, *[N] * 6]) for d in ds if d.closed).fields
        identity = {k: fields[k] for k in ("subject", "sensors", "start_utc_ns", "model_digest")}
        id_ = episode_id(**identity, site="s", gateway="g", raw_sha256=fields["raw"]["sha256"])
        return Envelope.model_validate({**fields, "id": id_, "site": "s", "gateway": "g", "sequence": 1})

    less = envelope_of(told(beside=-2.4))
    assert less.explanation is not None
    assert less.explanation.beside == pytest.approx(-0.8) and less.explanation.amount == "less_than_others"
    assert less.explanation.text["en"].startswith("The right wrist moved less than the other sensors let expect")
    late = envelope_of(told(late=2.7))
    assert late.explanation is not None and late.explanation.out_of_step == pytest.approx(0.9)
    assert b"out of step with the other sensors" in late.to_bytes() and b'"out_of_step":0.9' in late.to_bytes()
    # one without keeps its bytes
    neither = envelope_of(told())
    assert neither.explanation is not None and neither.explanation.amount == "differently"
    assert b"beside" not in neither.to_bytes() and b"out_of_step" not in neither.to_bytes()
    assert Envelope.model_validate_json(neither.to_bytes()) == neither


def test_whoever_looks_at_it_reads_so_and_machines_get_the_numbers() -> None:
    words = sentence_words(told(late=3.0), [told(late=3.0)] * 5, hop_s=1.0)
    assert words is not None and words["fr"].startswith("Le poignet droit a bougé en décalage avec les autres capteurs")
    line = verdict_as_json("p-1", told(beside=-1.23456))
    assert line["sensor_beside"] == {LEFT: 0.0, RIGHT: -1.2346} and "sensor_out_of_step" not in line
    assert "sensor_beside" not in verdict_as_json("p-1", told())
