"""What became of something that was brought to the collector."""

from __future__ import annotations

from enum import Enum

__all__ = ["Outcome"]


class Outcome(Enum):
    """What became of something that was brought."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNKNOWN_EPISODE = "unknown"
    FOREIGN = "other_gateway"
    INCOMPLETE = "incomplete"
    WRONG_OFFSET = "wrong_offset"
    SUPERSEDED = "superseded"
