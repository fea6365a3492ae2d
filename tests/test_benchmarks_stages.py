"""Stages of a verdict on the real path, small: every stage is timed, every episode reaches a real collector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from kinedge.benchmarks.stages import STAGES
from kinedge.cli.app import main


def test_every_stage_is_timed_from_the_bytes_of_a_device_to_a_row_at_a_collector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stages.json"
    arguments = ["--people", "2", "--seconds", "34", "--live-seconds", "0", "--out", str(out), "--json"]
    assert main(["bench", "stages", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["what"]: row for row in found["rows"]}
    for stage in STAGES:
        row = rows[stage]
        assert row["n"] > 0, stage
        assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"] <= row["max_us"]
    # two sensors of two people, five packets a second each, 2 % of them lost
    assert 34 * 20 * 0.85 < rows["decode"]["n"] < 34 * 20 * 1.2
    assert rows["step"]["n"] == pytest.approx(2 * 34, abs=4)
    assert rows["episodes"]["sent"] >= 1
    assert rows["all but store and uplink"]["p50_us"] > 0
    assert rows["memory"]["rss_mb"] > 10
    assert rows["energy of all of it"]["note"]


def test_the_live_run_is_made_by_each_backend_and_one_that_does_not_open_says_why(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    arguments = ["--people", "1", "--seconds", "5", "--live-seconds", "3", "--backends", "native,onnx-cuda"]
    assert main(["bench", "stages", *arguments, "--out", str(out)]) == 0
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    packet, newest = rows["last packet to verdict, native"], rows["newest sample to verdict, native"]
    assert packet["n"] == newest["n"] > 0 and newest["backend"].startswith("native")
    assert 0 < packet["p50_ms"] < newest["p99_ms"]
    missing = rows["newest sample to verdict, onnx-cuda"]
    assert missing["status"] == "not run" and missing["note"] and "p50_ms" not in missing
    assert main(["bench", "stages", "--backends", "magic"]) == 1
