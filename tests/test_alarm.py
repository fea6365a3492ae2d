"""Alarms: the promise is kept under its condition, the gate closes outside it, and changes are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.alarm import AlarmConfig, Alarms, put_streams, take_streams
from kinedge.edge.calibration import UNSCORED, EnrolledCohort
from kinedge.edge.measures.seconds import state_to_arrays
from kinedge.edge.promise import Watched, promise, setting
from kinedge.errors import ConfigError, SignalError

LIMITS = np.array([0.0016, 0.087, 0.21, 0.35, 0.35])
BLOCK_S = 2.0
LEARNING = 300  # blocks of two seconds in ten minutes


def cohort(limits=LIMITS):
    return EnrolledCohort(
        reference=np.zeros(20),
        likelihood=np.zeros((2, 2)),
        levels=np.array([0.5, 1.0]),
        limits=np.stack([np.minimum(1.5 * limits, 0.9), limits]),
        n_subjects=np.array([14.0]),
    )


def alarms(n_detectors=5, **settings):
    return Alarms(cohort(), n_detectors=n_detectors, block_s=BLOCK_S, config=AlarmConfig(**settings))


def bursts(rng, n_blocks, shape, limits=LIMITS):
    """Exceedances whose chance is exactly the limit for what went before."""
    out = np.zeros((n_blocks, *shape), bool)
    for t in range(n_blocks):
        h = out[max(0, t - 4) : t].sum(axis=0)
        out[t] = rng.random(shape) < limits[h]
    return out


def run(detector, exceeds, *, above=None, heard=None, state=None):
    """Return alarms (n_blocks, n_streams), validity, and the last state."""
    state = state or detector.initial_state(exceeds.shape[1])
    called, valid = [], []
    for t, x in enumerate(exceeds):
        u = np.where(x, 2.0, 0.0)
        if heard is not None:
            u = np.where(heard[t], u, UNSCORED)
        q95 = np.full(x.shape, 9.0) if above is None else np.where(above[t], -9.0, 9.0)
        step, state = detector.step(u, q95, state)
        called.append(step.alarm)
        valid.append(step.valid)
    return np.array(called), np.array(valid), state


def calm(n_blocks, n_streams=1, n_detectors=5):
    return np.zeros((n_blocks, n_streams, n_detectors), bool)


@pytest.mark.parametrize("hours", [0.25, 1.0])
def test_false_episodes_stay_within_the_promise_although_blocks_are_dependent(hours):
    rng = np.random.default_rng(0)
    n_blocks, n_streams = 3000, 80
    detector = alarms(hours_per_false_episode=hours)
    called, _, _ = run(detector, bursts(rng, n_blocks, (n_streams, 5)))
    promised = (n_blocks - LEARNING) * n_streams / detector.n_blocks
    assert 0 < called.sum() <= promised + 3 * np.sqrt(promised)


def test_the_evidence_less_what_was_promised_never_grows_on_average():
    # R + N * alarms - t is a supermartingale: its mean over many people stays at or below 0
    rng = np.random.default_rng(1)
    detector = alarms(hours_per_false_episode=0.25)
    state, n_alarms = detector.initial_state(400), 0
    history = bursts(rng, 1300, (400, 5))
    for x in history[:LEARNING]:
        _, state = detector.step(np.where(x, 2.0, 0.0), np.full(x.shape, 9.0), state)
    start = state.evidence.mean()
    for x in history[LEARNING:]:
        step, state = detector.step(np.where(x, 2.0, 0.0), np.full(x.shape, 9.0), state)
        n_alarms += step.alarm.sum()
    drift = state.evidence.mean() - start + detector.n_blocks * n_alarms / 400 - 1000
    assert drift < 250


def test_debounce_knows_no_promise():
    rng = np.random.default_rng(2)
    history = bursts(rng, 3000, (60, 5))
    kept, _, _ = run(alarms(hours_per_false_episode=24.0), history)
    broken, _, _ = run(alarms(kind="debounce", hours_per_false_episode=24.0), history)
    promised = (3000 - LEARNING) * 60 * BLOCK_S / 86400
    assert kept.sum() <= promised + 3 * np.sqrt(promised) and broken.sum() > 5 * promised


@pytest.mark.parametrize("kind", ["e_detector", "debounce", "cusum"])
def test_a_lasting_change_of_one_detector_is_found_within_half_a_minute(kind):
    exceeds = calm(LEARNING + 30, 3)
    exceeds[LEARNING + 5 :, 1, 2] = True
    called, _, _ = run(alarms(kind=kind), exceeds)
    assert not called[: LEARNING + 5].any() and not called[:, [0, 2]].any()
    assert 0 < np.flatnonzero(called[:, 1])[0] - LEARNING - 4 <= 15


def test_a_rarer_promise_takes_more_evidence():
    exceeds = calm(LEARNING + 40)
    exceeds[LEARNING + 5 :, :, 0] = True
    first = [
        np.flatnonzero(run(alarms(hours_per_false_episode=h), exceeds)[0][:, 0])[0] for h in (0.25, 8.0, 24.0 * 30)
    ]
    assert first == sorted(first) and first[0] < first[2]


def test_nothing_is_valid_and_nothing_alarms_in_the_first_ten_minutes():
    exceeds = calm(LEARNING + 5)
    exceeds[50:150] = True
    called, valid, _ = run(alarms(), exceeds)
    assert not called.any() and not valid[: LEARNING - 1].any() and valid[LEARNING:].all()


def test_an_alarm_does_not_rest_on_what_came_before_the_gate_opened():
    exceeds = calm(LEARNING + 3)
    exceeds[LEARNING - 20 : LEARNING - 1] = True
    called, _, _ = run(alarms(), exceeds)
    assert not called.any()


def test_a_new_normal_closes_the_gate_and_the_old_one_opens_it_again():
    n = LEARNING + 1500
    above = calm(n)
    above[LEARNING + 100 : LEARNING + 500, 0, 3] = True
    _, valid, _ = run(alarms(), calm(n), above=above)
    assert valid[LEARNING : LEARNING + 100].all()
    assert not valid[LEARNING + 300 : LEARNING + 500].any() and valid[-1]


def test_what_was_not_heard_bets_nothing_and_is_not_valid():
    rng = np.random.default_rng(3)
    exceeds = calm(LEARNING + 60)
    exceeds[LEARNING:, :, 0] = True
    heard = np.ones(exceeds.shape, bool)
    heard[LEARNING::2] = False  # every second block is missing: no history is ever known
    called, valid, _ = run(alarms(), exceeds, heard=heard)
    assert not called.any() and not valid[LEARNING::2].any()
    heard[:] = rng.random(exceeds.shape) < 0.97
    heard[:, :, 0] = True
    assert run(alarms(), exceeds, heard=heard)[0].any()


def test_evidence_is_bounded_whatever_comes():
    exceeds = np.ones((3000, 1, 5), bool)
    for kind in ("e_detector", "debounce", "cusum"):
        _, _, state = run(alarms(kind=kind), exceeds, above=exceeds)
        assert np.isfinite(state.evidence).all() and state.evidence.max() <= 1e12


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 3))
def test_streams_do_not_touch_one_another(order, n_part):
    rng = np.random.default_rng(4)
    detector = alarms()
    exceeds = rng.random((400, 4, 5)) < 0.05
    together, _, state = run(detector, exceeds)
    apart, _, moved = run(detector, exceeds[:, order])
    np.testing.assert_array_equal(together[:, order], apart)
    rows = np.array(order[:n_part])
    whole = put_streams(state, rows, take_streams(state, rows))
    assert all(np.array_equal(v, state_to_arrays(whole)[k]) for k, v in state_to_arrays(state).items())
    np.testing.assert_array_equal(moved.evidence, state.evidence[list(order)])


def test_a_level_that_the_cohort_was_not_counted_at_is_refused():
    with pytest.raises(ConfigError, match=r"0\.7 was not counted"):
        alarms(level=0.7)


def test_shapes_that_do_not_fit_are_refused():
    detector = alarms()
    with pytest.raises(SignalError, match="got"):
        detector.step(np.zeros((2, 5)), np.zeros((2, 5)), detector.initial_state(1))


def shifted(n_blocks, *, by, share=1.0, n_detectors=5):
    """Return u of a day that lies higher, and the 95 % quantile of the enrolment."""
    rng = np.random.default_rng(7)
    u = rng.exponential(0.217, (n_blocks, 1, n_detectors))  # the 99 % quantile is 1
    return u + by * (rng.random((n_blocks, 1, 1)) < share), np.full((1, n_detectors), 0.65)


def walked(detector, u, q95):
    state, steps = detector.initial_state(1), []
    for row in u:
        step, state = detector.step(row, q95, state)
        steps.append(step)
    return steps, state


def test_a_day_that_lies_higher_is_followed_and_stays_valid_without_false_episodes():
    u, q95 = shifted(LEARNING + 1200, by=0.6)
    followed, state = walked(alarms(), u, q95)
    assert not any(s.alarm[0] for s in followed) and all(s.valid[0] for s in followed[LEARNING + 300 :])
    assert state.shift.min() > 0.3 and state.shift.max() < 0.8
    left, _ = walked(alarms(follow=0), u, q95)
    assert not any(s.valid[0] for s in left[LEARNING + 300 :]) and left[-1].shift[0] == 0


def test_no_more_than_the_bound_is_followed_and_then_the_gate_closes():
    u, q95 = shifted(LEARNING + 1500, by=2.5)
    steps, state = walked(alarms(), u, q95)
    assert state.shift.max() <= 1.0 and not any(s.valid[0] for s in steps)


def test_an_ordinary_day_is_not_followed_and_a_short_change_hardly():
    u, q95 = shifted(LEARNING + 600, by=0.0)
    u[-15:] += 5.0
    steps, state = walked(alarms(), u, q95)
    assert max(s.shift[0] for s in steps[:-15]) < 0.15
    assert state.shift.max() < 0.2
    assert any(s.alarm[0] for s in steps[-15:]) and not any(s.alarm[0] for s in steps[:-15])


def with_tails():
    return replace(cohort(), tail_levels=np.array([1.5, 3.0]), tails=np.stack([LIMITS / 4, LIMITS / 20]))


def test_far_exceedances_alarm_sooner_where_the_cohorts_tails_are_known():
    def delay(cohort):
        detector = Alarms(cohort, n_detectors=5, block_s=BLOCK_S)
        u = np.zeros((LEARNING + 40, 1, 5))
        u[LEARNING + 5 :, 0, 2] = 6.0
        steps, _ = walked(detector, u, np.full((1, 5), 9.0))
        return [s.alarm[0] for s in steps].index(True) - LEARNING - 4

    assert delay(with_tails()) < delay(cohort())


def test_bets_on_tails_keep_the_promise_too():
    rng = np.random.default_rng(5)
    detector = Alarms(with_tails(), n_detectors=5, block_s=BLOCK_S, config=AlarmConfig(hours_per_false_episode=0.25))
    state, n_alarms, n_streams, past = detector.initial_state(80), 0, 80, np.zeros((4, 80, 5), bool)
    for _ in range(2300):
        draw, h = rng.random((80, 5)), past.sum(axis=0)
        u = np.where(draw < LIMITS[h], 1.2, 0.0) + (draw < LIMITS[h] / 4) + 2 * (draw < LIMITS[h] / 20)
        step, state = detector.step(u, np.full(u.shape, 9.0), state)
        n_alarms += step.alarm.sum()
        past = np.concatenate([past[1:], (u > 1)[None]])
    promised = 2000 * n_streams / detector.n_blocks
    assert 0 < n_alarms <= promised + 3 * np.sqrt(promised)


def test_who_exceeds_more_often_than_the_cohort_needs_more_evidence():
    exceeds = calm(LEARNING + 40, 2)
    exceeds[LEARNING + 5 :, :, 0] = True
    worse = np.ones((2, 5))
    worse[1] = 1.6
    detector = Alarms(cohort(), n_detectors=5, block_s=BLOCK_S, worse=worse)
    called, _, _ = run(detector, exceeds)
    usual, much = (np.flatnonzero(called[:, i])[0] for i in (0, 1))
    assert usual < much
    state = take_streams(run(detector, exceeds[: LEARNING + 8])[2], np.array([1]))
    apart = [s.alarm[0] for s in _steps(detector, exceeds[LEARNING + 8 :, 1:], state, rows=np.array([1]))]
    assert apart.index(True) + LEARNING + 8 == much


def _steps(detector, exceeds, state, *, rows):
    for x in exceeds:
        step, state = detector.step(np.where(x, 2.0, 0.0), np.full(x.shape, 9.0), state, rows=rows)
        yield step


def test_what_is_not_valid_says_until_when():
    early = Watched(False, False, 0.0, 0.4, 0.05, "all", "")
    assert early.valid_in_s == pytest.approx(360) and "valid after 6 more minutes" in early.why_invalid
    odd = Watched(False, False, 0.0, 1.0, 0.55, "all", "")
    assert odd.valid_in_s == pytest.approx(600) and "unlike" in odd.why_invalid and "10 more minutes" in odd.why_invalid
    assert Watched(False, True, 0.0, 1.0, 0.05, "all", "").why_invalid == ""


def test_the_promise_says_its_condition_and_what_the_audit_found():
    kept = promise(AlarmConfig(), audit="holds", n_subjects=14)
    assert "at most one false episode per 8 hours" in kept and "14 people" in kept and "did" in kept
    assert "do not rely" in promise(AlarmConfig(), audit="does not hold", n_subjects=14)
    assert "7 days" in promise(AlarmConfig(hours_per_false_episode=168), audit="holds", n_subjects=14)
    assert "nothing is promised" in promise(AlarmConfig(), audit=None, n_subjects=14)
    assert "at most one false episode per 8 hours" in setting(AlarmConfig())
    assert "nothing is promised" in setting(None)
    assert "promises nothing" in promise(AlarmConfig(kind="cusum"), audit="holds", n_subjects=14)
