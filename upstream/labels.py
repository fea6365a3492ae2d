"""What holds for every request: its id in the answer, no caching, nothing to run, and a small body that comes in time.

Episodes, raw blobs and pieces have limits of their own, in bodies.py.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinedge.upstream.problems import Refusal

__all__ = ["Labels"]

_MAX_POST_BYTES: Final = 64 << 10
_UNLESS_GIVEN: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_GIVEN: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class Labels:
    """Middleware. An answer that comes before the end of the request's body closes the connection.

    Otherwise the server would read, and throw away, whatever a refused client goes on to send.

    Parameters
    ----------
    app
        What is wrapped.
    body_timeout_s
        How long the body of a POST may take.
    """

    def __init__(self, app: ASGIApp, *, body_timeout_s: float) -> None:
        self._app = app
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        id = given.decode() if _GIVEN.fullmatch(given) else f"{random.getrandbits(64):016x}"
        state: dict[str, Any] = scope.setdefault("state", {})
        state["id"] = id
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

        small = scope["method"] == "POST"
        deadline = time.monotonic() + self._body_timeout_s
        n_bytes = 0

        async def receive_and_see() -> Message:
            nonlocal unread, n_bytes
            if not (small and unread):
                message = await receive()
            else:
                try:
                    message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
                except asyncio.TimeoutError as e:
                    raise Refusal(408, "incomplete", "the body did not arrive in time") from e
                n_bytes += len(message.get("body", b""))
                if n_bytes > _MAX_POST_BYTES:
                    raise Refusal(413, "too_large", f"at most {_MAX_POST_BYTES} bytes are taken here")
            if message["type"] != "http.request" or not message.get("more_body", False):
                unread = False
            return message

        async def send_labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", id.encode())]
                given = {name for name, _ in headers}
                headers += [(name, value) for name, value in _UNLESS_GIVEN if name not in given]
                message["headers"] = [*headers, (b"connection", b"close")] if unread else headers
            await send(message)

        await self._app(scope, receive_and_see, send_labelled)
