"""The collector's HTTP interface: episodes in, exactly once each; episodes out, as they came.

2xx means committed. Every error is ``{"error": {"code", "message"}}``; a gateway tells from the code whether
the next try can succeed. Bodies are counted while they stream in, so none grows beyond its limit.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from kinedge import __version__
from kinedge.errors import OutboxError, StoreError
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore, Outcome, printable

__all__ = ["create_app"]

_EpisodeId = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
_NameFilter = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
_TimeFilter = Annotated[int | None, Query(ge=0, lt=2**63, description="UTC in ns, of the start")]
_Limit = Annotated[int, Query(ge=1, le=1000)]

_CODES: Final = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed"}


class _Refusal(HTTPException):
    """An answer other than 2xx, with a code that a program understands."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail=message, headers=headers)
        self.code = code


def create_app(settings: CollectorSettings, *, store: CollectorStore | None = None) -> FastAPI:
    """Build the collector.

    Parameters
    ----------
    settings
        Limits, token and database.
    store
        In place of a new one at ``settings.database_url``.

    Raises
    ------
    ConfigError, StoreError
        The database cannot be used.
    """
    app = FastAPI(title="kinedge collector", version=__version__, docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.store = store or CollectorStore(settings.database_url)
    app.state.uploads = 0
    app.include_router(_open)
    app.include_router(_episodes)
    app.add_exception_handler(StarletteHTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(OutboxError, _on_invalid_envelope)
    app.add_exception_handler(StoreError, _on_store_error)
    return app


def _authorize(request: Request) -> None:
    token: str | None = request.app.state.settings.token
    if token is None:
        return
    given = request.headers.get("Authorization", "").encode("latin-1", "replace")
    if not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise _Refusal(401, "unauthorized", "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})


def _store(request: Request) -> CollectorStore:
    store: CollectorStore = request.app.state.store
    return store


_Store = Annotated[CollectorStore, Depends(_store)]
_open = APIRouter(prefix="/v1")
_episodes = APIRouter(prefix="/v1", dependencies=[Depends(_authorize)])


@_open.get("/health")
def health(store: _Store) -> dict[str, str]:
    """Answer when the database answers."""
    store.ping()
    return {"status": "ok", "version": __version__}


@_episodes.put("/episodes/{id}")
async def put_episode(id: _EpisodeId, request: Request, store: _Store) -> JSONResponse:
    """Store an envelope: 201 new, 200 the same bytes again, 409 other bytes under this id."""
    _require_type(request, "application/json")
    body = await _read_body(request, request.app.state.settings.max_envelope_bytes)
    return _answer(id, await run_in_threadpool(store.put_episode, id, body))


@_episodes.put("/episodes/{id}/raw")
async def put_raw(id: _EpisodeId, request: Request, store: _Store) -> JSONResponse:
    """Store the raw blob of an episode: 201, 200, 404 no such episode, 409 not the blob it names."""
    _require_type(request, "application/octet-stream")
    data = await _read_body(request, request.app.state.settings.max_raw_bytes)
    return _answer(id, await run_in_threadpool(store.put_raw, id, data))


@_episodes.get("/episodes")
def list_episodes(
    store: _Store,
    subject: _NameFilter = None,
    gateway: _NameFilter = None,
    since: _TimeFilter = None,
    until: _TimeFilter = None,
    order: Literal["oldest", "newest"] = "oldest",
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: _Limit = 100,
) -> dict[str, Any]:
    """List in order of arrival, page by page: pass ``next_cursor`` on as ``cursor``."""
    page = store.episodes(
        subject=subject,
        gateway=gateway,
        since_utc_ns=since,
        until_utc_ns=until,
        order=order,
        cursor=cursor,
        limit=limit,
    )
    return {"episodes": [vars(summary) for summary in page.episodes], "next_cursor": page.next_cursor}


@_episodes.get("/episodes/{id}")
def get_episode(id: _EpisodeId, store: _Store) -> Response:
    """Return an envelope, byte for byte as it came."""
    return Response(_found(store.episode(id), "episode"), media_type="application/json")


@_episodes.get("/episodes/{id}/raw")
def get_raw(id: _EpisodeId, store: _Store) -> Response:
    """Return a raw blob."""
    return Response(_found(store.raw(id), "raw blob"), media_type="application/octet-stream")


@_episodes.get("/gateways/{gateway}/missing")
def missing(gateway: _Name, store: _Store, limit: _Limit = 1000) -> dict[str, Any]:
    """List the gaps in the sequence numbers of a gateway's subjects, first and last inclusive."""
    return {"gateway": gateway, "missing": [vars(gap) for gap in store.missing(gateway, limit=limit)]}


def _require_type(request: Request, expected: str) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise _Refusal(415, "unsupported_media_type", f"send this as {expected}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refusal(415, "unsupported_media_type", "send this without a content encoding")


async def _read_body(request: Request, limit: int) -> bytes:
    """Read at most ``limit`` bytes, in bounded time, and hold them against their Content-Digest."""
    state, settings = request.app.state, request.app.state.settings
    if state.uploads >= settings.max_uploads:
        raise _Refusal(503, "busy", "too many uploads at once", {"Retry-After": "1"})
    state.uploads += 1
    try:
        body = await asyncio.wait_for(_collect(request, limit), settings.body_timeout_s)
    except asyncio.TimeoutError as e:
        raise _Refusal(408, "incomplete", f"the body did not arrive within {settings.body_timeout_s:g} s") from e
    except ClientDisconnect as e:
        raise _Refusal(400, "incomplete", "the connection ended within the body") from e
    finally:
        state.uploads -= 1
    expected = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    if request.headers.get("Content-Digest", expected) != expected:
        raise _Refusal(400, "damaged_in_transit", "the body does not have the SHA-256 that Content-Digest names")
    return body


async def _collect(request: Request, limit: int) -> bytes:
    too_large = _Refusal(413, "too_large", f"at most {limit} bytes are taken here")
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:19]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _answer(id: str, outcome: Outcome) -> JSONResponse:
    if outcome is Outcome.UNKNOWN_EPISODE:
        raise _Refusal(404, "unknown_episode", "no episode with this id is here; send it first")
    if outcome is Outcome.CONFLICT:
        raise _Refusal(409, "conflict", "other content is stored or expected under this id; it was not changed")
    return JSONResponse({"id": id, "status": outcome.value}, 201 if outcome is Outcome.ACCEPTED else 200)


def _found(content: bytes | None, what: str) -> bytes:
    if content is None:
        raise _Refusal(404, "not_found", f"no such {what} here")
    return content


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": printable(message)}}, status, headers)


async def _on_http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHTTPException):
        raise error
    code = error.code if isinstance(error, _Refusal) else _CODES.get(error.status_code, "refused")
    return _error(error.status_code, code, str(error.detail), dict(error.headers or {}))


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    lines = (f"{'.'.join(str(part) for part in item['loc'][1:])}: {item['msg']}" for item in error.errors())
    return _error(422, "invalid_request", "; ".join(lines))


async def _on_invalid_envelope(_: Request, error: Exception) -> Response:
    return _error(422, "invalid_envelope", str(error))


async def _on_store_error(request: Request, error: Exception) -> Response:
    headers = {"Retry-After": str(request.app.state.settings.retry_after_s)}
    return _error(503, "cannot_store", str(error), headers)
