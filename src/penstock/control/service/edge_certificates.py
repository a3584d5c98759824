"""Certificates of edges: the first one at enrolment, the next ones for the edge's own credential before the last runs out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from penstock.config.types import HostPort
from penstock.control.errors import ApiError
from penstock.control.service import audit, roots
from penstock.control.storage import tables
from penstock.control.storage.database import advance_feed
from penstock.errors import IdentityError
from penstock.protocol.metadata import EDGE_SERVER_NAME, PROBE_SERVER_NAME
from penstock.schema.edges import EdgeCertificate
from penstock.tls import certs

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Edge
    from penstock.control.service.core import Core


def requested_key(csr_pem: str) -> certs.PublicKey:
    """The key a request asks to have signed. Raises ApiError."""
    try:
        return certs.load_csr(csr_pem)
    except IdentityError as exc:
        raise ApiError("invalid_request_error", f"csr_pem: {exc.public}", detail=exc.detail, hint=exc.hint) from exc


async def issue(
    core: Core, connection: AsyncConnection, key: certs.PublicKey, *, server_name: str, hosts: tuple[str, ...]
) -> Certificate:
    """Sign an edge's certificate for its own name, the stock agent's two names, and the `hosts` it is dialled at."""
    return certs.issue_server(
        await roots.edge_ca(core, connection),
        key,
        # The stock agent's names are of its connections and of its reachability probe.
        names=[server_name, EDGE_SERVER_NAME, PROBE_SERVER_NAME, *hosts],
        validity=certs.Validity.lasting(core.now(), timedelta(seconds=core.config.edge_certificate_lifetime)),
        serial=core.new_serial(),
        is_client_too=True,  # to other edges, when it passes a caller's stream on
    )


async def renew(core: Core, edge: Edge, csr_pem: str) -> EdgeCertificate:
    """The next certificate of an edge, under the name and the addresses it enrolled with."""
    key = requested_key(csr_pem)
    t = tables.edges
    async with core.database.write() as connection:
        query = select(t.c.serial, t.c.name, t.c.server_name, t.c.caller_host, t.c.agent_address).where(t.c.id == edge.id)
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise ApiError("authentication_error", "invalid edge credential", hint="the edge has to enrol again")
        hosts = (row.caller_host, HostPort.parse(row.agent_address).host)
        certificate = await issue(core, connection, key, server_name=row.server_name, hosts=hosts)
        serial = certs.serial_hex(certificate)
        # The one before goes on being this edge's: it shows it until this answer arrives, and its other workers for a minute.
        await connection.execute(update(t).where(t.c.id == edge.id).values(serial=serial, previous_serial=row.serial))
        await advance_feed(connection)
        renewed = {"edge_id": edge.id, "name": row.name, "serial": serial}
        await audit.record(core, connection, edge, "edge_certificate_renewed", renewed)
        return EdgeCertificate(
            certificate_pem=certs.certificate_to_pem(certificate), edge_ca_pem=await roots.edge_ca_pem(connection)
        )
