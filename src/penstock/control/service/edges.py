"""Edges enrol here: an enrolment token and a request in; a certificate, a credential and everything to trust out."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from penstock import ids
from penstock.config.types import HostPort
from penstock.control.auth import keys, principals
from penstock.control.errors import ApiError
from penstock.control.service import audit, edge_certificates, presence, roots
from penstock.control.storage import tables
from penstock.control.storage.database import advance_feed
from penstock.protocol.hosts import normalize_host
from penstock.schema.edges import (
    EdgeEnrolment,
    EdgeEnrolmentRequest,
    EdgeInfo,
    EdgeList,
    EnrolmentToken,
    EnrolmentTokenCreated,
    EnrolmentTokenList,
)
from penstock.tls import certs
from penstock.tls.names import edge_server_name, is_edge_name

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.service.core import Core
    from penstock.secret import Secret


async def enrol(core: Core, token: Secret, request: EdgeEnrolmentRequest) -> EdgeEnrolment:
    """Make an edge, or make it anew: an enrolment under the name of one that is dead replaces it, whose credential then ends.

    One that lives is not replaced: two machines that were given one name would knock each other out. ApiError 409 then.
    The token is looked at inside the writing transaction, so that a single-use one is spent exactly once.
    """
    server_name, callers, agents = _checked(request)
    public_key = edge_certificates.requested_key(request.csr_pem)
    now = core.now()
    edge_id, credential = core.new_id(ids.EDGE), keys.make(keys.Kind.EDGE, core.entropy)
    async with core.database.write() as connection:
        enrolment = await principals.enrolment(connection, token)
        replaced = await _replaceable(connection, request.name, now)
        if core.config.single_use_enrolment:
            spent = update(tables.enrolment_tokens).where(tables.enrolment_tokens.c.id == enrolment.id)
            await connection.execute(spent.values(spent_at=now))
        certificate = await edge_certificates.issue(
            core, connection, public_key, server_name=server_name, hosts=(callers.host, agents.host)
        )
        if replaced is not None:
            await connection.execute(delete(tables.edges).where(tables.edges.c.id == replaced))
            ended = {"edge_id": replaced, "name": request.name, "replaced_by": edge_id}
            await audit.record(core, connection, enrolment, "edge_replaced", ended)
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


async def _replaceable(connection: AsyncConnection, name: str, now: datetime) -> str | None:
    """The id of the edge that has this name and is dead; None when the name is free. Raises ApiError 409."""
    t = tables.edges
    edge_id: str | None = await connection.scalar(select(t.c.id).where(t.c.name == name))
    if edge_id is not None and await presence.lives(connection, edge_id, now):
        raise ApiError(
            "conflict_error",
            f"name: another edge is called {name!r} and is alive",
            hint="give every edge a name of its own; one that lost its state folder has its name back seconds after it stopped",
        )
    return edge_id


async def list_all(core: Core) -> EdgeList:
    """Every edge, by name."""
    t = tables.edges
    async with core.database.read() as connection:
        rows = await connection.execute(select(t).order_by(t.c.name))
        return EdgeList(
            data=tuple(
                EdgeInfo(
                    id=row.id,
                    name=row.name,
                    server_name=row.server_name,
                    caller_address=str(HostPort(row.caller_host, row.caller_port)),
                    agent_address=row.agent_address,
                    serial=row.serial,
                    enrolled_at=row.enrolled_at,
                )
                for row in rows
            )
        )


async def revoke(core: Core, by: Acting, edge_id: str) -> None:
    """End an edge's credential: it learns nothing new, and callers and agents are sent there no more.

    What it knows goes stale at its own limit; an edge that was taken over is also cut from the network, its enrolment token
    revoked and the tokens of tunnels that used it rotated.
    """
    t = tables.edges
    async with core.database.write() as connection:
        row = (await connection.execute(delete(t).where(t.c.id == edge_id).returning(t.c.name))).one_or_none()
        if row is None:
            raise ApiError("not_found_error", "edge not found")
        await advance_feed(connection)
        await audit.record(core, connection, by, "edge_revoked", {"edge_id": edge_id, "name": row.name})


async def add_token(core: Core, connection: AsyncConnection, by: Acting) -> tuple[EnrolmentToken, Secret]:
    """A new enrolment token and its secret."""
    secret = keys.make(keys.Kind.ENROLMENT, core.entropy)
    token = EnrolmentToken(id=core.new_id(ids.ENROLMENT), created_at=core.now(), revoked_at=None)
    values = {"id": token.id, "digest": keys.digest(secret), "created_at": token.created_at}
    await connection.execute(insert(tables.enrolment_tokens).values(values))
    await audit.record(core, connection, by, "enrolment_token_created", {"enrolment_token_id": token.id})
    return token, secret


async def create_token(core: Core, by: Acting) -> EnrolmentTokenCreated:
    """A new enrolment token, shown once."""
    async with core.database.write() as connection:
        token, secret = await add_token(core, connection, by)
    return EnrolmentTokenCreated(**token.model_dump(), enrolment_token=secret.reveal())


async def list_tokens(core: Core) -> EnrolmentTokenList:
    """Those that still work, newest first."""
    t = tables.enrolment_tokens
    query = select(t.c.id, t.c.created_at, t.c.revoked_at).where(t.c.revoked_at.is_(None), t.c.spent_at.is_(None))
    async with core.database.read() as connection:
        rows = (await connection.execute(query.order_by(t.c.created_at.desc()))).mappings()
        return EnrolmentTokenList(data=tuple(EnrolmentToken.model_validate(dict(row)) for row in rows))


async def revoke_token(core: Core, by: Acting, token_id: str) -> EnrolmentToken:
    """End an enrolment token. Raises ApiError 404 for one that does not work any more."""
    t = tables.enrolment_tokens
    async with core.database.write() as connection:
        query = update(t).where(t.c.id == token_id, t.c.revoked_at.is_(None)).values(revoked_at=core.now())
        row = (await connection.execute(query.returning(t.c.id, t.c.created_at, t.c.revoked_at))).mappings().one_or_none()
        if row is None:
            raise ApiError("not_found_error", "enrolment token not found")
        await audit.record(core, connection, by, "enrolment_token_revoked", {"enrolment_token_id": token_id})
        return EnrolmentToken.model_validate(dict(row))


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
