"""What the desk's page shows: its list, one episode, lines of raw data, a calendar, people, and days of measures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from kinedge.errors import BundleError, ConfigError
from kinedge.measures_envelope import MAX_MEASURES_BYTES
from kinedge.upstream.api import EpisodeId, MeasuresId, Stored, answer_of, body_of, needs, store_of
from kinedge.upstream.bodies import read_body
from kinedge.upstream.desk_queries import desk_list, neighbours, subjects, timeline
from kinedge.upstream.export import EXPORT_TYPES, ExportFormat, export_days
from kinedge.upstream.identity import Principal
from kinedge.upstream.measured import DayFilter, DayPage, Part
from kinedge.upstream.problems import Refusal, problems
from kinedge.upstream.reading import NameFilter, Wanted
from kinedge.upstream.series import series_of
from kinedge.upstream.store import CollectorStore, Review

__all__ = ["desk", "measuring"]

desk = APIRouter(prefix="/v1", tags=["desk"])
measuring = APIRouter(prefix="/v1", tags=["gateways"])

_DayFilterText = Annotated[str | None, Query(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a local date")]
_Store = Annotated[CollectorStore, Depends(store_of)]
_Reader = Annotated[Principal, Depends(needs("read"))]
_Writer = Annotated[Principal, Depends(needs("write"))]
_MAX_POINTS: Final = 2000


class DeskLine(BaseModel):
    """An episode in the list."""

    arrival: int
    id: str
    site: str
    gateway: str
    subject: str
    sequence: int
    start_utc_ns: int
    end_utc_ns: int
    received_utc_ns: int
    decision: Literal["anomalous", "unsure"]
    status: Literal["new", "confirmed", "dismissed"]
    has_raw: bool
    kind: Literal["moment", "change"]
    ended: str
    sentence: dict[str, str]
    peak_score: float
    unsure_share: float
    sensors: tuple[str, ...]
    top_sensor: str | None
    abstentions: tuple[str, ...]


class DeskList(BaseModel):
    """A page of the list; pass ``next_cursor`` on as ``cursor``."""

    episodes: tuple[DeskLine, ...]
    next_cursor: str | None


class DeskEpisode(BaseModel):
    """All there is about one episode but its samples."""

    line: DeskLine
    envelope: dict[str, Any]
    reviews: tuple[Review, ...]
    earlier: str | None
    later: str | None


class SeriesChannel(BaseModel):
    """One channel: lowest and highest sample of each stretch, null where nothing was received."""

    sensor: str
    channel: str
    unit: str
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    missing: tuple[float, ...]


class Series(BaseModel):
    """Raw samples, thinned out for a screen."""

    start_utc_ns: int
    rate_hz: float
    n_samples: int
    samples_per_point: int
    channels: tuple[SeriesChannel, ...]


class TimelineDay(BaseModel):
    """Episodes of one person on one local day, by decision and by what was said of them."""

    subject: str
    day: str
    anomalous: int
    unsure: int
    new: int
    confirmed: int
    dismissed: int


class TimelineDays(BaseModel):
    """A calendar; ``whole`` is false where there was more than fits."""

    days: tuple[TimelineDay, ...]
    whole: bool


class Person(BaseModel):
    """Somebody by their pseudonym."""

    subject: str
    site: str
    gateway: str
    n_episodes: int
    n_new: int
    first_utc_ns: int | None
    last_utc_ns: int | None
    last_day: str | None


class People(BaseModel):
    """Who there is, by name; pass the last on as ``after``."""

    subjects: tuple[Person, ...]


class Days(BaseModel):
    """Days of measures, each a row of ``kinedge.measures/1``."""

    days: tuple[dict[str, Any], ...]
    next_cursor: int | None


async def _days_wanted(
    subject: NameFilter = None,
    gateway: NameFilter = None,
    site: NameFilter = None,
    part: Annotated[Part | None, Query()] = None,
    since: _DayFilterText = None,
    until: _DayFilterText = None,
) -> DayFilter:
    return DayFilter(subject, gateway, site, part, since, until)


_DaysWanted = Annotated[DayFilter, Depends(_days_wanted)]


@measuring.put(
    "/measures/{id}",
    response_model=Stored,
    responses={201: {"model": Stored}, **problems(400, 408, 409, 413, 415)},
    openapi_extra=body_of("application/json", {"type": "object", "description": "a day, kinedge.measures/1"}),
)
async def put_measures(id: MeasuresId, request: Request, store: _Store, writer: _Writer) -> JSONResponse:
    """Store a day of measures: 201 new, 200 it or a later row of its day is here, 409 another of the same moment."""
    body = await read_body(request, "application/json", MAX_MEASURES_BYTES)
    put = store.measures.put
    return answer_of(id, await run_in_threadpool(put, id, body, gateway=writer.gateway, who=writer.name))


@desk.get("/measures", response_model=Days, responses=problems())
def list_measures(
    store: _Store,
    reader: _Reader,
    wanted: _DaysWanted,
    order: Annotated[Literal["arrival", "newest"], Query(description="newest: the last days, in order of days")] = (
        "arrival"
    ),
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    brief: Annotated[bool, Query(description="wear time and state alone; then up to 8000 at a time")] = False,
    limit: Annotated[int, Query(ge=1, le=8000, description="800 at most, unless brief")] = 200,
) -> JSONResponse:
    """List days of measures; in order of arrival a day that grew arrives again."""
    if limit > 800 and not brief:
        raise Refusal(422, "invalid_request", f"limit: {limit} whole days are too many; 800 at most, or brief=true")
    if order == "newest":
        page = DayPage(store.measures.latest_days(wanted, limit=limit), None)
    else:
        page = store.measures.days(wanted, cursor=cursor, limit=limit)
    days = tuple(_brief(day) for day in page.days) if brief else page.days
    return JSONResponse({"days": days, "next_cursor": page.next_cursor})


def _brief(day: dict[str, Any]) -> dict[str, Any]:
    """Return a day without its numbers."""
    watched = day["watched"] and {"state": day["watched"]["state"], "trends": {}}
    return day | {"measures": {}, "watched": watched}


@desk.get("/measures/export", response_class=StreamingResponse, responses={
    200: {"content": {t: {"schema": {"type": "string", "format": "binary"}} for t in EXPORT_TYPES.values()}},
    **problems(),
})  # fmt: skip
def export_measures(
    store: _Store, reader: _Reader, wanted: _DaysWanted, format: Annotated[ExportFormat, Query()] = "jsonl"
) -> Response:
    """Stream days of measures: JSON lines hold the whole rows, CSV and Parquet one row a number."""
    name = {"Content-Disposition": f'attachment; filename="measures.{format}"'}
    days: Iterator[dict[str, Any]] = store.measures.every_day(wanted)
    try:
        parts = export_days(days, format)
    except ConfigError as e:
        raise Refusal(422, "not_installed", str(e)) from e
    return StreamingResponse(parts, media_type=EXPORT_TYPES[format], headers=name)


@desk.get("/desk/episodes", response_model=DeskList, responses=problems())
def list_for_the_desk(
    store: _Store,
    reader: _Reader,
    wanted: Wanted,
    order: Literal["newest", "oldest"] = "newest",
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,19}-\d{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JSONResponse:
    """List in order of the start, with sentences, page by page."""
    at = None
    if cursor is not None:
        start, _, arrival = cursor.partition("-")
        at = (min(int(start), 2**63 - 1), int(arrival))
    page = desk_list(store.database, wanted, order=order, cursor=at, limit=limit)
    return JSONResponse({"episodes": page.episodes, "next_cursor": page.next_cursor})


@desk.get("/desk/episodes/{id}", response_model=DeskEpisode, responses=problems(404))
def episode_for_the_desk(id: EpisodeId, store: _Store, reader: _Reader) -> JSONResponse:
    """Return an envelope with all that was said of it, and which of the person's episodes come before and after."""
    found = neighbours(store.database, id)
    body = store.episode(id)
    if found is None or body is None:
        raise Refusal(404, "not_found", "no such episode here")
    return JSONResponse({
        "line": found.line,
        "envelope": json.loads(body),
        "reviews": [vars(r) for r in store.reviews(id)],
        "earlier": found.earlier,
        "later": found.later,
    })  # fmt: skip


@desk.get("/episodes/{id}/series", response_model=Series, responses=problems(404))
def get_series(
    id: EpisodeId,
    store: _Store,
    reader: _Reader,
    points: Annotated[int, Query(ge=10, le=_MAX_POINTS, description="of each channel, at most")] = 800,
) -> JSONResponse:
    """Return the raw slice as lines for a screen: lowest and highest sample of each stretch."""
    raw = store.raw(id)
    if raw is None:
        raise Refusal(404, "not_found", "no such raw blob here")
    try:
        return JSONResponse(series_of(raw, where=f"raw slice of {id[:12]}", max_points=points))
    except BundleError as e:
        raise Refusal(404, "not_readable", f"this raw blob cannot be shown as lines: {e}") from e


@desk.get("/timeline", response_model=TimelineDays, responses=problems())
def get_timeline(
    store: _Store,
    reader: _Reader,
    wanted: Wanted,
    zone: Annotated[str, Query(pattern=r"^[A-Za-z][A-Za-z0-9+_/-]{0,63}$", description="of the days, IANA")] = "UTC",
) -> JSONResponse:
    """Count episodes by person and local day."""
    try:
        where = ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as e:
        raise Refusal(422, "unknown_zone", f"{zone}: this machine knows no such time zone") from e
    found = timeline(store.database, wanted, zone=where)
    return JSONResponse({"days": found.days, "whole": found.whole})


@desk.get("/subjects", response_model=People, responses=problems())
def list_subjects(
    store: _Store,
    reader: _Reader,
    after: Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:-]{0,63})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> JSONResponse:
    """List who there is, by pseudonym."""
    return JSONResponse({"subjects": subjects(store.database, after=after, limit=limit)})
