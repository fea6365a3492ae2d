"""The collector's database connection: SQLite or PostgreSQL, one writer at a time, many requests in one commit.

A commit costs a disk flush, whatever it holds. Requests that wait while one is under way are committed together by the
first of them; each returns only when its own rows are on disk. One writer at a time,
across processes too, also means that arrivals become visible in their order and that the audit is one chain.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from kinedge.errors import ConfigError, KinedgeError, StoreError
from kinedge.upstream import chain
from kinedge.upstream.migrations import migrate
from kinedge.upstream.schema import TALLIES

__all__ = ["Database", "Transaction"]

_BUSY_TIMEOUT_MS: Final = 10_000
_MAX_BATCH: Final = 64
_LOCK_KEY: Final = 0x6B696E65  # "kine": the advisory lock of the writers on PostgreSQL
# The columns of a SELECT are computed from left to right: the patience first, then the lock.
_TAKE_TURN: Final = f"SELECT set_config('lock_timeout', '{_BUSY_TIMEOUT_MS}', true), pg_advisory_xact_lock({_LOCK_KEY})"
_DAY_NS: Final = 86_400 * 10**9
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass
class Transaction:
    """A transaction under way, and what the audit will say of it."""

    connection: sa.Connection
    utc_ns: int
    notes: list[chain.Note] = field(default_factory=list)
    tallies: Counter[tuple[str, str]] = field(default_factory=Counter)
    inserted: bool = False  # whether the row that came with the work at hand is new

    def note(self, event: str, who: str, detail: Mapping[str, Any]) -> None:
        """Write this into the audit, in this transaction."""
        self.notes.append(chain.Note(event, who, dict(detail)))

    def count(self, event: str, who: str = "", n: int = 1) -> None:
        """Count this, in this transaction."""
        self.tallies[event, who] += n

    def insert_new(self, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert a row; say False when its key is there already, whoever put it there."""
        statement = _insert_new(table.primary_key.columns[0], self.connection.dialect.name)
        return self.connection.execute(statement, dict(row)).first() is not None

    def finish(self) -> None:
        """Write audit and tallies."""
        chain.append(self.connection, self.notes, utc_ns=self.utc_ns)
        if not self.tallies:
            return
        day = self.utc_ns // _DAY_NS
        rows = [{"utc_day": day, "event": e, "who": w, "n": n} for (e, w), n in self.tallies.items()]
        self.connection.execute(_add_to_tallies(self.connection.dialect.name), rows)


# Statements are made once: to make one takes as long as to carry it out.
@cache
def _insert_new(key: sa.Column[Any], dialect: str) -> Any:
    """Insert what is not there yet, and return the keys of that."""
    return _insert(key.table, dialect).on_conflict_do_nothing().returning(key)


@cache
def _add_to_tallies(dialect: str) -> Any:
    upsert = _insert(TALLIES, dialect)
    n = TALLIES.c.n + upsert.excluded.n
    return upsert.on_conflict_do_update(index_elements=["utc_day", "event", "who"], set_={"n": n})


def _insert(table: Any, dialect: str) -> Any:
    """Return an insert that can be told what to do about a conflict, in the words of this database."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


class _Ticket(Generic[T]):
    """A piece of work that waits for its commit: a thread does, or an event loop with ``future``."""

    def __init__(
        self,
        work: Callable[[Transaction], T],
        new: tuple[sa.Table, dict[str, Any]] | None,
        future: asyncio.Future[T] | None = None,
    ) -> None:
        self.work = work
        self.new = new
        self.future = future
        self.settled = False
        self.woken = threading.Event()  # settled, or the next to commit
        self.result: T | None = None
        self.error: BaseException | None = None

    def settle(self, result: T | None, error: BaseException | None = None) -> None:
        self.result, self.error, self.settled = result, error, True
        self.woken.set()


class Database:
    """An engine with its pragmas, locks and words for errors.

    Parameters
    ----------
    url
        A SQLAlchemy URL: ``sqlite:///collector.db`` or ``postgresql://user@host/name``. Tables are made or migrated.
    wall_clock_ns
        UTC in ns.

    Raises
    ------
    ConfigError
        The URL names no database that is installed here.
    StoreError
        The database cannot be reached or written, or a newer kinedge made it.
    """

    def __init__(self, url: str, *, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            # A writer and as many readers as are reasonable at once; further ones wait.
            self.engine = sa.create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=10, pool_timeout=10)
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as e:
            raise ConfigError(f"{url!r} is no database URL that works here ({e}); try sqlite:///collector.db") from e
        self.wall_clock_ns = wall_clock_ns
        self.where = self.engine.url.render_as_string(hide_password=True)
        self.dialect = self.engine.dialect.name
        if self.dialect not in ("sqlite", "postgresql"):
            raise ConfigError(f"{url!r} is no database URL that works here; kinedge knows SQLite and PostgreSQL")
        self._mutex = threading.Lock()
        self._committing = False
        self._waiting: deque[_Ticket[Any]] = deque()
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commits")  # begins with the first `write_soon`
        if self.dialect == "sqlite":
            _prepare_sqlite(self.engine)
        try:
            with self._one_commit() as transaction:
                migrate(transaction.connection)
        except StoreError:
            self.engine.dispose()
            raise

    def close(self) -> None:
        """Finish what is being written and close all connections."""
        self._committer.shutdown()
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one state of the database.

        Raises
        ------
        StoreError
            The database does not answer.
        """
        with self._explained(), self.engine.connect() as connection:
            yield connection

    def write(self, work: Callable[[Transaction], T], *, new: tuple[sa.Table, dict[str, Any]] | None = None) -> T:
        """Do work and return when it is committed, together with what others wait to commit.

        ``work`` may be called a second time, alone, when something else in its commit failed.

        ``new`` is a row of a table with an ``id``. All such rows of a commit are inserted by one statement, which
        spares a way to the database and back for each; ``transaction.inserted`` tells ``work`` whether its row is new.

        Raises
        ------
        StoreError
            The database did not take it. Whatever ``work`` raises is raised here, and nothing of it is written.
        """
        ticket = _Ticket(work, new)
        commits = self._queue(ticket)
        if not commits:
            ticket.woken.wait()
            commits = not ticket.settled
        if commits:
            self._commit_and_hand_over()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[return-value]

    async def write_soon(
        self, work: Callable[[Transaction], T], *, new: tuple[sa.Table, dict[str, Any]] | None = None
    ) -> T:
        """Do as `write` does, without a thread for each that waits; whoever is cancelled may have been committed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._queue(_Ticket(work, new, future)):
            self._commit_soon()
        return await future

    def _queue(self, ticket: _Ticket[Any]) -> bool:
        """Let work wait for its commit; say whether nobody commits yet, so that its owner must see to that."""
        with self._mutex:
            self._waiting.append(ticket)
            commits, self._committing = not self._committing, True
        return commits

    def _commit_and_hand_over(self) -> None:
        """Commit what waits, then let the first that waits by then commit next. Nobody else is woken for nothing."""
        try:
            self._commit_waiting()
        finally:
            if self._loop_waits():
                self._commit_soon()

    def _commit_soon(self) -> None:
        """Let the committer's own thread commit."""
        self._committer.submit(self._commit_for_loops).add_done_callback(_log_fault)

    def _commit_for_loops(self) -> None:
        while True:
            try:
                self._commit_waiting()
            except BaseException:  # a fault of the code itself; whoever waited was told
                if self._loop_waits():
                    self._commit_soon()
                raise
            if not self._loop_waits():
                return

    def _loop_waits(self) -> bool:
        """Say whether an event loop is the first that waits; a thread that is goes on by itself."""
        with self._mutex:
            if not self._waiting:
                self._committing = False
                return False
            if self._waiting[0].future is None:
                self._waiting[0].woken.set()
                return False
            return True

    def _commit_waiting(self) -> None:
        """Commit what waits; whoever calls this is the first of them."""
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(_MAX_BATCH, len(self._waiting)))]
        try:
            if len(batch) > 1:
                try:
                    with self._one_commit() as transaction:
                        results = _do_all(transaction, batch)
                    for ticket, result in zip(batch, results, strict=True):
                        ticket.settle(result)
                    return
                except KinedgeError:
                    pass  # one of them spoilt it for all; each alone, then
            for ticket in batch:
                self._commit_alone(ticket)
        finally:
            for ticket in batch:
                if not ticket.settled:  # a fault of the code itself; nobody may wait for ever
                    ticket.settle(None, StoreError(f"{self.where}: the commit was broken off; try again"))
            _tell(batch)

    def _commit_alone(self, ticket: _Ticket[Any]) -> None:
        try:
            with self._one_commit() as transaction:
                (result,) = _do_all(transaction, [ticket])
        except KinedgeError as e:
            ticket.settle(None, e)
        else:
            ticket.settle(result)

    @contextmanager
    def _one_commit(self) -> Iterator[Transaction]:
        with self._explained(), self.engine.connect() as connection:
            connection = connection.execution_options(kinedge_writes=True)
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.exec_driver_sql(_TAKE_TURN)
                transaction = Transaction(connection, self.wall_clock_ns())
                yield transaction
                transaction.finish()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError as e:
            raise StoreError(f"{self.where}: every connection is in use; try again later") from e
        except DatabaseError as e:
            raise StoreError(f"{self.where}: {e.orig}; check the disk and that the database may be written") from e


def _do_all(transaction: Transaction, batch: list[_Ticket[Any]]) -> list[Any]:
    """Insert the rows that came along, then do each piece of work. Of two rows with one id, the first is new."""
    fresh: set[tuple[str, str]] = set()
    for table in {ticket.new[0] for ticket in batch if ticket.new is not None}:
        rows = [ticket.new[1] for ticket in batch if ticket.new is not None and ticket.new[0] is table]
        statement = _insert_new(table.c.id, transaction.connection.dialect.name)
        fresh |= {(table.name, id) for id in transaction.connection.scalars(statement, rows)}
    results = []
    for ticket in batch:
        key = ("", "") if ticket.new is None else (ticket.new[0].name, ticket.new[1]["id"])
        transaction.inserted = key in fresh
        fresh.discard(key)
        results.append(ticket.work(transaction))
    return results


def _log_fault(job: Future[None]) -> None:
    if (fault := job.exception()) is not None:
        _log.error("a commit was broken off", exc_info=fault)


def _tell(batch: Iterable[_Ticket[Any]]) -> None:
    """Wake each event loop once for all of a commit."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket[Any]]] = defaultdict(list)
    for ticket in batch:
        if ticket.future is not None:
            by_loop[ticket.future.get_loop()].append(ticket)

    def resolve(tickets: list[_Ticket[Any]]) -> None:
        for ticket in tickets:
            future = ticket.future
            if future is None or future.done():
                continue
            if ticket.error is None:
                future.set_result(ticket.result)
            else:
                future.set_exception(ticket.error)

    for loop, tickets in by_loop.items():
        with suppress(RuntimeError):  # it ended meanwhile, and nobody waits there
            loop.call_soon_threadsafe(resolve, tickets)


def _use_wal(connection: Any) -> None:
    """Switch a file to its write-ahead log; SQLite does not wait by itself where another one writes or switches."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _prepare_sqlite(engine: sa.Engine) -> None:
    def connect(dbapi_connection: Any, _: Any) -> None:
        dbapi_connection.isolation_level = None  # BEGIN is ours, below
        for pragma in (f"busy_timeout={_BUSY_TIMEOUT_MS}", "synchronous=FULL", "foreign_keys=ON"):
            dbapi_connection.execute(f"PRAGMA {pragma}")
        _use_wal(dbapi_connection)

    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that read first could not be let in later.
        writes = connection.get_execution_options().get("kinedge_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", begin)
