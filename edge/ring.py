"""Recordings as a ring: beyond an age or a budget of bytes the oldest segments go, whatever run or person they are of.

What is kept longer than that is copied away, or cut out by ``kinedge replay``. The segment that is written just now is
never touched. A session without its first segments is read like any damaged one: what is gone counts as lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kinedge.edge.hostclock import WallClock
from kinedge.errors import StoreError
from kinedge.firmware_bridge.segments import MANIFEST, SEGMENT_NAME

__all__ = ["Gone", "trim_recordings"]

_OURS: Final = {MANIFEST}


@dataclass(frozen=True)
class Gone:
    """What was let go of one session."""

    session: str
    n_segments: int
    n_bytes: int
    why: str


@dataclass(frozen=True)
class _Found:
    run: str
    index: int
    path: Path
    n_bytes: int
    modified_ns: int


def trim_recordings(
    parent: Path,
    *,
    keep_hours: float,
    budget_bytes: int,
    reserve_bytes: int = 64 << 20,
    current: Path | None = None,
    utc_ns: Callable[[], int] = time.time_ns,
) -> list[Gone]:
    """Remove the oldest segments under ``parent/TIME/SUBJECT`` and the folders that they leave empty.

    Parameters
    ----------
    parent
        Where the recordings of all runs lie.
    keep_hours
        Older segments go. Those of a board whose clock was not set have no age; they go by the budget alone.
    budget_bytes
        Of all segments together.
    reserve_bytes
        Left free on the disk, as far as recordings can make room.
    current
        The folder of this run: the latest segment of each of its sessions stays, and so do its folders.
    utc_ns
        UTC in ns.

    Raises
    ------
    StoreError
        A folder cannot be read, or a segment cannot be removed.
    """
    try:
        found = sorted(_segments(parent), key=lambda f: (f.run, f.index, f.path))
        kept = _latest(found, current)
        disk = os.statvfs(parent)
        missing = max(0, reserve_bytes - disk.f_bavail * disk.f_frsize)
        total = sum(f.n_bytes for f in found)
        oldest_ns = utc_ns() - round(keep_hours * 3600e9)
        gone: dict[tuple[str, str], list[_Found]] = {}
        for f in found:
            if f.path in kept:
                continue
            if total > budget_bytes:
                why = "budget"
            elif missing > 0:
                why = "disk nearly full"
            elif WallClock.was_set(f.modified_ns) and f.modified_ns < oldest_ns:
                why = "age"
            else:
                continue
            f.path.unlink(missing_ok=True)
            total -= f.n_bytes
            missing -= f.n_bytes
            gone.setdefault((str(f.path.parent.relative_to(parent)), why), []).append(f)
        _remove_empty(parent, current)
    except OSError as e:
        raise StoreError(f"{parent}: old recordings cannot be removed ({e.strerror}); check the disk") from e
    return [Gone(session, len(fs), sum(f.n_bytes for f in fs), why) for (session, why), fs in gone.items()]


def _segments(parent: Path) -> Iterator[_Found]:
    for path in parent.glob("*/*/segment-*.parquet"):
        match = SEGMENT_NAME.fullmatch(path.name)
        if match is not None:
            facts = path.stat()
            yield _Found(path.parent.parent.name, int(match[1]), path, facts.st_size, facts.st_mtime_ns)


def _latest(found: list[_Found], current: Path | None) -> set[Path]:
    latest = {f.path.parent: f.path for f in found if current is not None and f.path.parent.parent == current}
    return set(latest.values())


def _remove_empty(parent: Path, current: Path | None) -> None:
    """Remove sessions that hold nothing but their manifest, and runs that hold nothing; what others put there stays."""
    for run in parent.iterdir():
        if run == current or not run.is_dir():
            continue
        for session in run.iterdir():
            if session.is_dir() and {p.name for p in session.iterdir()} == _OURS:
                (session / MANIFEST).unlink()
                session.rmdir()
        if not any(run.iterdir()):
            run.rmdir()
