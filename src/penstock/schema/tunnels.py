"""The Tunnels API's published objects and bodies (`/v1/tunnels`): names and shapes are exact."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Literal

from pydantic import Field

from penstock.schema.wire import Wire


class Tunnel(Wire):
    """One tunnel. `domain` is never reused, not even after archiving."""

    id: str
    archived_at: datetime | None
    created_at: datetime
    display_name: str | None
    domain: str
    type: Literal["tunnel"] = "tunnel"


class TunnelCreate(Wire):
    """Body of `POST /v1/tunnels`."""

    display_name: str | None = Field(default=None, min_length=1, max_length=255)


class LaunchTunnel(Tunnel):
    """One tunnel in the launch edition, which names its workspace; null is the organization's default one."""

    workspace_id: str | None


class LaunchTunnelPage(Wire):
    """One page of tunnels in the launch edition, newest first."""

    data: tuple[LaunchTunnel, ...]
    next_page: str | None = None


class TokenRotation(Wire):
    """Body of `POST …/rotate_token`."""

    reason: str | None = Field(default=None, max_length=1024)
    """Kept in the audit log."""


class TunnelToken(Wire):
    """The agent's credential. `id` changes with the value."""

    id: str
    tunnel_token: str
    type: Literal["tunnel_token"] = "tunnel_token"


class TunnelCertificate(Wire):
    """One registered CA certificate; the PEM is not returned."""

    id: str
    archived_at: datetime | None
    created_at: datetime
    expires_at: datetime | None
    fingerprint: str
    """Lowercase hex SHA-256 of the DER."""
    tunnel_id: str
    type: Literal["tunnel_certificate"] = "tunnel_certificate"


class TunnelCertificateCreate(Wire):
    """Body of `POST /v1/tunnels/{tunnel_id}/certificates`."""

    ca_certificate_pem: str = Field(max_length=8192)


class TunnelPage(Wire):
    """One page of tunnels, newest first."""

    data: tuple[Tunnel, ...]
    next_page: str | None = None


class TunnelCertificatePage(Wire):
    """One page of a tunnel's CA certificates, newest first."""

    data: tuple[TunnelCertificate, ...]
    next_page: str | None = None
