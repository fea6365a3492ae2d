"""Recordings of one's own: sessions of ``kinedge record`` and CSV files, in a folder, by person."""

from __future__ import annotations

import hashlib
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
    """Find whose recordings lie in a folder: ``<folder>/<person>/...``, sessions and ``.csv`` files at any depth.

    What lies in the folder itself is of somebody without a name here, ``""``: each recording says whose it is.

    Raises
    ------
    SignalError
        There is no recording.
    """
    sessions = {p.parent for p in folder.rglob("session.json")}
    files = {p for p in folder.rglob("*.csv") if not any(s in p.parents for s in sessions)}
    by_person: dict[str, list[Path]] = {}
    for path in sorted(p.relative_to(folder) for p in (*sessions, *files)):
        by_person.setdefault(path.parts[0] if len(path.parts) > 1 else "", []).append(path)
    if not by_person:
        raise SignalError(f"{folder}: no recording in it; sessions of kinedge record and .csv files are what counts")
    return {
        person: OnDisk(person, folder, tuple(paths), rate_hz, tuple(sensors)) for person, paths in by_person.items()
    }
