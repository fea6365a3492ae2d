"""The benchmarks on real recordings: short runs measure something, and nothing is left when the labels are moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.benchmarks.alarms import alarms_above, roc_auc, roc_point
from kinedge.benchmarks.arm_use import bench_arm_use
from kinedge.benchmarks.exercises import _warping_distance, bench_exercises
from kinedge.benchmarks.freezing_detectors import bench_freezing_detectors
from kinedge.benchmarks.gait import bench_gait
from kinedge.cli.app import main
from kinedge.errors import SignalError


def row_of(found: dict[str, Any], what: str) -> dict[str, Any]:
    (row,) = (r for r in found["rows"] if r["what"] == what)
    return dict(row)


def first(text: str) -> float:
    """Return the mean of "mean ± deviation"."""
    return float(text.split(" ", maxsplit=1)[0])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_the_area_counts_pairs_with_ties_as_halves(ordinary: list[int], odd: list[int]) -> None:
    pairs = [(b > a) + 0.5 * (b == a) for a in ordinary for b in odd]
    assert roc_auc(np.array(ordinary, float), np.array(odd, float)) == pytest.approx(np.mean(pairs))


def test_an_area_without_one_side_is_refused() -> None:
    with pytest.raises(SignalError, match="both sides"):
        roc_auc(np.zeros(0), np.ones(3))


def test_an_alarm_opens_after_a_second_above_and_bridges_a_short_dip() -> None:
    score = np.zeros(100)
    score[10:13] = 1  # too short at 4 Hz
    score[20:30] = 1
    score[33:40] = 1  # after a dip of less than two seconds
    (alarm,) = alarms_above(score, 0.5, rate_hz=4.0)
    assert (alarm.start_s, alarm.opened_s, alarm.end_s) == (5.0, 5.75, 10.0)
    allowed = np.arange(100) >= 35
    (alarm,) = alarms_above(score, 0.5, rate_hz=4.0, scored=allowed)
    assert alarm.start_s == 8.75


def test_sensitivity_and_specificity_are_of_their_own_class() -> None:
    truth, told = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    assert roc_point(truth, told) == pytest.approx((2 / 3, 1 / 2))


def test_warping_forgives_pace_but_not_form() -> None:
    t = np.linspace(0, 1, 60)
    wave, slow = np.sin(2 * np.pi * t)[:, None], np.sin(2 * np.pi * np.linspace(0, 1, 110))[:, None]
    assert _warping_distance(wave, slow) < 0.1 * _warping_distance(wave, np.cos(2 * np.pi * t)[:, None])
    # against the plain table, cell by cell
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 2)), rng.normal(size=(9, 2))
    cost = np.sqrt(((a[:, None] - b[None]) ** 2).mean(axis=2))
    table = np.full((8, 10), np.inf)
    table[0, 0] = 0
    for i in range(7):
        for j in range(9):
            table[i + 1, j + 1] = cost[i, j] + min(table[i, j], table[i, j + 1], table[i + 1, j])
    assert _warping_distance(a, b) == pytest.approx(table[7, 9] / 16)


@pytest.fixture(scope="session")
def short_daphnet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two and a half minutes of the experiment of two patients, with freezes in them."""
    path = tmp_path_factory.mktemp("short") / "daphnet.npz"
    with np.load(shared_data / "daphnet.npz", allow_pickle=False) as whole:
        cut = {}
        for run in ("S01R02", "S02R02"):
            table = whole[run][whole[run][:, 10] > 0]
            middle = int(np.median(np.flatnonzero(table[:, 10] == 2)))
            start = max(0, min(middle - 75 * 64, len(table) - 150 * 64))
            cut[run] = table[start : start + 150 * 64]
        np.savez(path, **cut)
    return path


def test_the_freeze_index_finds_freezes_and_nothing_when_they_are_moved(short_daphnet: Path) -> None:
    options: dict[str, Any] = {"daphnet": short_daphnet, "methods": ["freeze index"], "enrol_s": {"daphnet": 30.0}}
    what = "daphnet, freeze index, others"
    found = bench_freezing_detectors(**options)
    json.dumps(found)
    true, moved = row_of(found, what), row_of(bench_freezing_detectors(**options, shuffle_labels=True), what)
    assert first(true["auc"]) > 0.8
    assert first(moved["auc"]) < first(true["auc"]) - 0.2
    assert set(true["patients"]) == {"S01", "S02"}


def test_arm_use_is_told_from_features_and_not_when_labels_are_moved(shared_data: Path) -> None:
    folder, methods = shared_data / "arm_use", ["movement threshold", "logistic"]
    true = bench_arm_use(folder, methods=methods)
    json.dumps(true)
    moved = bench_arm_use(folder, methods=["logistic"], shuffle_labels=True)
    what = "logistic, healthy, right"
    assert first(row_of(true, what)["auc"]) > 0.85
    assert abs(first(row_of(moved, what)["auc"]) - 0.5) < 0.15
    assert first(row_of(true, what)["auc"]) > first(row_of(true, "movement threshold, healthy, right")["auc"])


def test_fast_exercises_are_short_and_not_when_labels_are_exchanged(shared_data: Path) -> None:
    path, what = shared_data / "rehab_exercises.npz", "duration, own template, test"
    true = bench_exercises(path, methods=["duration"])
    moved = bench_exercises(path, methods=["duration"], shuffle_labels=True)
    assert first(row_of(true, what)["auc_fast"]) > 0.95
    assert abs(first(row_of(moved, what)["auc_fast"]) - 0.5) < 0.2


def test_a_larger_deficit_is_seen_better_and_not_when_it_is_forgotten_who_has_it(shared_data: Path) -> None:
    found = bench_gait(gait=shared_data / "gait_healthy.npz", n_subjects=4)
    json.dumps(found)
    areas = [row_of(found, f"gait, {s} deficit of one foot, side ratio, own")["auc"] for s in ("5%", "15%", "30%")]
    assert areas == sorted(areas)
    assert areas[-1] > 0.8
    moved = bench_gait(gait=shared_data / "gait_healthy.npz", n_subjects=4, shuffle_labels=True)
    assert row_of(moved, "gait, 30% deficit of one foot, side ratio, own")["auc"] < areas[-1] - 0.1


def test_a_method_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "arm-use", "--data", "nowhere", "--method", "magic"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "magic" in told
    assert "GMAC, fitted" in told


@pytest.mark.parametrize("command", ["freezing", "gait"])
def test_a_benchmark_without_data_says_what_it_wants(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", command]) == 1
    assert "no data: give the file of" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", ["freezing", "arm-use", "exercises", "gait", "ablations"])
def test_a_benchmark_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", command, "--help"]) == 0
    assert f"kinedge bench {command}" in " ".join(capsys.readouterr().out.split())


def test_ablations_keep_what_they_promise_on_clean_people_and_know_no_anomaly_when_labels_are_mixed() -> None:
    pytest.importorskip("torch")
    from kinedge.benchmarks.ablations import CONDITIONS, bench_ablations

    budget: dict[str, Any] = {"seeds": 1, "epochs": 1, "steps": 4, "people": 2, "seconds": 60.0}
    found = bench_ablations(**budget, variants=["linear alone", "no VAR skip"], conditions=CONDITIONS[:2])
    json.dumps(found)
    assert len(found["rows"]) == 4
    clean = row_of(found, "linear alone, clean")
    assert first(clean["auc"]) > 0.65
    assert first(clean["false_alarm_share"]) < first(row_of(found, "linear alone, loss")["false_alarm_share"])
    mixed = bench_ablations(**budget, variants=["linear alone"], conditions=CONDITIONS[:2], shuffle_labels=True)
    assert np.mean([first(row["auc"]) for row in mixed["rows"]]) < first(clean["auc"]) - 0.1
    assert first(row_of(found, "no VAR skip, clean")["auc"]) != first(clean["auc"])
