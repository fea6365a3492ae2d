"""Episodes at the collector: each stored exactly once, its bytes as they came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from kinedge.canonical import sha256_hex
from kinedge.envelope import Envelope, parse_envelope
from kinedge.errors import OutboxError
from kinedge.upstream import chain, uploads
from kinedge.upstream.blobs import BlobStore
from kinedge.upstream.database import Database, Transaction
from kinedge.upstream.measured import MeasuresBook
from kinedge.upstream.outcomes import Outcome
from kinedge.upstream.refusals import RefusalLog, printable
from kinedge.upstream.schema import AUDIT, EPISODES, RAW_BLOBS, REVIEWS, TALLIES
from kinedge.upstream.summary import Filter, Gap, Page, StoredSummary, decision_of, listing

__all__ = ["CollectorStore", "Outcome", "Review", "ReviewAction", "UploadState", "printable"]

ReviewAction = Literal["confirm", "dismiss", "reopen", "comment"]
_PARSED_ON_LOOP_BYTES: Final = 64 << 10  # some 0.3 ms; more would hold up other connections
_STATUS: Final[dict[ReviewAction, str]] = {"confirm": "confirmed", "dismiss": "dismissed", "reopen": "new"}


@dataclass(frozen=True)
class UploadState:
    """How far the upload of a raw blob is."""

    outcome: Outcome
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Review:
    """What a person said of an episode."""

    n: int
    episode_id: str
    utc_ns: int
    reviewer: str
    action: str
    comment: str


class CollectorStore:
    """The collector's database. Any thread may call; what a write says is true once it returns.

    Parameters
    ----------
    url
        A SQLAlchemy URL, such as ``sqlite:///collector.db`` or ``postgresql://user@host/name``.
    blobs
        Where raw blobs go; none: into the database.
    wall_clock_ns
        UTC in ns.

    Raises
    ------
    ConfigError
        The URL names no database that is installed here.
    StoreError
        The database cannot be reached or written.
    """

    def __init__(
        self, url: str, *, blobs: BlobStore | None = None, wall_clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.database = Database(url, wall_clock_ns=wall_clock_ns)
        self.refusals = RefusalLog(self.database)
        self.measures = MeasuresBook(self.database, self.refusals)
        self._blobs = blobs

    def close(self) -> None:
        """Write down what was counted and close all connections."""
        self.refusals.flush()
        self.database.close()

    def ping(self) -> None:
        """Raise StoreError unless the database answers."""
        with self.database.reading() as connection:
            connection.execute(sa.text("SELECT 1"))

    def put_episode(self, id: str, body: bytes, *, gateway: str | None = None, who: str = "") -> Outcome:
        """Store an envelope, or find that it is here already.

        Parameters
        ----------
        id
            The id it was brought under.
        body
            Its JSON, stored as it is.
        gateway
            The only gateway it may be of; none: any.
        who
            Who brought it, for the audit.

        Raises
        ------
        OutboxError
            The body is no envelope, or of another id.
        StoreError
            The database does not take it now.
        """
        try:
            envelope = _envelope_of(id, body)
        except OutboxError as e:
            self._refuse(Outcome.REFUSED, who, "episode", id, sha256_hex(body), str(e))
            raise
        if gateway is not None and envelope.gateway != gateway:
            self._refuse(Outcome.FOREIGN, who, "episode", id, sha256_hex(body), f"the body names {envelope.gateway}")
            return Outcome.FOREIGN
        row, work = self._keeping(envelope, body, who)
        outcome = self.database.write(work, new=(EPISODES, row))
        if outcome is not Outcome.ACCEPTED:
            self._refuse(outcome, who, "episode", id, row["body_sha256"])
        return outcome

    async def put_episode_soon(self, id: str, body: bytes, *, gateway: str | None = None, who: str = "") -> Outcome:
        """Do as `put_episode` does, on an event loop: a thread is needed only for what is large or refused."""
        envelope = None
        if len(body) <= _PARSED_ON_LOOP_BYTES:
            with suppress(OutboxError):
                envelope = _envelope_of(id, body)
        if envelope is None or gateway not in (None, envelope.gateway):
            return await asyncio.to_thread(self.put_episode, id, body, gateway=gateway, who=who)
        row, work = self._keeping(envelope, body, who)
        del envelope  # hundreds of objects that the garbage collector would look at again and again
        outcome = await self.database.write_soon(work, new=(EPISODES, row))
        if outcome is not Outcome.ACCEPTED:
            await asyncio.to_thread(self._refuse, outcome, who, "episode", id, row["body_sha256"])
        return outcome

    def _keeping(
        self, envelope: Envelope, body: bytes, who: str
    ) -> tuple[dict[str, Any], Callable[[Transaction], Outcome]]:
        """Return the row of an episode, and what is to be done about it in the transaction that inserts it."""
        id, digest = envelope.id, sha256_hex(body)
        row = _row(envelope) | {"body_sha256": digest, "body": body}
        row["received_utc_ns"] = self.database.wall_clock_ns()

        def work(transaction: Transaction) -> Outcome:
            if transaction.inserted:
                transaction.count("accepted")
                transaction.note("accepted", who, {"kind": "episode", "episode_id": id, "body_sha256": digest})
                return Outcome.ACCEPTED
            stored = transaction.connection.scalar(sa.select(EPISODES.c.body).where(EPISODES.c.id == id))
            return Outcome.DUPLICATE if stored == body else Outcome.CONFLICT

        return row, work

    def put_raw(self, id: str, data: bytes, *, gateway: str | None = None, who: str = "") -> Outcome:
        """Store the raw blob of an episode that is here; its digest must be the one the envelope names."""
        digest = sha256_hex(data)
        described = self._described(id)
        if described is None:
            return Outcome.UNKNOWN_EPISODE
        if gateway is not None and described.gateway != gateway:
            self._refuse(Outcome.FOREIGN, who, "raw", id, digest)
            return Outcome.FOREIGN
        if described.raw_sha256 != digest:
            self._refuse(Outcome.CONFLICT, who, "raw", id, digest)
            return Outcome.CONFLICT
        if described.has_raw:
            outcome = Outcome.DUPLICATE
        else:
            if self._blobs is not None:
                self._blobs.put(digest, data)
            outcome = self.database.write(lambda transaction: self._keep_raw(transaction, id, digest, data, who))
        if outcome is not Outcome.ACCEPTED:
            self._refuse(outcome, who, "raw", id, digest)
        return outcome

    def upload_state(self, id: str, *, gateway: str | None = None, who: str = "") -> UploadState:
        """Say how much of a raw blob is here: the next piece begins at ``offset``."""
        described = self._described(id)
        if described is None:
            return UploadState(Outcome.UNKNOWN_EPISODE, 0, 0)
        if gateway is not None and described.gateway != gateway:
            self._refuse(Outcome.FOREIGN, who, "piece", id, "")
            return UploadState(Outcome.FOREIGN, 0, 0)
        if described.raw_sha256 is None:
            return UploadState(Outcome.CONFLICT, 0, 0)
        n_bytes = self._promised_bytes(id)
        if described.has_raw:
            return UploadState(Outcome.DUPLICATE, n_bytes, n_bytes)
        with self.database.reading() as connection:
            offset = uploads.offset(connection, id)
        if offset >= n_bytes:  # all came, and then this process died
            return self._finish_upload(id, described.raw_sha256, n_bytes, who)
        return UploadState(Outcome.INCOMPLETE, offset, n_bytes)

    def put_piece(
        self, id: str, first_byte: int, data: bytes, *, gateway: str | None = None, who: str = ""
    ) -> UploadState:
        """Add a piece of a raw blob; the last one makes it whole, if all together have the promised digest.

        Returns
        -------
        state
            ``INCOMPLETE``: go on at ``offset``; ``WRONG_OFFSET``: the same, and this piece was not taken;
            ``ACCEPTED`` or ``DUPLICATE``: the blob is here; ``CONFLICT``: it is not the blob the envelope names, and
            what was sent of it is forgotten.
        """
        state = self.upload_state(id, gateway=gateway, who=who)
        if state.outcome is not Outcome.INCOMPLETE:
            return state
        n_bytes = state.n_bytes

        def work(transaction: Transaction) -> UploadState:
            here = uploads.offset(transaction.connection, id)
            if first_byte != here or not data:
                return UploadState(Outcome.WRONG_OFFSET, here, n_bytes)
            if here + len(data) > n_bytes:
                return UploadState(Outcome.CONFLICT, here, n_bytes)
            if here == 0:
                uploads.prune(transaction)
            uploads.add_piece(transaction, id, here, data)
            return UploadState(Outcome.INCOMPLETE, here + len(data), n_bytes)

        state = self.database.write(work)
        if state.outcome is Outcome.CONFLICT:
            self._refuse(state.outcome, who, "piece", id, "", f"more than the promised {n_bytes} bytes")
        if state.outcome is Outcome.INCOMPLETE and state.offset == n_bytes:
            return self.upload_state(id, gateway=gateway, who=who)
        return state

    def _finish_upload(self, id: str, digest: str, n_bytes: int, who: str) -> UploadState:
        """Hold all pieces against the digest; the blob is stored, or the pieces are forgotten."""
        with self.database.reading() as connection:
            whole = uploads.joined(connection, id)
        if sha256_hex(whole) != digest:
            self.database.write(lambda transaction: uploads.forget_pieces(transaction, id))
            self._refuse(Outcome.CONFLICT, who, "piece", id, digest, "the pieces together have another digest")
            return UploadState(Outcome.CONFLICT, 0, n_bytes)
        if self._blobs is not None:
            self._blobs.put(digest, whole)
        outcome = self.database.write(lambda transaction: self._keep_raw(transaction, id, digest, whole, who))
        return UploadState(outcome, n_bytes, n_bytes)

    def episode(self, id: str) -> bytes | None:
        """Return an envelope's bytes as they came, or None."""
        with self.database.reading() as connection:
            return connection.scalar(sa.select(EPISODES.c.body).where(EPISODES.c.id == id))

    def raw(self, id: str) -> bytes | None:
        """Return a raw blob, or None."""
        query = sa.select(RAW_BLOBS.c.data, EPISODES.c.raw_sha256).join(
            EPISODES, EPISODES.c.id == RAW_BLOBS.c.episode_id
        )
        with self.database.reading() as connection:
            found = connection.execute(query.where(EPISODES.c.id == id)).first()
        if found is None:
            return None
        if found.data is not None or self._blobs is None:
            return None if found.data is None else bytes(found.data)
        return self._blobs.get(found.raw_sha256)

    def episodes(
        self,
        wanted: Filter = Filter(),
        *,
        order: Literal["oldest", "newest"] = "oldest",
        cursor: int | None = None,
        limit: int = 100,
    ) -> Page:
        """List in order of arrival; ``cursor`` is the last arrival that was seen."""
        with self.database.reading() as connection:
            query = listing(wanted, order=order, cursor=cursor, limit=limit + 1)
            found = tuple(StoredSummary(**row) for row in connection.execute(query).mappings())
        more = len(found) > limit
        return Page(found[:limit], found[limit - 1].arrival if more else None)

    def envelopes(self, wanted: Filter, *, page: int = 200) -> Iterator[tuple[StoredSummary, bytes]]:
        """Give all that fit with their bytes, oldest first, a page in memory at a time."""
        cursor = 0
        while True:
            found = self.next_bodies(cursor, limit=page, wanted=wanted)
            yield from found
            if len(found) < page:
                return
            cursor = found[-1][0].arrival

    def next_bodies(
        self,
        cursor: int,
        *,
        limit: int,
        wanted: Filter = Filter(),
    ) -> list[tuple[StoredSummary, bytes]]:
        """Give the next that arrived after ``cursor``, with their bytes."""
        with self.database.reading() as connection:
            query = listing(wanted, order="oldest", cursor=cursor, limit=limit, with_body=True)
            rows = [dict(row) for row in connection.execute(query).mappings()]
        bodies = [bytes(row.pop("body")) for row in rows]
        return [(StoredSummary(**row), body) for row, body in zip(rows, bodies, strict=True)]

    def missing(self, gateway: str, *, subject: str | None = None, limit: int = 1000) -> tuple[Gap, ...]:
        """Return the gaps in a gateway's sequence numbers, per subject, at most ``limit``."""
        c = EPISODES.c
        previous = sa.func.lag(c.sequence, 1, 0).over(partition_by=c.subject, order_by=c.sequence)
        steps = sa.select(c.subject, c.sequence, previous.label("previous")).where(c.gateway == gateway)
        if subject is not None:
            steps = steps.where(c.subject == subject)
        s = steps.subquery().c
        query = (
            sa.select(s.subject, s.previous + 1, s.sequence - 1)
            .where(s.sequence > s.previous + 1)
            .order_by(s.subject, s.sequence)
            .limit(limit)
        )
        with self.database.reading() as connection:
            return tuple(Gap(*row) for row in connection.execute(query))

    def review(self, id: str, action: ReviewAction, *, comment: str, who: str) -> str | None:
        """Write down what a person says of an episode and return its status then; None: no such episode."""

        def work(transaction: Transaction) -> str | None:
            connection = transaction.connection
            found: str | None = connection.scalar(sa.select(EPISODES.c.status).where(EPISODES.c.id == id))
            if found is None:
                return None
            status = _STATUS.get(action, found)
            row = {"episode_id": id, "utc_ns": transaction.utc_ns, "reviewer": who}
            connection.execute(REVIEWS.insert(), row | {"action": action, "comment": comment})
            connection.execute(EPISODES.update().where(EPISODES.c.id == id).values(status=status))
            transaction.note(
                "reviewed", who, {"episode_id": id, "action": action, "comment_sha256": sha256_hex(comment.encode())}
            )
            transaction.count("reviewed")
            return status

        return self.database.write(work)

    def status(self, id: str) -> str | None:
        """Return what people said of an episode in a word, or None: no such episode."""
        with self.database.reading() as connection:
            status: str | None = connection.scalar(sa.select(EPISODES.c.status).where(EPISODES.c.id == id))
        return status

    def reviews(self, id: str, *, limit: int = 1000) -> tuple[Review, ...]:
        """Return what was said of an episode, oldest first."""
        query = sa.select(REVIEWS).where(REVIEWS.c.episode_id == id).order_by(REVIEWS.c.n).limit(limit)
        with self.database.reading() as connection:
            return tuple(Review(**row) for row in connection.execute(query).mappings())

    def counts(self) -> dict[str, int]:
        """Count episodes, raw blobs, and by event what was done and refused."""
        self.refusals.flush()
        with self.database.reading() as connection:
            n = {
                t.name: connection.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in (EPISODES, RAW_BLOBS)
            }
            events = connection.execute(sa.select(TALLIES.c.event, sa.func.sum(TALLIES.c.n)).group_by(TALLIES.c.event))
            return n | {event: int(count) for event, count in events}

    def verify_audit(self) -> chain.AuditHead:
        """Recompute the audit's chain.

        Raises
        ------
        StoreError
            A row was changed, removed or put in between.
        """
        with self.database.reading() as connection:
            rows = connection.execution_options(yield_per=1000).execute(sa.select(AUDIT).order_by(AUDIT.c.n))
            return chain.verify(rows)

    def _described(self, id: str) -> Any:
        has_raw = sa.exists().where(RAW_BLOBS.c.episode_id == id).label("has_raw")
        with self.database.reading() as connection:
            return connection.execute(
                sa.select(EPISODES.c.gateway, EPISODES.c.raw_sha256, has_raw).where(EPISODES.c.id == id)
            ).first()

    def _promised_bytes(self, id: str) -> int:
        body = self.episode(id)
        raw = parse_envelope(body).raw if body is not None else None
        return 0 if raw is None else raw.n_bytes

    def _keep_raw(self, transaction: Transaction, id: str, digest: str, data: bytes, who: str) -> Outcome:
        row = {"episode_id": id, "received_utc_ns": transaction.utc_ns, "n_bytes": len(data)}
        if not transaction.insert_new(RAW_BLOBS, row | {"data": data if self._blobs is None else None}):
            return Outcome.DUPLICATE
        uploads.forget_pieces(transaction, id)
        transaction.count("accepted_raw")
        transaction.note("accepted", who, {"kind": "raw", "episode_id": id, "body_sha256": digest})
        return Outcome.ACCEPTED

    def _refuse(self, outcome: Outcome, who: str, kind: str, id: str, digest: str, reason: str = "") -> None:
        self.refusals.add(outcome.value, who, kind=kind, episode_id=id, body_sha256=digest, detail=reason)


def _envelope_of(id: str, body: bytes) -> Envelope:
    envelope = parse_envelope(body)
    if envelope.id != id:
        raise OutboxError("the id in the path is not the one in the body")
    return envelope


def _row(envelope: Envelope) -> dict[str, Any]:
    names = ("id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns")
    return {name: getattr(envelope, name) for name in names} | {
        "raw_sha256": envelope.raw and envelope.raw.sha256,
        "decision": decision_of(envelope),
        "status": "new",
    }
