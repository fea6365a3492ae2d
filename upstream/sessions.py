"""Sessions of people in a browser: a secret in a cookie that no script can read, its digest in the database.

Every collector of a fleet knows them, a restart ends none, and signing out ends one at once. A request that a page of
somebody else's sends along with our cookie is recognised by its origin and by the header that it cannot set.
"""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, get_args

import sqlalchemy as sa

from kinedge.canonical import sha256_hex
from kinedge.upstream.database import Database, Transaction
from kinedge.upstream.principals import Principal, Right, header
from kinedge.upstream.problems import Refusal
from kinedge.upstream.schema import SESSIONS, SIGN_INS

__all__ = ["Sessions", "SignIn", "cookie_of", "refuse_other_pages", "set_cookie"]

SESSION_COOKIE: Final = "kinedge_session"
SIGN_IN_COOKIE: Final = "kinedge_sign_in"
SIGN_IN_S: Final = 600
_IN_A_BROWSER: Final = frozenset[Right](("read", "review"))  # bringing data and keys are no work for a page
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_COOKIE_CHARS: Final = 4096


class SignIn:
    """A way through the identity provider that was begun: what must come back, and what only we know."""

    def __init__(self, state: str, nonce: str, verifier: str) -> None:
        self.state, self.nonce, self.verifier = state, nonce, verifier


class Sessions:
    """The tables of sessions. Any thread may call.

    Parameters
    ----------
    database
        Of the collector.
    hours
        After which a session is over.
    key
        What people sign in with, the desk's token for one: when it changes, every session is over.
    """

    def __init__(self, database: Database, *, hours: float, key: str = "") -> None:
        self._database = database
        self._key = key
        self.max_age_s = round(hours * 3600)

    def open(self, principal: Principal) -> str:
        """Begin a session and return its secret; what is over is forgotten."""
        secret = secrets.token_urlsafe(32)
        row = {
            "secret_sha256": self._digest(secret),
            "who": principal.name,
            "rights": " ".join(sorted(principal.rights & _IN_A_BROWSER)),
        }

        def work(transaction: Transaction) -> None:
            now = transaction.utc_ns
            for table in (SESSIONS, SIGN_INS):
                transaction.connection.execute(table.delete().where(table.c.expires_utc_ns <= now))
            expires = now + self.max_age_s * 10**9
            transaction.connection.execute(SESSIONS.insert(), row | {"expires_utc_ns": expires})
            transaction.note("signed_in", principal.name, {"rights": row["rights"]})
            transaction.count("signed_in")

        self._database.write(work)
        return secret

    def find(self, secret: str) -> Principal | None:
        """Return whose session it is; None: nobody's, or it is over."""
        query = sa.select(SESSIONS).where(SESSIONS.c.secret_sha256 == self._digest(secret))
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None or row.expires_utc_ns <= self._database.wall_clock_ns():
            return None
        known: tuple[Right, ...] = get_args(Right)
        words = row.rights.split()
        return Principal(row.who, frozenset(right for right in known if right in words))

    def close(self, secret: str, who: str) -> None:
        """End a session."""

        def work(transaction: Transaction) -> None:
            gone = SESSIONS.delete().where(SESSIONS.c.secret_sha256 == self._digest(secret))
            if transaction.connection.execute(gone).rowcount:
                transaction.note("signed_out", who, {})

        self._database.write(work)

    def begin_sign_in(self) -> tuple[str, SignIn]:
        """Begin a way through the identity provider; return the secret of its cookie."""
        secret = secrets.token_urlsafe(32)
        begun = SignIn(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))

        def work(transaction: Transaction) -> None:
            expires = transaction.utc_ns + SIGN_IN_S * 10**9
            over = SIGN_INS.delete().where(SIGN_INS.c.expires_utc_ns <= transaction.utc_ns)
            transaction.connection.execute(over)
            row = {"secret_sha256": self._digest(secret), "expires_utc_ns": expires, **vars(begun)}
            transaction.connection.execute(SIGN_INS.insert(), row)

        self._database.write(work)
        return secret, begun

    def end_sign_in(self, secret: str) -> SignIn | None:
        """Return what was begun under a secret, once; None: nothing, or it took too long."""

        def work(transaction: Transaction) -> SignIn | None:
            mine = SIGN_INS.c.secret_sha256 == self._digest(secret)
            row = transaction.connection.execute(sa.select(SIGN_INS).where(mine)).first()
            transaction.connection.execute(SIGN_INS.delete().where(mine))
            if row is None or row.expires_utc_ns <= transaction.utc_ns:
                return None
            return SignIn(row.state, row.nonce, row.verifier)

        return self._database.write(work)

    def _digest(self, secret: str) -> str:
        return sha256_hex(f"{secret}\n{self._key}".encode())


def cookie_of(scope: Any, name: str) -> str | None:
    """Return a cookie of a request, under the name that it has for this scheme."""
    given = header(scope, b"cookie")
    if given is None or len(given) > _MAX_COOKIE_CHARS:
        return None
    try:
        found = SimpleCookie(given.decode("latin-1")).get(_named(scope, name))
    except CookieError:
        return None
    return found.value if found is not None and found.value else None


def set_cookie(scope: Any, name: str, value: str, *, max_age_s: int, same_site: str, path: str = "/") -> str:
    """Return the value of a Set-Cookie header; an empty value takes the cookie back."""
    parts = [f"{_named(scope, name)}={value}", f"Max-Age={max_age_s if value else 0}", f"Path={path}", "HttpOnly"]
    parts.append(f"SameSite={same_site}")
    if scope["scheme"] == "https":
        parts.append("Secure")
    return "; ".join(parts)


def refuse_other_pages(scope: Any, *, with_header: bool) -> None:
    """Refuse what changes something and was sent by a page of somebody else's.

    Parameters
    ----------
    scope
        Of the request.
    with_header
        Demand ``X-Kinedge: 1`` also, which no other page can set: for whoever is known by a cookie.

    Raises
    ------
    Refusal
        403 ``cross_site``.
    """
    if scope["method"] in _SAFE_METHODS:
        return
    origin, host = header(scope, b"origin"), header(scope, b"host")
    site = header(scope, b"sec-fetch-site")
    ours = origin is None or (host is not None and origin.partition(b"://")[2] == host)
    if not ours or site not in (None, b"same-origin", b"none"):
        raise Refusal(403, "cross_site", "this came from a page of another origin")
    if with_header and header(scope, b"x-kinedge") != b"1":
        raise Refusal(403, "cross_site", "a page sends the header X-Kinedge: 1 with what changes something")


def _named(scope: Any, name: str) -> str:
    """Return a cookie's name: over TLS one that browsers give only to the very host, and only over TLS."""
    return f"__Host-{name}" if scope["scheme"] == "https" and name == SESSION_COOKIE else name
