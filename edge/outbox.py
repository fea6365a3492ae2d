"""What still has to go upstream: one row an episode, one a raw blob, each in one of four states.

    READY ──claim──> LOCKED ──ack──> DONE          (pruned after some days)
      ^                 ├──retry────> READY, not before a while
      └──release────────┘──quarantine> FAILED      (kept, with the reason)

Nothing is deleted before the work is done. Waiting and locking are measured on the monotonic clock, so a
wall clock that jumps neither delays nor doubles anything; both are forgotten when the store is opened,
because the process that held them is dead by then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from kinedge.edge.database import Database
from kinedge.errors import StoreError

__all__ = ["Kind", "Outbox", "OutboxRow", "OutboxState"]

Kind = Literal["episode", "raw"]
OutboxState = Literal["READY", "LOCKED", "DONE", "FAILED"]

_LEASE_NS: Final = 15 * 60 * 10**9
_MAX_ERROR_CHARS: Final = 500

# An episode waits for the earlier ones of its subject, a raw blob for its episode.
_CLAIMABLE: Final[dict[Kind, str]] = {
    "episode": """
        SELECT n, episode_id, kind, gateway, subject, attempts + 1 FROM outbox AS this
        WHERE kind = 'episode' AND state = 'READY' AND not_before_monotonic_ns <= :now
          AND NOT EXISTS (
            SELECT 1 FROM outbox AS earlier
            WHERE earlier.kind = 'episode' AND earlier.gateway = this.gateway AND earlier.subject = this.subject
              AND earlier.n < this.n AND earlier.state IN ('READY', 'LOCKED')
              AND (earlier.state = 'LOCKED' OR earlier.not_before_monotonic_ns > :now))
        ORDER BY n LIMIT :limit""",
    "raw": """
        SELECT n, episode_id, kind, gateway, subject, attempts + 1 FROM outbox AS this
        WHERE kind = 'raw' AND state = 'READY' AND not_before_monotonic_ns <= :now
          AND NOT EXISTS (
            SELECT 1 FROM outbox AS episode
            WHERE episode.episode_id = this.episode_id AND episode.kind = 'episode' AND episode.state <> 'DONE')
        ORDER BY n LIMIT :limit""",
}
_NEWEST: Final = """
    SELECT n, episode_id, kind, gateway, subject, attempts + 1 FROM outbox
    WHERE kind = 'episode' AND state = 'READY' AND not_before_monotonic_ns <= :now
    ORDER BY n DESC LIMIT :limit"""


@dataclass(frozen=True)
class OutboxRow:
    """A claimed piece of work. ``attempts`` counts this one too."""

    n: int
    episode_id: str
    kind: Kind
    gateway: str
    subject: str
    attempts: int


class Outbox:
    """The queue inside the episode store's file. Any thread may call; each call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def recover(self) -> None:
        """Undo the locks and waits of the process before this one; called once, when the store is opened."""
        with self._database.writing() as connection:
            connection.execute(
                """UPDATE outbox SET state = 'READY', not_before_monotonic_ns = 0
                   WHERE state = 'LOCKED' OR (state = 'READY' AND not_before_monotonic_ns > 0)"""
            )

    def claim(
        self,
        now_monotonic_ns: int,
        *,
        kinds: Iterable[Kind] = ("episode", "raw"),
        limit: int = 16,
        newest_first_above: int | None = None,
    ) -> list[OutboxRow]:
        """Lock what may be sent now: episodes first, oldest first, in sequence within a subject.

        The caller sends them in this order; when one fails, it releases the rest of that subject.
        A lock older than 15 minutes has lost its owner and is taken over.

        While more than ``newest_first_above`` episodes wait, the newest go first, whatever their subject: after weeks
        without a network, today's matter most, and the collector knows from the sequence numbers what is still to come.
        """
        if limit < 1:
            raise StoreError(f"a claim of {limit} rows; ask for at least 1")
        rows: list[OutboxRow] = []
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE outbox SET state = 'READY' WHERE state = 'LOCKED' AND locked_monotonic_ns < ?",
                (now_monotonic_ns - _LEASE_NS,),
            )
            for kind in kinds:
                query = _CLAIMABLE[kind]
                if kind == "episode" and newest_first_above is not None:
                    query = _NEWEST if _more_than(connection, newest_first_above) else query
                found = connection.execute(query, {"now": now_monotonic_ns, "limit": limit - len(rows)})
                rows += [OutboxRow(*values) for values in found]
            connection.executemany(
                "UPDATE outbox SET state = 'LOCKED', attempts = ?, locked_monotonic_ns = ? WHERE n = ?",
                [(row.attempts, now_monotonic_ns, row.n) for row in rows],
            )
        return rows

    def body(self, row: OutboxRow) -> bytes | None:
        """Return the bytes to send: the envelope or the raw blob; None when the raw budget took the blob."""
        query = {
            "episode": "SELECT body FROM episodes WHERE id = ?",
            "raw": "SELECT data FROM raw_blobs WHERE episode_id = ?",
        }[row.kind]
        with self._database.reading() as connection:
            found = connection.execute(query, (row.episode_id,)).fetchone()
        return None if found is None else self._database.unseal(bytes(found[0]), about=f"{row.kind}:{row.episode_id}")

    def ack(self, row: OutboxRow) -> None:
        """Note that the collector has it."""
        self._finish(row, "DONE", "acknowledged", {"attempts": row.attempts})

    def quarantine(self, row: OutboxRow, reason: str) -> None:
        """Put aside what the collector will never take; the raw blob of a refused episode goes with it."""
        self._finish(row, "FAILED", "quarantined", {"reason": reason[:_MAX_ERROR_CHARS]})

    def retry(self, row: OutboxRow, *, now_monotonic_ns: int, delay_s: float, error: str) -> None:
        """Give a row back, to be tried again not before ``delay_s`` from now."""
        error = error[:_MAX_ERROR_CHARS]
        with self._database.writing() as connection:
            connection.execute(
                """UPDATE outbox SET state = 'READY', not_before_monotonic_ns = ?, last_error = ?, changed_utc_ns = ?
                   WHERE n = ? AND episode_id = ? AND state = 'LOCKED'""",
                (
                    now_monotonic_ns + int(delay_s * 1e9),
                    error,
                    self._database.wall_clock_ns(),
                    row.n,
                    row.episode_id,
                ),
            )
            self._audit(connection, row, "to_be_retried", {"error": error, "attempts": row.attempts})

    def release(self, rows: Iterable[OutboxRow]) -> None:
        """Give rows back that were claimed and not tried."""
        with self._database.writing() as connection:
            connection.executemany(
                """UPDATE outbox SET state = 'READY', attempts = attempts - 1
                   WHERE n = ? AND episode_id = ? AND state = 'LOCKED'""",
                [(row.n, row.episode_id) for row in rows],
            )

    def resend_episode(self, row: OutboxRow, *, reason: str) -> None:
        """Queue the episode of a raw blob again: the collector acknowledged it and no longer has it."""
        with self._database.writing() as connection:
            connection.execute(
                """INSERT INTO outbox (episode_id, kind, gateway, subject, state, changed_utc_ns)
                   VALUES (?, 'episode', ?, ?, 'READY', ?)
                   ON CONFLICT (episode_id, kind) DO UPDATE SET state = 'READY', not_before_monotonic_ns = 0
                   WHERE state = 'DONE'""",
                (row.episode_id, row.gateway, row.subject, self._database.wall_clock_ns()),
            )
            self._audit(connection, row, "episode_to_be_sent_again", {"reason": reason[:_MAX_ERROR_CHARS]})

    def _finish(self, row: OutboxRow, state: OutboxState, event: str, detail: dict[str, Any]) -> None:
        # a damaged file may have been replaced since the row was claimed: n alone would mean another episode then
        rows = "n = ? AND episode_id = ?"
        if state == "FAILED" and row.kind == "episode":
            rows = "episode_id = (SELECT episode_id FROM outbox WHERE n = ? AND episode_id = ?)"
        with self._database.writing() as connection:
            connection.execute(
                f"UPDATE outbox SET state = ?, last_error = ?, changed_utc_ns = ? WHERE {rows} AND state <> 'DONE'",
                (state, detail.get("reason"), self._database.wall_clock_ns(), row.n, row.episode_id),
            )
            self._audit(connection, row, event, detail)

    def _audit(self, connection: sqlite3.Connection, row: OutboxRow, event: str, detail: dict[str, Any]) -> None:
        self._database.record(connection, event, {"episode": row.episode_id, "kind": row.kind, **detail})


def _more_than(connection: sqlite3.Connection, n: int) -> bool:
    """Say whether more than ``n`` episodes wait; it looks at no more than these."""
    waiting = "SELECT 1 FROM outbox WHERE kind = 'episode' AND state = 'READY' LIMIT ?"
    return int(connection.execute(f"SELECT count(*) FROM ({waiting})", (n + 1,)).fetchone()[0]) > n
