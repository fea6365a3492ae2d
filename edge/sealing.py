"""What the store seals and how it forgets a person; `vault` has the keys."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kinedge.edge.database import Database
from kinedge.edge.vault import is_sealed
from kinedge.errors import StoreError

__all__ = [
    "Forgotten",
    "forget",
    "measures_about",
    "opened_draft",
    "opened_text",
    "seal_what_is_plain",
    "sealed_draft",
    "sealed_text",
    "state_about",
]

_SEALED_TEXT: Final = "sealed:"  # in a column of text
_BATCH: Final = 100


@dataclass(frozen=True)
class Forgotten:
    """What was destroyed."""

    key: bool
    episodes: int
    raw_blobs: int
    drafts: int
    unsent: int
    measures: int


def sealed_draft(
    database: Database, key: str, content: Mapping[str, Any], text: str, raw: bytes
) -> dict[str, str | bytes]:
    """Return the columns ``text`` and ``raw`` of a draft."""
    subject = str(content.get("subject", ""))
    return {
        "text": sealed_text(database, subject, text, about=f"draft:{key}"),
        "raw": database.seal(subject, raw, about=f"draft-raw:{key}"),
    }


def opened_draft(database: Database, key: str, text: str, raw: bytes) -> tuple[str, bytes]:
    """Return content and raw slice of a draft as they were saved.

    Raises
    ------
    StoreError
        They are sealed, and the key is not here, or they are damaged.
    """
    return opened_text(database, text, about=f"draft:{key}"), database.unseal(bytes(raw), about=f"draft-raw:{key}")


def sealed_text(database: Database, subject: str, text: str, *, about: str) -> str:
    """Return what a column of text holds: sealed if there is a vault."""
    if database.vault is None:
        return text
    return _SEALED_TEXT + base64.b64encode(database.seal(subject, text.encode(), about=about)).decode()


def opened_text(database: Database, text: str, *, about: str) -> str:
    """Return what was given to `sealed_text`, or a text that never was sealed.

    Raises
    ------
    StoreError
        It is sealed, and the key is not here, or it is damaged.
    """
    if not text.startswith(_SEALED_TEXT):
        return text
    try:
        sealed = base64.b64decode(text[len(_SEALED_TEXT) :], validate=True)
    except binascii.Error as e:
        raise StoreError(f"{about}: damaged; look for disk errors") from e
    return database.unseal(sealed, about=about).decode()


def seal_what_is_plain(database: Database) -> int:
    """Seal episodes, blobs and measures of the time before there was a key; return how many rows.

    Drafts are rewritten by themselves. Each batch is one transaction, so that a kill leaves rows of both kinds, which
    are all read.
    """
    if database.vault is None:
        return 0
    n_sealed = 0
    for table, kind, id, column in (("episodes", "episode", "id", "body"), ("raw_blobs", "raw", "episode_id", "data")):
        rowid = 0
        while True:
            with database.writing() as connection:
                rows = connection.execute(
                    f"""SELECT this.rowid, this.{id}, this.{column}, episodes.subject FROM {table} AS this
                        JOIN episodes ON episodes.id = this.{id} WHERE this.rowid > ? ORDER BY this.rowid LIMIT ?""",
                    (rowid, _BATCH),
                ).fetchall()
                plain = [row for row in rows if not is_sealed(bytes(row[2]))]
                connection.executemany(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                    [(database.seal(row[3], bytes(row[2]), about=f"{kind}:{row[1]}"), row[0]) for row in plain],
                )
            n_sealed += len(plain)
            if len(rows) < _BATCH:
                break
            rowid = rows[-1][0]
    n_sealed += _seal_measures_on_their_way(database) + _seal_measures(database)
    if n_sealed:
        with database.writing() as connection:
            database.record(connection, "sealed", {"rows": n_sealed})
        database.vacuum()  # nothing of the plain text stays in pages that are free now
    return n_sealed


def _seal_measures_on_their_way(database: Database) -> int:
    """Seal the days that wait to go upstream; a person has one a day at most."""
    with database.writing() as connection:
        rows = connection.execute("SELECT rowid, subject, id, body FROM measures_outbox WHERE body <> x''").fetchall()
        plain = [row for row in rows if not is_sealed(bytes(row[3]))]
        connection.executemany(
            "UPDATE measures_outbox SET body = ? WHERE rowid = ?",
            [(database.seal(who, bytes(body), about=f"measures-out:{id}"), rowid) for rowid, who, id, body in plain],
        )
    return len(plain)


def measures_about(subject: str, part: str, level: str, start: int) -> str:
    """Return what binds an hour or a day of measures to its row."""
    return f"measures:{subject}:{part}:{level}:{start}"


def state_about(subject: str, part: str) -> str:
    """Return what binds a state of measuring to its row."""
    return f"measure-state:{subject}:{part}"


def _seal_measures(database: Database) -> int:
    n_sealed, more = 0, True
    while more:
        with database.writing() as connection:
            rows = connection.execute(
                "SELECT subject, part, level, start, content FROM measures WHERE content NOT GLOB ? LIMIT ?",
                (f"{_SEALED_TEXT}*", _BATCH),
            ).fetchall()
            connection.executemany(
                "UPDATE measures SET content = ? WHERE subject = ? AND part = ? AND level = ? AND start = ?",
                [(sealed_text(database, k[0], content, about=measures_about(*k)), *k) for *k, content in rows],
            )
        n_sealed, more = n_sealed + len(rows), len(rows) == _BATCH
    with database.writing() as connection:
        states = connection.execute("SELECT subject, part, state FROM measure_states").fetchall()
        plain = [(who, part, bytes(state)) for who, part, state in states if not is_sealed(bytes(state))]
        connection.executemany(
            "UPDATE measure_states SET state = ? WHERE subject = ? AND part = ?",
            [(database.seal(who, state, about=state_about(who, part)), who, part) for who, part, state in plain],
        )
    return n_sealed + len(plain)


def forget(database: Database, subject: str) -> Forgotten:
    """Destroy what is kept of a person.

    The key goes first: from then on nobody can open what was sealed with it, here or in a copy of the file. Then the
    rows go, unsent ones too, and the file is rewritten. Sequence numbers and the audit trail stay: they hold the
    pseudonym, ids and times.

    Raises
    ------
    StoreError
        The key or the rows cannot be destroyed; it can be called again.
    """
    had_key = database.vault is not None and database.vault.forget(subject)
    of = "episode_id IN (SELECT id FROM episodes WHERE subject = :subject)"
    with database.writing() as connection:

        def drop(rows: str) -> int:
            return connection.execute(f"DELETE FROM {rows}", {"subject": subject}).rowcount

        (unsent,) = connection.execute(
            f"SELECT count(*) FROM outbox WHERE kind = 'episode' AND state <> 'DONE' AND {of}", {"subject": subject}
        ).fetchone()
        drop(f"outbox WHERE {of}")
        done = Forgotten(
            key=had_key,
            raw_blobs=drop(f"raw_blobs WHERE {of}"),
            episodes=drop("episodes WHERE subject = :subject"),
            drafts=_drop_drafts(connection, subject),
            unsent=unsent,
            measures=sum(
                drop(f"{table} WHERE subject = :subject") for table in ("measures", "measure_states", "measures_outbox")
            ),
        )
        drop("verdict_hours WHERE subject = :subject")
        database.record(connection, "subject_forgotten", {"subject": subject, **vars(done)})
    database.vacuum()
    return done


def _drop_drafts(connection: sqlite3.Connection, subject: str) -> int:
    """Remove drafts by their keys, ``SUBJECT:START``: what is in them may be sealed."""
    keys = [key for (key,) in connection.execute("SELECT key FROM drafts") if key.rpartition(":")[0] == subject]
    connection.executemany("DELETE FROM drafts WHERE key = ?", [(key,) for key in keys])
    return len(keys)
