"""Measures sealed at rest: days and hours of a person go with their key, like episodes."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import sample_fields, sample_raw
from test_vault import MASTER, bytes_on_disk, open_store

from kinedge.cli.app import main
from kinedge.cli.enrol import Feedback
from kinedge.edge.measures.person import MeasuresRow
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError

STATE = np.arange(4000, dtype=np.int64)


def row(subject: str, start: int, level: str = "day") -> MeasuresRow:
    return MeasuresRow("arm", level, start, {"worn_s": 5.0, "measures": {}, "note": f"{subject} used the left arm"})


def fill(store: EpisodeStore, n: int = 3) -> None:
    measures = MeasuresStore(store.database)
    for s in ("p01", "p02"):
        rows = [row(s, 20_000 + i) for i in range(n)] + [row(s, 480_000, "hour")]
        measures.save(s, rows, {"arm": {"a": STATE}})


def readable(folder: Path, subject: str) -> bool:
    return f"{subject} used the left arm".encode() in bytes_on_disk(folder)


def test_measures_of_a_sealed_store_are_read_through_the_key_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
        assert not readable(tmp_path, "p01") and STATE.tobytes()[:400] not in bytes_on_disk(tmp_path)
    with open_store(tmp_path) as store:
        measures = MeasuresStore(store.database)
        assert [r.content["note"] for r in measures.rows(subject="p01", level="day")] == ["p01 used the left arm"] * 3
        states, notes = measures.states("p01")
        assert notes == [] and np.array_equal(states["arm"]["a"], STATE)
    with open_store(tmp_path, sealed=False) as store:
        measures = MeasuresStore(store.database)
        with pytest.raises(StoreError, match="sealed; give the key"):
            measures.rows()
        with pytest.raises(StoreError, match="sealed; give the key"):
            measures.states("p01")


def test_a_forgotten_person_has_no_measures_not_even_in_a_copy_made_before(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    copy = (tmp_path / "edge.db").read_bytes()
    with open_store(tmp_path) as store:
        assert store.forget("p01").measures == 5
        assert {r.subject for r in MeasuresStore(store.database).rows()} == {"p02"}
    (tmp_path / "edge.db").write_bytes(copy)  # a backup comes back
    with open_store(tmp_path) as store:
        measures = MeasuresStore(store.database)
        with pytest.raises(StoreError, match="this key was forgotten"):
            measures.rows(subject="p01")
        states, notes = measures.states("p01")
        assert states == {} and "starts anew" in notes[0]
        assert len(measures.rows(subject="p02")) == 4


def test_measures_kept_in_the_clear_are_sealed_once_when_a_key_is_given(tmp_path: Path) -> None:
    with open_store(tmp_path, sealed=False) as store:
        fill(store, n=120)
    assert readable(tmp_path, "p01")
    for _ in range(2):
        with open_store(tmp_path) as store:
            (told,) = store.audit_rows(event="sealed")
            assert told.detail == {"rows": 2 * 122}
            assert len(MeasuresStore(store.database).rows(subject="p01", level="day")) == 120
            assert np.array_equal(MeasuresStore(store.database).states("p02")[0]["arm"]["a"], STATE)
    assert not readable(tmp_path, "p01") and not readable(tmp_path, "p02")


def test_days_that_were_exchanged_are_refused_and_a_damaged_state_starts_anew(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    with sqlite3.connect(tmp_path / "edge.db") as connection:
        connection.execute(
            """UPDATE measures SET content = (SELECT content FROM measures WHERE subject = 'p02' AND start = 20001)
               WHERE subject = 'p01' AND start = 20001"""
        )
        connection.execute("UPDATE measure_states SET state = CAST(state || x'00' AS BLOB) WHERE subject = 'p01'")
        connection.execute("UPDATE measures SET content = 'sealed:no base64' WHERE subject = 'p02' AND start = 20002")
    with open_store(tmp_path) as store:
        measures = MeasuresStore(store.database)
        with pytest.raises(StoreError, match="belongs elsewhere"):
            measures.rows(subject="p01")
        assert len(measures.rows(subject="p01", since=20_002, level="day")) == 1
        with pytest.raises(StoreError, match="damaged"):
            measures.rows(subject="p02")
        assert "starts anew" in measures.states("p01")[1][0]


def test_the_commands_take_the_key_of_a_sealed_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "master.key"
    key.write_bytes(MASTER)
    os.chmod(key, 0o600)
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(
        'site = "s"\ngateway = "g"\nstore = "edge.db"\n[[people]]\nsubject = "p01"\ndevices = [{ port = "/dev/x" }]\n'
        '[keys]\nfile = "master.key"\n[measures]\n'
    )
    with open_store(tmp_path) as store:
        fill(store)
        raw = sample_raw(1)
        id = store.commit(sample_fields(1, raw=raw, subject="p01"), raw).id
    database = tmp_path / "edge.db"
    assert main(["measures", str(database), "all", "--json"]) == 1
    assert "give the key" in capsys.readouterr().err.replace("\n", " ")
    for asked in (["measures", str(database), "all", "--key", str(key)], ["measures", str(gateway), "all"]):
        assert main([*asked, "--subject", "p01", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["feedback", id[:12], "--dismissed", "--store", str(database)]) == 0
    capsys.readouterr()
    assert main(["feedback", "--store", str(database), "--json"]) == 1
    assert "give the key" in capsys.readouterr().err.replace("\n", " ")
    assert main(["feedback", "--store", str(database), "--key", str(key), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["episode"], told["answer"], told["has_raw"]) == (id, "dismissed", True)
    (one,) = Feedback.of(database, "p01", key=key).answered
    assert one.raw == raw
    with pytest.raises(StoreError, match="give the key"):
        Feedback.of(database, "p01")
