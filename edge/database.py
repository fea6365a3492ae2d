"""The SQLite file under the episode store: opened with care, migrated, locked and audited.

WAL with ``synchronous=FULL``: a transaction that returned survives a kill and a power cut. One process
writes (a ``flock`` beside the file says who); readers open it read-only. A damaged file is moved aside,
never deleted. What happens to an episode is written into a hash chain in the same transaction.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from kinedge.edge import audit
from kinedge.edge.file_cipher import connect, errors, file_key
from kinedge.edge.schema import APPLICATION_ID, MIGRATIONS
from kinedge.edge.vault import Vault, is_sealed
from kinedge.errors import StoreError

__all__ = ["Database"]

_BUSY_TIMEOUT_MS: Final = 10_000


class Database:
    """The file, its one connection and its lock. Any thread may call; calls are serialised.

    Parameters
    ----------
    path
        Made if absent, with its folders, readable by its owner alone.
    read_only
        Look at a store that another process writes: takes no lock, repairs and changes nothing.
    wall_clock_ns
        UTC in ns, for the time stamps of rows. No decision hangs on it but ageing by days.
    vault
        Seals what is kept of people; None: it is kept as it is.

    Raises
    ------
    StoreError
        The path cannot be used, another process writes there, or the file is another program's or a
        newer kinedge's. A damaged file raises only when ``read_only``; else a fresh one takes over.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        vault: Vault | None = None,
    ) -> None:
        self.path = path
        self.vault = vault
        self.wall_clock_ns = wall_clock_ns
        self._mutex = threading.RLock()
        self._read_only = read_only
        self._is_damaged = False
        self._lock_file: IO[str] | None = None
        try:
            if not read_only:
                self._lock_file = _lock(path)
            self._connection = self._open(read_only=read_only)
        except StoreError:
            self._unlock()
            raise

    def close(self) -> None:
        """Close the file and let another process have it."""
        with self._mutex:
            self._connection.close()
            self._unlock()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for SELECTs."""
        with self._mutex, self._explained():
            self._replace_if_damaged()
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection inside a transaction: on disk when the block ends, undone when it raises."""
        with self._mutex, self._explained():
            self._replace_if_damaged()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def seal(self, subject: str, data: bytes, *, about: str) -> bytes:
        """Return what to keep of a person's bytes."""
        return data if self.vault is None else self.vault.seal(subject, data, about=about)

    def unseal(self, data: bytes, *, about: str) -> bytes:
        """Return the bytes that were kept.

        Raises
        ------
        StoreError
            They are sealed, and the key is not here.
        """
        if self.vault is not None:
            return self.vault.unseal(data, about=about)
        if is_sealed(data):
            raise StoreError(f"{self.path}: is sealed; give the key that [keys] names")
        return data

    def vacuum(self) -> None:
        """Rewrite the file, so that nothing of what was deleted is left in it."""
        with self._mutex, self._explained():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def record(self, connection: sqlite3.Connection, event: str, detail: dict[str, Any]) -> None:
        """Append a row to the audit chain, within the caller's transaction."""
        audit.append(connection, event, detail, utc_ns=self.wall_clock_ns())

    def _replace_if_damaged(self) -> None:
        """Go on with a fresh file after the last call found this one damaged: nobody is there to restart us."""
        if not self._is_damaged or self._read_only:
            return
        self._connection.close()
        self._connection = self._open(read_only=False, thoroughly=True)
        self._is_damaged = False

    def _open(self, *, read_only: bool, thoroughly: bool = False) -> sqlite3.Connection:
        with self._explained():
            key = file_key(self.path, self.vault, make=not read_only)
            plain: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
            if read_only:
                connection = connect(f"{self.path.absolute().as_uri()}?mode=ro", key=key, uri=True, **plain)
                self._check_owner(connection)
                if connection.execute("PRAGMA user_version").fetchone() == (0,):
                    raise StoreError(f"{self.path}: empty; no kinedge has written here yet")
                return connection
            damage = _damage(self.path, key, thoroughly=thoroughly)
            moved = _move_aside(self.path, self.wall_clock_ns()) if damage else None
            connection = connect(self.path, key=key, **plain)
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                f"busy_timeout={_BUSY_TIMEOUT_MS}",
            ):
                connection.execute(f"PRAGMA {pragma}")
            self._check_owner(connection)
            self._migrate(connection)
            if moved:
                # The numbers go on where they stopped, so that the collector sees what was lost as a gap.
                sequences = _salvage_sequences(moved, key)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO sequences VALUES (?, ?, ?)", sequences)
                detail = {"why": damage, "moved_to": moved.name, "sequences_kept": len(sequences)}
                self.record(connection, "damaged_file_moved_aside", detail)
                connection.execute("COMMIT")
            return connection

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if n_tables and application != APPLICATION_ID:
            raise StoreError(f"{self.path}: a database of another program; give the episode store a path of its own")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path}: format {version}, this kinedge reads up to {len(MIGRATIONS)}; update kinedge"
            )

    @staticmethod
    def _migrate(connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite and of the disk into one StoreError that says what to do."""
        try:
            yield
        except UnicodeDecodeError as e:
            self._is_damaged = True
            raise StoreError(f"{self.path}: damaged (text that is none); the next write moves the file aside") from e
        except MemoryError as e:
            raise StoreError(f"{self.path}: not enough memory for this; nothing was written; it is tried again") from e
        except errors() as e:
            text = str(e)
            if "disk is full" in text:
                raise StoreError(f"{self.path}: the disk is full; nothing was written; free some space") from e
            if _is_damage(e):
                self._is_damaged = True
                raise StoreError(f"{self.path}: damaged ({text}); the next write moves the file aside") from e
            if "unable to open" in text or "readonly" in text:
                raise StoreError(
                    f"{self.path}: cannot be opened ({text}); check that it is there, that it is a file, "
                    f"and that this user may use its folder"
                ) from e
            raise StoreError(f"{self.path}: {text}; check the disk, then restart kinedge") from e

    def _unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def _lock(path: Path) -> IO[str]:
    """Take the store for this process; the kernel gives it back when the process dies, however it dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = Path(f"{path}.lock").open("a+", encoding="ascii")  # noqa: SIM115 (held for the life of the store)
    except OSError as e:
        raise StoreError(f"{path}: cannot be written ({e.strerror}); choose a folder that this user may write") from e
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        path.touch(mode=0o600)
    except BlockingIOError as e:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
        file.close()
        raise StoreError(f"{path}: in use by process {holder}; stop it or choose another path") from e
    except OSError as e:
        file.close()
        raise StoreError(f"{path}: cannot be written ({e.strerror}); free some space or choose another path") from e
    return file


def _is_damage(error: Exception) -> bool:
    return "malformed" in str(error) or "not a database" in str(error)


def _damage(path: Path, key: bytes | None, *, thoroughly: bool) -> str | None:
    """Say what is wrong with the pages of a file; None when nothing is."""
    try:
        with closing(connect(path, key=key, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
            check = "integrity_check" if thoroughly else "quick_check"  # indices take a while
            (verdict,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    except UnicodeDecodeError:
        return "the schema is not text"  # sqlite3 cannot even decode its own complaint about it
    except errors() as e:
        if _is_damage(e):
            return str(e)
        raise
    return None if verdict == "ok" else str(verdict)


def _move_aside(path: Path, utc_ns: int) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(utc_ns // 10**9)) + f"{utc_ns % 10**9:09d}Z"
    target = Path(f"{path}.corrupt-{stamp}")
    try:
        for suffix in ("-wal", "-shm"):
            if Path(f"{path}{suffix}").exists():
                os.replace(f"{path}{suffix}", f"{target}{suffix}")
        os.replace(path, target)
        path.touch(mode=0o600)
    except OSError as e:
        raise StoreError(f"{path}: damaged, and it cannot be moved aside ({e.strerror}); move it by hand") from e
    return target


def _salvage_sequences(damaged: Path, key: bytes | None) -> list[tuple[str, str, int]]:
    """Read what can be read of the sequence numbers in a damaged file."""
    try:
        with closing(connect(f"{damaged.absolute().as_uri()}?mode=ro", key=key, uri=True)) as connection:
            rows = connection.execute("SELECT gateway, subject, last FROM sequences").fetchall()
    except errors():
        return []
    return [row for row in rows if isinstance(row[0], str) and isinstance(row[1], str) and isinstance(row[2], int)]
