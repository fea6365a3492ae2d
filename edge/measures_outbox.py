"""Days of measures on their way upstream: of each day the latest row, until the collector has it.

A row that is written while an older one of the same day still waits takes its place: nobody needs what the day was in
between. There is one row a day and part, so nothing here grows with the time without a network but by days.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from kinedge import __version__
from kinedge.edge.database import Database
from kinedge.errors import OutboxError
from kinedge.measures_envelope import measures_envelope

__all__ = ["MeasuresOutbox", "OutgoingDay", "day_fields"]

_MAX_ERROR_CHARS: Final = 500
_EPOCH: Final = date(1970, 1, 1).toordinal()
_UPSERT: Final = """
    INSERT INTO measures_outbox VALUES (:subject, :part, :day, :id, :as_of, 'READY', :now, NULL, :body)
    ON CONFLICT (subject, part, day) DO UPDATE SET id = :id, as_of_utc_ns = :as_of, state = 'READY',
        changed_utc_ns = :now, last_error = NULL, body = :body"""


@dataclass(frozen=True)
class OutgoingDay:
    """A day that waits: ``id`` names the very row."""

    subject: str
    part: str
    day: int
    id: str


def day_fields(
    content: Mapping[str, Any], *, site: str, gateway: str, subject: str, part: str, day: int, config_digest: str
) -> dict[str, Any]:
    """Return the fields of a `MeasuresEnvelope`, without id and time, from a day as it is kept.

    Parameters
    ----------
    content
        Of the row.
    site, gateway, subject, part
        Whose.
    day
        Days since 1970-01-01, local.
    config_digest
        Of the gateway.
    """
    return {
        **content,
        "site": site,
        "gateway": gateway,
        "subject": subject,
        "part": part,
        "day": str(date.fromordinal(_EPOCH + day)),
        "config_digest": config_digest,
        "kinedge_version": __version__,
    }


class MeasuresOutbox:
    """The days in one file that go upstream; any thread may call, and each write waits for the disk.

    Parameters
    ----------
    database
        Of the episode store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self, connection: sqlite3.Connection, fields: Mapping[str, Any]) -> None:
        """Let a day go upstream, within the caller's transaction, in place of an older row of it.

        Parameters
        ----------
        connection
            Of the transaction.
        fields
            Of a `MeasuresEnvelope` without ``id`` and ``as_of_utc_ns``. What makes no envelope is told in the audit
            trail and not sent: what was measured must be kept all the same.
        """
        subject, part = str(fields["subject"]), str(fields["part"])
        day = date.fromisoformat(str(fields["day"])).toordinal() - _EPOCH
        now = self._database.wall_clock_ns()
        found = connection.execute(
            "SELECT as_of_utc_ns FROM measures_outbox WHERE subject = ? AND part = ? AND day = ?", (subject, part, day)
        ).fetchone()
        as_of = now if found is None else max(now, found[0] + 1)  # later, wherever the clock was set to
        try:
            row = measures_envelope(**fields, as_of_utc_ns=as_of)
        except OutboxError as e:
            detail = {"subject": subject, "part": part, "day": fields["day"], "reason": str(e)[:_MAX_ERROR_CHARS]}
            self._database.record(connection, "measures_not_sendable", detail)
            return
        body = self._database.seal(subject, row.to_bytes(), about=f"measures-out:{row.id}")
        values = {"subject": subject, "part": part, "day": day, "id": row.id, "as_of": as_of, "now": now, "body": body}
        connection.execute(_UPSERT, values)

    def due(self, *, limit: int = 64) -> list[OutgoingDay]:
        """Return days that wait, the oldest first."""
        query = "SELECT subject, part, day, id FROM measures_outbox WHERE state = 'READY' ORDER BY day LIMIT ?"
        with self._database.reading() as connection:
            return [OutgoingDay(*row) for row in connection.execute(query, (limit,))]

    def queued_days(self, subject: str) -> set[tuple[str, int]]:
        """Return part and day of every row that ever went, or is to go."""
        query = "SELECT part, day FROM measures_outbox WHERE subject = ?"
        with self._database.reading() as connection:
            return set(connection.execute(query, (subject,)).fetchall())

    def body(self, row: OutgoingDay) -> bytes | None:
        """Return the bytes to send; None when a newer row took its place, or the person was forgotten."""
        query = "SELECT body FROM measures_outbox WHERE id = ? AND state = 'READY'"
        with self._database.reading() as connection:
            found = connection.execute(query, (row.id,)).fetchone()
        return None if found is None else self._database.unseal(bytes(found[0]), about=f"measures-out:{row.id}")

    def ack(self, row: OutgoingDay) -> None:
        """Note that the collector has it, unless a newer row took its place meanwhile."""
        self._finish(row, "DONE", None)

    def quarantine(self, row: OutgoingDay, reason: str) -> None:
        """Put aside what the collector will never take; a later row of the day is tried again."""
        self._finish(row, "FAILED", reason[:_MAX_ERROR_CHARS])

    def counts(self) -> dict[str, int]:
        """Count days by state."""
        with self._database.reading() as connection:
            return dict(connection.execute("SELECT state, count(*) FROM measures_outbox GROUP BY state").fetchall())

    def _finish(self, row: OutgoingDay, state: str, reason: str | None) -> None:
        with self._database.writing() as connection:
            connection.execute(
                """UPDATE measures_outbox SET state = ?, last_error = ?, changed_utc_ns = ?, body = x''
                   WHERE id = ? AND state = 'READY'""",
                (state, reason, self._database.wall_clock_ns(), row.id),
            )
            if reason is not None:
                detail = {"measures": row.id, "subject": row.subject, "part": row.part, "reason": reason}
                self._database.record(connection, "measures_quarantined", detail)
