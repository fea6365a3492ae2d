"""A large raw blob in pieces: where the collector has got to, and the next piece from there.

Each piece is committed upstream before the next is sent, so a radio that fails in the middle costs one piece.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from kinedge.edge.answers import Fate, Outcome, content_of, judge

__all__ = ["Request", "send_in_pieces"]

# method, url, headers, body -> status, headers, answer
Request = Callable[[str, str, dict[str, str], bytes], Awaitable[tuple[int, Mapping[str, str], bytes]]]

_MAX_CORRECTIONS: Final = 8


async def send_in_pieces(
    request: Request, url: str, episode_id: str, data: bytes, *, piece_bytes: int, timeout_s: float
) -> Outcome | None:
    """Bring a blob to where the collector has all of it.

    Parameters
    ----------
    request
        Sends one request; it may raise what httpx raises, and asyncio.TimeoutError is raised for it here.
    url
        Of the episode, ``.../v1/episodes/ID``.
    episode_id, data
        Whose blob, and its bytes.
    piece_bytes, timeout_s
        Size of a piece, and how long one may take.

    Returns
    -------
    outcome
        None: this collector takes no pieces; send the blob whole.
    """
    status, headers, answer = await asyncio.wait_for(request("GET", f"{url}/upload", {}, b""), timeout_s)
    if status in (404, 405) and not _knows_pieces(answer):
        return None
    n_corrections = 0
    while True:
        offset = _offset(status, answer, episode_id)
        if offset is None:
            if status == 409 and _code(answer) == "wrong_offset" and n_corrections < _MAX_CORRECTIONS:
                n_corrections += 1
                status, headers, answer = await asyncio.wait_for(request("GET", f"{url}/upload", {}, b""), timeout_s)
                continue
            return judge(episode_id, "raw", status, headers, answer)
        piece = data[offset : offset + piece_bytes]
        if not piece:
            return Outcome(Fate.ROW_FAILED, f"the collector asks for byte {offset} of {len(data)}")
        digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        sent_headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Digest": f"sha-256=:{digest}:",
            "Upload-Offset": str(offset),
        }
        status, headers, answer = await asyncio.wait_for(
            request("PATCH", f"{url}/upload", sent_headers, piece), timeout_s
        )
        later = _offset(status, answer, episode_id)
        if later is not None and later <= offset:
            return Outcome(Fate.ROW_FAILED, f"the collector does not get beyond byte {offset}")


def _offset(status: int, answer: bytes, episode_id: str) -> int | None:
    """Return where to go on, if that is what the collector says."""
    content = content_of(answer)
    offset = content.get("offset")
    wanted = status == 200 and content.get("id") == episode_id and content.get("status") == "incomplete"
    return offset if wanted and isinstance(offset, int) and offset >= 0 else None


def _code(answer: bytes) -> object:
    error = content_of(answer).get("error")
    return error.get("code") if isinstance(error, dict) else None


def _knows_pieces(answer: bytes) -> bool:
    return _code(answer) == "unknown_episode"
