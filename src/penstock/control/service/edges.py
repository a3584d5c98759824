"""Edges enrol here: an enrolment token and a request in; a certificate, a credential and everything to trust out."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, update

from penstock import ids
from penstock.config.types import HostPort
from penstock.control.auth import keys, principals
from penstock.control.errors import ApiError
from penstock.control.service import audit, roots
from penstock.control.storage import tables
from penstock.control.storage.database import advance_feed
from penstock.errors import IdentityError
from penstock.protocol.hosts import normalize_host
from penstock.protocol.metadata import EDGE_SERVER_NAME, PROBE_SERVER_NAME
from penstock.schema.edges import EdgeEnrolment, EdgeEnrolmentRequest
from penstock.tls import certs
from penstock.tls.names import edge_server_name, is_edge_name

if TYPE_CHECKING:
    from penstock.control.service.core import Core
    from penstock.secret import Secret


async def enrol(core: Core, token: Secret, request: EdgeEnrolmentRequest) -> EdgeEnrolment:
    """Make an edge, or make it anew: a second enrolment under one name replaces the first, whose credential then ends.

    The token is looked at inside the writing transaction, so that a single-use one is spent exactly once.
    """
    server_name, callers, agents = _checked(request)
    try:
        public_key = certs.load_csr(request.csr_pem)
    except IdentityError as exc:
        raise ApiError("invalid_request_error", f"csr_pem: {exc.public}", detail=exc.detail, hint=exc.hint) from exc
    now = core.now()
    edge_id, credential = core.new_id(ids.EDGE), keys.make(keys.Kind.EDGE, core.entropy)
    async with core.database.write() as connection:
        enrolment = await principals.enrolment(connection, token)
        if core.config.single_use_enrolment:
            spent = update(tables.enrolment_tokens).where(tables.enrolment_tokens.c.id == enrolment.id)
            await connection.execute(spent.values(spent_at=now))
        certificate = certs.issue_server(
            await roots.edge_ca(core, connection),
            public_key,
            # The stock agent's two names (connections and its reachability probe), then where this edge is dialled.
            names=[server_name, EDGE_SERVER_NAME, PROBE_SERVER_NAME, callers.host, agents.host],
            validity=certs.Validity.lasting(now, timedelta(seconds=core.config.edge_certificate_lifetime)),
            serial=core.new_serial(),
        )
        await connection.execute(delete(tables.edges).where(tables.edges.c.name == request.name))
        await connection.execute(
            insert(tables.edges).values(
                id=edge_id,
                name=request.name,
                digest=keys.digest(credential),
                server_name=server_name,
                caller_host=callers.host,
                caller_port=callers.port,
                agent_address=str(agents),
                serial=certs.serial_hex(certificate),
                enrolled_at=now,
            )
        )
        enrolled = {
            "edge_id": edge_id,
            "name": request.name,
            "enrolment_token_id": enrolment.id,
            "serial": certs.serial_hex(certificate),
        }
        await audit.record(core, connection, enrolment, "edge_enrolled", enrolled)
        await advance_feed(connection)  # agents are told of every edge
        return EdgeEnrolment(
            edge_id=edge_id,
            credential=credential.reveal(),
            certificate_pem=certs.certificate_to_pem(certificate),
            edge_ca_pem=await roots.edge_ca_pem(connection),
            caller_ca_pem=await roots.all_caller_cas_pem(connection),
            feed_key=await roots.feed_public_key(connection),
        )


def _checked(request: EdgeEnrolmentRequest) -> tuple[str, HostPort, HostPort]:
    if not is_edge_name(request.name):
        raise ApiError("invalid_request_error", "name: must be one DNS label of lower-case letters, digits and hyphens")
    return (
        edge_server_name(request.name),
        _address("caller_address", request.caller_address),
        _address("agent_address", request.agent_address),
    )


def _address(field: str, text: str) -> HostPort:
    """An address others can dial: a host is named, and the port is no wildcard."""
    try:
        address = HostPort.parse(text.lower())
    except ValueError as exc:
        raise ApiError("invalid_request_error", f"{field}: must be host:port", detail=str(exc)) from exc
    if not address.port or not _is_dialable(address.host):
        raise ApiError(
            "invalid_request_error",
            f"{field}: must name a host and a port that others can dial",
            hint="set the advertised address",
        )
    return address


def _is_dialable(host: str) -> bool:
    try:
        return not ip_address(host).is_unspecified
    except ValueError:
        pass
    try:
        return normalize_host(host) == host
    except ValueError:
        return False
