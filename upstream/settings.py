"""What a collector is told when it starts."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, field_validator

from kinedge.config import Config
from kinedge.envelope import MAX_ENVELOPE_BYTES
from kinedge.errors import ConfigError

__all__ = ["CollectorSettings", "OidcSettings", "is_loopback", "read_token"]


class OidcSettings(Config):
    """The identity provider of the people who read and review."""

    issuer: str = Field(pattern=r"^https?://[^\s]+$", description="as it stands in the tokens' iss")
    audience: str = Field(min_length=1, description="as it stands in the tokens' aud")
    roles_claim: str = Field(default="roles", description="a list of names; dots lead into nested claims")
    reader: str = Field(default="kinedge-reader", description="the role that may read")
    reviewer: str = Field(default="kinedge-reviewer", description="the role that may read and review")
    admin: str = Field(default="kinedge-admin", description="the role that may do everything")
    client_id: str | None = Field(
        default=None, min_length=1, description="of the desk's page at the provider; none: like the audience"
    )
    client_secret: str | None = Field(default=None, min_length=1, repr=False, description="none: a public client")

    @field_validator("issuer")
    @classmethod
    def _private(cls, issuer: str) -> str:
        host = issuer.partition("://")[2].partition("/")[0].rpartition(":")[0] or issuer.partition("://")[2]
        if issuer.startswith("http://") and not is_loopback(host.strip("[]")):
            raise ValueError("keys that came in the clear prove nothing; the issuer needs https")
        return issuer.rstrip("/")


class CollectorSettings(Config):
    """Where episodes go, who may bring and see them, and how much at a time."""

    database_url: str = Field(default="sqlite:///collector.db", description="a SQLAlchemy URL")
    blobs_url: str | None = Field(default=None, description="file:///folder or s3://bucket; none: in the database")
    token: str | None = Field(default=None, min_length=16, repr=False, description="of a desk; it may do everything")
    oidc: OidcSettings | None = Field(default=None, description="none: no person has a token of their own")
    public_url: str | None = Field(
        default=None, pattern=r"^https?://[^/\s]+$", description="where browsers find the desk; none: as they call it"
    )
    session_hours: float = Field(default=12, gt=0, le=168, description="after which a browser signs in again")
    ca_folder: Path | None = Field(default=None, description="with ca.pem and ca-key.pem: gateways show certificates")
    certificate_days: float = Field(default=90, gt=0, le=825, description="how long a gateway's certificate is good")
    max_envelope_bytes: int = Field(default=MAX_ENVELOPE_BYTES, ge=1, le=MAX_ENVELOPE_BYTES)
    max_raw_bytes: int = Field(default=16 << 20, ge=1)
    max_piece_bytes: int = Field(default=1 << 20, ge=1, description="of an upload in pieces")
    max_uploads: int = Field(default=32, ge=1, description="bodies in memory at once; more are asked to come back")
    max_connections: int = Field(default=2000, ge=1, description="open at once; more are answered 503")
    body_timeout_s: float = Field(default=30.0, gt=0)
    head_timeout_s: float = Field(default=10.0, gt=0, description="for the TLS handshake, and for a request's headers")
    requests_per_s: float = Field(default=200.0, gt=0, description="of one gateway, person or address")
    burst: int = Field(default=1000, ge=1, description="requests that may come at once after a pause")
    retry_after_s: int = Field(default=10, ge=1, description="asked of a gateway when the collector cannot store now")

    def sign_in_key(self) -> str:
        """Name all that people sign in with."""
        oidc = self.oidc
        return "\n".join([self.token or "", *((oidc.issuer, oidc.audience, oidc.client_id or "") if oidc else ())])


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
