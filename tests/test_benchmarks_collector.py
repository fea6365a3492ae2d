"""The collector's benchmark: real processes, small numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinedge.benchmarks.collector import make_episodes
from kinedge.cli.app import main
from kinedge.envelope import parse_envelope


def test_the_collector_benchmark_commits_every_episode_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "collector.json"
    arguments = ["--episodes", "24", "--rounds", "2", "--connections", "4", "--out", str(out), "--json"]
    assert main(["bench", "collector", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    rows = {row["what"]: row for row in found["rows"]}
    for database in ("sqlite", "postgresql"):
        collector, bare = rows[f"{database}: collector"], rows[f"{database}: bare inserts, connections: 1"]
        assert collector["episodes_per_s"] > 0 and bare["episodes_per_s"] > 0
        assert 0 < collector["p50_ms"] <= collector["p99_ms"]
        assert 0 < collector["ratio_lowest"] <= collector["ratio"] <= collector["ratio_highest"]
    assert main(["bench", "collector", "--databases", "oracle"]) == 1
    assert "no database 'oracle'" in capsys.readouterr().err


def test_its_episodes_are_what_gateways_send() -> None:
    made = make_episodes(60, first=7)
    assert len({id for id, _ in made}) == 60
    for id, body in made[:5]:
        envelope = parse_envelope(body)
        assert envelope.id == id and len(envelope.trail) == 60 and envelope.to_bytes() == body
