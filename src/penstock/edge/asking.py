"""Who asks on the callers' side: a caller by its own certificate, or another edge or worker on a caller's behalf."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.errors import IdentityError, TunnelError, TunnelErrorCode
from penstock.protocol.metadata import CALLER, HOP, HOP_EDGE, HOP_REPLICA, HOP_WORKER
from penstock.tls import certs
from penstock.tls.names import CallerIdentity, caller_identity, edge_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from penstock.edge.directory import Directory
    from penstock.net.upgrade import UpgradeRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """On whose behalf a stream is asked for.

    certificate: the caller's (DER). hop: what passed it on, None for nobody; hop_serial: of its certificate, an edge's.
    replica_only: who passed it on wants that replica or nobody.
    """

    identity: CallerIdentity
    certificate: bytes
    hop: bytes | None = None
    hop_serial: str | None = None
    replica_only: bool = False


def presented(request: UpgradeRequest) -> bytes:
    """The certificate (DER) at the other end of the connection. Raises TunnelError."""
    der: bytes | None = request.transport.get_extra_info("peercert_der")
    if der is None:
        raise _forbidden("there is no client certificate")
    return der


def by_caller(der: bytes) -> Asked:
    """A caller that dialled us itself; its certificate was verified in the handshake. Raises TunnelError."""
    try:
        return Asked(caller_identity(der), der)
    except IdentityError as exc:
        raise _forbidden(exc.public) from exc


def edge_serial(der: bytes) -> str | None:
    """The serial of an edge's certificate; None for a certificate that is not an edge's."""
    return certs.serial_hex(certs.load_certificate(der)) if edge_label(der) is not None else None


def by_edge(request: UpgradeRequest, serial: str, directory: Directory, callers_ca: Sequence[x509.Certificate]) -> Asked:
    """A stream that another edge passes on. It has to be in the feed, and passes a stream on once. Raises TunnelError."""
    if serial not in directory.edges:
        raise _forbidden("the certificate is of no edge that the feed knows")
    if request.header(HOP) != HOP_EDGE:
        raise _forbidden("an edge opens streams on a caller's behalf only")
    return _on_behalf(request, HOP_EDGE, callers_ca, hop_serial=serial)


def by_worker(request: UpgradeRequest, callers_ca: Sequence[x509.Certificate]) -> Asked:
    """A stream that a worker of this edge hands over, on a socket that only this user can open. Raises TunnelError."""
    if request.header(HOP) != HOP_WORKER:
        raise _forbidden("a worker opens streams on a caller's behalf only")
    return _on_behalf(request, HOP_WORKER, callers_ca)


def _on_behalf(
    request: UpgradeRequest, hop: bytes, callers_ca: Sequence[x509.Certificate], *, hop_serial: str | None = None
) -> Asked:
    """The caller's certificate, held against the caller CAs here too: what a neighbour verified is the neighbour's word."""
    try:
        der = base64.b64decode(request.header(CALLER) or b"", validate=True)
        if not certs.is_issued_by(certs.load_certificate(der), callers_ca):
            raise _forbidden("the certificate that was passed on is of no caller CA")
        return Asked(caller_identity(der), der, hop, hop_serial, request.header(HOP_REPLICA) is not None)
    except (binascii.Error, IdentityError) as exc:
        raise _forbidden("the certificate that was passed on is no caller's") from exc


def _forbidden(detail: str) -> TunnelError:
    return TunnelError(TunnelErrorCode.CALLER_FORBIDDEN, "this caller's certificate is not accepted", detail=detail)
