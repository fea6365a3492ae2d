"""What an answer from upstream means for an episode.

An answer counts only when it is the collector's own: a row is done when the collector names the episode as
stored, and refused when it names an error that no repetition can mend. Anything else (a captive portal, a
proxy's error page, a wrong token) says nothing about the episode, which is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

from kinedge.edge.outbox import Kind

__all__ = ["Fate", "Outcome", "content_of", "judge"]

_REFUSED: Final = frozenset({400, 409, 413, 415, 422})
# Errors of the way there, which the next try may not meet.
_PASSING_CODES: Final = frozenset({"damaged_in_transit", "incomplete"})
_MISDIRECTED: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405, 421})


class Fate(Enum):
    """What becomes of one outbox row."""

    SENT = "stored just now"
    DUPLICATE = "was stored before"
    REFUSED = "will never be taken"
    UNKNOWN_EPISODE = "a raw blob whose episode the collector does not have"
    ROW_FAILED = "this row failed; others may pass"
    LINK_FAILED = "nothing gets through"


@dataclass(frozen=True)
class Outcome:
    """A fate, why, and for how long the collector wants to be left alone."""

    fate: Fate
    reason: str = ""
    retry_after_s: float | None = None


def judge(episode_id: str, kind: Kind, status: int, headers: Mapping[str, str], answer: bytes) -> Outcome:
    """Say what the answer to one PUT means.

    Parameters
    ----------
    episode_id, kind
        What was sent.
    status, headers, answer
        Of the response; header names in any case, as httpx has them.
    """
    content = content_of(answer)
    if status in (200, 201) and content.get("id") == episode_id:
        return Outcome(Fate.SENT if status == 201 else Fate.DUPLICATE)
    error = content.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        error = {"code": None, "message": "not a collector's answer"}
    code, reason = error.get("code"), f"{status}: {error.get('message')}"
    if status in (429, 503):
        return Outcome(Fate.LINK_FAILED, reason, _retry_after_s(headers))
    if code == "unknown_episode" and kind == "raw":
        return Outcome(Fate.UNKNOWN_EPISODE, reason)
    if code == "other_gateway":
        # Of a name this gateway had before. It waits for somebody to put that right, and holds up nobody else.
        return Outcome(Fate.ROW_FAILED, reason)
    if status in _MISDIRECTED:
        return Outcome(Fate.LINK_FAILED, f"{reason}; check URL, certificate and token")
    if code is not None and status in _REFUSED and code not in _PASSING_CODES:
        return Outcome(Fate.REFUSED, reason)
    if code is not None or status == 500:
        return Outcome(Fate.ROW_FAILED, reason)
    return Outcome(Fate.LINK_FAILED, reason)


def content_of(data: bytes) -> dict[str, Any]:
    """Return the JSON object in an answer; anything else is an empty one."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After: seconds, or a date, taken against the sender's own clock."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        sent = parsedate_to_datetime(headers["Date"])
        return max(0.0, (parsedate_to_datetime(value) - sent).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
