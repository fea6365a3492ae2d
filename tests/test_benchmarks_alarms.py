"""The benchmark of the promise: what it counts, and that what it simulates is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from kinedge.benchmarks.alarms_days import ANOMALY_S, Event, Told, kinds, people_of
from kinedge.benchmarks.alarms_promise import ALARMS, Kept, alarm_settings, bench_alarms
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer


def test_false_episodes_are_counted_over_valid_time_and_against_the_promise() -> None:
    alarm, valid = np.zeros((2, 1800, 2), bool)
    valid[300:] = True
    alarm[[400, 900], 0] = True
    kept = Kept()
    kept.add(Told(alarm, valid), block_s=2.0)
    row = kept.row("x", promised_per_h=1 / 8)
    assert (row["hours"], row["valid"], row["false"], row["people_with_one"]) == (2.0, "83%", 2, "1 of 2")
    assert row["false_per_valid_hour"].startswith("1.200 (0.145-4.335)")
    assert row["of_promise"].startswith("9.60 (")


def test_an_anomaly_is_found_by_an_alarm_while_it_lasts_or_just_after() -> None:
    alarm = np.zeros((100, 1), bool)
    alarm[[20, 66], 0] = True  # blocks that end at 42 and 134 s
    events = [Event("tremor", 30.0, 60.0), Event("tremor", 61.0, 91.0), Event("spikes", 100.0, 130.0)]
    kept = Kept()
    kept.look_for([events], Told(alarm, alarm), block_s=2.0)
    row = kept.row("x", promised_per_h=None)
    assert row["found"] == "2 of 3" and row["found_by_kind"] == {"spikes": "1 of 1", "tremor": "1 of 2"}
    assert kept.delays_s == [12.0, 34.0]


def test_people_are_simulated_as_is_said(scorer: Scorer) -> None:
    one, again = (
        people_of(scorer, [seed], donning_deg=6.0, enrol_s=150.0, same_s=20.0, new_s=1400.0)[0] for seed in (7, 7)
    )
    assert one.enrolment.digest == again.enrolment.digest
    assert one.anomalous.digest() == again.anomalous.digest() != one.new.digest()
    assert one.events and all(e.kind in kinds() and e.end_s - e.start_s == ANOMALY_S for e in one.events)
    assert one.lossy.valid.mean() == pytest.approx(0.9, abs=0.05) and one.new.valid.all()
    before = round((one.events[0].start_s - 1) * one.new.rate_hz)
    np.testing.assert_array_equal(one.new.values[:before], one.anomalous.values[:before])


def test_the_benchmark_compares_every_kind_of_alarm_on_the_same_scores() -> None:
    found = bench_alarms(DEFAULT_BUNDLE, n_subjects=1, minutes=(2.5, 0.2, 16.0), first_seed=7)
    rows = {row["what"]: row for row in found["rows"]}
    assert {f"new day, {name}" for name in ALARMS} <= set(rows)
    assert {r["hours"] for name, r in rows.items() if name.startswith("new day")} == {0.3}
    assert rows["new day, e-detector"]["valid"] != "0%"
    assert found["settings"]["n_subjects"] == 1 and set(alarm_settings(8.0)) == set(ALARMS)
