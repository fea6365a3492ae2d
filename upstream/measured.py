"""Days of measures at the collector: of each day of a part, a person and a gateway, the latest row, stored once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from kinedge.canonical import sha256_hex
from kinedge.errors import OutboxError
from kinedge.measures_envelope import MeasuresEnvelope, parse_measures
from kinedge.upstream.database import Database, Transaction
from kinedge.upstream.outcomes import Outcome
from kinedge.upstream.refusals import RefusalLog
from kinedge.upstream.schema import MEASURES

__all__ = ["DayFilter", "DayPage", "MeasuresBook", "Part"]

Part = Literal["arm", "gait"]
_NAMES: Final = ("id", "site", "gateway", "subject", "part", "day", "as_of_utc_ns")


@dataclass(frozen=True)
class DayFilter:
    """Which days: every condition that is given must hold; days are local dates, ``[since, until)``."""

    subject: str | None = None
    gateway: str | None = None
    site: str | None = None
    part: Part | None = None
    since_day: str | None = None
    until_day: str | None = None


@dataclass(frozen=True)
class DayPage:
    """Rows in order of arrival, each as it came, and where the next page begins."""

    days: tuple[dict[str, Any], ...]
    next_cursor: int | None


class MeasuresBook:
    """The table of measures. Any thread may call; what a write says is true once it returns.

    Parameters
    ----------
    database
        Of the collector.
    refusals
        Where what is refused is counted.
    """

    def __init__(self, database: Database, refusals: RefusalLog) -> None:
        self._database, self._refusals = database, refusals

    def put(self, id: str, body: bytes, *, gateway: str | None = None, who: str = "") -> Outcome:
        """Store a row, find that it or a later one of its day is here, or refuse it.

        Parameters
        ----------
        id
            The id it was brought under.
        body
            Its JSON.
        gateway
            The only gateway it may be of; none: any.
        who
            Who brought it, for the audit.

        Raises
        ------
        OutboxError
            The body is no row of measures, or of another id.
        StoreError
            The database does not take it now.
        """
        digest = sha256_hex(body)
        try:
            row = parse_measures(body)
            if row.id != id:
                raise OutboxError("the id in the path is not the one in the body")
        except OutboxError as e:
            self._refuse(Outcome.REFUSED, who, id, digest, str(e))
            raise
        if gateway is not None and row.gateway != gateway:
            self._refuse(Outcome.FOREIGN, who, id, digest, f"the body names {row.gateway}")
            return Outcome.FOREIGN
        outcome = self._database.write(lambda transaction: _put(transaction, row, who))
        if outcome is not Outcome.ACCEPTED:
            self._refuse(outcome, who, id, digest, "")
        return outcome

    def days(self, wanted: DayFilter, *, cursor: int = 0, limit: int = 400) -> DayPage:
        """Return the rows that arrived after ``cursor``, in order of arrival; a day that grew arrives again."""
        query = _matching(wanted).where(MEASURES.c.arrival > cursor).order_by(MEASURES.c.arrival).limit(limit + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        found = tuple(_described(row) for row in rows[:limit])
        return DayPage(found, found[-1]["arrival"] if len(rows) > limit else None)

    def latest_days(self, wanted: DayFilter, *, limit: int) -> tuple[dict[str, Any], ...]:
        """Return the newest days that fit, in order of days."""
        c = MEASURES.c
        query = _matching(wanted).order_by(c.day.desc(), c.part, c.gateway, c.arrival).limit(limit)
        with self._database.reading() as connection:
            return tuple(_described(row) for row in connection.execute(query))[::-1]

    def every_day(self, wanted: DayFilter, *, page: int = 200) -> Iterator[dict[str, Any]]:
        """Give all rows that fit, in order of arrival, a page in memory at a time."""
        cursor: int | None = 0
        while cursor is not None:
            found = self.days(wanted, cursor=cursor, limit=page)
            yield from found.days
            cursor = found.next_cursor

    def _refuse(self, outcome: Outcome, who: str, id: str, digest: str, reason: str) -> None:
        self._refusals.add(outcome.value, who, kind="measures", measures_id=id, body_sha256=digest, detail=reason)


def _put(transaction: Transaction, row: MeasuresEnvelope, who: str) -> Outcome:
    c, connection = MEASURES.c, transaction.connection
    same_day = (
        (c.subject == row.subject) & (c.day == row.day) & (c.part == row.part) & (c.gateway == row.gateway)
    )  # fmt: skip
    found = connection.execute(sa.select(c.id, c.as_of_utc_ns).where(same_day)).first()
    if found is not None:
        if found.id == row.id:
            return Outcome.DUPLICATE
        if found.as_of_utc_ns > row.as_of_utc_ns:
            return Outcome.SUPERSEDED
        if found.as_of_utc_ns == row.as_of_utc_ns:
            return Outcome.CONFLICT
        connection.execute(MEASURES.delete().where(same_day))
    values = {name: getattr(row, name) for name in _NAMES}
    values |= {"received_utc_ns": transaction.utc_ns, "body": row.to_bytes()}
    connection.execute(MEASURES.insert(), values)
    transaction.count("accepted_measures")
    detail = {"kind": "measures", "measures_id": row.id, "replaces": None if found is None else found.id}
    transaction.note("accepted", who, {k: v for k, v in detail.items() if v is not None})
    return Outcome.ACCEPTED


def _matching(wanted: DayFilter) -> sa.Select[Any]:
    c = MEASURES.c
    query = sa.select(c.arrival, c.received_utc_ns, c.body)
    for name in ("subject", "gateway", "site", "part"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(c[name] == value)
    if wanted.since_day is not None:
        query = query.where(c.day >= wanted.since_day)
    if wanted.until_day is not None:
        query = query.where(c.day < wanted.until_day)
    return query


def _described(row: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes(row.body))
    return {"arrival": row.arrival, "received_utc_ns": row.received_utc_ns, **content}
