"""Peers, small: real libraries in processes of their own, what is missing is said, what was done is not done again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("river")

from kinedge.benchmarks.peer_runtimes import RUNTIMES, difference_from_engine
from kinedge.benchmarks.peer_worker import METHODS, cost_of
from kinedge.benchmarks.peers import bench_peers, choose_series
from kinedge.bundle import Bundle
from kinedge.cli.app import main


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small series of a kind, with a burst that is easy to see."""
    path = tmp_path_factory.mktemp("peers") / "tsb.npz"
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("002_SMD_id_1_Facility_tr_300_1st_500", "003_SMD_id_2_Facility_tr_300_1st_500"):
        x = np.sin(np.arange(700) / 8)[:, None] + 0.1 * rng.normal(size=(700, 3))
        y = np.zeros(700)
        x[500:540] += 4 * rng.normal(size=(40, 3))
        y[500:540] = 1
        arrays |= {f"{name}/X": x, f"{name}/y": y}
    np.savez(path, **arrays)
    return path


def test_detectors_are_scored_and_timed_and_what_was_done_is_not_done_again(archive: Path, tmp_path: Path) -> None:
    methods = ["kinedge fused", "River half-space trees"]
    options = {"methods": methods, "parts": tmp_path / "parts", "streams": (2,), "limit_s": 60.0}
    found = bench_peers(archive, **options)
    ours, river = found["rows"]
    assert ours["vus_pr"] > 0.5 and 0 < river["vus_pr"] <= 1
    for row in (ours, river):
        assert row["us_2_streams_chunk_1"] > 0 and row["us_2_streams_chunk_50"] > 0 and row["fit_s"] >= 0
        assert row["delay_samples"] == 0 and row["note"] == ""
    assert ours["times_2_streams_chunk_1"] == 1
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("*-*.json")}
    again = bench_peers(archive, **options)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("*-*.json")} == kept
    assert again["rows"] == found["rows"]


def test_a_library_that_is_missing_or_too_slow_is_a_row_that_says_so(archive: Path, tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without any installed library
    empty.chmod(0o755)
    found = bench_peers(
        archive,
        methods=["tsb-ad CNN"],
        pythons={"tsb-ad": str(empty)},
        parts=tmp_path / "a",
        streams=(1,),
        limit_s=30.0,
    )
    (row,) = found["rows"]
    assert "vus_pr" not in row and row["note"]
    found = bench_peers(
        archive, methods=["PyOD ECOD"], parts=tmp_path / "b", streams=(), limit_s=0.2, pythons={"PyOD": sys.executable}
    )
    assert "stopped after 0 s" in found["rows"][0]["note"] or "not run" in found["rows"][0]["note"]


def test_series_are_chosen_by_name_alone(archive: Path) -> None:
    assert [s.name[:3] for s in choose_series(archive)] == ["002"]
    assert [s.name[:3] for s in choose_series(archive, per_source=2)] == ["002", "003"]


@pytest.mark.parametrize("name", ["ONNX Runtime, windowed", "PyTorch, windowed"])
def test_a_window_computed_anew_answers_what_the_kept_state_answers(bundle: Bundle, name: str) -> None:
    x = np.random.default_rng(0).normal(size=(300, bundle.manifest.n_channels))
    assert difference_from_engine(RUNTIMES[name](bundle), x) < 1e-5


def test_costs_are_of_every_sample_of_every_stream() -> None:
    seen: list[tuple[int, ...]] = []
    found = cost_of(lambda n: lambda x: seen.append(x.shape), np.zeros((500, 3)), 4)
    assert {(4, 1, 3), (4, 50, 3)} == set(seen)
    assert found["n_chunk_1"] >= 5 and found["us_chunk_1"] >= 0
    assert len(METHODS) >= 12


def test_a_wrong_interpreter_or_method_costs_one_sentence(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", "--data", str(archive), "--python", "tsb-ad"]) == 1
    assert "expected LIBRARY=PYTHON" in capsys.readouterr().err
    assert main(["bench", "peers", "--data", str(archive), "--method", "magic"]) == 1
    assert "no method magic" in capsys.readouterr().err
