"""Kills, lost and late answers, a cut network: every episode arrives once, unchanged and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos import FAULTS, Chaos, Plan


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_episode_arrives_once_through_kills_and_a_bad_network(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database: Any = request.getfixturevalue("postgres") if kind == "postgresql" else None
    url = f"sqlite:///{tmp_path}/collector.db" if database is None else database.new_url()
    plan = Plan(seed=7, gateways=2, episodes=60, kills=6, cuts=1, cut_s=3.0, timeout_s=1.0)
    found = Chaos(plan, tmp_path, database_url=url, database=database).run()
    assert {name: found[name] for name in FAULTS if found[name]} == {}
    assert found["received"] == 60 >= found["promised"] >= 60 - 6
    assert found["network"]["lost"] >= 1
    assert sum(found["killed"].values()) == 6
