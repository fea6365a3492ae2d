"""Episodes on disk: drafts while they last, then one transaction for the episode and its way upstream.

``save_draft`` keeps an open episode safe against a kill; ``commit`` gives it its sequence number and its
content-addressed id and writes episode, raw blob, outbox rows and audit row together or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, get_args

from pydantic import ValidationError

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import explain_validation_error
from kinedge.edge import audit, retention, sealing
from kinedge.edge.audit import AuditHead, AuditRow
from kinedge.edge.database import Database
from kinedge.edge.outbox import Outbox, OutboxState
from kinedge.edge.retention import Pruned
from kinedge.edge.sealing import Forgotten
from kinedge.edge.vault import Vault
from kinedge.envelope import MAX_ENVELOPE_BYTES, Envelope, RawSlice, episode_id, parse_envelope
from kinedge.errors import OutboxError, StoreError

__all__ = ["Draft", "EpisodeStore", "StoreCounts", "StoredEpisode"]

_RAW_BUDGET_BYTES: Final = 1 << 30
_DISK_RESERVE_BYTES: Final = 16 << 20
_MAX_KEY_CHARS: Final = 200
_ZERO_ID: Final = "0" * 64

_ENQUEUE: Final = """
    INSERT INTO outbox (episode_id, kind, gateway, subject, state, changed_utc_ns) VALUES (?, ?, ?, ?, 'READY', ?)"""
_STORED: Final = """
    SELECT id, body, committed_utc_ns, episode.state, raw.state FROM episodes
    LEFT JOIN outbox AS episode ON episode.episode_id = id AND episode.kind = 'episode'
    LEFT JOIN outbox AS raw ON raw.episode_id = id AND raw.kind = 'raw'"""


@dataclass(frozen=True)
class Draft:
    """An episode that was open when it was last saved."""

    key: str
    content: dict[str, Any]
    raw: bytes
    opened_utc_ns: int
    saved_utc_ns: int


@dataclass(frozen=True)
class StoredEpisode:
    """A committed episode and how far it has come; a state is None when its row was pruned or never was."""

    envelope: Envelope
    committed_utc_ns: int
    episode_state: OutboxState | None
    raw_state: OutboxState | None


@dataclass(frozen=True)
class StoreCounts:
    """What is in the store: outbox rows by state, and the bytes of the raw blobs."""

    episodes: int
    drafts: int
    ready: int
    locked: int
    done: int
    quarantined: int
    raw_blobs: int
    raw_bytes: int


class EpisodeStore:
    """The episodes of one gateway in one SQLite file.

    Any thread may call; calls are serialised, and each write waits for the disk (a few ms, on a slow card
    more), so an event loop calls through ``asyncio.to_thread``. One process writes, others read.

    Parameters
    ----------
    path
        Of the SQLite file.
    read_only
        Look into a store that another process writes.
    raw_budget_bytes
        What raw blobs may take. When a new one does not fit, the oldest go: first those that the collector
        has, then unsent ones, each with an audit row. An episode itself is never removed.
    disk_reserve_bytes
        When less is free on the disk, each new raw blob takes the place of old ones.
    wall_clock_ns
        UTC in ns.
    vault
        Seals episodes, raw blobs and drafts (`kinedge.edge.vault`); what was kept before is sealed when it is opened.

    Raises
    ------
    StoreError
        See `kinedge.edge.database.Database`.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        raw_budget_bytes: int = _RAW_BUDGET_BYTES,
        disk_reserve_bytes: int = _DISK_RESERVE_BYTES,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        vault: Vault | None = None,
    ) -> None:
        self._database = Database(Path(path), read_only=read_only, wall_clock_ns=wall_clock_ns, vault=vault)
        self._raw_budget_bytes = raw_budget_bytes
        self._disk_reserve_bytes = disk_reserve_bytes
        self.outbox = Outbox(self._database)
        if not read_only:
            self.outbox.recover()
            sealing.seal_what_is_plain(self._database)

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._database.path

    @property
    def database(self) -> Database:
        """The open file, for what else is kept in it."""
        return self._database

    def close(self) -> None:
        """Close the file and let another process write it."""
        self._database.close()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def save_draft(self, key: str, content: Mapping[str, Any], raw: bytes = b"") -> None:
        """Write an open episode down, in place of what was saved under this key before.

        Raises
        ------
        StoreError
            The key is empty or too long, the content has no JSON form, or the disk does not take it.
        """
        if not 0 < len(key) <= _MAX_KEY_CHARS:
            raise StoreError(f"a draft's key must have 1 to {_MAX_KEY_CHARS} characters, got {len(key)}")
        try:
            text = canonical_json(dict(content)).decode()
        except (TypeError, ValueError) as e:
            raise StoreError(f"draft {key!r}: its content has no JSON form ({e})") from e
        now = self._database.wall_clock_ns()
        with self._database.writing() as connection:
            is_new = connection.execute("SELECT 1 FROM drafts WHERE key = ?", (key,)).fetchone() is None
            connection.execute(
                """INSERT INTO drafts VALUES (:key, :text, :raw, :now, :now) ON CONFLICT (key)
                   DO UPDATE SET content = :text, raw = :raw, saved_utc_ns = :now""",
                {**sealing.sealed_draft(self._database, key, content, text, raw), "key": key, "now": now},
            )
            if is_new:
                self._database.record(connection, "draft_opened", {"key": key})

    def open_drafts(self) -> list[Draft]:
        """Return the episodes that were open when the last process ended, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM drafts ORDER BY opened_utc_ns, key").fetchall()
        found = []
        for key, text, raw, opened, saved in rows:
            text, raw = sealing.opened_draft(self._database, key, text, raw)
            found.append(Draft(key, json.loads(text), raw, opened, saved))
        return found

    def discard_draft(self, key: str, *, reason: str) -> None:
        """Drop a draft that became no episode."""
        with self._database.writing() as connection:
            if connection.execute("DELETE FROM drafts WHERE key = ?", (key,)).rowcount:
                self._database.record(connection, "draft_discarded", {"key": key, "reason": reason})

    @staticmethod
    def check(fields: Mapping[str, Any], raw: bytes | None = None) -> None:
        """Check what ``commit`` would be given, without a disk.

        Raises
        ------
        StoreError
            The fields make no envelope, or the blob is not the one they describe.
        """
        _checked(fields, raw)

    def commit(
        self, fields: Mapping[str, Any] | Envelope, raw: bytes | None = None, *, draft_key: str | None = None
    ) -> Envelope:
        """Store an episode and queue it for upstream, in one transaction.

        Parameters
        ----------
        fields
            The fields of `Envelope`. ``id`` and ``sequence`` are given here, whatever stands in them;
            ``raw.sha256`` and ``raw.n_bytes`` may be left out.
        raw
            The blob that ``fields["raw"]`` describes; None when it is absent.
        draft_key
            The draft that this episode replaces.

        Returns
        -------
        Envelope
            As stored. If an episode with this id is stored already, that one, unchanged.

        Raises
        ------
        StoreError
            The fields make no envelope, the blob is not the one they describe, or the disk does not take it.
        """
        if isinstance(fields, Envelope):
            fields = fields.model_dump(mode="json", by_alias=True)
        unnumbered = _checked(fields, raw)
        now = self._database.wall_clock_ns()
        gateway, subject = unnumbered.gateway, unnumbered.subject
        with self._database.writing() as connection:
            if draft_key is not None:
                connection.execute("DELETE FROM drafts WHERE key = ?", (draft_key,))
            stored = connection.execute("SELECT body FROM episodes WHERE id = ?", (unnumbered.id,)).fetchone()
            if stored is not None:
                return self._parse(unnumbered.id, stored[0])
            (sequence,) = connection.execute(
                """INSERT INTO sequences VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last""",
                (gateway, subject),
            ).fetchone()
            envelope = unnumbered.model_copy(update={"sequence": sequence})
            sealed = self._database.seal(subject, envelope.to_bytes(), about=f"episode:{envelope.id}")
            connection.execute(
                "INSERT INTO episodes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (envelope.id, gateway, subject, sequence, envelope.start_utc_ns, now, sealed),
            )
            connection.execute(_ENQUEUE, (envelope.id, "episode", gateway, subject, now))
            if raw is not None:
                connection.execute(
                    "INSERT INTO raw_blobs (episode_id, n_bytes, data) VALUES (?, ?, ?)",
                    (envelope.id, len(raw), self._database.seal(subject, raw, about=f"raw:{envelope.id}")),
                )
                connection.execute(_ENQUEUE, (envelope.id, "raw", gateway, subject, now))
                retention.fit_raw(
                    self._database,
                    connection,
                    len(raw),
                    budget_bytes=self._raw_budget_bytes,
                    disk_reserve_bytes=self._disk_reserve_bytes,
                )
            detail = {"episode": envelope.id, "subject": subject, "sequence": sequence, "draft": draft_key}
            self._database.record(connection, "committed", detail)
        return envelope

    def episodes(
        self,
        *,
        limit: int = 100,
        subject: str | None = None,
        since_utc_ns: int | None = None,
        until_utc_ns: int | None = None,
        committed_since_utc_ns: int | None = None,
    ) -> list[StoredEpisode]:
        """Return committed episodes, the latest start first; times bound the start, ``[since, until)``."""
        query = f"""{_STORED}
            WHERE (:subject IS NULL OR episodes.subject = :subject) AND (:since IS NULL OR start_utc_ns >= :since)
              AND (:until IS NULL OR start_utc_ns < :until)
              AND (:committed IS NULL OR committed_utc_ns >= :committed) ORDER BY start_utc_ns DESC LIMIT :limit"""
        asked = {"subject": subject, "limit": limit, "since": since_utc_ns, "until": until_utc_ns}
        asked["committed"] = committed_since_utc_ns
        with self._database.reading() as connection:
            rows = connection.execute(query, asked).fetchall()
        return [StoredEpisode(self._parse(id, body), *rest) for id, body, *rest in rows]

    def episode(self, id: str) -> StoredEpisode | None:
        """Return one committed episode, or None."""
        with self._database.reading() as connection:
            row = connection.execute(f"{_STORED} WHERE id = ?", (id,)).fetchone()
        return None if row is None else StoredEpisode(self._parse(row[0], row[1]), *row[2:])

    def raw(self, id: str) -> bytes | None:
        """Return the raw blob of an episode, or None when it has none or it was pruned."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT data FROM raw_blobs WHERE episode_id = ?", (id,)).fetchone()
        return None if row is None else self._database.unseal(bytes(row[0]), about=f"raw:{id}")

    def counts(self) -> StoreCounts:
        """Count what is here."""
        with self._database.reading() as connection:
            states = dict(connection.execute("SELECT state, count(*) FROM outbox GROUP BY state").fetchall())
            (episodes,) = connection.execute("SELECT count(*) FROM episodes").fetchone()
            (drafts,) = connection.execute("SELECT count(*) FROM drafts").fetchone()
            blobs = connection.execute("SELECT count(*), COALESCE(sum(n_bytes), 0) FROM raw_blobs").fetchone()
        return StoreCounts(episodes, drafts, *(states.get(state, 0) for state in get_args(OutboxState)), *blobs)

    def oldest_unsent_s(self) -> float:
        """Return how long the oldest episode has waited for the collector, by the wall clock; 0 when none waits."""
        with self._database.reading() as connection:
            (utc_ns,) = connection.execute(
                """SELECT min(committed_utc_ns) FROM outbox JOIN episodes ON episodes.id = outbox.episode_id
                   WHERE kind = 'episode' AND state IN ('READY', 'LOCKED')"""
            ).fetchone()
        return 0.0 if utc_ns is None else max(0.0, (self._database.wall_clock_ns() - utc_ns) / 1e9)

    def prune(
        self,
        *,
        older_than_s: float,
        raw_budget_bytes: int | None = None,
        episodes_older_than_s: float | None = None,
        max_sent_episodes: int | None = None,
    ) -> Pruned:
        """Remove what the collector has had for long enough, and the oldest raw blobs beyond a budget.

        Parameters
        ----------
        older_than_s
            Acknowledged outbox rows and raw blobs go. Quarantined and unsent rows and drafts stay.
        raw_budget_bytes
            Of raw blobs.
        episodes_older_than_s
            Episodes that are older, and that the collector has had for ``older_than_s``, go; None: all stay.
        max_sent_episodes
            Of those that the collector has had for so long, only the newest so many stay.
        """
        return retention.prune(
            self._database,
            older_than_s=older_than_s,
            raw_budget_bytes=raw_budget_bytes,
            episodes_older_than_s=episodes_older_than_s,
            max_sent_episodes=max_sent_episodes,
        )

    def forget(self, subject: str) -> Forgotten:
        """Destroy what is kept of a person, and the key that it was sealed with; see `kinedge.edge.sealing.forget`."""
        return sealing.forget(self._database, subject)

    def record_event(self, event: str, detail: Mapping[str, Any]) -> None:
        """Append what happened to the gateway itself to the audit chain.

        Raises
        ------
        StoreError
            The disk does not take it.
        """
        with self._database.writing() as connection:
            self._database.record(connection, event, dict(detail))

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the details of all audit rows of one kind, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT detail FROM audit WHERE event = ? ORDER BY n", (event,)).fetchall()
        return [json.loads(text) for (text,) in rows]

    def audit_rows(self, *, limit: int = 100, event: str | None = None) -> list[AuditRow]:
        """Return the newest rows of the audit trail, oldest first, all of one kind if ``event`` names it."""
        with self._database.reading() as connection:
            return audit.latest(connection, limit=limit, event=event)

    def verify_audit(self, *, known_digest: str | None = None) -> AuditHead:
        """Recompute the audit chain; see `kinedge.edge.audit.verify`."""
        with self._database.reading() as connection:
            return audit.verify(connection, known_digest=known_digest)

    def _parse(self, id: str, body: bytes) -> Envelope:
        try:
            return parse_envelope(self._database.unseal(bytes(body), about=f"episode:{id}"))
        except OutboxError as e:
            raise StoreError(f"{self.path}: a stored episode cannot be read ({e}); look for disk errors") from e


def _checked(fields: Mapping[str, Any], raw: bytes | None) -> Envelope:
    """Build the envelope that is to be stored; its sequence number is still to come."""
    content = {**fields, "sequence": 1, "id": _ZERO_ID}
    described = content.get("raw")
    if (described is None) != (raw is None):
        raise StoreError("an episode has a raw blob and its description, or neither; one of them is missing")
    if raw is not None:
        if isinstance(described, RawSlice):
            described = described.model_dump()
        facts = {"sha256": sha256_hex(raw), "n_bytes": len(raw)}
        if not isinstance(described, Mapping) or any(described.get(k, v) != v for k, v in facts.items()):
            raise StoreError("the raw blob is not the one that the episode's raw field describes")
        content["raw"] = {**described, **facts}
    try:
        content["id"] = episode_id(
            site=content["site"],
            gateway=content["gateway"],
            subject=content["subject"],
            sensors=content["sensors"],
            start_utc_ns=content["start_utc_ns"],
            model_digest=content["model_digest"],
            raw_sha256=None if raw is None else content["raw"]["sha256"],
        )
        envelope = Envelope.model_validate(content)
        n_bytes = len(envelope.to_bytes())
    except KeyError as e:
        raise StoreError(f"an episode without {e}; every field of the envelope is needed") from e
    except ValidationError as e:
        raise StoreError(explain_validation_error(e, Envelope, "episode")) from e
    except (TypeError, ValueError) as e:
        raise StoreError(f"the episode's fields make no envelope ({e})") from e
    if n_bytes > MAX_ENVELOPE_BYTES - 16:  # the sequence number is still to come
        raise StoreError(f"an envelope of {n_bytes} bytes; the limit is {MAX_ENVELOPE_BYTES}: shorten the trail")
    return envelope
