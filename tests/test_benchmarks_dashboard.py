"""The dashboard's benchmark: real processes, small numbers."""

from __future__ import annotations

import json
from pathlib import Path

from kinedge.cli import main


def test_scoring_is_timed_with_listeners_and_without(tmp_path: Path) -> None:
    out = tmp_path / "dashboard.json"
    arguments = ["--people", "2", "--rounds", "1", "--turn-s", "2", "--listeners", "1", "--out", str(out)]
    assert main(["bench", "dashboard", *arguments]) == 0
    nobody, one = json.loads(out.read_text())["rows"]
    assert nobody["what"] == "nobody listens" and one["what"] == "1 listen at 10 Hz"
    assert nobody["events_per_s"] == 0 and one["events_per_s"] > 0
    for row in (nobody, one):
        assert row["verdicts"] > 0 and 0 < row["score_ms_p50"] <= row["score_ms_p99"]
        assert row["cpu_share"] > 0
