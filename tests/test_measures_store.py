"""Measures on disk: rows and state together or not at all, older files taken along, damage told."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from kinedge.edge.measures.person import MeasuresRow
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.schema import APPLICATION_ID, MIGRATIONS
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError


def row(start, worn_s, level="day"):
    return MeasuresRow("arm", level, start, {"worn_s": worn_s, "measures": {}})


def test_a_row_replaces_what_it_was_and_survives_a_restart(tmp_path):
    with EpisodeStore(tmp_path / "edge.db") as store:
        measures = MeasuresStore(store.database)
        measures.save("p-001", [row(100, 60.0), row(2400, 60.0, "hour")], {"arm": {"a": np.arange(3)}})
        measures.save("p-001", [row(100, 120.0)], {"arm": {"a": np.arange(4)}})
        measures.save("p-002", [row(100, 7.0)], {})
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        measures = MeasuresStore(store.database)
        assert [(r.subject, r.level, r.content["worn_s"]) for r in measures.rows()] == [
            ("p-001", "day", 120.0), ("p-001", "hour", 60.0), ("p-002", "day", 7.0),
        ]  # fmt: skip
        assert [r.start for r in measures.rows(subject="p-001", level="day", since=101)] == []
        states, notes = measures.states("p-001")
        assert notes == [] and states["arm"]["a"].tolist() == [0, 1, 2, 3]
        assert measures.states("p-003") == ({}, [])


def test_nothing_is_kept_of_a_write_that_fails(tmp_path):
    with EpisodeStore(tmp_path / "edge.db") as store:
        measures = MeasuresStore(store.database)
        measures.save("p-001", [row(100, 60.0)], {"arm": {"a": np.zeros(1)}})
        with pytest.raises(StoreError):
            measures.save("p-001", [row(100, 90.0), row("no number", 1.0)], {"arm": {"a": np.ones(1)}})
        assert [r.content["worn_s"] for r in measures.rows()] == [60.0]
        assert measures.states("p-001")[0]["arm"]["a"].tolist() == [0.0]


def test_a_file_of_the_version_before_is_taken_along(tmp_path):
    path = tmp_path / "edge.db"
    with closing(sqlite3.connect(path)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA user_version=1")
        connection.execute("INSERT INTO sequences VALUES ('g', 'p-001', 41)")
        connection.commit()
    with (
        EpisodeStore(path, read_only=True) as store,
        pytest.raises(StoreError, match="no measures are kept here"),
    ):
        MeasuresStore(store.database).rows()
    with EpisodeStore(path) as store:
        MeasuresStore(store.database).save("p-001", [row(1, 2.0)], {})
        assert len(MeasuresStore(store.database).rows()) == 1
        with store.database.reading() as connection:
            assert connection.execute("SELECT last FROM sequences").fetchone() == (41,)


def test_a_damaged_state_is_told_and_the_others_are_used(tmp_path):
    with EpisodeStore(tmp_path / "edge.db") as store:
        measures = MeasuresStore(store.database)
        measures.save("p-001", [], {"arm": {"a": np.zeros(1)}, "gait": {"b": np.ones(1)}})
        with store.database.writing() as connection:
            connection.execute("UPDATE measure_states SET state = x'0102' WHERE part = 'arm'")
        states, notes = measures.states("p-001")
    assert list(states) == ["gait"] and len(notes) == 1 and "starts anew" in notes[0]
