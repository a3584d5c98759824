"""The published Tunnels API, current edition: `/v1/tunnels` and the certificates of a tunnel, within one workspace."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from penstock.control.api.conditions import ByTunnels, CoreOf
from penstock.control.api.routes import LateRoute
from penstock.control.service import certificates, tunnels
from penstock.schema.tunnels import (
    TokenRotation,
    Tunnel,
    TunnelCertificate,
    TunnelCertificateCreate,
    TunnelCertificatePage,
    TunnelCreate,
    TunnelPage,
    TunnelToken,
)

router: Final = APIRouter(prefix="/v1/tunnels", route_class=LateRoute)

_Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("")
async def create(core: CoreOf, key: ByTunnels, body: TunnelCreate | None = None) -> Tunnel:
    """Create a tunnel. Not idempotent; callers are refused until it has a CA certificate."""
    return await tunnels.create(core, key, body.display_name if body else None)


@router.get("")
async def list_tunnels(
    core: CoreOf, key: ByTunnels, *, include_archived: bool = False, limit: _Limit = 20, page: str | None = None
) -> TunnelPage:
    """Tunnels of the key's workspace, newest first."""
    found = await tunnels.list_page(core, key, include_archived=include_archived, limit=limit, cursor=page)
    return TunnelPage(data=found.data, next_page=found.next_page)


@router.get("/{tunnel_id}")
async def get(core: CoreOf, key: ByTunnels, tunnel_id: str) -> Tunnel:
    """One tunnel, archived or not."""
    return await tunnels.get(core, key, tunnel_id)


@router.post("/{tunnel_id}/archive")
async def archive(core: CoreOf, key: ByTunnels, tunnel_id: str) -> Tunnel:
    """Archive for ever; again on an archived tunnel it returns the record."""
    return await tunnels.archive(core, key, tunnel_id)


@router.post("/{tunnel_id}/reveal_token")
async def reveal_token(core: CoreOf, key: ByTunnels, tunnel_id: str) -> TunnelToken:
    """The agent's token. A POST, so that nothing on the way logs or caches it."""
    return await tunnels.reveal_token(core, key, tunnel_id)


@router.post("/{tunnel_id}/rotate_token")
async def rotate_token(core: CoreOf, key: ByTunnels, tunnel_id: str, body: TokenRotation | None = None) -> TunnelToken:
    """A fresh token; the old value opens no new link."""
    return await tunnels.rotate_token(core, key, tunnel_id, body.reason if body else None)


@router.post("/{tunnel_id}/certificates")
async def register_certificate(
    core: CoreOf, key: ByTunnels, tunnel_id: str, body: TunnelCertificateCreate
) -> TunnelCertificate:
    """Register a CA certificate; at most two are active."""
    return await certificates.register(core, key, tunnel_id, body.ca_certificate_pem)


@router.get("/{tunnel_id}/certificates")
async def list_certificates(
    core: CoreOf,
    key: ByTunnels,
    tunnel_id: str,
    *,
    include_archived: bool = False,
    limit: _Limit = 20,
    page: str | None = None,
) -> TunnelCertificatePage:
    """CA certificates of a tunnel, newest first."""
    found = await certificates.list_page(core, key, tunnel_id, include_archived=include_archived, limit=limit, cursor=page)
    return TunnelCertificatePage(data=found.data, next_page=found.next_page)


@router.get("/{tunnel_id}/certificates/{certificate_id}")
async def get_certificate(core: CoreOf, key: ByTunnels, tunnel_id: str, certificate_id: str) -> TunnelCertificate:
    """One CA certificate, archived or not."""
    return await certificates.get(core, key, tunnel_id, certificate_id)


@router.post("/{tunnel_id}/certificates/{certificate_id}/archive")
async def archive_certificate(core: CoreOf, key: ByTunnels, tunnel_id: str, certificate_id: str) -> TunnelCertificate:
    """Archive; again on an archived certificate it returns the record."""
    return await certificates.archive(core, key, tunnel_id, certificate_id)
