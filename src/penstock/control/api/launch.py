"""The published Tunnels API, launch edition: `/v1/organizations/tunnels`, the whole organization's tunnels, without create.

The tunnels are the same as in the current edition; a tunnel names its workspace here, and its certificates come in one page.
"""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from penstock.control.api.conditions import ByLaunchTunnels, CoreOf
from penstock.control.api.routes import LateRoute
from penstock.control.service import certificates, tunnels
from penstock.control.service.tunnels import Reach
from penstock.schema.tunnels import (
    LaunchTunnel,
    LaunchTunnelPage,
    TokenRotation,
    TunnelCertificate,
    TunnelCertificateCreate,
    TunnelCertificatePage,
    TunnelToken,
)

router: Final = APIRouter(prefix="/v1/organizations/tunnels", route_class=LateRoute)

_ALL: Final = 10_000  # certificates of one tunnel, archived ones too: more rotations of a CA than anybody makes


@router.get("")
async def list_tunnels(
    core: CoreOf,
    key: ByLaunchTunnels,
    *,
    include_archived: bool = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
    workspace_id: str | None = None,
) -> LaunchTunnelPage:
    """Tunnels of the organization, newest first."""
    found = await tunnels.list_page(
        core,
        key,
        include_archived=include_archived,
        limit=limit,
        cursor=page,
        reach=Reach.ORGANIZATION,
        workspace_id=workspace_id,
    )
    return LaunchTunnelPage(data=found.data, next_page=found.next_page)


@router.get("/{tunnel_id}")
async def get(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str) -> LaunchTunnel:
    """One tunnel, archived or not."""
    return await tunnels.get(core, key, tunnel_id, Reach.ORGANIZATION)


@router.post("/{tunnel_id}/archive")
async def archive(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str) -> LaunchTunnel:
    """Archive for ever; again on an archived tunnel it returns the record."""
    return await tunnels.archive(core, key, tunnel_id, Reach.ORGANIZATION)


@router.post("/{tunnel_id}/reveal_token")
async def reveal_token(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str) -> TunnelToken:
    """The agent's token."""
    return await tunnels.reveal_token(core, key, tunnel_id, Reach.ORGANIZATION)


@router.post("/{tunnel_id}/rotate_token")
async def rotate_token(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str, body: TokenRotation | None = None) -> TunnelToken:
    """A fresh token; the old value opens no new link."""
    return await tunnels.rotate_token(core, key, tunnel_id, body.reason if body else None, Reach.ORGANIZATION)


@router.post("/{tunnel_id}/certificates")
async def register_certificate(
    core: CoreOf, key: ByLaunchTunnels, tunnel_id: str, body: TunnelCertificateCreate
) -> TunnelCertificate:
    """Register a CA certificate; at most two are active."""
    return await certificates.register(core, key, tunnel_id, body.ca_certificate_pem, Reach.ORGANIZATION)


@router.get("/{tunnel_id}/certificates")
async def list_certificates(
    core: CoreOf, key: ByLaunchTunnels, tunnel_id: str, *, include_archived: bool = False
) -> TunnelCertificatePage:
    """CA certificates of a tunnel, newest first, in one page."""
    found = await certificates.list_page(
        core, key, tunnel_id, include_archived=include_archived, limit=_ALL, cursor=None, reach=Reach.ORGANIZATION
    )
    return TunnelCertificatePage(data=found.data, next_page=None)


@router.get("/{tunnel_id}/certificates/{certificate_id}")
async def get_certificate(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str, certificate_id: str) -> TunnelCertificate:
    """One CA certificate, archived or not."""
    return await certificates.get(core, key, tunnel_id, certificate_id, Reach.ORGANIZATION)


@router.post("/{tunnel_id}/certificates/{certificate_id}/archive")
async def archive_certificate(core: CoreOf, key: ByLaunchTunnels, tunnel_id: str, certificate_id: str) -> TunnelCertificate:
    """Archive; again on an archived certificate it returns the record."""
    return await certificates.archive(core, key, tunnel_id, certificate_id, Reach.ORGANIZATION)
