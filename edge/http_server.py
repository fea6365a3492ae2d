"""A small HTTP/1.1 server for a board: GET and HEAD, one request a connection, everything bounded.

h11 does the parsing; what is here is sockets, limits and a table of routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import h11

from kinedge.errors import LinkError

__all__ = ["Answer", "Handler", "HttpServer", "json_answer"]

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 8192
_MAX_CONNECTIONS: Final = 16
_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 4096


@dataclass(frozen=True)
class Answer:
    """What a handler says."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Handler = Callable[[], Awaitable[Answer]]


def json_answer(content: Mapping[str, Any], *, status: int = 200) -> Answer:
    """Return an answer of JSON."""
    return Answer(json.dumps(content).encode() + b"\n", "application/json", status)


class HttpServer:
    """Serves a table of routes until cancelled.

    Parameters
    ----------
    host, port
        To listen on. On a loopback address only requests that name this machine are answered, so that no web page
        can read them through a name of its own that points here.
    routes
        Handlers by path.

    Attributes
    ----------
    url
        Once it listens, with the port that was free if ``port`` is 0.
    """

    def __init__(self, host: str, port: int, routes: Mapping[str, Handler]) -> None:
        self.url = ""
        self._host, self._port = host, port
        self._routes = dict(routes)
        self._names = {"localhost", "127.0.0.1", "[::1]", host} if _is_loopback(host) else None
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen and answer.

        Raises
        ------
        LinkError
            The address cannot be listened on.
        """
        try:
            server = await asyncio.start_server(self._accept, self._host, self._port, limit=_MAX_HEAD_BYTES)
        except OSError as e:
            raise LinkError(
                f"http: cannot listen on {self._host}:{self._port} ({e.strerror}); choose another [http] port"
            ) from e
        async with server:
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
            try:
                await server.serve_forever()
            finally:
                for task in self._open:
                    task.cancel()
                await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(self._talk(reader, writer), _TIMEOUT_S)
        except (OSError, asyncio.TimeoutError, h11.ProtocolError) as e:
            logger.debug("http: a connection ended: %r", e)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            if not isinstance(event, h11.Request):
                return
            answer = await self._answer(event)
        except h11.RemoteProtocolError as e:
            answer = Answer(f"{e}\n".encode(), status=e.error_status_hint)
            event = None
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        head = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        silent = isinstance(event, h11.Request) and event.method == b"HEAD"
        writer.write(head + (b"" if silent else answer.body))
        await writer.drain()

    async def _answer(self, request: h11.Request) -> Answer:
        headers = dict(request.headers)
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._names is not None and name.lower() not in self._names:
            return json_answer({"error": f"{host}: this server answers this machine alone"}, status=421)
        if request.method not in (b"GET", b"HEAD"):
            return json_answer({"error": "only GET and HEAD are answered"}, status=405)
        path = request.target.decode("latin-1").partition("?")[0]
        handler = self._routes.get(path)
        if handler is None:
            return json_answer({"error": f"nothing here; try {' '.join(sorted(self._routes))}"}, status=404)
        return await handler()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
