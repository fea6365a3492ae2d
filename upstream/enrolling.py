"""How a gateway gets its certificate: once by invitation, and again and again by the certificate it has."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from kinedge.errors import OutboxError
from kinedge.upstream.api import Name, needs
from kinedge.upstream.fleet import Fleet, GatewayRow
from kinedge.upstream.identity import PEER_SCOPE, Principal
from kinedge.upstream.pki import Issued
from kinedge.upstream.problems import Refusal, problems

__all__ = ["enrolling"]

enrolling = APIRouter(prefix="/v1", tags=["certificates"])


class CertificateRequest(BaseModel):
    """A signing request; of it, the public key alone is believed."""

    model_config = {"extra": "forbid"}

    csr: str = Field(max_length=8192, description="PEM, with a key on P-256")
    token: str | None = Field(default=None, max_length=256, description="the invitation; none: renew")


class Certificate(BaseModel):
    """A gateway's certificate and the authority that signed it."""

    gateway: str
    certificate: str
    ca: str
    expires_utc_ns: int


class Invitation(BaseModel):
    """A token for one key; it is shown once."""

    gateway: str
    token: str


class Gateways(BaseModel):
    """All gateways that are known."""

    gateways: tuple[GatewayRow, ...]


class Revoked(BaseModel):
    """How many certificates were revoked."""

    gateway: str
    n_certificates: int


async def _fleet(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    if fleet.authority is None:
        raise Refusal(404, "no_authority", "this collector signs no certificates")
    return fleet


_Fleet = Annotated[Fleet, Depends(_fleet)]
_Admin = Annotated[Principal, Depends(needs("administer"))]


@enrolling.get("/ca", response_class=PlainTextResponse, responses=problems(404))
def ca(request: Request, fleet: _Fleet) -> PlainTextResponse:
    """Return the authority's certificate; an invitation names its SHA-256."""
    request.app.state.gate.hold(request.scope)
    return PlainTextResponse(fleet.authority.pem if fleet.authority else "")


@enrolling.post(
    "/gateways/{gateway}/certificate", status_code=201, response_model=Certificate, responses=problems(400, 404)
)
async def certificate(
    gateway: Name, request: Request, fleet: _Fleet, asked: Annotated[CertificateRequest, Body()]
) -> JSONResponse:
    """Sign a request: with an invitation, or for a gateway that shows a certificate of that name."""
    try:
        issued = await _issue(gateway, request, fleet, asked)
    except OutboxError as e:
        raise Refusal(422, "invalid_csr", str(e)) from e
    pem = fleet.authority.pem if fleet.authority else ""
    content = {"gateway": gateway, "certificate": issued.pem, "ca": pem, "expires_utc_ns": issued.expires_utc_ns}
    return JSONResponse(content, 201)


async def _issue(gateway: str, request: Request, fleet: Fleet, asked: CertificateRequest) -> Issued:
    if asked.token is None:
        principal: Principal = await request.app.state.gate.admit(request.scope)
        if request.scope.get(PEER_SCOPE) is None or principal.gateway != gateway:
            raise Refusal(403, "forbidden", "to renew, show the certificate of this gateway")
        return await run_in_threadpool(fleet.renew, gateway, asked.csr)
    request.app.state.gate.hold(request.scope)
    issued = await run_in_threadpool(fleet.enrol, gateway, asked.token, asked.csr)
    if issued is None:
        raise Refusal(403, "invitation_refused", "the invitation is unknown, expired, used, or of another gateway")
    return issued


@enrolling.get("/gateways", response_model=Gateways, responses=problems(404))
def gateways(fleet: _Fleet, admin: _Admin) -> JSONResponse:
    """List gateways with the end of their certificates and their last episode."""
    return JSONResponse({"gateways": [vars(row) for row in fleet.gateways()]})


@enrolling.post("/gateways/{gateway}/invitation", status_code=201, response_model=Invitation, responses=problems(404))
def invite(
    gateway: Name, fleet: _Fleet, admin: _Admin, valid_h: Annotated[float, Query(gt=0, le=720)] = 24
) -> JSONResponse:
    """Make a token with which one key can get one certificate."""
    return JSONResponse({"gateway": gateway, "token": fleet.invite(gateway, valid_h=valid_h, who=admin.name)}, 201)


@enrolling.post("/gateways/{gateway}/revocation", response_model=Revoked, responses=problems(404))
def revoke(gateway: Name, fleet: _Fleet, admin: _Admin) -> JSONResponse:
    """Revoke all certificates and invitations of a gateway; other collectors know within seconds."""
    return JSONResponse({"gateway": gateway, "n_certificates": fleet.revoke(gateway, who=admin.name)})
