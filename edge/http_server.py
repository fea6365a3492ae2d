"""A small HTTP/1.1 server for a board: one request a connection, everything bounded.

h11 does the parsing; what is here is sockets, limits, and a table of routes. Who may ask what, and what a body means,
is up to a dispatcher (`kinedge.edge.dashboard.routes`); without one there is GET and HEAD alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote_to_bytes

from kinedge.errors import LinkError

if TYPE_CHECKING:  # imported by whoever is the first to ask something
    import h11

__all__ = ["Answer", "Dispatcher", "Handler", "HttpServer", "Request", "Send", "Stream", "is_loopback", "json_answer"]

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 8192
_MAX_BODY_BYTES: Final = 4096
_MAX_CONNECTIONS: Final = 32
_ASK_S: Final = 10.0  # for a whole request to arrive
_TELL_S: Final = 60.0  # for an answer to be taken, over bad radio
_STREAM_STALL_S: Final = 15.0
_STREAM_BUFFER_BYTES: Final = 64 << 10
_READ_BYTES: Final = 4096


@dataclass(frozen=True)
class Request:
    """What was asked.

    Parameters
    ----------
    method
        In capitals.
    path
        Without the query, percent-decoded.
    query
        The last of each name.
    headers
        By lower-case name; the first of each.
    body
        At most 4 kB.
    peer
        Address of who asks.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""


@dataclass(frozen=True)
class Answer:
    """What a handler says; ``headers`` are added, and may replace ``Cache-Control: no-store``."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Send: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Stream:
    """An answer without an end: ``run`` is given what sends bytes on, and is cancelled when nobody takes them."""

    run: Callable[[Send], Awaitable[None]]
    content_type: str = "text/event-stream"
    headers: tuple[tuple[str, str], ...] = ()


Handler: TypeAlias = Callable[[], Awaitable[Answer]]
Dispatcher: TypeAlias = Callable[[Request], Awaitable[Answer | Stream | None]]


def json_answer(content: Mapping[str, Any], *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return an answer of JSON."""
    return Answer(json.dumps(content).encode() + b"\n", "application/json", status, headers)


class HttpServer:
    """Serves a table of routes, and what a dispatcher takes, until cancelled.

    Parameters
    ----------
    host, port
        To listen on. On a loopback address only requests that name this machine are answered, so that no web page
        can read them through a name of its own that points here.
    routes
        Handlers by path, for GET and HEAD.
    dispatch
        Asked for everything else; None from it is "nothing here".
    or_any_port
        When the port is taken, listen on a free one.

    Attributes
    ----------
    url
        Once it listens, with the port that was found if ``port`` is 0.
    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Handler],
        *,
        dispatch: Dispatcher | None = None,
        or_any_port: bool = False,
    ) -> None:
        self.url = ""
        self._host, self._port = host, port
        self._routes = dict(routes)
        self._dispatch = dispatch
        self._or_any_port = or_any_port
        self._names = {"localhost", "127.0.0.1", "[::1]", host} if is_loopback(host) else None
        self._open: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen and answer.

        Raises
        ------
        LinkError
            The address cannot be listened on.
        """
        server = await self._listen()
        async with server:
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
            try:
                await server.serve_forever()
            finally:
                self.url = ""
                tasks = self._open | self._streams
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> asyncio.Server:
        try:
            return await asyncio.start_server(self._accept, self._host, self._port, limit=_MAX_HEAD_BYTES)
        except OSError as e:
            if e.errno == errno.EADDRINUSE and self._or_any_port:
                return await asyncio.start_server(self._accept, self._host, 0, limit=_MAX_HEAD_BYTES)
            raise LinkError(
                f"http: cannot listen on {self._host}:{self._port} ({e.strerror}); choose another [http] port"
            ) from e

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(self._streams.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.TimeoutError, h11.ProtocolError) as e:
            logger.debug("http: a connection ended: %r", e)
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _ASK_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        head_only = False
        answer: Answer | Stream
        try:
            asked = await asyncio.wait_for(self._read(connection, reader, writer), _ASK_S)
            if asked is None:
                return
            head_only = isinstance(asked, Request) and asked.method == "HEAD"
            answer = await self._tried(asked) if isinstance(asked, Request) else asked
        except h11.RemoteProtocolError as e:
            answer = Answer(f"{e}\n".encode(), status=e.error_status_hint)
        if isinstance(answer, Stream):
            await self._stream(connection, reader, writer, answer)
            return
        headers = _headers(answer, [("Content-Length", str(len(answer.body)))])
        head = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        writer.write(head + (b"" if head_only else answer.body))
        await asyncio.wait_for(writer.drain(), _TELL_S)

    async def _read(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Request | Answer | None:
        """Read one request, or return the answer to one that is refused before its body; None for nothing."""
        import h11

        async def next_event() -> Any:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            return event

        event = await next_event()
        if not isinstance(event, h11.Request):
            return None
        headers: dict[str, str] = {}
        for key, value in event.headers:
            headers.setdefault(key.decode("latin-1"), value.decode("latin-1"))
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._names is not None and name.lower() not in self._names:
            return _refusal("wrong_host", f"{host}: this server answers this machine alone", status=421)
        method = event.method.decode("latin-1")
        if method not in ("GET", "HEAD") and (method != "POST" or self._dispatch is None):
            return _refusal("method", "only GET and HEAD are answered", status=405)
        body = b""
        if method == "POST":
            if int(headers.get("content-length", "0") or 0) > _MAX_BODY_BYTES:
                return _refusal("too_large", f"a body has at most {_MAX_BODY_BYTES} bytes", status=413)
            if connection.they_are_waiting_for_100_continue:
                writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            while isinstance(data := await next_event(), h11.Data):
                body += data.data
                if len(body) > _MAX_BODY_BYTES:
                    return _refusal("too_large", f"a body has at most {_MAX_BODY_BYTES} bytes", status=413)
            if not isinstance(data, h11.EndOfMessage):
                return None
        path, _, query = event.target.decode("latin-1").partition("?")
        peer = writer.get_extra_info("peername")
        return Request(
            method,
            unquote_to_bytes(path).decode("utf-8", "replace"),
            dict(parse_qsl(query, keep_blank_values=True)),
            headers,
            body,
            str(peer[0]) if peer else "",
        )

    async def _tried(self, request: Request) -> Answer | Stream:
        try:
            return await self._answer(request)
        except Exception:
            logger.exception("http: %s %s could not be answered", request.method, request.path[:200])
            return _refusal("failed", "this could not be answered; the log says why", status=500)

    async def _answer(self, request: Request) -> Answer | Stream:
        handler = self._routes.get(request.path)
        if handler is not None:
            if request.method == "POST":
                return _refusal("method", f"{request.path} takes GET and HEAD only", status=405)
            return await handler()
        found = None if self._dispatch is None else await self._dispatch(request)
        if found is None:
            return _refusal("not_found", f"nothing here; try {' '.join(sorted(self._routes))}", status=404)
        return found

    async def _stream(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream
    ) -> None:
        import h11

        task = asyncio.current_task()
        if task is not None:  # it no longer counts as somebody who asks
            self._open.discard(task)
            self._streams.add(task)
        writer.transport.set_write_buffer_limits(high=_STREAM_BUFFER_BYTES)
        writer.write(connection.send(h11.Response(status_code=200, headers=_headers(stream, []))) or b"")

        async def send(data: bytes) -> None:
            writer.write(connection.send(h11.Data(data=data)) or b"")
            await asyncio.wait_for(writer.drain(), _STREAM_STALL_S)

        telling = asyncio.ensure_future(stream.run(send))
        gone = asyncio.ensure_future(_until_closed(reader))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            for one in (telling, gone):
                one.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # nobody takes what is left


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(_READ_BYTES):
            continue


def _headers(answer: Answer | Stream, more: list[tuple[str, str]]) -> list[tuple[str, str]]:
    own = {name.lower() for name, _ in answer.headers}
    general = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]
    return [
        ("Content-Type", answer.content_type),
        *more,
        *((name, value) for name, value in general if name.lower() not in own),
        *answer.headers,
        ("Connection", "close"),
    ]


def _refusal(code: str, message: str, *, status: int) -> Answer:
    return json_answer({"error": {"code": code, "message": message}}, status=status)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
