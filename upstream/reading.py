"""What people and programs ask of the collector: lists, envelopes, raw data, gaps, reviews, exports and FHIR."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Depends, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from kinedge.envelope import parse_envelope
from kinedge.errors import ConfigError
from kinedge.upstream.api import EpisodeId, Name, needs, store_of
from kinedge.upstream.export import EXPORT_TYPES, ExportFormat, export
from kinedge.upstream.fhir import FHIR_MEDIA_TYPE, to_bundle
from kinedge.upstream.identity import Principal
from kinedge.upstream.problems import Refusal, problems
from kinedge.upstream.store import CollectorStore, Review, ReviewAction
from kinedge.upstream.summary import Decision, Filter, Gap, Page, Status

__all__ = ["NameFilter", "Wanted", "reading"]

reading = APIRouter(prefix="/v1", tags=["people"])

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
NameFilter = Annotated[str | None, Query(pattern=_NAME)]
_TimeFilter = Annotated[int | None, Query(ge=0, lt=2**63, description="UTC in ns, of the start")]
_Limit = Annotated[int, Query(ge=1, le=1000)]
_Store = Annotated[CollectorStore, Depends(store_of)]
_Reader = Annotated[Principal, Depends(needs("read"))]
_Reviewer = Annotated[Principal, Depends(needs("review"))]


async def _filter(
    subject: NameFilter = None,
    gateway: NameFilter = None,
    site: NameFilter = None,
    since: _TimeFilter = None,
    until: _TimeFilter = None,
    decision: Annotated[Decision | None, Query(description="anomalous if any of its verdicts was")] = None,
    status: Annotated[Status | None, Query(description="what people said of it")] = None,
) -> Filter:
    return Filter(subject, gateway, site, since, until, decision, status)


Wanted = Annotated[Filter, Depends(_filter)]


class Missing(BaseModel):
    """Gaps in the sequence numbers of a gateway's subjects."""

    gateway: str
    missing: tuple[Gap, ...]


class NewReview(BaseModel):
    """What somebody says of an episode."""

    model_config = {"extra": "forbid"}

    action: ReviewAction
    comment: str = Field(default="", max_length=4000)


class Reviewed(BaseModel):
    """The status of an episode after a review."""

    id: str
    status: str


class Reviews(BaseModel):
    """What was said of an episode, oldest first."""

    id: str
    reviews: tuple[Review, ...]


@reading.get("/episodes", response_model=Page, responses=problems())
def list_episodes(
    store: _Store,
    reader: _Reader,
    wanted: Wanted,
    order: Literal["oldest", "newest"] = "oldest",
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: _Limit = 100,
) -> JSONResponse:
    """List in order of arrival, page by page: pass ``next_cursor`` on as ``cursor``."""
    page = store.episodes(wanted, order=order, cursor=cursor, limit=limit)
    return JSONResponse({"episodes": [vars(s) for s in page.episodes], "next_cursor": page.next_cursor})


def _content(media_type: str, *, binary: bool = False) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string", "format": "binary"} if binary else {"type": "object"}
    return {200: {"content": {media_type: {"schema": schema}}}}


@reading.get("/episodes/{id}", response_class=Response, responses={**_content("application/json"), **problems(404)})
def get_episode(id: EpisodeId, store: _Store, reader: _Reader) -> Response:
    """Return an envelope, byte for byte as it came."""
    return Response(_found(store.episode(id), "episode"), media_type="application/json")


@reading.get(
    "/episodes/{id}/raw",
    response_class=Response,
    responses={**_content("application/octet-stream", binary=True), **problems(404)},
)
def get_raw(id: EpisodeId, store: _Store, reader: _Reader) -> Response:
    """Return a raw blob."""
    return Response(_found(store.raw(id), "raw blob"), media_type="application/octet-stream")


@reading.get("/episodes/{id}/fhir", response_class=Response, responses={**_content(FHIR_MEDIA_TYPE), **problems(404)})
def get_fhir(id: EpisodeId, store: _Store, reader: _Reader) -> Response:
    """Return an episode as a FHIR R4 transaction Bundle: Observations, Device and DetectedIssue."""
    envelope = parse_envelope(_found(store.episode(id), "episode"))
    bundle = to_bundle(envelope, store.raw(id), status=_status(store, id))
    return JSONResponse(bundle, media_type=FHIR_MEDIA_TYPE)


@reading.get("/episodes/{id}/reviews", response_model=Reviews, responses=problems(404))
def list_reviews(id: EpisodeId, store: _Store, reader: _Reader) -> JSONResponse:
    """List what was said of an episode, oldest first."""
    _status(store, id)
    return JSONResponse({"id": id, "reviews": [vars(r) for r in store.reviews(id)]})


@reading.post("/episodes/{id}/reviews", status_code=201, response_model=Reviewed, responses=problems(400, 404))
def add_review(id: EpisodeId, store: _Store, reviewer: _Reviewer, said: Annotated[NewReview, Body()]) -> JSONResponse:
    """Confirm, dismiss, re-open or comment an episode."""
    status = store.review(id, said.action, comment=_storable(said.comment), who=reviewer.name)
    if status is None:
        raise Refusal(404, "not_found", "no such episode here")
    return JSONResponse({"id": id, "status": status}, 201)


@reading.get("/gateways/{gateway}/missing", response_model=Missing, responses=problems())
def missing(
    gateway: Name,
    store: _Store,
    asker: Annotated[Principal, Depends(needs(None))],
    subject: NameFilter = None,
    limit: _Limit = 1000,
) -> JSONResponse:
    """List the gaps in the sequence numbers of a gateway's subjects, first and last inclusive."""
    if "read" not in asker.rights and asker.gateway != gateway:
        raise Refusal(403, "forbidden", f"{asker.name} may not ask this of {gateway}")
    gaps = store.missing(gateway, subject=subject, limit=limit)
    return JSONResponse({"gateway": gateway, "missing": [vars(gap) for gap in gaps]})


@reading.get("/export", response_class=StreamingResponse, responses={
    200: {"content": {t: {"schema": {"type": "string", "format": "binary"}} for t in EXPORT_TYPES.values()}},
    **problems(),
})  # fmt: skip
def export_episodes(
    store: _Store, reader: _Reader, wanted: Wanted, format: Annotated[ExportFormat, Query()] = "jsonl"
) -> Response:
    """Stream all that fit: JSON lines hold the whole envelopes, CSV and Parquet one row an episode."""
    name = {"Content-Disposition": f'attachment; filename="episodes.{format}"'}
    try:
        parts = export(store.envelopes(wanted), format)
    except ConfigError as e:
        raise Refusal(422, "not_installed", str(e)) from e
    return StreamingResponse(parts, media_type=EXPORT_TYPES[format], headers=name)


@reading.get("/counts", responses=problems())
def counts(store: _Store, reader: _Reader) -> dict[str, int]:
    """Count what is here, and by event what was done and refused."""
    return store.counts()


def _status(store: CollectorStore, id: str) -> str:
    status = store.status(id)
    if status is None:
        raise Refusal(404, "not_found", "no such episode here")
    return status


def _storable(text: str) -> str:
    """Take out what PostgreSQL's text or UTF-8 cannot hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _found(content: bytes | None, what: str) -> bytes:
    if content is None:
        raise Refusal(404, "not_found", f"no such {what} here")
    return content
