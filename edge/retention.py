"""What the episode store lets go of, and when: acknowledged work after some days, raw blobs beyond a budget.

Blobs that the collector has go first, then the oldest unsent ones; each is named in the audit trail. An
episode itself is never removed.
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


@dataclass(frozen=True)
class Pruned:
    """What was removed to save space."""

    outbox_rows: int
    raw_blobs: int
    raw_bytes: int


def prune(database: Database, *, older_than_s: float, raw_budget_bytes: int | None) -> Pruned:
    """Remove work that was done longer ago than ``older_than_s``, then blobs beyond the budget."""
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
    return Pruned(n_rows, len(sizes), sum(sizes))


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
