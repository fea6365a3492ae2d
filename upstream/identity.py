"""Who is asking, and what they may do: gateways by certificate, people by OpenID Connect, a desk by its token."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from fastapi.concurrency import run_in_threadpool

from kinedge.errors import LinkError
from kinedge.upstream.fleet import Fleet
from kinedge.upstream.oidc import OidcVerifier, UntrustedTokenError
from kinedge.upstream.pki import PeerCertificate
from kinedge.upstream.principals import Principal, Right, header
from kinedge.upstream.problems import Refusal
from kinedge.upstream.sessions import SESSION_COOKIE, Sessions, cookie_of, refuse_other_pages
from kinedge.upstream.settings import CollectorSettings, is_loopback

__all__ = ["PEER_SCOPE", "Gate", "Principal", "RateLimiter", "Right"]

PEER_SCOPE: Final = "kinedge.peer"  # where the server puts a PeerCertificate into the request's scope
_EVERYTHING: Final = frozenset[Right](("write", "read", "review", "administer"))
_MAX_BUCKETS: Final = 10_000


class RateLimiter:
    """A bucket of tokens for each name, refilled steadily; the longest unused is forgotten first."""

    def __init__(self, per_s: float, burst: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str) -> float:
        """Take a token, and return 0; or say in how many seconds there will be one."""
        now = self._monotonic()
        level, seen = self._buckets.pop(name, (float(self._burst), now))
        level = min(self._burst, level + (now - seen) * self._per_s)
        allowed = level >= 1
        self._buckets[name] = (level - 1 if allowed else level, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self._per_s


class Gate:
    """Recognises who sends a request, and holds them to their rate.

    Parameters
    ----------
    settings
        Token, provider and rates.
    fleet
        Knows revoked certificates.
    sessions
        Of people in a browser.
    """

    def __init__(
        self,
        settings: CollectorSettings,
        fleet: Fleet,
        sessions: Sessions,
        *,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._token = settings.token
        self._oidc = None if settings.oidc is None else OidcVerifier(settings.oidc)
        self._sessions = sessions
        self._roles = settings.oidc
        self._fleet = fleet
        self._wall_clock_ns = wall_clock_ns
        self._limiter = RateLimiter(settings.requests_per_s, settings.burst)
        # Whoever configured nobody has a desk that only this machine reaches; the server sees to that.
        self.open = settings.token is None and settings.oidc is None and fleet.authority is None

    async def admit(self, scope: Any) -> Principal:
        """Return who sent a request.

        Raises
        ------
        Refusal
            401 nobody known, 403 a revoked certificate, 429 too many, 503 the identity provider is away.
        """
        address = f"address {(scope.get('client') or ('?', 0))[0]}"
        try:
            principal = await self._recognise(scope)
        except Refusal:
            self._hold(address)  # guessing is limited, too
            raise
        self._hold(principal.name or address)
        return principal

    def hold(self, scope: Any) -> None:
        """Limit requests by address, where nobody is recognised."""
        self._hold(f"address {(scope.get('client') or ('?', 0))[0]}")

    async def _recognise(self, scope: Any) -> Principal:
        peer: PeerCertificate | None = scope.get(PEER_SCOPE)
        authorization = header(scope, b"authorization")
        if authorization is None and peer is not None:
            return await self._gateway(peer)
        if self.open and authorization is None:
            return _at_the_desk(scope)
        if authorization is None and (secret := cookie_of(scope, SESSION_COOKIE)) is not None:
            found = await run_in_threadpool(self._sessions.find, secret)
            if found is None:
                raise _unauthorized("the session is over; sign in again")
            refuse_other_pages(scope, with_header=True)
            return found
        if authorization is not None and authorization[:7].lower() == b"bearer ":
            found = await self._bearer(authorization[7:].strip())
            if found is not None:
                return found
        if self.open:
            return _at_the_desk(scope)
        raise _unauthorized("a valid certificate, bearer token or session is needed")

    async def sign_in(self, scope: Any, token: str, *, name: str) -> Principal:
        """Return who shows a token at the page.

        Parameters
        ----------
        scope
            Of the request.
        token
            Of the desk, or of the identity provider.
        name
            What somebody at a desk whose token many share calls themselves; empty: nothing.

        Raises
        ------
        Refusal
            401 nobody known, 429 too many, 503 the identity provider is away.
        """
        found = await self._bearer(token.encode("utf-8", "replace"))
        if found is None:
            self.hold(scope)
            raise _unauthorized("this token is not known here")
        return Principal(f"desk ({name})", found.rights) if name and found.name == "desk" else found

    def person(self, subject: str, roles: frozenset[str]) -> Principal:
        """Return a person of the identity provider, with the rights of their roles."""
        names, rights = self._roles, set[Right]()
        if names is not None:
            if roles & {names.reader, names.reviewer, names.admin}:
                rights.add("read")
            if roles & {names.reviewer, names.admin}:
                rights.add("review")
            if names.admin in roles:
                rights |= _EVERYTHING
        return Principal(f"person {subject}", frozenset(rights))

    @property
    def oidc(self) -> OidcVerifier | None:
        """What knows the identity provider's keys."""
        return self._oidc

    async def _bearer(self, token: bytes) -> Principal | None:
        if self._token is not None and hmac.compare_digest(token, self._token.encode()):
            return Principal("desk", _EVERYTHING)
        if self._oidc is not None and token.count(b".") == 2:
            return await self._person(token.decode("latin-1"), self._oidc)
        return None

    async def _gateway(self, peer: PeerCertificate) -> Principal:
        if self._fleet.stale:
            await run_in_threadpool(self._fleet.refresh)
        # A connection may outlive the certificate that opened it.
        if peer.expires_utc_ns <= self._wall_clock_ns():
            raise Refusal(403, "certificate_expired", "the certificate has expired; enrol the gateway again")
        if self._fleet.is_revoked(peer.serial):
            raise Refusal(403, "certificate_revoked", "the certificate was revoked; enrol the gateway again")
        return Principal(f"gateway {peer.gateway}", frozenset(("write",)), gateway=peer.gateway)

    async def _person(self, token: str, oidc: OidcVerifier) -> Principal:
        try:
            subject, roles = await run_in_threadpool(oidc.verify, token)
        except UntrustedTokenError as e:
            raise _unauthorized(str(e)) from e
        except LinkError as e:
            raise Refusal(503, "identity_provider", str(e), {"Retry-After": "10"}) from e
        return self.person(subject, roles)

    def _hold(self, name: str) -> None:
        wait_s = self._limiter.wait_s(name)
        if wait_s > 0:
            raise Refusal(429, "too_many_requests", "too many requests", {"Retry-After": str(int(wait_s) + 1)})


def _at_the_desk(scope: Any) -> Principal:
    """Recognise whoever calls this machine by its own name; a web page whose name was rebound to it does not."""
    host = (header(scope, b"host") or b"").decode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() != "localhost" and not is_loopback(name):
        raise Refusal(421, "misdirected", "without a token, only 127.0.0.1, [::1] and localhost are answered for")
    refuse_other_pages(scope, with_header=False)
    return Principal("", _EVERYTHING)


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
