"""What the episode store lets go of, and when: acknowledged work after some days, raw blobs beyond a budget.

Blobs that the collector has go first, then the oldest unsent ones; each is named in the audit trail. An
episode itself goes only after the collector has had it for long.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import Final

from kinedge.edge.database import Database

__all__ = ["Pruned", "drop_raw", "fit_raw", "prune"]

_TOTAL: Final = "SELECT COALESCE(sum(n_bytes), 0) FROM raw_blobs"
_OLDEST: Final = """
    SELECT episode_id, n_bytes FROM outbox JOIN raw_blobs USING (episode_id)
    WHERE kind = 'raw' AND state = ? ORDER BY outbox.n LIMIT 1"""

# An outbox row is removed only some time after the collector has acknowledged it: no row, and it is safe there.
_LONG_SENT: Final = """
    NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.episode_id = episodes.id)
    AND NOT EXISTS (SELECT 1 FROM raw_blobs WHERE raw_blobs.episode_id = episodes.id)"""
_DROP_SENT: Final = f"DELETE FROM episodes WHERE {_LONG_SENT}"


@dataclass(frozen=True)
class Pruned:
    """What was removed to save space."""

    outbox_rows: int
    raw_blobs: int
    raw_bytes: int
    episodes: int = 0


def prune(
    database: Database,
    *,
    older_than_s: float,
    raw_budget_bytes: int | None,
    episodes_older_than_s: float | None = None,
    max_sent_episodes: int | None = None,
) -> Pruned:
    """Remove work done longer ago than ``older_than_s``, blobs beyond the budget, old episodes and hours of answers."""
    before_utc_ns = database.wall_clock_ns() - int(older_than_s * 1e9)
    with database.writing() as connection:
        old = connection.execute(
            """DELETE FROM raw_blobs WHERE episode_id IN (
                SELECT episode_id FROM outbox WHERE kind = 'raw' AND state = 'DONE' AND changed_utc_ns < ?)
               RETURNING n_bytes""",
            (before_utc_ns,),
        ).fetchall()
        n_rows = connection.execute(
            "DELETE FROM outbox WHERE state = 'DONE' AND changed_utc_ns < ?", (before_utc_ns,)
        ).rowcount
        sizes = [n_bytes for (n_bytes,) in old]
        if n_rows:
            detail = {"outbox_rows": n_rows, "raw_blobs": len(sizes), "raw_bytes": sum(sizes)}
            database.record(connection, "pruned", detail)
        if raw_budget_bytes is not None:
            sizes += drop_raw(database, connection, keep_bytes=raw_budget_bytes)
        n_episodes = 0
        if episodes_older_than_s is not None:
            oldest_utc_ns = database.wall_clock_ns() - int(episodes_older_than_s * 1e9)
            n_episodes += connection.execute(f"{_DROP_SENT} AND committed_utc_ns < ?", (oldest_utc_ns,)).rowcount
            connection.execute("DELETE FROM verdict_hours WHERE changed_utc_ns < ?", (oldest_utc_ns,))
        if max_sent_episodes is not None:
            newest = f"SELECT id FROM episodes WHERE {_LONG_SENT} ORDER BY start_utc_ns DESC LIMIT -1 OFFSET ?"
            n_episodes += connection.execute(f"{_DROP_SENT} AND id IN ({newest})", (max_sent_episodes,)).rowcount
        if n_episodes:
            database.record(connection, "sent_episodes_pruned", {"episodes": n_episodes})
    return Pruned(n_rows, len(sizes), sum(sizes), n_episodes)


def fit_raw(
    database: Database, connection: sqlite3.Connection, n_new_bytes: int, *, budget_bytes: int, disk_reserve_bytes: int
) -> None:
    """Let old blobs make way for one that was just inserted.

    A full disk is too late: SQLite cannot even delete then, since its log must grow first. So when less than
    the reserve is free, a new blob takes the place of the oldest, and the file stops growing.
    """
    (total,) = connection.execute(_TOTAL).fetchone()
    disk = os.statvfs(database.path)
    if disk.f_bavail * disk.f_frsize < disk_reserve_bytes:
        budget_bytes = min(budget_bytes, total - n_new_bytes)
    if total > budget_bytes:
        drop_raw(database, connection, keep_bytes=budget_bytes)


def drop_raw(database: Database, connection: sqlite3.Connection, *, keep_bytes: int) -> list[int]:
    """Remove blobs until the rest fits, within the caller's transaction; return the sizes of those removed.

    A blob that is on its way just now (LOCKED) stays.
    """
    (total,) = connection.execute(_TOTAL).fetchone()
    sizes: list[int] = []
    for state in ("DONE", "READY", "FAILED"):
        while total > keep_bytes and (row := connection.execute(_OLDEST, (state,)).fetchone()):
            episode, n_bytes = row
            connection.execute("DELETE FROM raw_blobs WHERE episode_id = ?", (episode,))
            connection.execute(
                "DELETE FROM outbox WHERE episode_id = ? AND kind = 'raw' AND state = 'DONE'", (episode,)
            )
            connection.execute(
                """UPDATE outbox SET state = 'FAILED', last_error = 'the raw budget is used up', changed_utc_ns = ?
                   WHERE episode_id = ? AND kind = 'raw' AND state = 'READY'""",
                (database.wall_clock_ns(), episode),
            )
            database.record(
                connection, "raw_dropped", {"episode": episode, "n_bytes": n_bytes, "sent": state == "DONE"}
            )
            total -= n_bytes
            sizes.append(n_bytes)
    return sizes
