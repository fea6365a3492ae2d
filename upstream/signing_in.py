"""How a person in a browser becomes known, by token or through the identity provider, and how they leave."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from kinedge import __version__
from kinedge.errors import LinkError
from kinedge.upstream.api import needs
from kinedge.upstream.identity import Gate
from kinedge.upstream.oidc import OidcVerifier, UntrustedTokenError
from kinedge.upstream.oidc_flow import authorization_url, redeem
from kinedge.upstream.principals import Principal
from kinedge.upstream.problems import Refusal, problems
from kinedge.upstream.sessions import (
    SESSION_COOKIE,
    SIGN_IN_COOKIE,
    SIGN_IN_S,
    Sessions,
    cookie_of,
    refuse_other_pages,
    set_cookie,
)
from kinedge.upstream.settings import CollectorSettings, OidcSettings

__all__ = ["signing_in"]

signing_in = APIRouter(prefix="/v1/session", tags=["signing in"])

_CALLBACK: Final = "/v1/session/oidc"


class SessionState(BaseModel):
    """Who the page is for, and how somebody may sign in."""

    authorised: bool
    name: str = Field(description="as the audit names them; empty: this machine's own desk")
    may_read: bool
    may_review: bool
    by_token: bool = Field(description="the desk's token, or one of the identity provider, may be shown here")
    by_provider: bool = Field(description="the page can send them to the identity provider")
    version: str


class Shown(BaseModel):
    """What somebody shows to sign in."""

    model_config = {"extra": "forbid"}

    token: str = Field(min_length=1, max_length=16_384)
    name: str = Field(default="", max_length=60, description="what they call themselves, where many share a token")


@signing_in.get("", response_model=SessionState, responses=problems())
async def session_state(request: Request) -> JSONResponse:
    """Say who is signed in, and how somebody may."""
    gate: Gate = request.app.state.gate
    gate.hold(request.scope)
    try:
        who = await gate.admit(request.scope)
    except Refusal as e:
        if e.status_code != 401:
            raise
        who = Principal("", frozenset())
    return JSONResponse(_state(request, who))


@signing_in.post("", status_code=201, response_model=SessionState, responses=problems(400))
async def sign_in(request: Request, shown: Annotated[Shown, Body()]) -> Response:
    """Begin a session with a token; it is kept in a cookie that no script can read."""
    refuse_other_pages(request.scope, with_header=False)
    gate: Gate = request.app.state.gate
    gate.hold(request.scope)
    name = "".join(c for c in shown.name if c.isprintable()).strip()
    who = await gate.sign_in(request.scope, shown.token, name=name)
    sessions: Sessions = request.app.state.sessions
    secret = await run_in_threadpool(sessions.open, who)
    return JSONResponse(_state(request, who), 201, headers={"Set-Cookie": _session_cookie(request, secret)})


@signing_in.post("/end", response_model=SessionState, responses=problems(400))
async def sign_out(request: Request, who: Annotated[Principal, Depends(needs(None))]) -> Response:
    """End the session at once."""
    secret = cookie_of(request.scope, SESSION_COOKIE)
    if secret is not None:
        await run_in_threadpool(request.app.state.sessions.close, secret, who.name)
    nobody = Principal("", frozenset())
    return JSONResponse(_state(request, nobody), headers={"Set-Cookie": _session_cookie(request, "")})


@signing_in.get("/oidc", status_code=303, response_class=Response, responses=problems(404))
async def to_the_provider(request: Request) -> Response:
    """Send a browser to the identity provider."""
    gate, oidc, settings = _provider(request)
    gate.hold(request.scope)
    sessions: Sessions = request.app.state.sessions
    try:
        secret, begun = await run_in_threadpool(sessions.begin_sign_in)
        where = await run_in_threadpool(authorization_url, oidc, settings, begun, redirect_uri=_redirect_uri(request))
    except LinkError as e:
        raise Refusal(503, "identity_provider", str(e), {"Retry-After": "10"}) from e
    # Lax, for the way back comes from the provider's page
    cookie = set_cookie(request.scope, SIGN_IN_COOKIE, secret, max_age_s=SIGN_IN_S, same_site="Lax", path=_CALLBACK)
    return RedirectResponse(where, 303, {"Set-Cookie": cookie})


@signing_in.get("/oidc/callback", status_code=303, response_class=Response, responses=problems(404))
async def from_the_provider(
    request: Request,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4096)] = "",
) -> Response:
    """Take a browser that comes back from the identity provider."""
    gate, oidc, settings = _provider(request)
    gate.hold(request.scope)
    sessions: Sessions = request.app.state.sessions
    secret = cookie_of(request.scope, SIGN_IN_COOKIE)
    begun = None if secret is None else await run_in_threadpool(sessions.end_sign_in, secret)
    try:
        if begun is None or not code:
            raise UntrustedTokenError("nobody began this sign-in here, or it took too long")
        subject, roles = await run_in_threadpool(
            redeem, oidc, settings, begun, state=state, code=code, redirect_uri=_redirect_uri(request)
        )
    except UntrustedTokenError as e:
        await run_in_threadpool(request.app.state.store.refusals.add, "sign_in_refused", "", detail=str(e))
        return _home(request, "?sign-in=refused", [])
    except LinkError as e:
        raise Refusal(503, "identity_provider", str(e), {"Retry-After": "10"}) from e
    who = gate.person(subject, roles)
    if "read" not in who.rights:
        await run_in_threadpool(request.app.state.store.refusals.add, "forbidden", who.name, detail="sign-in")
        return _home(request, "?sign-in=no-role", [])
    return _home(request, "", [_session_cookie(request, await run_in_threadpool(sessions.open, who))])


def _provider(request: Request) -> tuple[Gate, OidcVerifier, OidcSettings]:
    gate: Gate = request.app.state.gate
    settings: CollectorSettings = request.app.state.settings
    if gate.oidc is None or settings.oidc is None:
        raise Refusal(404, "not_found", "no identity provider is set here")
    return gate, gate.oidc, settings.oidc


def _home(request: Request, query: str, cookies: list[str]) -> Response:
    answer = RedirectResponse(f"/{query}", 303)
    for cookie in [
        *cookies,
        set_cookie(request.scope, SIGN_IN_COOKIE, "", max_age_s=0, same_site="Lax", path=_CALLBACK),
    ]:
        answer.headers.append("Set-Cookie", cookie)
    return answer


def _redirect_uri(request: Request) -> str:
    settings: CollectorSettings = request.app.state.settings
    base = settings.public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"
    return f"{base}{_CALLBACK}/callback"


def _session_cookie(request: Request, secret: str) -> str:
    sessions: Sessions = request.app.state.sessions
    return set_cookie(request.scope, SESSION_COOKIE, secret, max_age_s=sessions.max_age_s, same_site="Strict")


def _state(request: Request, who: Principal) -> dict[str, object]:
    gate: Gate = request.app.state.gate
    settings: CollectorSettings = request.app.state.settings
    return {
        "authorised": bool(who.rights),
        "name": who.name,
        "may_read": "read" in who.rights,
        "may_review": "review" in who.rights,
        "by_token": not gate.open and (settings.token is not None or settings.oidc is not None),
        "by_provider": settings.oidc is not None,
        "version": __version__,
    }
