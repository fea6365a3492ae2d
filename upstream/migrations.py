"""From each version of the collector's database to the next, the same steps for SQLite and PostgreSQL.

A step is SQL in which ``{serial}``, ``{blob}`` and ``{int}`` stand for what the two call by different names, or a
function. All steps that a database lacks run in one transaction, under the lock of its writers: a migration that
is cut off has not happened, and two collectors that start at once migrate once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from kinedge.envelope import parse_envelope
from kinedge.errors import StoreError
from kinedge.upstream import chain
from kinedge.upstream.summary import decision_of

__all__ = ["MIGRATIONS", "VERSION", "migrate"]

_WORDS: Final = {
    "sqlite": {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "blob": "BLOB", "int": "BIGINT"},
    "postgresql": {"serial": "BIGSERIAL PRIMARY KEY", "blob": "BYTEA", "int": "BIGINT"},
}
_Step = str | Callable[[sa.Connection], None]


def _decide(connection: sa.Connection) -> None:
    """Fill the new column from the envelopes."""
    last = 0
    while True:
        rows = connection.execute(
            sa.text("SELECT arrival, body FROM episodes WHERE arrival > :last ORDER BY arrival LIMIT 500"),
            {"last": last},
        ).all()
        if not rows:
            return
        connection.execute(
            sa.text("UPDATE episodes SET decision = :decision WHERE arrival = :arrival"),
            [{"arrival": r.arrival, "decision": decision_of(parse_envelope(bytes(r.body)))} for r in rows],
        )
        last = rows[-1].arrival


def _chain_up(connection: sa.Connection) -> None:
    """Carry the audit of version 1 over into the chain, with its own times."""
    for row in connection.execute(sa.text("SELECT * FROM audit_1 ORDER BY n")).mappings().all():
        detail = {k: row[k] for k in ("kind", "episode_id", "body_sha256", "detail") if row[k]}
        chain.append(connection, [chain.Note(row["event"], "", detail)], utc_ns=row["utc_ns"])


# One entry a version; an entry, once released, never changes.
MIGRATIONS: Final[tuple[tuple[_Step, ...], ...]] = (
    (
        """CREATE TABLE episodes (
            arrival {serial}, id VARCHAR(64) NOT NULL UNIQUE, site VARCHAR(64) NOT NULL, gateway VARCHAR(64) NOT NULL,
            subject VARCHAR(64) NOT NULL, sequence {int} NOT NULL, start_utc_ns {int} NOT NULL,
            end_utc_ns {int} NOT NULL, received_utc_ns {int} NOT NULL, body_sha256 VARCHAR(64) NOT NULL,
            raw_sha256 VARCHAR(64), body {blob} NOT NULL)""",
        "CREATE INDEX ix_episodes_start_utc_ns ON episodes (start_utc_ns)",
        "CREATE INDEX episodes_by_sequence ON episodes (gateway, subject, sequence)",
        "CREATE INDEX episodes_by_subject ON episodes (subject, arrival)",
        """CREATE TABLE raw_blobs (
            episode_id VARCHAR(64) PRIMARY KEY REFERENCES episodes (id), received_utc_ns {int} NOT NULL,
            data {blob} NOT NULL)""",
        """CREATE TABLE audit (
            n {serial}, utc_ns {int} NOT NULL, event VARCHAR(16) NOT NULL, kind VARCHAR(8) NOT NULL,
            episode_id VARCHAR(64) NOT NULL, body_sha256 VARCHAR(64), detail VARCHAR(500) NOT NULL)""",
    ),
    (
        "ALTER TABLE episodes ADD COLUMN decision VARCHAR(16) NOT NULL DEFAULT 'unsure'",
        "ALTER TABLE episodes ADD COLUMN status VARCHAR(16) NOT NULL DEFAULT 'new'",
        "CREATE INDEX episodes_by_status ON episodes (status, arrival)",
        _decide,
        "ALTER TABLE raw_blobs RENAME TO raw_blobs_1",
        """CREATE TABLE raw_blobs (
            episode_id VARCHAR(64) PRIMARY KEY REFERENCES episodes (id), received_utc_ns {int} NOT NULL,
            n_bytes {int} NOT NULL, data {blob})""",
        "INSERT INTO raw_blobs SELECT episode_id, received_utc_ns, length(data), data FROM raw_blobs_1",
        "DROP TABLE raw_blobs_1",
        """CREATE TABLE uploads (
            episode_id VARCHAR(64) NOT NULL REFERENCES episodes (id), first_byte {int} NOT NULL,
            received_utc_ns {int} NOT NULL, data {blob} NOT NULL, PRIMARY KEY (episode_id, first_byte))""",
        """CREATE TABLE reviews (
            n {serial}, episode_id VARCHAR(64) NOT NULL REFERENCES episodes (id), utc_ns {int} NOT NULL,
            reviewer VARCHAR(200) NOT NULL, action VARCHAR(16) NOT NULL, comment TEXT NOT NULL)""",
        "CREATE INDEX ix_reviews_episode_id ON reviews (episode_id)",
        "ALTER TABLE audit RENAME TO audit_1",
        """CREATE TABLE audit (
            n {int} NOT NULL PRIMARY KEY, utc_ns {int} NOT NULL, event VARCHAR(32) NOT NULL, who VARCHAR(200) NOT NULL,
            detail TEXT NOT NULL, digest VARCHAR(64) NOT NULL)""",
        _chain_up,
        """CREATE TABLE tallies (
            utc_day INTEGER NOT NULL, event VARCHAR(32) NOT NULL, who VARCHAR(200) NOT NULL, n {int} NOT NULL,
            PRIMARY KEY (utc_day, event, who))""",
        """INSERT INTO tallies SELECT CAST(utc_ns / 86400000000000 AS INTEGER), event, '', count(*) FROM audit_1
            GROUP BY 1, 2""",
        "DROP TABLE audit_1",
        """CREATE TABLE invitations (
            token_sha256 VARCHAR(64) PRIMARY KEY, gateway VARCHAR(64) NOT NULL, expires_utc_ns {int} NOT NULL,
            key_sha256 VARCHAR(64))""",
        """CREATE TABLE certificates (
            serial VARCHAR(64) PRIMARY KEY, gateway VARCHAR(64) NOT NULL, issued_utc_ns {int} NOT NULL,
            expires_utc_ns {int} NOT NULL, revoked_utc_ns {int})""",
        "CREATE INDEX ix_certificates_gateway ON certificates (gateway)",
        "CREATE TABLE cursors (sink VARCHAR(200) PRIMARY KEY NOT NULL, arrival {int} NOT NULL)",
    ),
    (
        """CREATE TABLE measures (
            arrival {serial}, id VARCHAR(64) NOT NULL UNIQUE, site VARCHAR(64) NOT NULL, gateway VARCHAR(64) NOT NULL,
            subject VARCHAR(64) NOT NULL, part VARCHAR(16) NOT NULL, day VARCHAR(10) NOT NULL,
            as_of_utc_ns {int} NOT NULL, received_utc_ns {int} NOT NULL, body {blob} NOT NULL)""",
        "CREATE UNIQUE INDEX measures_by_day ON measures (subject, day, part, gateway)",
        """CREATE TABLE sessions (
            secret_sha256 VARCHAR(64) PRIMARY KEY NOT NULL, who VARCHAR(200) NOT NULL, rights VARCHAR(100) NOT NULL,
            expires_utc_ns {int} NOT NULL)""",
        """CREATE TABLE sign_ins (
            secret_sha256 VARCHAR(64) PRIMARY KEY NOT NULL, state VARCHAR(64) NOT NULL, nonce VARCHAR(64) NOT NULL,
            verifier VARCHAR(128) NOT NULL, expires_utc_ns {int} NOT NULL)""",
    ),
)
VERSION: Final = len(MIGRATIONS)


def migrate(connection: sa.Connection) -> None:
    """Bring a database to this version, within the caller's transaction, which must be the only one that writes.

    Raises
    ------
    StoreError
        A newer kinedge made the database.
    """
    dialect = connection.dialect.name
    inspector = sa.inspect(connection)
    if not inspector.has_table("schema_version"):
        # The first collectors made their tables without a version.
        found = 1 if inspector.has_table("episodes") else 0
        connection.exec_driver_sql("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute(sa.text("INSERT INTO schema_version VALUES (:version)"), {"version": found})
    version: Any = connection.scalar(sa.text("SELECT version FROM schema_version"))
    if version > VERSION:
        raise StoreError(f"the database is of version {version}, this kinedge knows {VERSION}; install a newer kinedge")
    for step in (step for steps in MIGRATIONS[version:] for step in steps):
        if callable(step):
            step(connection)
        else:
            connection.exec_driver_sql(step.format_map(_WORDS[dialect]))
    if version < VERSION:
        connection.execute(sa.text("UPDATE schema_version SET version = :version"), {"version": VERSION})
