"""Who may ask: a token where the dashboard listens beyond this machine, a cookie once it was given, and patience.

The token is compared in constant time. A failed login costs everybody a wait that doubles with each failure, so that no
address of a guesser's own choosing helps; whoever is logged in already is not held up.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final

from kinedge.edge.http_server import Request, is_loopback
from kinedge.errors import ConfigError

__all__ = ["COOKIE", "Doorkeeper", "cookie_header", "read_token"]

COOKIE: Final = "kinedge"
_MIN_TOKEN_CHARS: Final = 16
_MAX_SESSIONS: Final = 64
_SESSION_S: Final = 12 * 3600.0
_FREE_FAILURES: Final = 3
_FIRST_WAIT_S: Final = 1.0
_MAX_WAIT_S: Final = 60.0
_FORGIVEN_S: Final = 900.0


def read_token(path: Path) -> str:
    """Read the token that opens the dashboard.

    Raises
    ------
    ConfigError
        The file cannot be read, is open to others, or holds too short a token.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"http.token_file {path}: cannot be read ({e})") from e
    if mode & 0o077:
        raise ConfigError(f"http.token_file {path}: others can read it; chmod 600 {path}")
    if len(token) < _MIN_TOKEN_CHARS:
        raise ConfigError(
            f"http.token_file {path}: a token has at least {_MIN_TOKEN_CHARS} characters; "
            f"openssl rand -hex 16 > {path} makes one"
        )
    return token


class Doorkeeper:
    """Knows whether a request may be answered.

    Parameters
    ----------
    host
        Listened on.
    token
        None only on a loopback address: there everybody on this machine may ask.
    monotonic_s
        Clock.

    Attributes
    ----------
    failures
        Logins refused since the start.

    Raises
    ------
    ConfigError
        The host is reached from elsewhere, and there is no token.
    """

    def __init__(self, host: str, token: str | None, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(
                f"http.host {host}: the dashboard would be open to everybody who reaches it; give token_file, or say "
                "dashboard = false"
            )
        self.failures = 0
        self._digest = None if token is None else _digest(token)
        self._monotonic_s = monotonic_s
        self._sessions: OrderedDict[str, float] = OrderedDict()  # digest of a cookie to its end
        self._n_recent = 0
        self._last_failure_s = 0.0
        self._open_from_s = 0.0

    @property
    def needs_token(self) -> bool:
        """Whether a token must be given at all."""
        return self._digest is not None

    def admits(self, request: Request) -> bool:
        """Whether a request brings what it takes; a wrong bearer token counts as a failed login."""
        if self._digest is None:
            return True
        cookie = _cookie_of(request.headers)
        if cookie and self._sessions.get(_digest(cookie).hex(), 0.0) > self._monotonic_s():
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self.wait_s > 0:
            return False
        return self._matches(token.strip())

    @property
    def wait_s(self) -> float:
        """How long nobody may try a token; 0 when one may."""
        return max(0.0, self._open_from_s - self._monotonic_s())

    def login(self, token: str) -> str | None:
        """Return the value of a new cookie, or None for a wrong token; ask ``wait_s`` first."""
        if self._digest is None:
            return secrets.token_urlsafe(32)
        if self.wait_s > 0 or not self._matches(token):
            return None
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie).hex()] = self._monotonic_s() + _SESSION_S
        while len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def logout(self, request: Request) -> None:
        """Forget the cookie of a request."""
        self._sessions.pop(_digest(_cookie_of(request.headers)).hex(), None)

    def _matches(self, token: str) -> bool:
        if self._digest is not None and hmac.compare_digest(_digest(token), self._digest):
            return True
        now_s = self._monotonic_s()
        if now_s - self._last_failure_s > _FORGIVEN_S:
            self._n_recent = 0
        self.failures += 1
        self._n_recent += 1
        self._last_failure_s = now_s
        if self._n_recent >= _FREE_FAILURES:
            wait_s = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._n_recent - _FREE_FAILURES, 16))
            self._open_from_s = now_s + wait_s
        return False


def cookie_header(value: str, *, seconds: int = int(_SESSION_S)) -> tuple[str, str]:
    """Return the header that sets a cookie, or takes it back with ``seconds`` 0."""
    return "Set-Cookie", f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _cookie_of(headers: Mapping[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
