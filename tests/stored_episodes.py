"""What tests of the episode store ask of it again and again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sample_episodes import sample_fields, sample_raw

from kinedge.edge.outbox import OutboxRow
from kinedge.edge.store import EpisodeStore


def commit(store: EpisodeStore, i: int, *, subject: str = "p01", n_bytes: int = 2000) -> str:
    raw = sample_raw(i, n_bytes=n_bytes)
    return store.commit(sample_fields(i, raw=raw, subject=subject), raw).id


def claimed(store: EpisodeStore, now: int = 0, limit: int = 16) -> list[OutboxRow]:
    return store.outbox.claim(now, limit=limit)


def audit_events(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [event for (event,) in connection.execute("SELECT event FROM audit ORDER BY n")]
