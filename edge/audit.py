"""The audit trail of the episode store: rows in a hash chain, so that a changed past shows."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.errors import StoreError

__all__ = ["AuditHead", "AuditRow", "append", "latest", "verify"]

_CHAIN_START: Final = "0" * 64


@dataclass(frozen=True)
class AuditHead:
    """Where an unbroken audit chain ends. Kept elsewhere, it also proves that no row was cut off the end."""

    n_rows: int
    digest: str


@dataclass(frozen=True)
class AuditRow:
    """One thing that happened."""

    n: int
    utc_ns: int
    event: str
    detail: dict[str, Any]


def append(connection: sqlite3.Connection, event: str, detail: dict[str, Any], *, utc_ns: int) -> None:
    """Append a row to the chain, within the caller's transaction."""
    last = connection.execute("SELECT n, digest FROM audit ORDER BY n DESC LIMIT 1").fetchone()
    n, previous = last or (0, _CHAIN_START)
    text = canonical_json(detail).decode()
    digest = _link(previous, n + 1, utc_ns, event, text)
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (n + 1, utc_ns, event, text, digest))


def latest(connection: sqlite3.Connection, *, limit: int, event: str | None = None) -> list[AuditRow]:
    """Return the newest rows, oldest first, all of one kind if ``event`` names it."""
    rows = connection.execute(
        """SELECT n, utc_ns, event, detail FROM audit WHERE :event IS NULL OR event = :event
           ORDER BY n DESC LIMIT :limit""",
        {"event": event, "limit": limit},
    ).fetchall()
    return [AuditRow(n, utc_ns, event, json.loads(detail)) for n, utc_ns, event, detail in reversed(rows)]


def verify(connection: sqlite3.Connection, *, known_digest: str | None = None) -> AuditHead:
    """Recompute the chain from its first row.

    Parameters
    ----------
    connection
        Of the store.
    known_digest
        Where the chain ended once; it must still come by.

    Raises
    ------
    StoreError
        A row was changed, removed or put in between, or ``known_digest`` is not in the chain.
    """
    head = AuditHead(0, _CHAIN_START)
    is_known = known_digest in (None, _CHAIN_START)
    for n, utc_ns, event, detail, digest in connection.execute("SELECT * FROM audit ORDER BY n"):
        if n != head.n_rows + 1 or digest != _link(head.digest, n, utc_ns, event, detail):
            raise StoreError(
                f"the audit chain breaks at row {n}: the file was changed by other means; "
                f"keep a copy and compare it with what the collector has"
            )
        head = AuditHead(n, digest)
        is_known = is_known or digest == known_digest
    if not is_known:
        raise StoreError(
            f"the audit chain does not hold {known_digest}: rows were cut off, or the file is another; "
            f"keep a copy and compare it with what the collector has"
        )
    return head


def _link(previous: str, n: int, utc_ns: int, event: str, detail: str) -> str:
    return sha256_hex(canonical_json([previous, n, utc_ns, event, detail]))
