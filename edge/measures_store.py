"""Hours and days of measures in the gateway's SQLite file, and the state that measuring goes on from.

Rows and state are written in one transaction, and a row holds the whole of its hour or day, so that nothing is counted
twice whenever the process dies. Where the store has a vault, both are sealed under the person's key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.arrays import arrays_from_npz, arrays_to_npz
from kinedge.canonical import canonical_json
from kinedge.edge.database import Database
from kinedge.edge.measures.person import MeasuresRow
from kinedge.edge.measures_outbox import MeasuresOutbox
from kinedge.edge.sealing import measures_about, opened_text, sealed_text, state_about
from kinedge.edge.vault import is_sealed
from kinedge.errors import BundleError, StoreError

__all__ = ["KeptRow", "MeasuresStore"]

_UPSERT = """
    INSERT INTO measures VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (subject, part, level, start)
    DO UPDATE SET changed_utc_ns = excluded.changed_utc_ns, content = excluded.content"""


@dataclass(frozen=True)
class KeptRow:
    """An hour or a day of one part of one person, as it was kept last."""

    subject: str
    part: str
    level: Literal["hour", "day"]
    start: int
    changed_utc_ns: int
    content: Mapping[str, Any]


class MeasuresStore:
    """The measures in one file; any thread may call, and each write waits for the disk.

    Parameters
    ----------
    database
        Of the episode store: ``EpisodeStore.database``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.outbox = MeasuresOutbox(database)

    def save(
        self,
        subject: str,
        rows: Sequence[MeasuresRow],
        states: Mapping[str, Mapping[str, NDArray[Any]]],
        *,
        outgoing: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Keep the rows, in place of what they were before, and the states of a person, all or nothing.

        Parameters
        ----------
        subject, rows, states
            Whose, and what is kept.
        outgoing
            Days that go upstream with this, as `MeasuresOutbox.queue` takes them.

        Raises
        ------
        StoreError
            The disk does not take it.
        """
        now = self._database.wall_clock_ns()
        seal = self._database.seal
        packed = [
            (subject, part, now, seal(subject, arrays_to_npz(arrays), about=state_about(subject, part)))
            for part, arrays in states.items()
        ]
        with self._database.writing() as connection:
            connection.executemany(
                _UPSERT,
                [(subject, r.part, r.level, r.start, now, self._sealed(subject, r)) for r in rows],
            )
            connection.executemany("INSERT OR REPLACE INTO measure_states VALUES (?, ?, ?, ?)", packed)
            for fields in outgoing:
                self.outbox.queue(connection, fields)

    def states(self, subject: str) -> tuple[dict[str, dict[str, NDArray[np.generic]]], list[str]]:
        """Return the states of a person by part, and what is damaged of them.

        Raises
        ------
        StoreError
            They are sealed, and this process has no key.
        """
        with self._database.reading() as connection:
            rows = connection.execute("SELECT part, state FROM measure_states WHERE subject = ?", (subject,)).fetchall()
        found: dict[str, dict[str, NDArray[np.generic]]] = {}
        notes = []
        for part, state in rows:
            try:
                opened = self._database.unseal(bytes(state), about=state_about(subject, part))
                found[part] = dict(arrays_from_npz(opened, where=f"{subject}, {part}"))
            except (BundleError, StoreError) as e:
                if self._database.vault is None and is_sealed(bytes(state)):
                    raise  # it is whole, and must not be written over
                notes.append(f"{e}; this part starts anew")
        return found, notes

    def rows(
        self,
        *,
        subject: str | None = None,
        level: Literal["hour", "day"] | None = None,
        since: int | None = None,
    ) -> list[KeptRow]:
        """Return what is kept, oldest first.

        Parameters
        ----------
        subject, level
            Of these alone.
        since
            The first ``start`` of that level.

        Raises
        ------
        StoreError
            The file was written by a kinedge that kept no measures, cannot be read, or is sealed and the key is not
            here.
        """
        asked = {"subject": subject, "level": level, "since": since}
        with self._database.reading() as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'measures'").fetchone() is None:
                raise StoreError(f"{self._database.path}: no measures are kept here; start this kinedge on it once")
            rows = connection.execute(
                """SELECT * FROM measures
                   WHERE (:subject IS NULL OR subject = :subject) AND (:level IS NULL OR level = :level)
                     AND (:since IS NULL OR start >= :since) ORDER BY subject, part, level, start""",
                asked,
            ).fetchall()
        return [
            KeptRow(who, part, lvl, at, when, json.loads(self._opened(content, measures_about(who, part, lvl, at))))
            for who, part, lvl, at, when, content in rows
        ]

    def _sealed(self, subject: str, row: MeasuresRow) -> str:
        about = measures_about(subject, row.part, row.level, row.start)
        return sealed_text(self._database, subject, canonical_json(row.content).decode(), about=about)

    def _opened(self, content: str, about: str) -> str:
        return opened_text(self._database, content, about=about)
