"""Full, read-only, damaged and slow disks and too little memory, each met by a real gateway in its own process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kinedge.edge.store import EpisodeStore

HERE = Path(__file__).parent
OWN_DISK = 'mount -t tmpfs -o size=24m none "$1/disk" && "$2" "$3" "$1" "$4" && cp -r "$1/disk" "$1/kept"'


def meet(folder: Path, fault: str, *, own_disk: bool = False, **environment: str) -> dict[str, Any]:
    """Run the gateway through a fault, on a small disk of its own where it needs one."""
    (folder / "disk").mkdir()
    command = [sys.executable, str(HERE / "fault_gateway.py"), str(folder), fault]
    if own_disk:
        unshare = ["unshare", "--user", "--map-root-user", "--mount"]
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a disk of their own (unshare)")
        script = str(HERE / "fault_gateway.py")
        command = [*unshare, "sh", "-ec", OWN_DISK, "sh", str(folder), sys.executable, script, fault]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["state"] == "after", said
    return said


def faulty_disk(folder: Path) -> str:
    """Build what makes a disk slow or read-only for one process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, to give the disk faults with")
    library = folder / "faulty_disk.so"
    source = str(HERE / "faulty_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return str(library)


def all_kept(path: Path, said: dict[str, Any]) -> None:
    """Every episode that was decided is on the disk, once."""
    with EpisodeStore(path, read_only=True) as store:
        starts = sorted(s.envelope.start_utc_ns for s in store.episodes())
        assert store.counts().drafts == 0
        store.verify_audit()
    assert starts == sorted(int(key.rpartition(":")[2]) for key in said["decided"])
    assert len(starts) >= 1
    assert said["verdicts_in_fault"] >= 8, "scoring went on"


def test_a_full_disk_holds_episodes_back_and_room_lets_them_in(tmp_path: Path) -> None:
    said = meet(tmp_path, "full", own_disk=True)
    assert "the disk is full" in said["refused"]
    assert said["restarts"] == {}
    all_kept(tmp_path / "kept" / "edge.db", said)


def test_where_little_room_comes_back_raw_data_makes_way_and_the_audit_says_which(tmp_path: Path) -> None:
    said = meet(tmp_path, "nearly-full", own_disk=True)
    assert "the disk is full" in said["refused"]
    path = tmp_path / "kept" / "edge.db"
    all_kept(path, said)
    with EpisodeStore(path, read_only=True) as store:
        episodes = {s.envelope.id: s.envelope for s in store.episodes()}
        dropped = {row.detail["episode"]: row.detail for row in store.audit_rows(event="raw_dropped")}
        assert len(dropped) >= 1
        for id, envelope in episodes.items():
            assert envelope.raw is not None, "what was measured is told, even where it went"
            assert (store.raw(id) is None) == (id in dropped), "nothing goes without a word"
        for id, detail in dropped.items():
            assert detail == {"episode": id, "n_bytes": episodes[id].raw.n_bytes, "sent": False}


def test_a_disk_that_turned_read_only_holds_episodes_back_until_it_can_be_written_again(tmp_path: Path) -> None:
    switch = str(tmp_path / "disk" / "read-only")
    said = meet(tmp_path, "read-only", LD_PRELOAD=faulty_disk(tmp_path), READ_ONLY_WHILE=switch)
    assert "edge.db" in said["refused"]
    all_kept(tmp_path / "disk" / "edge.db", said)


def test_a_database_damaged_under_the_running_service_is_moved_aside_and_a_fresh_one_goes_on(tmp_path: Path) -> None:
    said = meet(tmp_path, "damaged")
    aside = [p for p in (tmp_path / "disk").glob("edge.db.corrupt-*") if not p.name.endswith(("-wal", "-shm"))]
    assert len(aside) == 1, "kept aside, never deleted"
    assert aside[0].read_bytes().startswith(b"\x5a" * 1000)
    assert any("damaged" in note for note in said["notes"])
    all_kept(tmp_path / "disk" / "edge.db", said)


def test_too_little_memory_holds_up_what_needs_it_and_nothing_is_lost(tmp_path: Path) -> None:
    said = meet(tmp_path, "memory")
    assert all("Memory" in cause or "memory" in cause or "thread" in cause for _, cause in said["restarts"].values())
    all_kept(tmp_path / "disk" / "edge.db", said)


def test_a_slow_card_delays_writes_and_no_verdict(tmp_path: Path) -> None:
    said = meet(tmp_path, "slow", LD_PRELOAD=faulty_disk(tmp_path), SLOW_SYNC_MS="800")
    assert said["store_p50_s"] > 0.8
    assert said["score_p99_s"] < 0.5, "the event loop waits for no disk"
    assert said["n_stores"] < said["verdicts"], "drafts that were overtaken while they waited were not written"
    assert said["restarts"] == {}
    all_kept(tmp_path / "disk" / "edge.db", said)
