"""What a collector is told when it starts."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field

from kinedge.config import Config
from kinedge.envelope import MAX_ENVELOPE_BYTES
from kinedge.errors import ConfigError

__all__ = ["CollectorSettings", "is_loopback", "read_token"]


class CollectorSettings(Config):
    """Where episodes go, who may bring them, and how much at a time."""

    database_url: str = Field(default="sqlite:///collector.db", description="a SQLAlchemy URL")
    token: str | None = Field(default=None, min_length=16, repr=False, description="bearer token of the gateways")
    max_envelope_bytes: int = Field(default=MAX_ENVELOPE_BYTES, ge=1, le=MAX_ENVELOPE_BYTES)
    max_raw_bytes: int = Field(default=16 << 20, ge=1)
    max_uploads: int = Field(default=32, ge=1, description="bodies in memory at once; more are asked to come back")
    body_timeout_s: float = Field(default=30.0, gt=0)
    retry_after_s: int = Field(default=10, ge=1, description="asked of a gateway when the collector cannot store now")


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """Read a bearer token from a file.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no token of one line.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: no token can be read there ({e})") from e
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise ConfigError(f"{path}: a token is one line of at least 16 characters without spaces")
    return token
