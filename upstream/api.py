"""The collector's HTTP interface: episodes in, exactly once each.

2xx means committed. Every error is ``{"error": {"code", "message"}}``; a gateway tells from the code whether the next
try can succeed. Reading is in reading.py, gateways and their certificates in enrolling.py.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from kinedge import __version__
from kinedge.errors import OutboxError, StoreError
from kinedge.upstream.blobs import open_blobs
from kinedge.upstream.bodies import read_body
from kinedge.upstream.fleet import Fleet
from kinedge.upstream.identity import Gate, Principal, Right
from kinedge.upstream.labels import Labels
from kinedge.upstream.pki import Authority
from kinedge.upstream.problems import Refusal, code_of, problems
from kinedge.upstream.sessions import Sessions
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore, Outcome, UploadState, printable

__all__ = ["EpisodeId", "MeasuresId", "Name", "Stored", "answer_of", "body_of", "create_app", "needs", "store_of"]

EpisodeId = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
MeasuresId = EpisodeId
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
_EPISODE_PATH: Final = re.compile("/v1/episodes/([0-9a-f]{64})")
_PIECE_TYPE: Final = "application/offset+octet-stream"
_KNOWN_HERE: Final = frozenset({404, 405, 503})  # answers that say nothing about who asks


class Stored(BaseModel):
    """What was brought is committed."""

    id: str
    status: str


class Progress(BaseModel):
    """How much of a raw blob is committed; the next piece begins at ``offset``."""

    id: str
    status: str
    offset: int
    n_bytes: int


def create_app(settings: CollectorSettings, *, store: CollectorStore | None = None) -> FastAPI:
    """Build the collector.

    Parameters
    ----------
    settings
        Limits, who may come, and the database.
    store
        In place of a new one at ``settings.database_url``.

    Raises
    ------
    ConfigError, StoreError
        The database, the blob storage or the authority cannot be used.
    """
    from kinedge.upstream.desk import desk, measuring
    from kinedge.upstream.enrolling import enrolling
    from kinedge.upstream.pages import pages
    from kinedge.upstream.reading import reading
    from kinedge.upstream.signing_in import signing_in

    app = FastAPI(title="kinedge collector", version=__version__, docs_url=None, redoc_url=None)
    authority = None if settings.ca_folder is None else Authority(settings.ca_folder)
    state = app.state
    state.settings = settings
    state.store = store or CollectorStore(settings.database_url, blobs=open_blobs(settings.blobs_url))
    state.fleet = Fleet(state.store.database, authority, certificate_days=settings.certificate_days)
    state.sessions = Sessions(state.store.database, hours=settings.session_hours, key=settings.sign_in_key())
    state.gate = Gate(settings, state.fleet, state.sessions)
    state.uploads = 0
    for router in (_bringing, measuring, reading, desk, enrolling, signing_in, pages):
        app.include_router(router)
    app.add_middleware(_Shortcut)  # inside the labels
    app.add_middleware(Labels, body_timeout_s=settings.body_timeout_s)
    app.add_exception_handler(StarletteHTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(OutboxError, _on_invalid_envelope)
    app.add_exception_handler(StoreError, _on_store_error)
    return app


def needs(right: Right | None) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that recognises who asks and holds them to a right; None: anybody known will do."""

    async def admit(request: Request) -> Principal:
        principal: Principal = await request.app.state.gate.admit(request.scope)
        request.state.who = principal.name
        if right is not None and right not in principal.rights:
            raise Refusal(403, "forbidden", f"{principal.name or 'you'} may not {right} here")
        return principal

    return admit


async def store_of(request: Request) -> CollectorStore:
    """Return the store of the collector that got a request; not a plain function, which would cost a thread."""
    store: CollectorStore = request.app.state.store
    return store


_Store = Annotated[CollectorStore, Depends(store_of)]
_admit_writer = needs("write")
_Writer = Annotated[Principal, Depends(_admit_writer)]
_bringing = APIRouter(prefix="/v1", tags=["gateways"])


def body_of(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a body that is read piece by piece, for OpenAPI."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


_BYTES: Final = {"type": "string", "format": "binary"}


@_bringing.put(
    "/episodes/{id}",
    response_model=Stored,
    responses={201: {"model": Stored}, **problems(400, 408, 409, 413, 415)},
    openapi_extra=body_of("application/json", {"type": "object", "description": "an envelope, kinedge.episode/1"}),
)
async def put_episode(id: EpisodeId, request: Request, writer: _Writer) -> Response:
    """Store an envelope: 201 new, 200 the same bytes again, 409 other bytes under this id."""
    return await _put_episode(id, request, writer)


async def _put_episode(id: str, request: Request, writer: Principal) -> Response:
    app = request.app.state
    body = await read_body(request, "application/json", app.settings.max_envelope_bytes)
    return answer_of(id, await app.store.put_episode_soon(id, body, gateway=writer.gateway, who=writer.name))


class _Shortcut:
    """Middleware: envelopes go past the framework's routing and dependencies, which cost more than the episode.

    `put_episode` is what it does, and what the document describes; whatever is no plain id goes on to it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope.get("method") != "PUT" or not (found := _EPISODE_PATH.fullmatch(path)):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await _put_episode(found[1], request, await _admit_writer(request))
        except StarletteHTTPException as e:
            answer = await _on_http_error(request, e)
        except OutboxError as e:
            answer = await _on_invalid_envelope(request, e)
        except StoreError as e:
            answer = await _on_store_error(request, e)
        await answer(scope, receive, send)


@_bringing.put(
    "/episodes/{id}/raw",
    response_model=Stored,
    responses={201: {"model": Stored}, **problems(400, 404, 408, 409, 413, 415)},
    openapi_extra=body_of("application/octet-stream", _BYTES),
)
async def put_raw(id: EpisodeId, request: Request, store: _Store, writer: _Writer) -> JSONResponse:
    """Store the raw blob of an episode: 201, 200, 404 no such episode, 409 not the blob it names."""
    data = await read_body(request, "application/octet-stream", request.app.state.settings.max_raw_bytes)
    return answer_of(id, await run_in_threadpool(store.put_raw, id, data, gateway=writer.gateway, who=writer.name))


@_bringing.get("/episodes/{id}/upload", response_model=Progress, responses=problems(404, 409, 413))
async def get_upload(id: EpisodeId, request: Request, store: _Store, writer: _Writer) -> JSONResponse:
    """Say where the upload of a raw blob goes on."""
    state = await run_in_threadpool(store.upload_state, id, gateway=writer.gateway, who=writer.name)
    return _progress(id, state, request.app.state.settings)


@_bringing.patch(
    "/episodes/{id}/upload",
    response_model=Progress,
    responses={201: {"model": Progress}, **problems(400, 404, 408, 409, 413, 415)},
    openapi_extra=body_of(_PIECE_TYPE, _BYTES),
)
async def patch_upload(
    id: EpisodeId,
    request: Request,
    store: _Store,
    writer: _Writer,
    upload_offset: Annotated[int, Header(ge=0, lt=2**40)],
) -> JSONResponse:
    """Add a piece of a raw blob at ``Upload-Offset``: 201 whole, 200 go on, 409 where it really goes on."""
    settings = request.app.state.settings
    piece = await read_body(request, _PIECE_TYPE, settings.max_piece_bytes)
    before = await run_in_threadpool(store.upload_state, id, gateway=writer.gateway, who=writer.name)
    if before.n_bytes > settings.max_raw_bytes:
        return _progress(id, before, settings)
    state = await run_in_threadpool(store.put_piece, id, upload_offset, piece, gateway=writer.gateway, who=writer.name)
    return _progress(id, state, settings)


@_bringing.get("/health", responses=problems())
def health(request: Request, store: _Store) -> dict[str, str]:
    """Answer when the database answers."""
    request.app.state.gate.hold(request.scope)
    store.ping()
    return {"status": "ok", "version": __version__}


_KNOWN_OUTCOMES: Final = {
    Outcome.UNKNOWN_EPISODE: (404, "unknown_episode", "no episode with this id is here; send it first"),
    Outcome.CONFLICT: (409, "conflict", "other content is stored or expected under this id; it was not changed"),
    Outcome.FOREIGN: (403, "other_gateway", "the episode is of another gateway than the certificate"),
}


def answer_of(id: str, outcome: Outcome) -> JSONResponse:
    """Say what became of something that was brought."""
    if outcome in _KNOWN_OUTCOMES:
        raise _Counted(*_KNOWN_OUTCOMES[outcome])
    return JSONResponse({"id": id, "status": outcome.value}, 201 if outcome is Outcome.ACCEPTED else 200)


def _progress(id: str, state: UploadState, settings: CollectorSettings) -> JSONResponse:
    headers = {"Upload-Offset": str(state.offset)}
    if state.outcome in _KNOWN_OUTCOMES:
        raise _Counted(*_KNOWN_OUTCOMES[state.outcome], headers)
    if state.n_bytes > settings.max_raw_bytes:
        raise Refusal(413, "too_large", f"at most {settings.max_raw_bytes} bytes are taken here")
    if state.outcome is Outcome.WRONG_OFFSET:
        raise Refusal(409, "wrong_offset", f"go on at byte {state.offset}", headers)
    content = {"id": id, "status": state.outcome.value, "offset": state.offset, "n_bytes": state.n_bytes}
    return JSONResponse(content, 201 if state.outcome is Outcome.ACCEPTED else 200, headers)


class _Counted(Refusal):
    """A refusal that the store has counted, with what it knows."""


async def _refuse(
    request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None, *, count: bool = True
) -> Response:
    if count and status not in _KNOWN_HERE:
        state = request.state
        detail = {"request": state.id, "method": request.method, "path": request.url.path, "detail": message}
        await run_in_threadpool(request.app.state.store.refusals.add, code, getattr(state, "who", ""), **detail)
    return JSONResponse({"error": {"code": code, "message": printable(message)}}, status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHTTPException):
        raise error
    headers, count = dict(error.headers or {}), not isinstance(error, _Counted)
    return await _refuse(request, error.status_code, code_of(error), str(error.detail), headers, count=count)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    lines = (f"{'.'.join(str(part) for part in item['loc'][1:])}: {item['msg']}" for item in error.errors())
    return await _refuse(request, 422, "invalid_request", "; ".join(lines))


async def _on_invalid_envelope(request: Request, error: Exception) -> Response:
    return await _refuse(request, 422, "invalid_envelope", str(error), count=False)


async def _on_store_error(request: Request, error: Exception) -> Response:
    headers = {"Retry-After": str(request.app.state.settings.retry_after_s)}
    return await _refuse(request, 503, "cannot_store", str(error), headers)
