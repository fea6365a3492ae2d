"""VUS-PR equals the reference, from recorded figures and, where it is installed, from the reference itself."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.benchmarks.tsb import METHODS, TUNING, bench_tsb, read_series
from kinedge.errors import ConfigError, SignalError
from kinedge.training.detectors.presets import Domain
from kinedge.training.vus import FALLBACK_WINDOW, metric_window, vus_pr


def _case(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Labels with touching, overlapping and edge segments; scores with ties in every third case."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(150, 1200))
    labels = np.zeros(n, dtype=np.int64)
    for _ in range(rng.integers(1, 12)):
        start = int(rng.integers(0, n))
        labels[start : start + int(rng.integers(1, 40))] = 1
    if seed % 4 == 0:
        labels[:5] = labels[-5:] = 1
    scores = rng.normal(size=n) + labels * rng.random() * 3
    return labels, np.round(scores) if seed % 3 == 0 else scores, int(rng.integers(0, 60))


#: From tsb-ad 1.5, ``generate_curve(labels, scores, window, "opt", 250)``.
REFERENCE = {
    0: 0.5472152087899028,
    1: 0.43883863957936214,
    2: 0.6390484748876306,
    3: 0.04720767904601939,
    4: 0.7095913891595642,
    5: 0.5700511488610117,
    6: 0.6987750661607257,
    7: 0.2585934741726579,
}


@pytest.mark.parametrize("seed", list(REFERENCE))
def test_vus_pr_equals_the_recorded_figure_of_the_reference(seed: int) -> None:
    labels, scores, window = _case(seed)
    assert vus_pr(labels, scores, window=window) == pytest.approx(REFERENCE[seed], abs=1e-12)


@pytest.mark.parametrize("seed", range(100, 106))
def test_vus_pr_equals_the_reference_where_it_is_installed(seed: int) -> None:
    oracle = pytest.importorskip("TSB_AD.evaluation.basic_metrics", reason="tsb-ad (and scikit-learn) not installed")
    labels, scores, window = _case(seed)
    expected = oracle.generate_curve(labels, scores, window, "opt", 250)[-1]
    assert vus_pr(labels, scores, window=window) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_window_equals_that_of_the_reference_where_it_is_installed(seed: int) -> None:
    oracle = pytest.importorskip("TSB_AD.utils.slidingWindows", reason="tsb-ad (and statsmodels) not installed")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 3000))
    column = np.sin(np.arange(n) * rng.random()) * (seed % 3) + rng.normal(size=n).cumsum() * rng.random() * (seed % 2)
    column += rng.normal(size=n) * 0.1
    assert metric_window(column) == oracle.find_length_rank(column.reshape(-1, 1), rank=1)


def test_the_window_is_the_period_and_falls_back_without_one() -> None:
    assert metric_window(np.sin(np.arange(2000) * 2 * np.pi / 40)) == 40
    for without in (np.ones(500), np.arange(500.0), np.zeros(0), np.array([np.nan] * 50)):
        assert metric_window(without) == FALLBACK_WINDOW


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.1, 10))
def test_only_the_order_of_scores_counts(seed: int, gain: float) -> None:
    labels, scores, window = _case(seed)
    figure = vus_pr(labels, scores, window=window)
    assert 0 <= figure <= 1
    assert vus_pr(labels, np.exp(gain * scores / 10), window=window) == pytest.approx(figure, abs=1e-12)


def test_a_perfect_score_beats_noise_and_noise_a_reversed_one() -> None:
    labels = np.zeros(2000, dtype=int)
    labels[600:660] = labels[1500:1530] = 1
    noise = np.random.default_rng(0).normal(size=2000)
    perfect, random, wrong = (vus_pr(labels, s, window=20) for s in (labels + 0.01 * noise, noise, -labels))
    assert perfect > 0.9
    assert perfect > 5 * random > 5 * 0.8 * wrong


@pytest.mark.parametrize(
    ("labels", "scores", "window"),
    [
        (np.zeros(9), np.ones(9), 3),
        (np.ones(9), np.ones(9), 3),
        (np.eye(9)[0], np.ones(8), 3),
        (np.eye(9)[0], np.full(9, np.nan), 3),
        (np.eye(9)[0], np.ones(9), -1),
    ],
)
def test_what_cannot_be_measured_is_refused(
    labels: NDArray[np.float64], scores: NDArray[np.float64], window: int
) -> None:
    with pytest.raises(SignalError):
        vus_pr(labels, scores, window=window)


def _archive(path: Path) -> Path:
    """Write two series, a tuning one and another: a wave with a stretch of another wave."""
    content = {}
    for name in ("004_MSL_id_3_Sensor_tr_400_1st_600", "900_Other_id_1_Facility_tr_400_1st_600"):
        rng = np.random.default_rng(len(content))
        t = np.arange(1200)
        x = np.stack([np.sin(t / 6), np.cos(t / 9), rng.random(1200) < 0.02], axis=1) + 0.05 * rng.normal(
            size=(1200, 3)
        )
        x[700:760, :2] = np.sin(t[700:760, None] / 2) * 1.5
        y = np.zeros(1200, dtype=np.int64)
        y[700:760] = 1
        content |= {f"{name}/X": x, f"{name}/y": y}
    np.savez(path, **content)
    return path


def test_the_benchmark_scores_each_method_at_both_lags_beside_published_figures(tmp_path: Path) -> None:
    data, published = _archive(tmp_path / "series.npz"), tmp_path / "published.csv"
    with published.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [
                ["file", "PCA", "Partly", "ts_len", "dataset"],
                ["900_Other_id_1_Facility_tr_400_1st_600.csv", "0.25", "", "1200", "Other"],
            ]
        )
    found = bench_tsb(data, published=published, methods=("fused", "linear"))
    assert [(r["what"], r["lag"]) for r in found["rows"]] == [
        ("fused", 0), ("linear", 0), ("fused", 25), ("linear", 25), ("PCA", None),
    ]  # fmt: skip
    assert found["series"]["names"] == ["900_Other_id_1_Facility_tr_400_1st_600"]
    assert found["rows"][-1]["vus_pr"] == 0.25
    assert found["rows"][0]["vus_pr"] > 0.5
    assert found["rows"][2]["parameters"] > found["rows"][3]["parameters"] > 0
    assert found["settings"]["tuned_on"] == list(TUNING)


def test_tuning_and_evaluation_series_never_meet(tmp_path: Path) -> None:
    data = _archive(tmp_path / "series.npz")
    tuned = bench_tsb(data, tuning=True, methods=("linear",))["series"]["names"]
    assert tuned == ["004_MSL_id_3_Sensor_tr_400_1st_600"]


def test_what_is_no_archive_of_series_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    np.savez(tmp_path / "named.npz", **{"series/X": np.zeros((5, 2)), "series/y": np.zeros(5)})
    with pytest.raises(ConfigError):
        bench_tsb(broken)
    with pytest.raises(ConfigError):
        bench_tsb(tmp_path / "missing.npz")
    with pytest.raises(SignalError, match="no series"):
        bench_tsb(tmp_path / "named.npz")
    with pytest.raises(ConfigError, match="no method"):
        bench_tsb(_archive(tmp_path / "series.npz"), methods=("magic",))


def test_the_real_series_have_a_preset_each_and_27_are_left_for_the_evaluation(shared_data: Path) -> None:
    series = list(read_series(shared_data / "tsb_ad_m.npz"))
    assert sum(not s.name.startswith(TUNING) for s in series) == 27
    assert {s.domain for s in series} == set(Domain)
    assert set(METHODS) >= {"fused", "linear"}
