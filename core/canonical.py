"""Canonical JSON: the same content gives the same bytes, so that a digest can name it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["canonical_json", "sha256_hex"]


def canonical_json(content: Any) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8 and no NaN.

    Raises
    ------
    ValueError
        A number is NaN or infinite, or a value has no JSON form.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()
