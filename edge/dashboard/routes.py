"""Paths of the dashboard: what is asked, by whom, and the answer. Everything is authorised unless it says not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kinedge import __version__
from kinedge.edge.dashboard.auth import cookie_header
from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.listing import episode_fields
from kinedge.edge.dashboard.static_files import PAGE_HEADERS, StaticFiles
from kinedge.edge.http_server import Answer, Request, Stream
from kinedge.errors import KinedgeError

if TYPE_CHECKING:
    from kinedge.edge.dashboard.board import Board

__all__ = ["Route", "Routes"]

_MAX_LISTENERS: Final = 8
_MAX_EPISODES: Final = 200
_MAX_TOKEN_CHARS: Final = 512

Found: TypeAlias = Answer | Stream
Ask: TypeAlias = Callable[[Request, dict[str, str]], Awaitable[Found]]


@dataclass(frozen=True)
class Route:
    """One path.

    Parameters
    ----------
    method
        ``GET`` (and HEAD) or ``POST``.
    pattern
        With names in braces for parts that vary.
    ask
        Given the request and those parts.
    open
        Answered without being authorised.
    """

    method: str
    pattern: str
    ask: Ask
    open: bool = False

    def match(self, path: str) -> dict[str, str] | None:
        """Return the parts that vary, or None for another path."""
        wanted, given = self.pattern.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        found = {}
        for w, g in zip(wanted, given, strict=True):
            if w.startswith("{"):
                if not g:
                    return None
                found[w[1:-1]] = g
            elif w != g:
                return None
        return found


class Routes:
    """Answers what is asked of a board.

    Parameters
    ----------
    board
        What is behind it.
    files
        The page.
    """

    def __init__(self, board: Board, files: StaticFiles | None = None) -> None:
        self._board = board
        self._files = files or StaticFiles()
        self.table: tuple[Route, ...] = (
            Route("GET", "/api/session", self._session, open=True),
            Route("POST", "/api/login", self._login, open=True),
            Route("POST", "/api/logout", self._logout),
            Route("GET", "/api/state", self._state),
            Route("GET", "/api/stream", self._stream),
            Route("GET", "/api/people/{subject}/history", self._history),
            Route("GET", "/api/episodes", self._episodes),
            Route("POST", "/api/people/{subject}/enrolment", self._act(board.actions.enrolment)),
            Route("POST", "/api/people/{subject}/pose", self._act(board.actions.pose)),
            Route("POST", "/api/people/{subject}/mute", self._act(board.actions.mute)),
            Route("POST", "/api/sensors/assign", self._act(board.actions.assign)),
            Route("POST", "/api/sensors/identify", self._act(board.actions.identify)),
            Route("POST", "/api/stop", self._act(board.actions.stop)),
        )

    async def dispatch(self, request: Request) -> Found | None:
        """Answer a request; None where there is nothing."""
        try:
            return await self._dispatch(request)
        except Refused as e:
            return _error(e)
        except KinedgeError as e:
            return _error(Refused("conflict", str(e)))

    async def _dispatch(self, request: Request) -> Found | None:
        method = "GET" if request.method == "HEAD" else request.method
        here = [(r, found) for r in self.table if (found := r.match(request.path)) is not None]
        if not here:
            if request.path == "/api" or request.path.startswith("/api/"):
                self._authorise(request)  # nobody learns from outside which paths there are
                raise Refused("not_found", "no such path; docs/board-api.md lists them")
            return await self._files.answer(request) if method == "GET" else None
        route, parts = next(((r, p) for r, p in here if r.method == method), here[0])
        if not route.open:
            self._authorise(request)
        if route.method != method:
            raise Refused("method", f"{request.path} takes {route.method} only")
        if method == "POST":
            self._check_sender(request)
        if request.method == "HEAD" and route.pattern == "/api/stream":
            return Answer(b"", "text/event-stream", headers=PAGE_HEADERS)
        return await route.ask(request, parts)

    def _authorise(self, request: Request) -> None:
        if not self._board.doorkeeper.admits(request):
            raise Refused("unauthorised", "a token is needed: POST /api/login, or Authorization: Bearer")

    @staticmethod
    def _check_sender(request: Request) -> None:
        """Refuse what another web page could make a browser send."""
        headers = request.headers
        if headers.get("x-kinedge") != "1":
            raise Refused("forbidden", "the header X-Kinedge: 1 is missing")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in _origins(headers.get("host", "")):
            raise Refused("forbidden", f"another page asks ({origin[:100]}); only this server's own may")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused("media_type", "the body must be application/json")

    async def _session(self, request: Request, parts: dict[str, str]) -> Found:
        door = self._board.doorkeeper
        authorised = door.admits(request)
        content = {
            "needs_token": door.needs_token,
            "authorised": authorised,
            "gateway": self._board.gateway if authorised else None,
            "version": __version__,
        }
        return _json(content)

    async def _login(self, request: Request, parts: dict[str, str]) -> Found:
        door = self._board.doorkeeper
        token = _object(request.body, {"token"}).get("token")
        if not isinstance(token, str) or len(token) > _MAX_TOKEN_CHARS:
            raise Refused("bad_request", "token must be a text")
        if door.wait_s > 0:
            raise Refused("slow_down", "too many failed logins; wait", retry_after_s=door.wait_s)
        cookie = door.login(token)
        if cookie is None:
            self._board.login_failed(request.peer)
            raise Refused("unauthorised", "this is not the token")
        return _json({"ok": True}, headers=(cookie_header(cookie),))

    async def _logout(self, request: Request, parts: dict[str, str]) -> Found:
        _object(request.body, set())
        self._board.doorkeeper.logout(request)
        return _json({"ok": True}, headers=(cookie_header("", seconds=0),))

    async def _state(self, request: Request, parts: dict[str, str]) -> Found:
        return _json(await self._board.state())

    async def _stream(self, request: Request, parts: dict[str, str]) -> Found:
        subject = request.query.get("subject") or None
        if subject is not None:
            self._board.check_subject(subject)
        hub = self._board.hub
        if hub.n_listeners >= _MAX_LISTENERS:
            raise Refused("busy", f"{_MAX_LISTENERS} pages are open already; close one")

        async def run(send: Callable[[bytes], Awaitable[None]]) -> None:
            listener = hub.join(subject)
            try:
                await listener.run(send)
            finally:
                hub.leave(listener)

        return Stream(run, "text/event-stream; charset=utf-8", headers=(("X-Accel-Buffering", "no"), *PAGE_HEADERS))

    async def _history(self, request: Request, parts: dict[str, str]) -> Found:
        self._board.check_subject(parts["subject"])
        return _json(self._board.hub.history(parts["subject"]))

    async def _episodes(self, request: Request, parts: dict[str, str]) -> Found:
        text = request.query.get("limit", "50")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_EPISODES):
            raise Refused("bad_request", f"limit must be 1 to {_MAX_EPISODES}")
        subject = request.query.get("subject") or None
        if subject is not None:
            self._board.check_subject(subject)
        found = await asyncio.to_thread(self._board.store.episodes, limit=int(text), subject=subject)
        return _json({"episodes": [episode_fields(e) for e in found]})

    def _act(self, action: Callable[[dict[str, Any], dict[str, str]], Awaitable[dict[str, Any]]]) -> Ask:
        async def ask(request: Request, parts: dict[str, str]) -> Found:
            if "subject" in parts:
                self._board.check_subject(parts["subject"])
            return _json({"ok": True, **await action(_object(request.body, None), parts)})

        return ask


def _object(body: bytes, keys: set[str] | None) -> dict[str, Any]:
    """Read a JSON object; with exactly these keys, if given.

    Raises
    ------
    Refused
        It is none.
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise Refused("bad_request", f"no JSON: {e}") from e
    if not isinstance(content, dict):
        raise Refused("bad_request", "the body must be a JSON object")
    if keys is not None and set(content) != keys:
        odd = ", ".join(sorted(set(content) ^ keys))
        raise Refused("bad_request", f"unknown or missing: {odd[:200]}")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _origins(host: str) -> set[str]:
    return {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}


def _json(content: dict[str, Any], *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return Answer(body + b"\n", "application/json", status, (*PAGE_HEADERS, *headers))


def _error(refused: Refused) -> Answer:
    headers: tuple[tuple[str, str], ...] = ()
    if refused.retry_after_s:
        headers = (("Retry-After", str(max(1, round(refused.retry_after_s + 0.5)))),)
    content = {"error": {"code": refused.code, "message": str(refused)}}
    return _json(content, status=refused.status, headers=headers)
