"""Recordings of one's own: sessions of ``kinedge record`` and CSV files, in a folder, by person."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.datasets import load_csv, load_session

__all__ = ["SOURCE_NAME", "OnDisk", "find_people"]

SOURCE_NAME: Final = "own recordings"


@dataclass(frozen=True)
class OnDisk:
    """One person's recordings, read when they are needed, also by a worker that sees the same disk.

    Parameters
    ----------
    person
        Becomes the subject; empty: what each recording says of itself.
    root
        What ``paths`` are relative to.
    paths
        Sessions (folders) and CSV files, in the order of their names.
    rate_hz
        Of the grid that sessions are brought to.
    sensors
        To load; all when empty.
    """

    person: str
    root: Path
    paths: tuple[Path, ...]
    rate_hz: float
    sensors: tuple[str, ...] = ()

    def __call__(self) -> Sequence[Recording]:
        """Read them.

        Raises
        ------
        SignalError, StoreError
            One cannot be read.
        """
        return [self._load(p) for p in self.paths]

    def _load(self, path: Path) -> Recording:
        where = self.root / path
        if where.suffix == ".csv":
            mapping = where.with_suffix(".toml")
            recording = load_csv(where, mapping=mapping if mapping.exists() else None)
        else:
            recording = load_session(where, sensors=self.sensors or None, rate_hz=self.rate_hz)
        subject = self.person or recording.subject
        return replace(recording, subject=subject, session=path.stem, source=f"{SOURCE_NAME}/{path.as_posix()}")

    def key(self) -> str:
        """Name the data by path, size and time of change of every file: enough to see that something changed."""
        digest = hashlib.sha256(repr((self.person, self.rate_hz, self.sensors)).encode())
        for path in self.paths:
            where = self.root / path
            for file in sorted(where.rglob("*")) if where.is_dir() else [where, where.with_suffix(".toml")]:
                if file.is_file():
                    stat = file.stat()
                    digest.update(f"{file.relative_to(self.root)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def find_people(folder: Path, *, rate_hz: float, sensors: Sequence[str] = ()) -> dict[str, OnDisk]:
    """Find whose recordings lie in a folder, sessions and ``.csv`` files at any depth.

    A session that says whose it is, is theirs; all else belongs to the person that the folder within ``folder`` is
    named after. What lies in ``folder`` itself is of somebody without a name here, ``""``.

    Raises
    ------
    SignalError
        There is no recording.
    """
    sessions = {p.parent for p in folder.rglob("session.json")}
    files = {p for p in folder.rglob("*.csv") if not any(s in p.parents for s in sessions)}
    by_person: dict[str, list[Path]] = {}
    for path in sorted(p.relative_to(folder) for p in (*sessions, *files)):
        by_person.setdefault(_said(folder / path) or (path.parts[0] if len(path.parts) > 1 else ""), []).append(path)
    if not by_person:
        raise SignalError(f"{folder}: no recording in it; sessions of kinedge record and .csv files are what counts")
    return {
        person: OnDisk(person, folder, tuple(paths), rate_hz, tuple(sensors)) for person, paths in by_person.items()
    }


def _said(session: Path) -> str:
    """Return whose a session says it is; empty where it does not, or is none."""
    try:
        facts = json.loads((session / "session.json").read_text(encoding="utf-8")).get("facts")
    except (OSError, ValueError, AttributeError):
        return ""
    subject = facts.get("subject") if isinstance(facts, dict) else None
    return subject if isinstance(subject, str) else ""
