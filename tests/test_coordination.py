"""A sensor that moves more or less than the others let expect is unusual, however well it is forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from coordinated import HALF, walker
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from weighed_blocks import CONFIG, scores

from kinedge.edge.attribution import go_on
from kinedge.edge.calibration import UNSCORED, Calibration, stack_calibrations
from kinedge.edge.caution import BeliefState, believe
from kinedge.edge.coordination import MOST, Coordination, Lines, Weights
from kinedge.edge.personal import Blocks, fit_baseline
from kinedge.edge.scores import NO_STEP
from kinedge.edge.scoring import Scorer
from kinedge.edge.timing import UNTOLD
from kinedge.errors import BundleError
from kinedge.recording import Recording
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.coordination import fit_coordination, weighed

Person = Callable[..., Recording]


@pytest.fixture(scope="module")
def together() -> Coordination:
    found = fit_coordination([walker(s) for s in range(6)])
    assert found is not None
    return replace(found, weights=replace(found.weights, weight=np.array([1.0, 2.0, 0.5])))


def test_a_limb_that_moves_half_as_far_is_unusual_and_so_is_one_that_moves_twice_as_far(together: Coordination) -> None:
    usual = walker(100).intensity
    assert np.quantile(together.lines.unusual(usual), 0.98, axis=0) == pytest.approx(1.0, abs=0.25)
    for change in (HALF, -HALF):
        struck = usual.copy()
        struck[:, 0] += change
        v = together.lines.unusual(struck)
        assert (v[:, 0] > 1).mean() > 0.95
        assert (v.argmax(axis=1) == 0).mean() > 0.85


def test_a_body_that_slows_down_as_a_whole_is_not(together: Coordination) -> None:
    calm = walker(101).intensity + HALF
    assert (together.lines.unusual(calm).max(axis=1) > 1).mean() < 0.1


def test_what_one_more_person_adds_is_within_the_quantiles() -> None:
    alike = fit_coordination([walker(s) for s in range(6)])
    each_otherwise = fit_coordination([walker(s, shift=0.8 * (s - 2.5)) for s in range(6)])
    assert alike is not None and each_otherwise is not None
    widths = [(c.lines.high - c.lines.low)[:, -1].mean() for c in (alike, each_otherwise)]
    assert widths[1] > 3 * widths[0]
    another = walker(7, shift=1.6).intensity
    assert (alike.lines.unusual(another)[:, -1] > 1).mean() > 0.95
    assert (each_otherwise.lines.unusual(another)[:, -1] > 1).mean() < 0.05


def test_the_line_of_each_person_is_fitted_on_the_others() -> None:
    apart = fit_coordination([walker(0, shift=-1.0), walker(1, shift=1.0)])
    assert apart is not None
    # a line of both lies between them, 1 from each; that of the one lies 2 from the other
    assert (apart.lines.high - apart.lines.low)[:, -1].mean() > 3.5


def test_it_is_told_from_the_median_of_what_is_left_above_the_line() -> None:
    flat = np.ones((2, 2))
    known = Lines(
        mix=np.array([[0.0, 1.0, 0.5], [1.0, 0.0, -0.5]]),
        levels=np.array([[-9.0, -9.0], [9.0, 9.0]]),
        low=-1 * flat,
        middle=0.5 * flat,
        high=1.5 * flat,
    )
    # the line of the first lies at -1.5
    for first, v in ((-1.0, 0.0), (0.0, 1.0), (1.0, 2.0), (-2.5, 1.0), (99.0, MOST)):
        assert known.unusual(np.array([[first, -2.0]]))[0, 0] == pytest.approx(v)


def test_every_person_counts_the_same_however_long_they_were_recorded() -> None:
    short, long = walker(0, shift=-1.0, n=200), walker(1, shift=1.0, n=5000)
    found = fit_coordination([short, long])
    assert found is not None
    mix = found.lines.mix[-1]
    assert mix[-1] + mix[:2] @ np.array([-2.0, -1.0]) == pytest.approx(
        0.0, abs=0.15
    )  # where the longer one alone pulls it to 1


def test_a_single_sensor_and_a_few_blocks_have_no_coordination() -> None:
    assert fit_coordination([walker(s, n_sensors=1) for s in range(3)]) is None
    assert fit_coordination([walker(s, n=60) for s in range(3)]) is None


def test_lateness_is_told_in_its_99_per_cent_quantile_and_beyond_what_is_usual() -> None:
    people = [walker(s) for s in range(4)]
    always_in_time = fit_coordination(people)
    assert always_in_time is not None
    np.testing.assert_array_equal(always_in_time.weights.late_scale, 0.1)  # or any step otherwise would be rare
    np.testing.assert_array_equal(always_in_time.weights.away(np.array([[-1.0, 0.05, UNTOLD]]))[0, :2], [0.0, 0.5])
    rng = np.random.default_rng(0)
    late = [np.where(rng.random((400, 1)) < 0.3, UNTOLD, rng.exponential(1.0, (400, 3))) for _ in people]
    found = fit_coordination([replace(p, late=x) for p, x in zip(people, late, strict=True)])
    assert found is not None
    timed = np.concatenate(late)
    timed = timed[timed[:, 0] > UNTOLD]
    np.testing.assert_allclose(found.weights.late_scale, np.quantile(timed, 0.99, axis=0))
    expected = np.minimum(timed / np.quantile(timed, 0.99, axis=0), MOST).mean(axis=0)
    np.testing.assert_allclose(found.weights.late_usual, expected)
    np.testing.assert_array_equal(found.weights.away(np.full((1, 3), UNTOLD))[0], found.weights.late_usual)


def test_it_weighs_what_it_tells_beside_the_surprise(together: Coordination) -> None:
    rng = np.random.default_rng(0)
    calm = walker(200, n=2000).intensity
    odd = walker(201, n=2000).intensity
    odd[:1000, 0] += HALF

    def told(u: np.ndarray, intensity: np.ndarray, w: float = 0.0) -> list[np.ndarray]:
        v = together.lines.unusual(intensity)[:, 0]
        return list(np.stack([u, v, w + 0.1 * rng.random(2000)], axis=1))

    def noise() -> np.ndarray:
        return rng.normal(0, 0.4, 2000)

    def weights_of(one: list[np.ndarray], other: list[np.ndarray]) -> Weights:
        return weighed(together.weights, [(one, other), ([], []), ([], [])])

    seen_by_both = weights_of(told(noise(), calm), told(noise() + 1, odd))
    seen_by_it_alone = weights_of(told(noise(), calm), told(noise(), odd))
    assert 0.2 < seen_by_both.weight[0] < seen_by_it_alone.weight[0] <= 3
    alone = seen_by_both.likelihood[0]
    assert alone[0] < 0 < alone[1]
    calm_again = walker(202, n=2000).intensity
    of_nothing = weights_of(told(noise(), calm), told(noise() + 1, calm_again))
    assert of_nothing.weight[0] < 0.2 and of_nothing.late_weight[0] < 0.2
    assert of_nothing.likelihood[0] == pytest.approx(alone, rel=0.1)  # what u tells alone does not hang on the others
    # more unusual never speaks for normal
    assert weights_of(told(noise(), odd, 1.0), told(noise() + 1, calm)).weight[0] == 0
    assert weights_of(told(noise(), calm, 1.0), told(noise() + 1, calm_again)).late_weight[0] == 0
    assert 0.2 < weights_of(told(noise(), calm), told(noise() + 1, calm_again, 0.5)).late_weight[0] <= 3
    # of sensors with too few changes nothing is known
    np.testing.assert_array_equal(seen_by_both.weight[1:], together.weights.weight[1:])


@given(arrays(np.float64, (4, 3), elements=st.floats(-40, 40)))
def test_it_is_finite_and_bounded_whatever_is_measured(intensity: np.ndarray) -> None:
    found = fit_coordination([walker(s) for s in range(3)])
    assert found is not None
    v = found.lines.unusual(intensity)
    assert ((v >= 0) & (v <= MOST)).all()
    for one, rows in pairwise(range(5)):
        np.testing.assert_array_equal(found.lines.unusual(intensity[one:rows]), v[one:rows])


def with_coordination(scorer: Scorer, **changes: object) -> Calibration:
    found = fit_coordination([walker(s, n_sensors=2) for s in range(6)])
    assert found is not None
    alone = np.tile([-2.0, 3.0, 0, 0, 0, 0], (2, 1))
    weights = replace(
        found.weights,
        weight=np.array([2.0, 1.0]),
        late_weight=np.array([0.5, 1.5]),
        reference=scorer.calibration.reference + 0.5,
        likelihood=alone,
        further=np.array([0.25]),
    )
    found = replace(found, weights=weights)
    return replace(scorer.calibration, coordination=found, **changes)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_what_lies_between_what_the_others_let_expect_now_and_a_hop_ago_is_expected(seed: int, n_sensors: int) -> None:
    rng = np.random.default_rng(seed)
    together = fit_coordination([walker(i, n_sensors=n_sensors) for i in range(3)])
    assert together is not None
    now, before = (
        walker(seed, n=40, n_sensors=n_sensors).intensity,
        walker(seed + 1, n=40, n_sensors=n_sensors).intensity,
    )
    before[:, 0] = np.maximum(rng.normal(-2, 3, 40), NO_STEP + 0.1)
    plain = together.lines.signed(now)
    v = together.lines.signed(now, before=before)
    np.testing.assert_array_equal(together.lines.signed(now, before=now), plain)
    for i in range(n_sensors):
        as_then = before.copy()
        as_then[:, i] = now[:, i]
        then = together.lines.signed(as_then)[:, i]
        nearer = np.where(np.abs(then) < np.abs(plain[:, i]), then, plain[:, i])
        np.testing.assert_array_equal(v[:, i], np.where(then * plain[:, i] > 0, nearer, 0.0))
    silent_then = before.copy()
    silent_then[::2, 0] = NO_STEP
    v = together.lines.signed(now, before=silent_then)
    np.testing.assert_array_equal(v[::2], plain[::2])


def test_a_limb_that_sets_off_a_hop_later_is_no_change_and_one_that_stays_behind_is(scorer: Scorer) -> None:
    together = with_coordination(scorer).coordination
    assert together is not None
    rest, walk = np.array([-6.0, -6.0]), np.array([-2.0, -2.0])

    def added(*course: tuple[float, float]) -> list[float]:
        path, late = np.array([rest, *course]), np.full((1, 2), UNTOLD)
        steps = [together.added(path[[k]], late, before=path[[k - 1]]) for k in range(1, len(path))]
        return [float(more[0, 0]) for more in steps]

    usual = added(tuple(walk), tuple(walk))
    later = added((-6.0, -2.0), tuple(walk))
    behind = added((-6.0, -2.0), (-6.0, -2.0), (-6.0, -2.0))
    assert later[0] <= max(usual) + 1e-9 and later[1] <= max(usual) + 1e-9
    assert behind[1] > max(usual) + 1 and behind[2] == behind[1]


def test_it_adds_to_the_statistic_where_all_sensors_were_heard_and_it_is_known_of_a_person(scorer: Scorer) -> None:
    usual = scorer.calibration.usual(np.array([[-2.0 + HALF, -1.0]]), scorer.groups)[0]
    block = scores(channel=usual, intensity=np.array([[-2.0 + HALF, -1.0]]))
    known = with_coordination(scorer)
    before = replace(scorer.calibration, coordination=None)
    plain, found = (c.assess(block, scorer.groups) for c in (before, known))
    assert known.coordination is not None
    more = known.coordination.added(block.intensity, block.late)
    assert more[0, 0] > 0.7
    np.testing.assert_array_equal(found.sensor, plain.sensor + more)
    assert found.score[0] == found.sensor.max() - 0.25 > plain.score[0]
    # what is rare in one way is rare, and of what is set back nothing is taken from the channels' own surprise
    calm = scores(channel=np.full((1, 12), 2.0), intensity=np.array([[-2.0, -1.0]]))
    seen = known.assess(calm, scorer.groups)
    assert (seen.sensor < before.assess(calm, scorer.groups).sensor).all()
    assert seen.score[0] == before.assess(calm, scorer.groups).score[0]
    assert found.p_value[0] <= plain.p_value[0]
    np.testing.assert_array_equal(found.channel, plain.channel)
    muted = known.coordination.muted(known.reference, known.likelihood)
    enrolled = replace(known, of_one=np.ones(()), coordination=muted)
    np.testing.assert_array_equal(enrolled.assess(block, scorer.groups).sensor, plain.sensor)
    mixed = stack_calibrations([known, enrolled]).assess(
        scores(
            intensity=np.repeat(block.intensity, 2, axis=0),
            scored=np.ones((2, 12), bool),
            channel=np.repeat(usual, 2, axis=0),
        ),
        scorer.groups,
    )
    np.testing.assert_array_equal(mixed.sensor, np.concatenate([found.sensor, plain.sensor]))
    deaf = replace(block, scored=np.repeat([[True, False]], 6, axis=1))
    heard = known.assess(deaf, scorer.groups).sensor
    assert heard[0, 1] == UNSCORED
    np.testing.assert_array_equal(heard, before.assess(deaf, scorer.groups).sensor)
    of_every_other_sample = scores(intensity=np.array([[NO_STEP, -1.0]]))
    found, plain = (c.assess(of_every_other_sample, scorer.groups) for c in (known, before))
    np.testing.assert_array_equal(found.sensor, plain.sensor)
    assert found.p_value[0] > plain.p_value[0]  # ranked by the reference of u alone, which lies higher here
    for alone_known in (replace(known, coordination=None), enrolled):
        alone = alone_known.assess(deaf, scorer.groups)
        assert (known.assess(deaf, scorer.groups).p_value > alone.p_value).all() or alone.p_value == 1


def test_where_one_of_two_is_silent_the_other_is_judged_by_its_own_surprise(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    assert known.coordination is not None
    deaf = scores(scored=np.repeat([[True, False]], 6, axis=1), missing=np.array([[0.0, 1.0]]))
    unusual = known.assess(deaf, scorer.groups)
    start = BeliefState.initial(1, 2, 12)

    def lean(calibration: Calibration) -> float:
        return float(believe(deaf, unusual, calibration, CONFIG, start, hop_s=1.0, block_s=2.0)[0].lean[0])

    weights = replace(known.coordination.weights, likelihood=np.tile([0.5, 3.0, 0, 0, 0, 0], (2, 1)))
    other = replace(known, coordination=replace(known.coordination, weights=weights))
    more = known.likelihood + np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert lean(other) > lean(known)  # by u alone
    assert lean(replace(other, likelihood=more)) == lean(other)
    of_one = replace(known, coordination=known.coordination.muted(known.reference, known.likelihood))
    raised = known.coordination.muted(known.reference, more)
    assert lean(replace(of_one, coordination=raised)) > lean(of_one)


def test_where_no_cohort_was_enrolled_a_person_is_judged_by_the_ratios_of_surprise_alone(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    rng = np.random.default_rng(0)
    of_sensors = rng.normal(size=(90, 2)), np.full((90, 2), NO_STEP), np.full((90, 2), UNTOLD)
    blocks = Blocks(rng.normal(size=(90, 12)), *of_sensors, np.arange(90))
    assert known.enrolled is not None and known.coordination is not None
    for enrolled, expected in (
        (known.enrolled, known.enrolled.likelihood[:, :2]),
        (None, known.coordination.weights.likelihood[:, :2]),
    ):
        cohort = replace(known, enrolled=enrolled)
        own = fit_baseline(blocks, np.eye(12), cohort=cohort, groups=scorer.groups).calibration(cohort, scorer.groups)
        np.testing.assert_array_equal(own.likelihood[:, :2], expected)
        assert own.likelihood.shape == (2, 6)


def test_what_moves_otherwise_beside_the_others_is_named_as_a_whole_by_its_part(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    start = BeliefState.initial(1, 2, 12)

    def shares(left_moves: float, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, BeliefState]:
        intensity = np.array([[left_moves, -1.0]])
        channel = known.usual(intensity, scorer.groups)[0].copy()
        channel[0, 6] += 0.4  # one channel of the right wrist is a little odd
        block = scores(channel=channel, intensity=intensity)
        unusual = calibration.assess(block, scorer.groups)
        belief, state = believe(block, unusual, calibration, CONFIG, start, hop_s=1.0, block_s=2.0)
        state = go_on(block, unusual, belief, calibration, scorer.groups, state, hop_s=1.0)
        return state.channel_share[0], state.sensor_share[0], state

    channels, sensors, state = shares(-9.0, known)
    assert sensors.argmax() == 0
    assert (channels.sum(), sensors.sum()) == pytest.approx((1, 1))
    np.testing.assert_array_equal(state.coordination_shown[0] > 0, [True, True])
    without, by_sensor, state = shares(-9.0, replace(known, coordination=None))
    assert by_sensor[0] < sensors[0]
    assert not state.coordination_shown.any()
    assert (channels[:6] > without[:6]).all()  # all channels of the sensor alike


def test_what_a_sensor_lacks_beside_one_that_surprises_more_by_itself_is_the_doing_of_that_one(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    start, intensity = BeliefState.initial(1, 2, 12), np.array([[-9.0, -1.0]])
    usual = known.usual(intensity, scorer.groups)[0]

    def of_left(surprise: float) -> float:
        channel = usual.copy()
        channel[0, 8] += surprise
        block = scores(channel=channel, intensity=intensity)
        unusual = known.assess(block, scorer.groups)
        belief, state = believe(block, unusual, known, CONFIG, start, hop_s=1.0, block_s=2.0)
        state = go_on(block, unusual, belief, known, scorer.groups, state, hop_s=1.0)
        return float(state.sensor_share[0, 0])

    assert of_left(0.4) > 0.5
    assert of_left(40.0) == pytest.approx(0, abs=0.02)  # before, the lines of the left wrist had 10 % of it


def test_of_the_sensor_that_surprises_most_how_it_moves_beside_the_others_counts_all_the_same(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    start, intensity = BeliefState.initial(1, 2, 12), np.array([[-9.0, -1.0]])
    channel = known.usual(intensity, scorer.groups)[0].copy()
    channel[0, 2] += 40.0
    block = scores(channel=channel, intensity=intensity)
    unusual = known.assess(block, scorer.groups)
    belief, state = believe(block, unusual, known, CONFIG, start, hop_s=1.0, block_s=2.0)
    state = go_on(block, unusual, belief, known, scorer.groups, state, hop_s=1.0)
    assert state.channel_share[0].argmax() == 2
    assert (state.channel_share[0, [0, 1, 3, 4, 5]] > 0.005).all()  # of a sensor as a whole, all its channels alike


def test_how_a_newcomer_moves_anyway_is_not_named(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    state, intensity = BeliefState.initial(1, 2, 12), np.array([[-5.0, -1.0]])  # the left wrist, all along
    usual = known.usual(intensity, scorer.groups)[0]
    for k in range(60):
        channel = usual.copy()
        channel[0, 6] += 3.0 * (k >= 50)  # what is new is at the right one
        block = scores(channel=channel, intensity=intensity)
        unusual = known.assess(block, scorer.groups)
        belief, state = believe(block, unusual, known, CONFIG, state, hop_s=1.0, block_s=2.0)
        state = go_on(block, unusual, belief, known, scorer.groups, state, hop_s=1.0)
    assert (unusual.sensor[0] - np.maximum.reduceat(unusual.channel[0], [0, 6])).argmax() == 0
    assert state.sensor_share[0].argmax() == 1
    assert state.channel_share[0].argmax() == 6


def test_it_is_part_of_a_bundle_and_bundles_of_before_have_none(scorer: Scorer) -> None:
    known = with_coordination(scorer)
    kept = known.to_arrays()
    read = Calibration.from_arrays(kept, scorer.manifest).coordination
    assert read is not None and known.coordination is not None
    for one, other in ((read.lines, known.coordination.lines), (read.weights, known.coordination.weights)):
        for f in fields(one):
            np.testing.assert_array_equal(getattr(one, f.name), getattr(other, f.name))
    of_before = {**kept, **{name: kept[name][:, :2] for name in kept if name.endswith("coordination_likelihood")}}
    read = Calibration.from_arrays(of_before, scorer.manifest)  # what loss does was not measured apart
    for one, whole in (
        (read.coordination, known.likelihood),
        (read.enrolled, known.enrolled and known.enrolled.likelihood),
    ):
        weights = one and one.weights
        assert weights is not None and whole is not None and whole[:, 2:].any()
        np.testing.assert_array_equal(weights.likelihood[:, 2:], whole[:, 2:])
    bare = replace(known.coordination.weights, likelihood=known.coordination.weights.likelihood[:, :2])
    assert bare.likelihood.shape == (2, 6) and not bare.likelihood[:, 2:].any()  # as wide as C takes them to be
    untimed = {name: array for name, array in kept.items() if not name.startswith("coordination_late")}
    read = Calibration.from_arrays(untimed, scorer.manifest).coordination
    assert read is not None and not read.weights.late_weight.any()
    before = {name: array for name, array in kept.items() if not name.startswith("coordination_")}
    assert Calibration.from_arrays(before, scorer.manifest).coordination is None


@pytest.mark.parametrize(
    ("name", "spoil", "why"),
    [
        ("weight", lambda a: -a, "coordination_weight is negative"),
        ("weight", lambda a: a * np.nan, "not finite"),
        ("further", lambda a: a - 1, "coordination_further is negative"),
        ("levels", lambda a: a[::-1], "levels must increase"),
        ("levels", lambda a: a[:1], "expected"),
        ("levels", lambda a: a[0, 0], "expected"),
        ("low", lambda a: a + 99, "low, middle and high must increase"),
        ("high", lambda a: a - 99, "low, middle and high must increase"),
        ("mix", lambda a: a[:, :-1], "expected"),
        ("usual", lambda a: a[:1], "expected"),
        ("usual", None, "missing or unused"),
        ("late_usual", None, "missing or unused"),
        ("late_weight", lambda a: -a, "coordination_late_weight is negative"),
        ("late_scale", lambda a: 0 * a, "late_scale must be positive"),
        ("reference", lambda a: a[::-1], "reference must be sorted"),
        ("reference", lambda a: a[:0], "reference must be sorted"),
        ("likelihood", lambda a: a[:1], "expected"),
        ("likelihood", lambda a: a[:, :3], "expected"),
        ("likelihood", lambda a: a - np.array([0.0, 0, 0, 0, 9, 0]), "say less by is negative"),
    ],
)
def test_what_cannot_be_a_coordination_is_refused(
    scorer: Scorer, name: str, spoil: Callable[[np.ndarray], np.ndarray] | None, why: str
) -> None:
    kept = with_coordination(scorer).to_arrays()
    if spoil is None:
        del kept[f"coordination_{name}"]
    else:
        kept[f"coordination_{name}"] = np.array(spoil(kept[f"coordination_{name}"]))
    with pytest.raises(BundleError, match=why):
        Calibration.from_arrays(kept, scorer.manifest)


def test_a_cohort_is_calibrated_with_it_and_ranks_by_it(scorer: Scorer, person: Person) -> None:
    people = [replace(person(130.0, seed=s), subject=str(s)) for s in (810_000, 810_001)]
    found = calibrate_cohort([(people, Scorer(scorer.bundle))], exclude_labels=())
    assert found.coordination is not None
    weights = found.coordination.weights
    assert (weights.weight > 0).any()
    alone = replace(found, coordination=None)
    block = scores(channel=np.full((1, 12), -1.0), intensity=np.array([[-9.0, 1.0]]))
    with_it, without = (c.assess(block, scorer.groups) for c in (found, alone))
    assert with_it.score[0] > without.score[0]
    # a block may be rare in either way: both reach as far
    alone_99, both_99 = (np.quantile(r, 0.99) for r in (weights.reference, found.reference))
    assert weights.further[0] > 0
    assert both_99 == pytest.approx(alone_99, abs=0.5 * weights.further[0])
