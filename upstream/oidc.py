"""People by OpenID Connect: a bearer token is believed when the provider's published key signed it for this collector.

Keys are fetched by discovery, kept for an hour, and asked for again when a token names one that is not there, at most
once in ten seconds: nobody can make this server hammer the provider.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import jwt

from kinedge.errors import LinkError
from kinedge.upstream.settings import OidcSettings

__all__ = ["OidcVerifier", "UntrustedTokenError"]

_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
_KEEP_S: Final = 3600.0
_AGAIN_S: Final = 10.0
_LEEWAY_S: Final = 30
_MAX_TOKEN_CHARS: Final = 16_384
_MAX_DOCUMENT_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 5.0


class UntrustedTokenError(LinkError):
    """A token that is not believed; the message may be told to whoever sent it."""


class OidcVerifier:
    """Checks tokens of one provider.

    Parameters
    ----------
    settings
        Issuer, audience and the names of roles.
    """

    def __init__(self, settings: OidcSettings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = -1e9
        self._known: dict[str, Any] = {}
        self._known_at = -1e9

    def verify(self, token: str) -> tuple[str, frozenset[str]]:
        """Return who it is and their roles. It may wait for the provider.

        Raises
        ------
        UntrustedTokenError
            The token is none, expired, for somebody else, or signed by nobody known.
        LinkError
            The provider does not answer and its keys are not known yet.
        """
        claims = self._claims(token, self._settings.audience)
        return claims["sub"], _roles(claims, self._settings.roles_claim)

    def verify_sign_in(self, id_token: str, access_token: str | None, *, nonce: str) -> tuple[str, frozenset[str]]:
        """Return who signed in and their roles: those of the id token, or, where it has none, of the access token.

        Raises
        ------
        UntrustedTokenError, LinkError
            As ``verify``; also when the id token is of another sign-in than the one with this nonce.
        """
        claims = self._claims(id_token, self._settings.client_id or self._settings.audience)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise UntrustedTokenError("the token is of another sign-in")
        subject: str = claims["sub"]
        roles = _roles(claims, self._settings.roles_claim)
        if not roles and access_token is not None and access_token.count(".") == 2:
            same, found = self.verify(access_token)
            roles = found if same == subject else roles
        return subject, roles

    def endpoint(self, name: str) -> str:
        """Return an address that the provider publishes, such as ``authorization_endpoint``.

        Raises
        ------
        LinkError
            The provider does not answer, or publishes none that can be trusted.
        """
        if self._monotonic() - self._known_at >= _KEEP_S:  # asked for once an hour, however many sign in
            self._known, self._known_at = self._about(), self._monotonic()
        where = self._known.get(name)
        if not isinstance(where, str) or not where.startswith(("https://", "http://")):
            raise LinkError(f"{self._settings.issuer}: it publishes no {name}")
        if self._settings.issuer.startswith("https://") and not where.startswith("https://"):
            raise LinkError(f"{self._settings.issuer}: its {name} is in the clear")
        return where

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        if len(token) > _MAX_TOKEN_CHARS:
            raise UntrustedTokenError("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in _ALGORITHMS:
                raise UntrustedTokenError("the token is not signed in a way that is taken here")
            key = self._key(header.get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "sub", "iss", "aud"]},
            )
        except jwt.PyJWTError as e:
            raise UntrustedTokenError(f"the token is not believed: {e}") from e
        subject = claims["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= 200 or not subject.isprintable():
            raise UntrustedTokenError("the token names nobody")
        return claims

    def _key(self, kid: object) -> jwt.PyJWK:
        with self._lock:
            age = self._monotonic() - self._fetched_at
            if age >= _KEEP_S or (kid not in self._keys and age >= _AGAIN_S):
                try:
                    self._keys = self._fetch()
                except LinkError:
                    if not self._keys:
                        raise
                finally:
                    self._fetched_at = self._monotonic()
            if isinstance(kid, str) and kid in self._keys:
                return self._keys[kid]
            if kid is None and len(self._keys) == 1:
                return next(iter(self._keys.values()))
        raise UntrustedTokenError("the token is signed by a key that its issuer does not publish")

    def _about(self) -> dict[str, Any]:
        issuer = self._settings.issuer
        about = _document(f"{issuer}/.well-known/openid-configuration")
        if str(about.get("issuer", "")).rstrip("/") != issuer:
            raise LinkError(f"{issuer}: its discovery document is of another issuer; check oidc.issuer")
        return about

    def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        issuer = self._settings.issuer
        where = self._about().get("jwks_uri")
        if not isinstance(where, str):
            raise LinkError(f"{issuer}: it publishes no jwks_uri")
        if issuer.startswith("https://") and not where.startswith("https://"):
            raise LinkError(f"{issuer}: it publishes its keys in the clear; that proves nothing")
        try:
            keys = jwt.PyJWKSet.from_dict(_document(where)).keys
        except jwt.PyJWTError as e:
            raise LinkError(f"{where}: no key set ({e})") from e
        return {key.key_id: key for key in keys if key.public_key_use in (None, "sig")}


def _document(url: str) -> dict[str, Any]:
    try:
        with httpx.stream("GET", url, timeout=_TIMEOUT_S) as answer:
            answer.raise_for_status()
            data = b""
            for part in answer.iter_bytes():
                data += part
                if len(data) > _MAX_DOCUMENT_BYTES:
                    raise LinkError(f"{url}: longer than {_MAX_DOCUMENT_BYTES} bytes")
        content = httpx.Response(200, content=data).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
        raise LinkError(f"{url}: the identity provider does not answer ({e})") from e
    if not isinstance(content, dict):
        raise LinkError(f"{url}: no JSON object")
    return content


def _roles(claims: dict[str, Any], path: str) -> frozenset[str]:
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        value = value.split()
    return frozenset(v for v in value if isinstance(v, str)) if isinstance(value, list) else frozenset()
