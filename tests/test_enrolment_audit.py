"""What an enrolment's audit counts, and how it says what it found."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from sample_blocks import normal_blocks

from kinedge.edge.calibration import Calibration, EnrolledCohort
from kinedge.edge.enrolment_audit import Audit, audit_person
from kinedge.edge.history import N_BACK, effective_size, history_of, limits_of
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError


def test_exceedances_are_counted_by_what_went_before_and_never_across_a_gap() -> None:
    x = np.array([1, 0, 0, 0, 1, 1, 1, 1, 1, 0], bool)[:, None]
    found = history_of(x, np.arange(10))
    # before block 4: one of four; 5: one; 6: two; 7: three; 8: four; 9: four
    assert found.visits.tolist() == [0, 2, 1, 1, 2]
    assert found.hits.tolist() == [0, 2, 1, 1, 1]
    broken = history_of(x, np.array([0, 1, 2, 3, 4, 15, 16, 17, 18, 19]))
    assert broken.visits.tolist() == [0, 1, 0, 0, 1]
    assert history_of(x[:4], np.arange(4)).visits.sum() == 0


def test_tails_are_counted_by_the_history_of_the_lower_level() -> None:
    u = np.array([2.0, 0.0, 2.0, 3.0, 4.0, 0.0, 6.0])[:, None]
    found = history_of(u > 1, np.arange(7), u > 3)
    assert found.visits.tolist() == [0, 0, 0, 3, 0]
    assert found.hits.tolist() == [0, 0, 0, 2, 0]


def test_tails_of_a_cohort_travel_with_the_bundle_and_are_checked(scorer: Scorer) -> None:
    enrolled = EnrolledCohort(
        scorer.calibration.reference,
        scorer.calibration.likelihood,
        np.array([0.5, 1.0]),
        np.full((2, 5), 0.1),
        np.array([9.0]),
        np.array([2.0, 4.0]),
        np.array([[0.01] * 5, [0.002] * 5]),
    )
    arrays = replace(scorer.calibration, enrolled=enrolled).to_arrays()
    back = Calibration.from_arrays(arrays, scorer.manifest).enrolled
    assert back is not None
    np.testing.assert_array_equal(back.tails, enrolled.tails)
    without = {k: v for k, v in arrays.items() if "tail" not in k}
    old = Calibration.from_arrays(without, scorer.manifest).enrolled
    assert old is not None and old.tails.size == 0
    assert set(replace(scorer.calibration, enrolled=old).to_arrays()) == set(without)
    for wrong in (
        {"enrolled_tail_levels": np.array([1.0, 2.0])},
        {"enrolled_tails": np.full((2, 5), 1.5)},
        {"enrolled_tails": np.full((3, 5), 0.5)},
    ):
        with pytest.raises(BundleError, match="tail"):
            Calibration.from_arrays({**arrays, **wrong}, scorer.manifest)
    with pytest.raises(BundleError, match="enrolled_tails"):
        Calibration.from_arrays({k: v for k, v in arrays.items() if k != "enrolled_tails"}, scorer.manifest)


def test_limits_lie_above_nine_subjects_of_ten_and_rise_with_history() -> None:
    rng = np.random.default_rng(2)
    rates = np.linspace(0.01, 0.02, 11)
    subjects = [history_of(rng.random((20_000, 3)) < r, np.arange(20_000)) for r in rates]
    limits = limits_of(subjects)
    assert limits[0] == pytest.approx(0.019, abs=0.001)
    assert (np.diff(limits) >= 0).all()
    assert 0 < limits.min() <= limits.max() < 1
    assert limits.shape == (N_BACK + 1,)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregression_is_that_of_theory(rho: float) -> None:
    rng = np.random.default_rng(3)
    x = np.zeros(40_000)
    for i in range(1, len(x)):
        x[i] = rho * x[i - 1] + rng.normal()
    assert effective_size(x) == pytest.approx(len(x) * (1 - rho) / (1 + rho), rel=0.15)
    assert effective_size(np.ones(10)) == 10


def with_limits(cohort: Calibration, limits: list[float]) -> Calibration:
    enrolled = EnrolledCohort(
        cohort.reference, cohort.likelihood, np.array([0.5, 1.0]), np.array([limits, limits]), np.array([9.0])
    )
    return replace(cohort, enrolled=enrolled)


def test_the_audit_tells_who_is_like_the_cohort_from_who_is_not(scorer: Scorer) -> None:
    rng = np.random.default_rng(4)
    args = {"groups": scorer.groups, "stride": 2}
    generous = with_limits(scorer.calibration, [0.02, 0.1, 0.3, 0.4, 0.5])
    strict = with_limits(scorer.calibration, [0.002, 0.01, 0.02, 0.03, 0.04])
    blocks = normal_blocks(rng, 2400)
    calm, _ = audit_person(blocks, np.eye(12), cohort=generous, **args)  # type: ignore[arg-type]
    assert calm.verdict == "holds", calm.reasons
    assert calm.share_over == pytest.approx(0.011, abs=0.005)
    assert calm.effective_blocks > 1500
    assert "no more often" in calm.sentence()
    broken, _ = audit_person(blocks, np.eye(12), cohort=strict, **args)  # type: ignore[arg-type]
    assert broken.verdict == "does not hold"
    assert "after 0 of 4" in broken.reasons[0]
    level = broken.levels[0]
    assert level.found == "far above"
    assert level.hits / level.visits > 0.002 + 2.8 * level.error
    shift = replace(blocks, channel=blocks.channel + 0.8 * (np.arange(2400) >= 1200)[:, None])
    drifted, _ = audit_person(shift, np.eye(12), cohort=generous, **args)  # type: ignore[arg-type]
    assert drifted.verdict != "holds"
    assert any("more unusual than the first" in r for r in drifted.reasons)
    few, _ = audit_person(blocks.take(slice(0, 50)), np.eye(12), cohort=generous, **args)  # type: ignore[arg-type]
    assert few.verdict == "doubtful"
    assert few.reasons_in("fr") == ("50 blocs ne suffisent pas pour en juger",)
    assert calm.reasons_in("fr") == ()


def test_what_an_audit_found_is_told_in_french_with_the_same_numbers(scorer: Scorer) -> None:
    rng = np.random.default_rng(4)
    blocks = normal_blocks(rng, 600)
    shift = replace(blocks, channel=blocks.channel + 0.8 * (np.arange(600) >= 300)[:, None])
    strict = with_limits(scorer.calibration, [0.002, 0.01, 0.02, 0.03, 0.04])
    audit, _ = audit_person(shift, np.eye(12), cohort=strict, groups=scorer.groups, stride=2)
    unknown, _ = audit_person(
        shift, np.eye(12), cohort=replace(scorer.calibration, enrolled=None), groups=scorer.groups, stride=2
    )
    for found in (audit, unknown, Audit.model_validate_json(audit.model_dump_json())):
        english, french = found.reasons_in("en"), found.reasons_in("fr")
        assert english == found.reasons
        assert len(french) == len(english) > 1
        for one, other in zip(english, french, strict=True):
            figures = [re.findall(r"\d+(?:\.\d+)?", s.replace(",", ".")) for s in (one, other)]
            assert sorted(figures[0]) == sorted(figures[1]), (one, other)
    assert "la seconde moitié était plus inhabituelle" in " ".join(audit.reasons_in("fr"))
    assert "il faut l'entraîner de nouveau" in " ".join(unknown.reasons_in("fr"))


def test_a_person_whose_bursts_last_longer_is_found_at_that_history(scorer: Scorer) -> None:
    rng = np.random.default_rng(5)
    blocks = normal_blocks(rng, 8000)
    burst = np.repeat(np.arange(800) % 50 == 0, 10)  # ten hops, five blocks on end
    worse = replace(blocks, channel=blocks.channel + 3.0 * burst[:, None])
    cohort = with_limits(scorer.calibration, [0.05, 0.1, 0.15, 0.2, 0.25])
    found, _ = audit_person(worse, np.eye(12), cohort=cohort, groups=scorer.groups, stride=2)
    assert {level.h for level in found.levels if level.found == "far above"} & {1, 2, 3, 4}
    assert found.effective_blocks < 5000
