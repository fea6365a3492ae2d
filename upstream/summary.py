"""What a listing says of an episode, and what it can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from kinedge.envelope import Envelope
from kinedge.upstream.schema import EPISODES, RAW_BLOBS

__all__ = ["Decision", "Filter", "Gap", "Page", "Status", "StoredSummary", "decision_of", "fitting", "listing"]

Decision = Literal["anomalous", "unsure"]
Status = Literal["new", "confirmed", "dismissed"]

_SUMMARY: Final = (
    "arrival", "id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns", "received_utc_ns",
    "decision", "status",
)  # fmt: skip


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
    decision: str
    status: str
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


@dataclass(frozen=True)
class Filter:
    """Which episodes: every condition that is given must hold; times bound the start, ``[since, until)``."""

    subject: str | None = None
    gateway: str | None = None
    site: str | None = None
    since_utc_ns: int | None = None
    until_utc_ns: int | None = None
    decision: Decision | None = None
    status: Status | None = None


def decision_of(envelope: Envelope) -> Decision:
    """Sum an episode up: anomalous if any verdict on its way was; otherwise unsure, which is never normal."""
    if not envelope.trail:
        return "unsure" if envelope.unsure_share == 1 else "anomalous"
    return "anomalous" if any(point.decision == "anomalous" for point in envelope.trail) else "unsure"


def fitting(query: sa.Select[Any], wanted: Filter) -> sa.Select[Any]:
    """Return a query of episodes, narrowed to those that are wanted."""
    c = EPISODES.c
    for name in ("subject", "gateway", "site", "decision", "status"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(c[name] == value)
    if wanted.since_utc_ns is not None:
        query = query.where(c.start_utc_ns >= wanted.since_utc_ns)
    if wanted.until_utc_ns is not None:
        query = query.where(c.start_utc_ns < wanted.until_utc_ns)
    return query


def listing(
    wanted: Filter, *, order: Literal["oldest", "newest"], cursor: int | None, limit: int, with_body: bool = False
) -> sa.Select[Any]:
    """Return the query for one page, in order of arrival, keyed by the last arrival that was seen."""
    c = EPISODES.c
    columns = [c[name] for name in _SUMMARY] + ([c.body] if with_body else [])
    query = fitting(sa.select(*columns, sa.exists().where(RAW_BLOBS.c.episode_id == c.id).label("has_raw")), wanted)
    if cursor is not None:
        query = query.where(c.arrival > cursor if order == "oldest" else c.arrival < cursor)
    return query.order_by(c.arrival if order == "oldest" else c.arrival.desc()).limit(limit)
