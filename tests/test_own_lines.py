"""Whoever is enrolled has lines of their own: what is usual beside their other sensors, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weighed_blocks import CONFIG, scores

from kinedge.edge.calibration import Calibration, stack_calibrations
from kinedge.edge.caution import BeliefState, believe
from kinedge.edge.coordination import MOST, Coordination, Lines, Weights, own_lines, stack_coordinations
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.enrolment import Enrolment, pack_enrolment, read_enrolment
from kinedge.edge.people import People
from kinedge.edge.personal import Baseline, Blocks, Detectors, detector_names, fit_baseline, of_all
from kinedge.edge.scores import NO_STEP
from kinedge.edge.scoring import Scorer
from kinedge.edge.timing import UNTOLD
from kinedge.errors import BundleError, ConfigError
from kinedge.quantize.follow import follow_calibration
from kinedge.recording import Recording
from kinedge.training.cohort import calibrate_cohort

Person = Callable[..., Recording]
HALF = np.log(0.25)  # half as far is a quarter of the power


def intensities(seed: int, n: int, *, right: float = 0.0, slope: float = 1.0) -> np.ndarray:
    """Of two wrists that move together, the right one ``right`` more than the left, and ``slope`` times as much."""
    rng = np.random.default_rng(seed)
    left = rng.normal(-3, 1.2, n)
    return np.stack([left, slope * left + right], axis=1) + rng.normal(0, 0.2, (n, 2))


def of_person(scorer: Scorer, seed: int, n: int, **kinds: float) -> Blocks:
    rng, intensity = np.random.default_rng(seed), intensities(seed, n, **kinds)
    usual = scorer.calibration.usual(intensity, scorer.groups)[0]
    before, late = np.full((n, 2), NO_STEP), np.full((n, 2), UNTOLD)
    return Blocks(usual + 0.2 * rng.gumbel(size=usual.shape), intensity, before, late, np.arange(n))


def enrolled(scorer: Scorer, seed: int, n: int = 1500, **kinds: float) -> Baseline:
    return fit_baseline(
        of_person(scorer, seed, n, **kinds), np.eye(12), cohort=scorer.calibration, groups=scorer.groups
    )


COHORT = Lines(
    mix=np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    levels=np.array([[-6.0, -6.0], [0.0, 0.0]]),
    low=np.full((2, 2), -1.5),
    middle=np.zeros((2, 2)),
    high=np.full((2, 2), 1.5),
)


def test_one_per_cent_of_a_persons_later_blocks_lie_beyond_either_of_their_quantiles() -> None:
    own = own_lines(COHORT, intensities(0, 3000, right=-1.0))
    signed = own.signed(intensities(1, 6000, right=-1.0))
    for beyond in (signed > 1, signed < -1):
        assert (beyond.mean(axis=0) > 0.003).all() and (beyond.mean(axis=0) < 0.025).all()


def test_an_arm_that_always_moves_less_is_usual_to_its_person_and_less_than_that_is_not() -> None:
    own = own_lines(COHORT, intensities(0, 2000, right=3 * HALF))
    later = intensities(1, 500, right=3 * HALF)
    assert (COHORT.signed(later)[:, 1] < -1).mean() > 0.8
    assert (np.abs(own.signed(later)) > 1).mean() < 0.05
    assert (own.signed(later + np.array([0.0, HALF]))[:, 1] < -1).mean() > 0.95


def test_the_slope_is_the_persons_own_too() -> None:
    own = own_lines(COHORT, intensities(0, 2000, slope=0.5))
    assert own.mix[1, 0] == pytest.approx(0.5, abs=0.05)
    assert own.mix[1, 1] == 0


def test_a_short_enrolment_leans_on_the_cohort() -> None:
    few, many = (own_lines(COHORT, intensities(0, n, slope=0.2)) for n in (30, 3000))
    assert abs(few.mix[1, 0] - COHORT.mix[1, 0]) < abs(many.mix[1, 0] - COHORT.mix[1, 0])
    for above in (True, False):
        widths = [abs((c.high if above else c.low) - c.middle).mean() for c in (few, many, COHORT)]
        assert 1.1 * widths[1] < widths[0] < widths[2]
    assert few.levels.shape == (3, 2)


def test_a_person_is_held_against_their_own_lines_as_weighs_best_of_people_who_are(scorer: Scorer) -> None:
    cohort = scorer.calibration
    assert cohort.enrolled is not None and cohort.enrolled.weights is not None
    baseline = enrolled(scorer, 0, right=-1.0)
    own = baseline.calibration(cohort, scorer.groups)
    assert own.coordination is not None and baseline.lines is not None
    assert own.coordination.weights is cohort.enrolled.weights
    np.testing.assert_array_equal(own.coordination.lines.mix, baseline.mix)
    assert own.reference is cohort.enrolled.reference
    intensity = np.array([[-2.0, -3.0 + 2 * HALF]])  # the right arm hangs down
    block = scores(channel=own.usual(intensity, scorer.groups)[0], intensity=intensity)
    seen, mute = (c.assess(block, scorer.groups) for c in (own, replace(own, coordination=None)))
    added = own.coordination.added(intensity, block.late)
    assert added[0, 1] > 1
    np.testing.assert_array_equal(seen.sensor, mute.sensor + added)
    assert seen.p_value[0] < 0.1 < mute.p_value[0]


def test_where_one_of_their_sensors_is_silent_an_enrolled_person_is_ranked_by_surprise_alone(scorer: Scorer) -> None:
    cohort = scorer.calibration
    assert cohort.enrolled is not None
    weights = cohort.enrolled.weights
    assert weights is not None
    own = enrolled(scorer, 0).calibration(cohort, scorer.groups)
    deaf = scores(scored=np.repeat([[True, False]], 6, axis=1), missing=np.array([[0.0, 1.0]]))
    seen = own.assess(deaf, scorer.groups)
    n = len(weights.reference)
    expected = (1 + n - np.searchsorted(weights.reference, seen.score[0])) / (n + 1)
    assert seen.p_value[0] == pytest.approx(expected)

    def lean(calibration: Calibration) -> float:
        start = BeliefState.initial(1, 2, 12)
        return float(believe(deaf, seen, calibration, CONFIG, start, hop_s=1.0, block_s=2.0)[0].lean[0])

    together = own.coordination
    assert together is not None
    raised = replace(together, weights=replace(weights, likelihood=weights.likelihood + np.array([1.0, 0, 0, 0, 0, 0])))
    assert lean(replace(own, coordination=raised)) > lean(own)


def test_a_bundle_that_does_not_know_what_own_lines_tell_holds_nobody_against_them(scorer: Scorer) -> None:
    cohort = scorer.calibration
    assert cohort.enrolled is not None
    baseline = enrolled(scorer, 0)
    before = replace(cohort, enrolled=replace(cohort.enrolled, weights=None))
    for known, reference in ((before, cohort.enrolled.reference), (replace(cohort, enrolled=None), cohort.reference)):
        own = replace(baseline, reference=np.zeros(0)).calibration(known, scorer.groups)
        assert own.coordination is not None
        assert own.reference is reference and own.coordination.weights.reference is reference
        np.testing.assert_array_equal(own.coordination.weights.likelihood, own.likelihood)
        odd = scores(intensity=np.array([[-9.0, 1.0]]))
        np.testing.assert_array_equal(own.coordination.added(odd.intensity, odd.late), 0)
    # nor is anything learned that the alarm would be promised nothing of
    learned = fit_baseline(of_person(scorer, 0, 90), np.eye(12), cohort=before, groups=scorer.groups)
    assert learned.lines is None and not Detectors([learned], scorer.groups).together
    assert learned.median.shape[1] == of_all(scorer.groups) + 1


def test_an_enrolment_that_does_not_fit_its_bundle_in_that_is_refused(scorer: Scorer, person: Person) -> None:
    enrolment = enrol_recordings(scorer, [person(200.0, seed=810_001)], subject="p-1", allow_short=True, made_s=0)
    People(scorer, ["p-1"], {"p-1": enrolment})
    known = enrolment.baseline
    none = {name: np.zeros((0, 2)) for name in ("levels", "low", "middle", "high")}
    shorter = {name: getattr(known, name)[:, :-2] for name in ("median", "q95", "q99")}
    with pytest.raises(ConfigError, match="how the sensors move together; enrol again"):
        People(scorer, ["p-1"], {"p-1": replace(enrolment, baseline=replace(known, **none, **shorter))})


def test_the_alarm_watches_how_each_sensor_moves_beside_the_others(scorer: Scorer) -> None:
    baseline = enrolled(scorer, 0, n=3000)
    detectors = Detectors([baseline], scorer.groups)
    names = detector_names(scorer.sensors, scorer.channels, together=detectors.together)
    assert names[of_all(scorer.groups)] == "all"
    assert names[-2:] == ("wrist_left beside the others", "wrist_right beside the others")
    later = of_person(scorer, 1, 3000)
    own = baseline.calibration(scorer.calibration, scorer.groups)
    center, spread = own.usual(later.intensity, scorer.groups)
    many = Detectors([baseline] * 3000, scorer.groups)
    u, q95 = many.assess((later.channel - center) / spread, later.intensity, later.before)
    assert u.shape == q95.shape == (3000, len(names))
    assert ((u[:, -2:] > 1).mean(axis=0) < 0.03).all() and ((u[:, -2:] > q95[:, -2:]).mean(axis=0) < 0.09).all()
    odd = later.intensity + np.array([0.0, 2 * HALF])
    found, _ = many.assess(0 * later.channel, odd, later.before)
    assert (found[:, -1] > 1).mean() > 0.9
    # of a sensor without a step nothing is known of any
    found, _ = many.assess(0 * later.channel, np.where([True, False], later.intensity, -99.0), later.before)
    assert (found[:, -2:] < -1e5).all()


def test_own_lines_are_kept_in_the_enrolment_and_those_of_before_have_none(scorer: Scorer, person: Person) -> None:
    enrolment = enrol_recordings(scorer, [person(200.0, seed=810_001)], subject="p-1", allow_short=True, made_s=0)
    assert enrolment.baseline.lines is not None and enrolment.baseline.levels.shape == (3, 2)
    told = enrolment.manifest.model_dump(exclude={"parts", "poses"})

    def again(baseline: Baseline) -> Enrolment:
        return read_enrolment(pack_enrolment(told, baseline, enrolment.frames))

    for f in fields(Baseline):
        np.testing.assert_array_equal(
            getattr(again(enrolment.baseline).baseline, f.name), getattr(enrolment.baseline, f.name)
        )
    known = enrolment.baseline
    for wrong, why in (
        (replace(known, high=known.low), "low, middle and high must increase"),
        (replace(known, levels=known.levels[::-1]), "levels must increase"),
        (replace(known, mix=known.mix * np.nan), "NaN, infinity"),
        (replace(known, mix=known.mix[:, :2]), "expected float"),
        (replace(known, low=known.low[:2]), "expected float"),
    ):
        with pytest.raises(BundleError, match=why):
            again(wrong)


@given(
    st.lists(st.tuples(st.integers(2, 6), st.integers(1, 30), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_stacked_each_stream_has_what_it_has_alone(shapes: list[tuple[int, int, bool]], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def one(n_levels: int, n_reference: int, muted: bool) -> Coordination:
        low, middle, high = np.sort(rng.normal(size=(3, n_levels, 2)), axis=0)
        levels = np.cumsum(rng.uniform(0.1, 1, (n_levels, 2)), axis=0)
        weights = [rng.uniform(0.1, 1, 2) for _ in range(5)]
        ranks = np.sort(rng.normal(size=n_reference)), rng.normal(size=(2, 6)), rng.random(1)
        found = Coordination(Lines(rng.normal(size=(2, 3)), levels, low, middle, high), Weights(*weights, *ranks))
        return found.muted(np.zeros(3), np.zeros((2, 6))) if muted else found

    each = [one(*shape) for shape in shapes]
    stacked = stack_coordinations(each)
    at = rng.permutation(len(each))
    intensity, late = rng.normal(size=(len(each), 2)), rng.choice([UNTOLD, -0.1, 0.4], (len(each), 2))
    part = stacked.rows(at)
    added, beside = part.added(intensity[at], late[at]), part.beside(intensity[at], late[at])
    assert part.which is not None
    for row, i in enumerate(at):
        np.testing.assert_array_equal(added[row], each[i].added(intensity[[i]], late[[i]])[0])
        for found, expected in zip(beside, each[i].beside(intensity[[i]], late[[i]]), strict=True):
            np.testing.assert_array_equal(found[row], expected[0])
        kept = part.weights.reference[part.which[row]]
        np.testing.assert_array_equal(kept[np.isfinite(kept)], each[i].weights.reference)
        assert part.weights.further[row] == each[i].weights.further


def test_what_is_added_comes_from_how_much_and_from_when(scorer: Scorer) -> None:
    known = scorer.calibration.coordination
    assert known is not None
    weights = replace(known.weights, weight=np.array([1.0, 2.0]), late_weight=np.array([0.5, 3.0]))
    together = Coordination(COHORT, weights)
    for right in (-9.0, 9.0):
        moved, out_of_step = together.beside(np.array([[-3.0, -3.0 + right]]), np.array([[9.0, UNTOLD]]))
        assert moved[0, 1] == pytest.approx(np.sign(right) * 2.0 * (MOST - weights.usual[1]))
        np.testing.assert_allclose(out_of_step, [[0.5 * (MOST - weights.late_usual[0]), 0.0]])


def test_a_cohort_tells_what_own_lines_weigh_and_ranks_by_it(scorer: Scorer, person: Person) -> None:
    people = [replace(person(130.0, seed=s), subject=str(s)) for s in (810_000, 810_001)]
    found = calibrate_cohort([(people, Scorer(scorer.bundle))], exclude_labels=())
    assert found.enrolled is not None
    weights = found.enrolled.weights
    assert weights is not None
    assert (weights.weight > 0).any() and (weights.usual > 0).all()
    assert found.coordination is not None
    ratios = [c.likelihood for c in (found, found.enrolled, found.coordination.weights, weights)]
    for each in ratios:  # what loss does is measured on each by itself
        assert (each[:, 2:4] <= 0).all() and (each[:, 4:] >= 0).all() and each[:, 4:].any()
    assert len({each[:, 2:].tobytes() for each in ratios}) == 4
    alone, both = (np.quantile(r, 0.99) for r in (weights.reference, found.enrolled.reference))
    assert both == pytest.approx(alone, abs=max(0.5 * weights.further[0], 0.05))
    kept = found.to_arrays()
    same = follow_calibration(found, scorer, scorer, people, exclude_labels=()).to_arrays()  # in the same precision
    assert same.keys() == kept.keys() and all(np.array_equal(same[name], kept[name]) for name in kept)
    read = Calibration.from_arrays(kept, scorer.manifest).enrolled
    assert read is not None and read.weights is not None
    for f in fields(Weights):
        np.testing.assert_array_equal(getattr(read.weights, f.name), getattr(weights, f.name))
    before = {name: array for name, array in kept.items() if not name.startswith("enrolled_coordination_")}
    read = Calibration.from_arrays(before, scorer.manifest).enrolled
    assert read is not None and read.weights is None
    for name, wrong, why in (
        ("weight", -weights.weight - 1, "enrolled: coordination_weight is negative"),
        ("usual", weights.usual[:1], "expected"),
        ("reference", weights.reference[::-1], "reference must be sorted"),
    ):
        with pytest.raises(BundleError, match=why):
            Calibration.from_arrays({**kept, f"enrolled_coordination_{name}": wrong}, scorer.manifest)
    with pytest.raises(BundleError, match="missing or unused: enrolled_coordination_further"):
        Calibration.from_arrays(
            {n: a for n, a in kept.items() if n != "enrolled_coordination_further"}, scorer.manifest
        )


def test_of_a_stack_of_people_each_is_judged_as_alone(scorer: Scorer) -> None:
    cohort = scorer.calibration
    each = [enrolled(scorer, s).calibration(cohort, scorer.groups) for s in (0, 1)]
    stacked = stack_calibrations([each[0], cohort, each[1]]).rows(np.array([2, 1]))
    block = scores(
        channel=np.zeros((2, 12)), scored=np.ones((2, 12), bool), intensity=np.array([[-2.0, -5.0], [-2.0, -5.0]]),
        late=np.array([[0.5, UNTOLD], [0.1, 0.2]]), missing=np.zeros((2, 2)), full=np.ones(2, bool),
    )  # fmt: skip
    found = stacked.assess(block, scorer.groups)
    for row, own in enumerate((each[1], cohort)):
        alone = own.assess(block, scorer.groups)
        np.testing.assert_allclose(found.sensor[row], alone.sensor[row], atol=1e-9)
        assert found.p_value[row] == pytest.approx(alone.p_value[row])
