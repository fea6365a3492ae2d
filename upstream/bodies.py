"""Bodies of requests: read in bounded memory and bounded time, and held against the digest they came with."""

from __future__ import annotations

import base64
import hashlib

from anyio import fail_after
from fastapi import Request
from starlette.requests import ClientDisconnect

from kinedge.upstream.problems import Refusal

__all__ = ["read_body"]


async def read_body(request: Request, media_type: str, limit: int) -> bytes:
    """Read at most ``limit`` bytes of one media type.

    Raises
    ------
    Refusal
        400 damaged or cut off, 408 too slow, 413 too large, 415 another type, 503 too many at once.
    """
    _require_type(request, media_type)
    state, settings = request.app.state, request.app.state.settings
    if state.uploads >= settings.max_uploads:
        raise Refusal(503, "busy", "too many uploads at once", {"Retry-After": "1"})
    state.uploads += 1
    try:
        with fail_after(settings.body_timeout_s):
            body = await _collect(request, limit)
    except TimeoutError as e:
        raise Refusal(408, "incomplete", f"the body did not arrive within {settings.body_timeout_s:g} s") from e
    except ClientDisconnect as e:
        raise Refusal(400, "incomplete", "the connection ended within the body") from e
    finally:
        state.uploads -= 1
    digest = request.headers.get("Content-Digest")
    if digest is not None and digest != f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:":
        raise Refusal(400, "damaged_in_transit", "the body does not have the SHA-256 that Content-Digest names")
    return body


def _require_type(request: Request, expected: str) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != expected:
        raise Refusal(415, "unsupported_media_type", f"send this as {expected}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "unsupported_media_type", "send this without a content encoding")


async def _collect(request: Request, limit: int) -> bytes:
    too_large = Refusal(413, "too_large", f"at most {limit} bytes are taken here")
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:19]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)
