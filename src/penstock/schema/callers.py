"""What a caller and the control plane say to each other (`/penstock/v1/callers`, `/penstock/v1/tunnels/resolve`)."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Literal

from penstock.schema.wire import Wire


class CallerCertificateRequest(Wire):
    """`POST /penstock/v1/callers/certificates`, with an API key as bearer. The key of the CSR never leaves the caller."""

    csr_pem: str


class CallerCertificate(Wire):
    """A short-lived client certificate, for outer and inner TLS alike."""

    caller_id: str
    organization_id: str
    workspace_id: str
    certificate_pem: str
    expires_at: datetime


class CallerCertificateInfo(Wire):
    """One live caller certificate, as an organization's admins see it. `id` is its serial, lowercase hex."""

    id: str
    caller_id: str
    holder_id: str
    """Who got it: an API key, a service account or a user."""
    workspace_id: str
    created_at: datetime
    expires_at: datetime
    type: Literal["caller_certificate"] = "caller_certificate"


class CallerCertificatePage(Wire):
    """`GET /penstock/v1/callers/certificates`: one page, newest first."""

    data: tuple[CallerCertificateInfo, ...]
    next_page: str | None = None


class CallerCertificateRevoked(Wire):
    """What is left of one."""

    id: str
    type: Literal["caller_certificate_revoked"] = "caller_certificate_revoked"


class CallerCa(Wire):
    """`GET /penstock/v1/callers/ca`: what a proxy needs to know callers (its `callers.ca_file`)."""

    caller_ca_pem: str


class EdgeAddress(Wire):
    """Where a caller may dial, and the name the edge's certificate has to carry."""

    host: str
    port: int
    server_name: str
    rank: int = 0
    """What to try first: 0 holds a link of the tunnel, 1 lives and passes streams on, 2 was not heard of lately or drains."""


class Resolution(Wire):
    """`GET /penstock/v1/tunnels/resolve?host=<route>.<tunnel-domain>`: how to reach a tunnel and whom to trust there."""

    tunnel_id: str
    domain: str
    trust_anchors: tuple[str, ...]
    """PEM of each active CA certificate of the tunnel."""
    edges: tuple[EdgeAddress, ...]
    edge_ca_pem: str
