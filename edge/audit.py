"""The audit trail of the episode store: rows in a hash chain, so that a changed past shows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.errors import StoreError

__all__ = ["AuditHead", "append", "verify"]

_CHAIN_START: Final = "0" * 64


@dataclass(frozen=True)
class AuditHead:
    """Where an unbroken audit chain ends. Kept elsewhere, it also proves that no row was cut off the end."""

    n_rows: int
    digest: str


def append(connection: sqlite3.Connection, event: str, detail: dict[str, Any], *, utc_ns: int) -> None:
    """Append a row to the chain, within the caller's transaction."""
    last = connection.execute("SELECT n, digest FROM audit ORDER BY n DESC LIMIT 1").fetchone()
    n, previous = last or (0, _CHAIN_START)
    text = canonical_json(detail).decode()
    digest = _link(previous, n + 1, utc_ns, event, text)
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (n + 1, utc_ns, event, text, digest))


def verify(connection: sqlite3.Connection) -> AuditHead:
    """Recompute the chain from its first row.

    Raises
    ------
    StoreError
        A row was changed, removed or put in between.
    """
    head = AuditHead(0, _CHAIN_START)
    for n, utc_ns, event, detail, digest in connection.execute("SELECT * FROM audit ORDER BY n"):
        if n != head.n_rows + 1 or digest != _link(head.digest, n, utc_ns, event, detail):
            raise StoreError(
                f"the audit chain breaks at row {n}: the file was changed by other means; "
                f"keep a copy and compare it with what the collector has"
            )
        head = AuditHead(n, digest)
    return head


def _link(previous: str, n: int, utc_ns: int, event: str, detail: str) -> str:
    return sha256_hex(canonical_json([previous, n, utc_ns, event, detail]))
