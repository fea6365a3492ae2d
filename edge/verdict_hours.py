"""How often each answer was given, by the hour, and what stood in the way of a clearer one: how cautious it really was.

Episodes tell what was different; this tells how the rest of the time went. Counting is two additions a verdict; what
was counted since is added to the rows of the store every minute, in one transaction, so that a restart goes on where
the last minute was kept, a kill loses at most that minute, and nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.edge.caution import Decision
from kinedge.edge.database import Database
from kinedge.edge.episodes import EpisodeBuilder
from kinedge.edge.vault import is_sealed
from kinedge.edge.verdict import Verdict
from kinedge.edge.zone import Zone
from kinedge.errors import StoreError

__all__ = ["VerdictHour", "VerdictHours", "VerdictTally"]

_KEEP_EVERY_S: Final = 60.0
_RETRY_S: Final = 5.0
_MAX_WAITING: Final = 1024  # hours of people, while the disk refuses; beyond it the oldest are let go
_HOUR_S: Final = 3600
_UNNAMED: Final = "between"  # unsure, and nothing else was named

Key = tuple[str, int, str]  # subject, local hour, basis


@dataclass(frozen=True)
class VerdictHour:
    """An hour of answers about one person that rest on the same model, settings and enrolment.

    Parameters
    ----------
    subject
        Whose.
    hour
        Local hours since 1970-01-01, as hours of measures are counted.
    hop_s
        What one verdict stands for, in seconds.
    counts
        Verdicts by decision: ``normal``, ``anomalous``, ``unsure``.
    reasons
        Of the unsure verdicts, by the code of the heaviest reason and its sensor, empty where it is at none.
    basis
        ``model_digest``, ``config_digest``, ``kinedge_version`` and, where they apply, ``enrolment_digest``,
        ``promise`` and ``promised``, as an envelope has them.
    """

    subject: str
    hour: int
    hop_s: float
    counts: Mapping[str, int]
    reasons: Mapping[tuple[str, str], int]
    basis: Mapping[str, Any]


@dataclass
class _Counted:
    hop_s: float
    basis: Mapping[str, Any]
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)


class VerdictHours:
    """The hours in one file; any thread may call, and each write waits for the disk.

    Parameters
    ----------
    database
        Of the episode store: ``EpisodeStore.database``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, counted: Mapping[Key, _Counted]) -> None:
        """Add what was counted to what is kept, all or nothing.

        Raises
        ------
        StoreError
            The disk does not take it, or what is kept cannot be opened.
        """
        now = self._database.wall_clock_ns()
        with self._database.writing() as connection:
            for key, new in counted.items():
                row = connection.execute(
                    "SELECT content FROM verdict_hours WHERE subject = ? AND hour = ? AND basis = ?", key
                ).fetchone()
                kept = _Counted(new.hop_s, new.basis) if row is None else self._read(key, row[0])
                content = canonical_json(
                    {
                        "hop_s": new.hop_s,
                        "counts": kept.counts + new.counts,
                        "reasons": [[*reason, n] for reason, n in sorted((kept.reasons + new.reasons).items())],
                        "basis": dict(new.basis),
                    }
                )
                sealed = self._database.seal(key[0], content, about=_about(key))
                connection.execute("INSERT OR REPLACE INTO verdict_hours VALUES (?, ?, ?, ?, ?)", (*key, now, sealed))

    def rows(
        self, *, subject: str | None = None, first_hour: int | None = None, end_hour: int | None = None
    ) -> list[VerdictHour]:
        """Return the hours that are kept, oldest first; none where the file was written before they were counted.

        Parameters
        ----------
        subject
            Of this person alone.
        first_hour, end_hour
            Hours ``[first_hour, end_hour)``.

        Raises
        ------
        StoreError
            The file cannot be read, or is sealed and the key is not here.
        """
        asked = {"subject": subject, "first": first_hour, "end": end_hour}
        with self._database.reading() as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdict_hours'").fetchone() is None:
                return []
            rows = connection.execute(
                """SELECT subject, hour, basis, content FROM verdict_hours
                   WHERE (:subject IS NULL OR subject = :subject) AND (:first IS NULL OR hour >= :first)
                     AND (:end IS NULL OR hour < :end) ORDER BY subject, hour, basis""",
                asked,
            ).fetchall()
        found = []
        for who, hour, basis, content in rows:
            kept = self._read((who, hour, basis), content)
            found.append(VerdictHour(who, hour, kept.hop_s, kept.counts, kept.reasons, kept.basis))
        return found

    def seal_what_is_plain(self) -> int:
        """Seal the hours of the time before there was a key; return how many.

        Raises
        ------
        StoreError
            The disk does not take it.
        """
        if self._database.vault is None:
            return 0
        with self._database.writing() as connection:
            rows = connection.execute("SELECT subject, hour, basis, content FROM verdict_hours").fetchall()
            plain = [(key, bytes(content)) for *key, content in rows if not is_sealed(bytes(content))]
            connection.executemany(
                "UPDATE verdict_hours SET content = ? WHERE subject = ? AND hour = ? AND basis = ?",
                [(self._database.seal(k[0], content, about=_about((k[0], k[1], k[2]))), *k) for k, content in plain],
            )
        if plain:
            self._database.vacuum()  # nothing of the plain text stays in pages that are free now
        return len(plain)

    def _read(self, key: Key, content: bytes) -> _Counted:
        try:
            found = json.loads(self._database.unseal(bytes(content), about=_about(key)))
            return _Counted(
                float(found["hop_s"]),
                found["basis"],
                Counter({str(name): int(n) for name, n in found["counts"].items()}),
                Counter({(str(code), str(sensor)): int(n) for code, sensor, n in found["reasons"]}),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise StoreError(f"{self._database.path}: an hour of answers is damaged ({e}); look for disk errors") from e


class VerdictTally:
    """Counts the answers of a gateway while it runs, and keeps them.

    Parameters
    ----------
    hours
        Where they are kept; what is kept already is sealed if there is a key now.
    timezone
        Whose hours; empty: this machine's.
    note
        Told what goes wrong, for the log and the screen.

    Attributes
    ----------
    n_dropped
        Hours of people that were let go of because the disk refused for too long.
    """

    def __init__(self, hours: VerdictHours, *, timezone: str = "", note: Callable[[str], None]) -> None:
        self._hours, self._note = hours, note
        hours.seal_what_is_plain()
        self._zone = Zone(timezone)
        self._waiting: dict[Key, _Counted] = {}
        self._names: dict[int, tuple[Mapping[str, Any], str]] = {}
        self._ending = asyncio.Event()
        self.n_dropped = 0

    def add(self, subject: str, verdict: Verdict, builder: EpisodeBuilder, *, end_utc_ns: int) -> None:
        """Count a verdict.

        Parameters
        ----------
        subject, verdict
            Whose, and what was answered.
        builder
            Of the person's episodes: it knows what a verdict stands for and rests on.
        end_utc_ns
            When its block ended.
        """
        hop_s, basis = builder.hop_s, builder.provenance
        utc_s = (end_utc_ns - 1) // 10**9  # a block that ends with an hour belongs to it
        key = (subject, (utc_s + self._zone.offset_s(utc_s)) // _HOUR_S, self._name(basis))
        counted = self._waiting.get(key)
        if counted is None:
            if len(self._waiting) >= _MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
                self.n_dropped += 1
            counted = self._waiting[key] = _Counted(hop_s, basis)
        counted.counts[verdict.of_all.word] += 1
        if verdict.of_all is Decision.UNSURE:
            first = verdict.reasons[0] if verdict.reasons else None
            counted.reasons[(first.code, first.sensor or "") if first else (_UNNAMED, "")] += 1

    def end(self) -> None:
        """Let ``run`` return once everything is kept."""
        self._ending.set()

    async def run(self) -> None:
        """Keep what was counted every minute, until ``end``."""
        while True:
            kept = await self.keep()
            if self._ending.is_set():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _KEEP_EVERY_S if kept else _RETRY_S)

    async def keep(self) -> bool:
        """Keep what was counted; False when the disk refuses: it waits on."""
        taken, self._waiting = self._waiting, {}
        if not taken:
            return True
        try:
            await asyncio.to_thread(self._hours.add, taken)
        except StoreError as e:
            self._note(f"answers could not be counted on disk and wait: {e}")
            for key, new in self._waiting.items():
                if key in taken:
                    taken[key].counts += new.counts
                    taken[key].reasons += new.reasons
                else:
                    taken[key] = new
            self._waiting = taken
            return False
        return True

    def _name(self, basis: Mapping[str, Any]) -> str:
        """Return a short name of a basis; the same words have the same name."""
        known = self._names.get(id(basis))
        if known is None or known[0] is not basis:
            if len(self._names) > _MAX_WAITING:
                self._names.clear()
            known = self._names[id(basis)] = (basis, sha256_hex(canonical_json(dict(basis)))[:16])
        return known[1]


def _about(key: Key) -> str:
    return f"verdicts:{key[0]}:{key[1]}:{key[2]}"
