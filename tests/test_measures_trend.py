"""Weeks: a decline is told, a recovery and a bad day are not, and "both arms" is another sentence."""

from __future__ import annotations

import numpy as np
import pytest

from kinedge.edge.measures.seconds import state_from_arrays, state_to_arrays
from kinedge.edge.measures.trend import DailyTrend, DailyTrendConfig, TrendDay, arm_trend
from kinedge.errors import ConfigError


def said(values, *, worn_h=12.0, config=None, error=0.0):
    trend = DailyTrend(config)
    state, days = trend.initial_state(), []
    for value in values:
        day, state = trend.step(value, state, worn_h=worn_h, error=error)
        days.append(day)
    return days


def noise(seed, n, sd=0.05):
    return np.random.default_rng(seed).normal(scale=sd, size=n)


def test_a_steady_person_is_as_usual_for_months():
    alarms = [any(d.state == "lower" for d in said(0.7 + noise(s, 100))) for s in range(200)]
    assert np.mean(alarms) < 0.05  # in three months


def test_a_slow_decline_over_four_weeks_is_told():
    found = []
    for seed in range(100):
        days = said(np.concatenate([np.full(14, 0.7), np.linspace(0.7, 0.45, 28)]) + noise(seed, 42))
        found.append(any(d.state == "lower" for d in days[14:]))
    assert np.mean(found) >= 0.95


def test_a_sudden_drop_is_told_within_days():
    delays = []
    for seed in range(100):
        days = said(np.concatenate([np.full(14, 0.7), np.full(14, 0.5)]) + noise(seed, 28))
        delays.append(next((i for i, d in enumerate(days[14:]) if d.state == "lower"), 99))
    assert np.median(delays) <= 3 and np.quantile(delays, 0.9) <= 6


def test_recovery_is_no_alarm_and_moves_the_expectation_along():
    alarms = 0
    for seed in range(100):
        days = said(np.concatenate([np.linspace(0.3, 0.6, 60), np.full(20, 0.6)]) + noise(seed, 80, 0.03))
        alarms += any(d.state == "lower" for d in days)
        assert days[-1].expected > 0.5
    assert alarms <= 5


def test_losing_what_was_regained_is_told():
    days = said(np.concatenate([np.linspace(0.3, 0.6, 60), np.full(14, 0.4)]) + noise(1, 74, 0.03))
    assert any(d.state == "lower" for d in days[60:])


def test_one_bad_day_alone_is_not_told():
    days = said([0.7] * 10 + [0.0] + [0.7] * 10)
    assert all(d.state != "lower" for d in days)


def test_days_without_wear_or_value_say_nothing_and_teach_nothing():
    trend = DailyTrend()
    state = trend.initial_state()
    for value in 0.7 + noise(2, 10):
        _, state = trend.step(value, state, worn_h=12)
    before = state_to_arrays(state)
    for value, worn_h in ((0.1, 2.0), (None, 12.0), (float("nan"), 12.0)):
        day, state = trend.step(value, state, worn_h=worn_h)
        assert day.state == "unsure"
    assert all(np.array_equal(v, before[k]) for k, v in state_to_arrays(state).items())


def test_an_uncertain_day_weighs_less():
    sure, unsure = (said([0.7, 0.72, 0.68] * 4 + [0.6] * 3, error=e)[-1].short for e in (0.0, 0.2))
    assert unsure < sure


def test_a_trend_goes_on_after_weeks_in_a_file():
    values = 0.7 + noise(3, 30)
    trend = DailyTrend()
    state, days = trend.initial_state(), []
    for value in values:
        day, state = trend.step(value, state, worn_h=10)
        state = state_from_arrays(trend.initial_state(), state_to_arrays(state))
        days.append(day)
    assert days == said(values, worn_h=10)


@pytest.mark.parametrize(("ratio", "overall", "word"), [
    ("lower", "as_usual", "paretic_lower"), ("lower", "lower", "paretic_lower"), ("as_usual", "lower", "both_lower"),
    ("as_usual", "as_usual", "as_usual"), ("unsure", "lower", "unsure"), ("learning", "as_usual", "learning"),
])  # fmt: skip
def test_less_on_one_side_and_less_on_both_are_two_sentences(ratio, overall, word):
    assert arm_trend(TrendDay(ratio, 0.7, 0.1, 0.0), TrendDay(overall, 5.0, 1.0, 0.0)) == word


@pytest.mark.parametrize("bad", [{"learning_days": 2}, {"gain": 0.0}, {"threshold": 0.0}, {"min_worn_h": 30.0}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ConfigError, match="a trend needs"):
        DailyTrendConfig(**bad)
