"""What the desk asks of the episodes: lines of a list with their sentences, days of a calendar, and who there is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from typing import Any, Final, Literal

import sqlalchemy as sa

from kinedge.upstream.database import Database
from kinedge.upstream.schema import EPISODES, MEASURES, RAW_BLOBS
from kinedge.upstream.summary import Filter, fitting

__all__ = ["DeskOrder", "DeskPage", "Neighbours", "Timeline", "desk_list", "neighbours", "subjects", "timeline"]

DeskOrder = Literal["newest", "oldest"]
_QUARTER_NS: Final = 900 * 10**9  # every zone's offset is a multiple of it
_MAX_GROUPS: Final = 50_000
_LINE: Final = (
    "arrival", "id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns", "received_utc_ns",
    "decision", "status",
)  # fmt: skip


@dataclass(frozen=True)
class DeskPage:
    """Lines in order of their start, and where the next page begins."""

    episodes: tuple[dict[str, Any], ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Neighbours:
    """An episode's line, and the ids of the person's episodes before and after it."""

    line: dict[str, Any]
    earlier: str | None
    later: str | None


@dataclass(frozen=True)
class Timeline:
    """Counts by person and local day; ``whole`` is False if there were more than fit."""

    days: tuple[dict[str, Any], ...]
    whole: bool


def desk_list(
    database: Database, wanted: Filter, *, order: DeskOrder, cursor: tuple[int, int] | None, limit: int
) -> DeskPage:
    """Return a page of lines in order of their start.

    Parameters
    ----------
    database, wanted
        Where, and which.
    order
        By start.
    cursor
        Start and arrival of the last line of the page before.
    limit
        Lines of a page.
    """
    c = EPISODES.c
    query = fitting(
        sa.select(
            *(c[name] for name in _LINE), c.body, sa.exists().where(RAW_BLOBS.c.episode_id == c.id).label("has_raw")
        ),
        wanted,
    )
    if cursor is not None:
        at = sa.tuple_(c.start_utc_ns, c.arrival)
        query = query.where(at < cursor if order == "newest" else at > cursor)
    keys = (c.start_utc_ns.desc(), c.arrival.desc()) if order == "newest" else (c.start_utc_ns, c.arrival)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(*keys).limit(limit + 1)).mappings().all()
    lines = tuple(_line(row) for row in rows[:limit])
    last = rows[limit - 1] if len(rows) > limit else None
    return DeskPage(lines, None if last is None else f"{last['start_utc_ns']}-{last['arrival']}")


def timeline(database: Database, wanted: Filter, *, zone: tzinfo) -> Timeline:
    """Count the episodes of each person and local day by decision, and by what people said of them."""
    c = EPISODES.c
    quarter = (c.start_utc_ns // _QUARTER_NS).label("quarter")
    each = fitting(sa.select(c.subject, quarter, c.decision, c.status), wanted).subquery().c
    keys = (each.subject, each.quarter, each.decision, each.status)
    query = sa.select(*keys, sa.func.count().label("n")).group_by(*keys).order_by(each.quarter.desc(), each.subject)
    with database.reading() as connection:
        rows = connection.execute(query.limit(_MAX_GROUPS + 1)).all()
    days: dict[tuple[str, str], Counter[str]] = {}
    day_of: dict[int, str] = {}  # many people, few quarters of an hour
    for row in rows[:_MAX_GROUPS]:
        if row.quarter not in day_of:
            moment = datetime.fromtimestamp(int(row.quarter) * 900, timezone.utc)
            day_of[row.quarter] = str(moment.astimezone(zone).date())
        of = days.setdefault((row.subject, day_of[row.quarter]), Counter())
        of[row.decision] += row.n
        of[row.status] += row.n
    counted = tuple(
        {"subject": subject, "day": day}
        | {word: of[word] for word in ("anomalous", "unsure", "new", "confirmed", "dismissed")}
        for (subject, day), of in sorted(days.items())
    )
    return Timeline(counted, len(rows) <= _MAX_GROUPS)


def subjects(database: Database, *, after: str = "", limit: int) -> list[dict[str, Any]]:
    """Return who there is, by name: with episodes, with measures, or both."""
    e, m = EPISODES.c, MEASURES.c
    seen = (
        sa.select(
            e.subject,
            sa.func.count().label("n_episodes"),
            sa.func.sum(sa.case((e.status == "new", 1), else_=0)).label("n_new"),
            sa.func.min(e.start_utc_ns).label("first_utc_ns"),
            sa.func.max(e.start_utc_ns).label("last_utc_ns"),
            sa.func.max(e.site).label("site"),
            sa.func.max(e.gateway).label("gateway"),
        )
        .where(e.subject > after).group_by(e.subject).order_by(e.subject).limit(limit)
    )  # fmt: skip
    measured = (
        sa.select(
            m.subject,
            sa.func.max(m.day).label("last_day"),
            sa.func.max(m.site).label("site"),
            sa.func.max(m.gateway).label("gateway"),
        )
        .where(m.subject > after).group_by(m.subject).order_by(m.subject).limit(limit)
    )  # fmt: skip
    nothing = {"n_episodes": 0, "n_new": 0, "first_utc_ns": None, "last_utc_ns": None, "last_day": None}
    found: dict[str, dict[str, Any]] = {}
    with database.reading() as connection:
        for query in (measured, seen):
            for row in connection.execute(query).mappings():
                found[row["subject"]] = nothing | found.get(row["subject"], {}) | dict(row)
    for person in found.values():
        person["n_new"] = int(person["n_new"])
    return [found[subject] for subject in sorted(found)][:limit]


def neighbours(database: Database, id: str) -> Neighbours | None:
    """Return an episode's line, and which of the same person begin before and after it; None: no such episode."""
    c = EPISODES.c
    has_raw = sa.exists().where(RAW_BLOBS.c.episode_id == c.id).label("has_raw")
    query = sa.select(*(c[name] for name in _LINE), c.body, has_raw).where(c.id == id)
    at = sa.tuple_(c.start_utc_ns, c.arrival)
    with database.reading() as connection:
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        here, same = (row["start_utc_ns"], row["arrival"]), c.subject == row["subject"]
        earlier = sa.select(c.id).where(same, at < here).order_by(c.start_utc_ns.desc(), c.arrival.desc()).limit(1)
        later = sa.select(c.id).where(same, at > here).order_by(c.start_utc_ns, c.arrival).limit(1)
        return Neighbours(_line(row), connection.scalar(earlier), connection.scalar(later))


def _line(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a line says: the row, and a few words of the envelope, which was checked when it came."""
    content = json.loads(bytes(row["body"]))
    told = content.get("change") or content.get("explanation")
    sentence = {"en": content["sentence"]} | (told["text"] if told else {})
    first = content.get("contributions") or [{}]
    return {name: row[name] for name in (*_LINE, "has_raw")} | {
        "kind": "change" if content.get("change") else "moment",
        "ended": content["ended"],
        "sentence": sentence,
        "peak_score": content["peak_score"],
        "unsure_share": content["unsure_share"],
        "sensors": content["sensors"],
        "top_sensor": first[0].get("sensor"),
        "abstentions": [a["code"] for a in content.get("abstentions") or ()][:4],
    }
