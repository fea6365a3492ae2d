"""Episodes at the collector: each stored exactly once, its bytes as they came.

SQLAlchemy Core. SQLite serves one machine (WAL, ``synchronous=FULL``, one writer at a time); nothing here
but the pragmas knows which database it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from kinedge.canonical import sha256_hex
from kinedge.envelope import Envelope, parse_envelope
from kinedge.errors import ConfigError, OutboxError, StoreError
from kinedge.upstream.schema import AUDIT, EPISODES, METADATA, RAW_BLOBS

__all__ = ["CollectorStore", "Gap", "Outcome", "Page", "StoredSummary", "printable"]

_BUSY_TIMEOUT_MS: Final = 10_000


class Outcome(Enum):
    """What became of something that was brought."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNKNOWN_EPISODE = "unknown"


@dataclass(frozen=True)
class StoredSummary:
    """One line of a listing."""

    arrival: int
    id: str
    site: str
    gateway: str
    subject: str
    sequence: int
    start_utc_ns: int
    end_utc_ns: int
    received_utc_ns: int
    has_raw: bool


@dataclass(frozen=True)
class Page:
    """A stretch of a listing, and where the next begins."""

    episodes: tuple[StoredSummary, ...]
    next_cursor: int | None


@dataclass(frozen=True)
class Gap:
    """Sequence numbers ``first`` to ``last``, both missing."""

    subject: str
    first: int
    last: int


class CollectorStore:
    """The collector's database. Any thread may call; each write is one transaction.

    Parameters
    ----------
    url
        A SQLAlchemy URL, such as ``sqlite:///collector.db``. Tables are made if absent.
    wall_clock_ns
        UTC in ns.

    Raises
    ------
    ConfigError
        The URL names no database that is installed here.
    StoreError
        The database cannot be reached or written.
    """

    def __init__(self, url: str, *, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ImportError) as e:
            raise ConfigError(f"{url!r} is no database URL that works here ({e}); try sqlite:///collector.db") from e
        self._wall_clock_ns = wall_clock_ns
        self._one_writer: Any = nullcontext()
        self._where = self._engine.url.render_as_string(hide_password=True)
        if self._engine.dialect.name == "sqlite":
            # SQLite's own waiting for a lock is a blind poll; a mutex is fair and quick.
            self._one_writer = threading.Lock()
            _prepare_sqlite(self._engine)
        with self._explained():
            METADATA.create_all(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise StoreError when the database does not answer."""
        with self._reading() as connection:
            connection.execute(sa.select(1))

    def put_episode(self, id: str, body: bytes) -> Outcome:
        """Store an envelope under its id: ACCEPTED, DUPLICATE (same bytes) or CONFLICT (other bytes).

        A conflict changes nothing; it is written to the audit table, as is a refusal.

        Raises
        ------
        OutboxError
            The bytes are no valid envelope, or one of another id.
        StoreError
            The database does not take it now.
        """
        digest = sha256_hex(body)
        try:
            envelope = parse_envelope(body)
            if envelope.id != id:
                raise OutboxError("the id in the path is not the one in the body")
        except OutboxError as e:
            with self._writing() as connection:
                self._note(connection, Outcome.REFUSED, "episode", id, digest, str(e))
            raise
        with self._writing() as connection:
            row = _row(envelope) | {"received_utc_ns": self._wall_clock_ns(), "body_sha256": digest, "body": body}
            outcome = Outcome.ACCEPTED
            if not _insert(connection, EPISODES, row):
                stored = connection.scalar(sa.select(EPISODES.c.body).where(EPISODES.c.id == id))
                outcome = Outcome.DUPLICATE if stored == body else Outcome.CONFLICT
            self._note(connection, outcome, "episode", id, digest)
        return outcome

    def put_raw(self, id: str, data: bytes) -> Outcome:
        """Store the raw blob of an episode that is here; its digest must be the one the envelope names."""
        digest = sha256_hex(data)
        with self._writing() as connection:
            described = connection.execute(sa.select(EPISODES.c.raw_sha256).where(EPISODES.c.id == id)).first()
            if described is None:
                return Outcome.UNKNOWN_EPISODE
            if described.raw_sha256 != digest:
                self._note(connection, Outcome.CONFLICT, "raw", id, digest)
                return Outcome.CONFLICT
            row = {"episode_id": id, "received_utc_ns": self._wall_clock_ns(), "data": data}
            outcome = Outcome.ACCEPTED if _insert(connection, RAW_BLOBS, row) else Outcome.DUPLICATE
            self._note(connection, outcome, "raw", id, digest)
        return outcome

    def episode(self, id: str) -> bytes | None:
        """Return an envelope's bytes as they came, or None."""
        with self._reading() as connection:
            return connection.scalar(sa.select(EPISODES.c.body).where(EPISODES.c.id == id))

    def raw(self, id: str) -> bytes | None:
        """Return a raw blob, or None."""
        with self._reading() as connection:
            return connection.scalar(sa.select(RAW_BLOBS.c.data).where(RAW_BLOBS.c.episode_id == id))

    def episodes(
        self,
        *,
        subject: str | None = None,
        gateway: str | None = None,
        since_utc_ns: int | None = None,
        until_utc_ns: int | None = None,
        order: Literal["oldest", "newest"] = "oldest",
        cursor: int | None = None,
        limit: int = 100,
    ) -> Page:
        """List in order of arrival; ``cursor`` is the last arrival that was seen.

        ``since_utc_ns`` and ``until_utc_ns`` bound the start: ``[since, until)``.
        """
        c = EPISODES.c
        query = sa.select(
            c.arrival, c.id, c.site, c.gateway, c.subject, c.sequence, c.start_utc_ns, c.end_utc_ns, c.received_utc_ns,
            sa.exists().where(RAW_BLOBS.c.episode_id == c.id).label("has_raw"),
        )  # fmt: skip
        conditions = [
            None if subject is None else c.subject == subject,
            None if gateway is None else c.gateway == gateway,
            None if since_utc_ns is None else c.start_utc_ns >= since_utc_ns,
            None if until_utc_ns is None else c.start_utc_ns < until_utc_ns,
            None if cursor is None else (c.arrival > cursor if order == "oldest" else c.arrival < cursor),
        ]
        query = query.where(*(condition for condition in conditions if condition is not None))
        query = query.order_by(c.arrival if order == "oldest" else c.arrival.desc()).limit(limit + 1)
        with self._reading() as connection:
            found = tuple(StoredSummary(**row) for row in connection.execute(query).mappings())
        more = len(found) > limit
        return Page(found[:limit], found[limit - 1].arrival if more else None)

    def missing(self, gateway: str, *, limit: int = 1000) -> tuple[Gap, ...]:
        """Return the gaps in a gateway's sequence numbers, per subject, at most ``limit``."""
        c = EPISODES.c
        previous = sa.func.lag(c.sequence, 1, 0).over(partition_by=c.subject, order_by=c.sequence)
        steps = sa.select(c.subject, c.sequence, previous.label("previous")).where(c.gateway == gateway).subquery()
        query = (
            sa.select(steps.c.subject, steps.c.previous + 1, steps.c.sequence - 1)
            .where(steps.c.sequence > steps.c.previous + 1)
            .order_by(steps.c.subject, steps.c.sequence)
            .limit(limit)
        )
        with self._reading() as connection:
            return tuple(Gap(*row) for row in connection.execute(query))

    def counts(self) -> dict[str, int]:
        """Count episodes and raw blobs, and the audit rows by event."""
        with self._reading() as connection:
            n = {
                t.name: connection.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in (EPISODES, RAW_BLOBS)
            }
            events = connection.execute(sa.select(AUDIT.c.event, sa.func.count()).group_by(AUDIT.c.event))
            return n | {event: count for event, count in events}

    def _note(
        self, connection: sa.Connection, outcome: Outcome, kind: str, id: str, digest: str | None, detail: str = ""
    ) -> None:
        row: dict[str, Any] = {"utc_ns": self._wall_clock_ns(), "event": outcome.value, "kind": kind}
        row |= {"episode_id": id, "body_sha256": digest, "detail": printable(detail)}
        connection.execute(AUDIT.insert().values(row))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._one_writer, self._explained(), self._engine.connect() as connection:
            connection = connection.execution_options(kinedge_writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError as e:
            raise StoreError(f"{self._where}: every connection is in use; try again later") from e
        except DatabaseError as e:
            raise StoreError(f"{self._where}: {e.orig}; check the disk and that the database may be written") from e


def printable(text: str, *, limit: int = 500) -> str:
    """Cut a message that quotes foreign input down to what any database and any JSON takes."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


def _row(envelope: Envelope) -> dict[str, Any]:
    names = ("id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns")
    return {name: getattr(envelope, name) for name in names} | {"raw_sha256": envelope.raw and envelope.raw.sha256}


def _insert(connection: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """Insert a row; say False when its key is there already, whoever put it there."""
    try:
        with connection.begin_nested():
            connection.execute(table.insert().values(row))
    except IntegrityError:
        return False
    return True


def _prepare_sqlite(engine: sa.Engine) -> None:
    def connect(dbapi_connection: Any, _: Any) -> None:
        dbapi_connection.isolation_level = None  # BEGIN is ours, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that read first could not be let in later.
        writes = connection.get_execution_options().get("kinedge_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", begin)
