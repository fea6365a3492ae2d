"""Signing in through the identity provider: OAuth 2.0's code flow with PKCE, as RFC 7636 and OpenID Connect have it.

The browser carries a code; the tokens go from provider to collector alone. State, nonce and verifier are kept under the
digest of a cookie, so that nobody can finish what somebody else began.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from kinedge.errors import LinkError
from kinedge.upstream.oidc import OidcVerifier, UntrustedTokenError
from kinedge.upstream.sessions import SignIn
from kinedge.upstream.settings import OidcSettings

__all__ = ["authorization_url", "redeem"]

_TIMEOUT_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 1 << 18


def authorization_url(oidc: OidcVerifier, settings: OidcSettings, begun: SignIn, *, redirect_uri: str) -> str:
    """Return where a browser is sent to sign in.

    Raises
    ------
    LinkError
        The provider does not answer.
    """
    challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": settings.client_id or settings.audience,
        "redirect_uri": redirect_uri,
        "scope": "openid",
        "state": begun.state,
        "nonce": begun.nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    where = oidc.endpoint("authorization_endpoint")
    return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}"


def redeem(
    oidc: OidcVerifier, settings: OidcSettings, begun: SignIn, *, state: str, code: str, redirect_uri: str
) -> tuple[str, frozenset[str]]:
    """Return who came back with a code, and their roles.

    Raises
    ------
    UntrustedTokenError
        The state is of another sign-in, the provider refuses the code, or its token is not believed.
    LinkError
        The provider does not answer.
    """
    if not hmac.compare_digest(state.encode(), begun.state.encode()):
        raise UntrustedTokenError("this answer is to another sign-in")
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": settings.client_id or settings.audience,
        "code_verifier": begun.verifier,
    }
    secret = settings.client_secret
    auth = None if secret is None else httpx.BasicAuth(form["client_id"], secret)
    where = oidc.endpoint("token_endpoint")
    content: Any = None
    try:
        with httpx.stream("POST", where, data=form, auth=auth, timeout=_TIMEOUT_S) as answer:
            data = b""
            for part in answer.iter_bytes():
                data += part
                if len(data) > _MAX_ANSWER_BYTES:
                    raise LinkError(f"{where}: longer than {_MAX_ANSWER_BYTES} bytes")
        status = answer.status_code
        if status in (400, 401, 403):
            raise UntrustedTokenError("the identity provider does not take this code")
        if status == 200:
            content = httpx.Response(200, content=data).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
        raise LinkError(f"{where}: the identity provider does not answer ({e})") from e
    tokens = content if isinstance(content, dict) else {}
    id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
    if not isinstance(id_token, str):
        raise LinkError(f"{where}: the identity provider gave no id token (status {status})")
    return oidc.verify_sign_in(id_token, access_token if isinstance(access_token, str) else None, nonce=begun.nonce)
