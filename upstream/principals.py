"""Somebody who was recognised, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Principal", "Right", "header"]

Right = Literal["write", "read", "review", "administer"]


@dataclass(frozen=True)
class Principal:
    """Somebody that was recognised. ``gateway`` is the only one they may write for; None: any."""

    name: str
    rights: frozenset[Right]
    gateway: str | None = None


def header(scope: Any, name: bytes) -> bytes | None:
    """Return a header of a request; None where it is not there, or there twice."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0] if len(found) == 1 else None
