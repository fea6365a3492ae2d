"""Recordings as a ring: the oldest goes first, by age and by bytes, and what is being written stays."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from pathlib import Path

import pytest

from kinedge.edge.caretaker import Caretaker
from kinedge.edge.ring import trim_recordings
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError

NOW_NS = 1_800_000_000 * 10**9
HOUR_NS = 3600 * 10**9


def segment(parent: Path, run: str, subject: str, index: int, *, age_h: float, n_bytes: int = 1000) -> Path:
    folder = parent / run / subject
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "session.json").write_text("{}")
    path = folder / f"segment-{index:06}-0123abcd.parquet"
    path.write_bytes(b"x" * n_bytes)
    when = NOW_NS - round(age_h * HOUR_NS)
    os.utime(path, ns=(when, when))
    return path


def left(parent: Path) -> list[str]:
    return sorted(f"{p.parent.parent.name}/{p.parent.name}/{int(p.name[8:14])}" for p in parent.glob("*/*/segment-*"))


def trim(parent: Path, **changes: object) -> list[tuple[str, int, int, str]]:
    facts = {"keep_hours": 72, "budget_bytes": 10**9, "reserve_bytes": 0, "utc_ns": lambda: NOW_NS} | changes
    return [(g.session, g.n_segments, g.n_bytes, g.why) for g in trim_recordings(parent, **facts)]  # type: ignore[arg-type]


def test_segments_older_than_the_hours_go_and_their_empty_folders_with_them(tmp_path: Path) -> None:
    for i in range(4):
        segment(tmp_path, "20270101T000000Z", "p1", i, age_h=100 - i)
        segment(tmp_path, "20270104T000000Z", "p1", i, age_h=73 - i)
    assert trim(tmp_path) == [("20270101T000000Z/p1", 4, 4000, "age"), ("20270104T000000Z/p1", 1, 1000, "age")]
    assert left(tmp_path) == [f"20270104T000000Z/p1/{i}" for i in (1, 2, 3)]
    assert not (tmp_path / "20270101T000000Z").exists()
    assert trim(tmp_path) == []


def test_beyond_the_budget_the_oldest_go_first_over_all_people_alike(tmp_path: Path) -> None:
    for i in range(5):
        for subject in ("p1", "p2"):
            segment(tmp_path, "20270101T000000Z", subject, i, age_h=5 - i)
    gone = trim(tmp_path, budget_bytes=4500)
    assert gone == [("20270101T000000Z/p1", 3, 3000, "budget"), ("20270101T000000Z/p2", 3, 3000, "budget")]
    assert left(tmp_path) == [f"20270101T000000Z/{s}/{i}" for s in ("p1", "p2") for i in (3, 4)]


def test_the_latest_segment_of_the_running_session_stays_whatever_the_budget(tmp_path: Path) -> None:
    for i in range(3):
        segment(tmp_path, "20270101T000000Z", "p1", i, age_h=200 - i)
    trim(tmp_path, budget_bytes=0, current=tmp_path / "20270101T000000Z")
    assert left(tmp_path) == ["20270101T000000Z/p1/2"]


def test_a_disk_nearly_full_takes_the_oldest_until_the_reserve_is_there(tmp_path: Path) -> None:
    for i in range(3):
        segment(tmp_path, "20270101T000000Z", "p1", i, age_h=1)
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    gone = trim(tmp_path, reserve_bytes=free * 2)
    assert gone == [("20270101T000000Z/p1", 3, 3000, "disk nearly full")]


def test_segments_of_an_unset_clock_have_no_age_and_other_files_are_nobody_elses_to_remove(tmp_path: Path) -> None:
    segment(tmp_path, "19700101T000000Z", "p1", 0, age_h=NOW_NS / HOUR_NS - 1)
    (tmp_path / "notes.txt").write_text("mine")
    segment(tmp_path, "20270101T000000Z", "p1", 0, age_h=100)
    (tmp_path / "20270101T000000Z" / "p1" / "remark.txt").write_text("mine")
    trim(tmp_path)
    assert left(tmp_path) == ["19700101T000000Z/p1/0"]
    assert (tmp_path / "20270101T000000Z" / "p1" / "remark.txt").exists() and (tmp_path / "notes.txt").exists()
    assert trim(tmp_path, budget_bytes=10) == [("19700101T000000Z/p1", 1, 1000, "budget")]


def test_a_folder_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="old recordings cannot be removed"):
        trim(tmp_path / "absent")


def test_what_went_is_told_in_the_audit_trail(tmp_path: Path) -> None:
    for i in range(3):
        segment(tmp_path / "r", "20270101T000000Z", "p1", i, age_h=1)

    async def main(store: EpisodeStore) -> None:
        caretaker = Caretaker(
            store,
            prune=lambda: None,
            note=pytest.fail,
            trim=lambda: trim_recordings(tmp_path / "r", keep_hours=1e6, budget_bytes=1500, reserve_bytes=0),
        )
        running = asyncio.create_task(caretaker.run())
        while not audited(tmp_path):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with EpisodeStore(tmp_path / "edge.db") as store:
        asyncio.run(main(store))
    told = {"session": "20270101T000000Z/p1", "n_segments": 2, "n_bytes": 2000, "why": "budget"}
    assert audited(tmp_path) == [told]


def audited(folder: Path) -> list[dict[str, object]]:
    with sqlite3.connect(folder / "edge.db") as connection:
        rows = connection.execute("SELECT detail FROM audit WHERE event = 'recording_trimmed'").fetchall()
    return [json.loads(d) for (d,) in rows]
