"""The audit as a chain: each row's digest covers the row before, so nothing can be taken out or put in unseen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.errors import StoreError
from kinedge.upstream.schema import AUDIT

__all__ = ["AuditHead", "Note", "append", "verify"]

_CHAIN_START: Final = "0" * 64
_LAST: Final = sa.select(AUDIT.c.n, AUDIT.c.digest).order_by(AUDIT.c.n.desc()).limit(1)
_ADD: Final = AUDIT.insert()


@dataclass(frozen=True)
class Note:
    """Something worth remembering: what happened, and by whom."""

    event: str
    who: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class AuditHead:
    """Where an unbroken audit chain ends. Kept elsewhere, it also proves that no row was cut off the end."""

    n_rows: int
    digest: str


def append(connection: sa.Connection, notes: Sequence[Note], *, utc_ns: int) -> None:
    """Append rows to the chain. The caller's transaction must be the only one that writes."""
    if not notes:
        return
    last = connection.execute(_LAST).first()
    n, digest = (last.n, last.digest) if last else (0, _CHAIN_START)
    rows = []
    for note in notes:
        n += 1
        text = canonical_json(note.detail).decode()
        digest = _link(digest, n, utc_ns, note.event, note.who, text)
        rows.append({"n": n, "utc_ns": utc_ns, "event": note.event, "who": note.who, "detail": text, "digest": digest})
    connection.execute(_ADD, rows)


def verify(rows: Iterable[Any]) -> AuditHead:
    """Recompute the chain over all rows, in order.

    Raises
    ------
    StoreError
        A row was changed, removed or put in between.
    """
    head = AuditHead(0, _CHAIN_START)
    for row in rows:
        expected = _link(head.digest, row.n, row.utc_ns, row.event, row.who, row.detail)
        if row.n != head.n_rows + 1 or row.digest != expected:
            raise StoreError(
                f"the audit chain breaks at row {row.n}: the database was changed by other means; "
                f"keep a copy and compare it with a backup"
            )
        head = AuditHead(row.n, row.digest)
    return head


def _link(previous: str, n: int, utc_ns: int, event: str, who: str, detail: str) -> str:
    return sha256_hex(canonical_json([previous, n, utc_ns, event, who, detail]))
