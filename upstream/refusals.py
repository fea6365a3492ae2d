"""What was refused: counted always, written into the audit now and then, so that no flood of requests fills a disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from kinedge.errors import StoreError
from kinedge.upstream.chain import Note
from kinedge.upstream.database import Database, Transaction

__all__ = ["RefusalLog", "printable"]

SAMPLES_A_DAY: Final = 20  # of each event and requester that go into the audit
_ALL_SAMPLES_A_DAY: Final = 2000
_MAX_PENDING: Final = 4096
_DAY_NS: Final = 86_400 * 10**9


class RefusalLog:
    """Counts by event and requester in memory, and passes them on to the database about once a second.

    Parameters
    ----------
    database
        Where tallies and samples go.
    flush_s
        How long counts may wait. A kill of the process loses these, and nothing else.
    """

    def __init__(
        self, database: Database, *, flush_s: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._flush_s = flush_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pending: Counter[tuple[str, str]] = Counter()
        self._samples: list[Note] = []
        self._sampled: Counter[tuple[str, str]] = Counter()
        self._day = -1
        self._flushed_at = -1e9

    def add(self, event: str, who: str = "", **detail: Any) -> None:
        """Count a refusal; ``detail`` is kept of the first few a day. Never raises."""
        day = self._database.wall_clock_ns() // _DAY_NS
        with self._lock:
            if day != self._day:
                self._day, self._sampled = day, Counter()
            key = (event, who) if len(self._pending) < _MAX_PENDING else (event, "")
            self._pending[key] += 1
            if self._sampled[key] < SAMPLES_A_DAY and self._sampled.total() < _ALL_SAMPLES_A_DAY:
                self._sampled[key] += 1
                cleaned = {k: printable(v) if isinstance(v, str) else v for k, v in detail.items()}
                self._samples.append(Note(event, who, cleaned))
            due = self._monotonic() - self._flushed_at >= self._flush_s
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; when the database does not take it now, it stays pending."""
        with self._lock:
            pending, samples = self._pending, self._samples
            self._pending, self._samples = Counter(), []
            self._flushed_at = self._monotonic()
        if not pending:
            return

        def work(transaction: Transaction) -> None:
            transaction.notes += samples
            for (event, who), n in pending.items():
                transaction.count(event, who, n)

        try:
            self._database.write(work)
        except StoreError:
            with self._lock:
                self._pending += pending
                self._samples = samples + self._samples


def printable(text: str, *, limit: int = 500) -> str:
    """Cut a message that quotes foreign input down to what any database and any JSON takes."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
