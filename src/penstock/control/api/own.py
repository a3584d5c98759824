"""What this platform offers beyond the published API: `/penstock/v1`, for callers and edges."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from penstock.control.api.conditions import Bearer, ByAdmin, ByCaller, ByEdge, ByPrincipal, ByTunnelsReader, CoreOf, FeedOf
from penstock.control.api.routes import LateRoute
from penstock.control.errors import ApiError
from penstock.control.service import callers, edge_certificates, edges, links, presence, tunnels
from penstock.protocol.hosts import normalize_host
from penstock.schema.callers import (
    CallerCa,
    CallerCertificate,
    CallerCertificatePage,
    CallerCertificateRequest,
    CallerCertificateRevoked,
    Resolution,
)
from penstock.schema.edges import (
    Delta,
    EdgeCertificate,
    EdgeCertificateRequest,
    EdgeEnrolment,
    EdgeEnrolmentRequest,
    PresenceAnswer,
    PresenceReport,
    Snapshot,
)
from penstock.schema.links import LinkPage

router: Final = APIRouter(prefix="/penstock/v1", route_class=LateRoute)

SIGNATURE: Final = "Penstock-Signature"
FRESH: Final = "Penstock-Fresh"
FEED: Final = "Penstock-Feed"
_SIGNED: Final = {SIGNATURE: {"required": True, "schema": {"type": "string"}, "description": "Base64, Ed25519, of the body."}}


@router.post("/callers/certificates")
async def caller_certificate(core: CoreOf, key: ByCaller, body: CallerCertificateRequest) -> CallerCertificate:
    """A short-lived client certificate for the API key's caller."""
    return await callers.issue(core, key, body.csr_pem)


@router.get("/callers/certificates")
async def list_caller_certificates(
    core: CoreOf, by: ByAdmin, limit: Annotated[int, Query(ge=1, le=1000)] = 20, page: str | None = None
) -> CallerCertificatePage:
    """The organization's live caller certificates, newest first."""
    return await callers.list_page(core, by, limit=limit, cursor=page)


@router.delete("/callers/certificates/{serial}")
async def revoke_caller_certificate(core: CoreOf, by: ByAdmin, serial: str) -> CallerCertificateRevoked:
    """End one caller certificate."""
    return await callers.revoke(core, by, serial)


@router.get("/callers/ca")
async def caller_ca(core: CoreOf, key: ByPrincipal) -> CallerCa:
    """What a proxy needs to know callers."""
    return CallerCa(caller_ca_pem=await callers.authority_pem(core, key))


@router.get("/tunnels/resolve", responses={404: {}})
async def resolve(core: CoreOf, key: ByCaller, host: Annotated[str, Query(max_length=300)]) -> Resolution:
    """How to reach the tunnel behind a host name."""
    try:
        name = normalize_host(host)
    except ValueError as exc:
        raise ApiError("invalid_request_error", f"host: {exc}") from exc
    return await tunnels.resolve(core, key, name)


@router.get("/links")
async def list_links(
    core: CoreOf,
    key: ByTunnelsReader,
    tunnel_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
) -> LinkPage:
    """Live links of the workspace's tunnels, or of one."""
    found = await links.list_live(core, key, tunnel_id=tunnel_id, limit=limit, cursor=page)
    return LinkPage(data=found.data, next_page=found.next_page)


@router.post("/edges/enrol")
async def enrol(core: CoreOf, token: Bearer, body: EdgeEnrolmentRequest) -> EdgeEnrolment:
    """Become an edge, for an enrolment token."""
    return await edges.enrol(core, token, body)


@router.post("/edge/certificate")
async def edge_certificate(core: CoreOf, edge: ByEdge, body: EdgeCertificateRequest) -> EdgeCertificate:
    """An edge's next certificate."""
    return await edge_certificates.renew(core, edge, body.csr_pem)


@router.post("/edge/presence")
async def report_presence(core: CoreOf, edge: ByEdge, body: PresenceReport) -> PresenceAnswer:
    """Renew this edge's lease, take over its links, learn what the others hold."""
    return await presence.report(core, edge, body)


@router.delete("/edge/presence/{incarnation}", status_code=204)
async def withdraw_presence(core: CoreOf, edge: ByEdge, incarnation: str) -> None:
    """End the lease of an edge's process that stops."""
    await presence.withdraw(core, edge, incarnation)


@router.get("/edge/snapshot", responses={200: {"model": Snapshot | Delta, "headers": _SIGNED}, 204: {}})
async def snapshot(
    feed: FeedOf,
    edge: ByEdge,  # noqa: ARG001 - that there is one is the condition
    after: Annotated[int, Query(ge=-1, le=2**62)] = -1,
    wait: Annotated[float, Query(ge=0, le=3600)] = 0,
    nonce: Annotated[str, Query(pattern="^[0-9a-f]{32}$")] = "0" * 32,
    delta: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
) -> Response:
    """All an edge has to know, signed; 204 when nothing newer than `after` came within `wait` seconds.

    With the mark of what it holds as `delta`, an edge may be answered with what changed since: `Penstock-Feed: delta`.
    """
    news = await feed.newer_than(after, wait, delta)
    headers = {FRESH: await feed.vouch(after if news is None else news.version, nonce)}
    if news is None:
        return Response(status_code=204, headers=headers)
    headers[FEED] = "delta" if news.is_delta else "snapshot"
    return Response(news.body, media_type="application/json", headers={**headers, SIGNATURE: news.signature})
