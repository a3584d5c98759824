"""Federation issuers: whose assertions an organization listens to, and where their keys are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, insert, select

from penstock import ids
from penstock.control.errors import ApiError
from penstock.control.federation import jwks, tenants
from penstock.control.federation.urls import Url
from penstock.control.service import audit, grants, named
from penstock.control.service.issuer_keys import source_of
from penstock.control.storage import identities
from penstock.errors import PenstockError
from penstock.schema.federation import (
    Issuer,
    IssuerCreate,
    IssuerPage,
    IssuerUpdate,
    Jwks,
    JwksDiscovery,
    JwksInline,
    PollStatus,
    RuleMatch,
)
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_t = identities.federation_issuers
KIND: Final = "federation issuer"
LIFETIME: Final = 3600


async def create(core: Core, by: Principal, request: IssuerCreate) -> Issuer:
    """A new issuer. Raises ApiError that begins with the field that is wrong."""
    await _check(core, request.issuer_url, request.jwks)
    row: dict[str, Any] = {
        "id": core.new_id(ids.ISSUER),
        "organization_id": by.organization_id,
        "name": request.name,
        "issuer_url": request.issuer_url,
        "check_jti": request.check_jti is not False,
        "max_jwt_lifetime_seconds": request.max_jwt_lifetime_seconds or LIFETIME,
        **_unfetched(core, request.jwks),
        **named.born(core, by),
    }
    async with core.database.write() as connection:
        await named.refuse_taken(connection, _t, by.organization_id, request.name, KIND)
        await _refuse_over_limit(core, connection, by.organization_id)
        await connection.execute(insert(_t).values(row))
        await audit.record(core, connection, by, "federation_issuer_created", _told(row))
    return _issuer(row)


async def get(core: Core, by: Principal, issuer_id: str) -> Issuer:
    """One issuer. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _issuer(await named.find(connection, _t, by.organization_id, issuer_id, KIND))


async def list_page(core: Core, by: Principal, *, include_archived: bool, limit: int, cursor: str | None) -> IssuerPage:
    """Newest first."""
    async with core.database.read() as connection:
        rows, following = await named.read(
            connection, _t, by.organization_id, include_archived=include_archived, limit=limit, cursor=cursor
        )
    return IssuerPage(data=tuple(_issuer(row) for row in rows), next_page=following)


async def change(core: Core, by: Principal, issuer_id: str, request: IssuerUpdate) -> Issuer:
    """What is given replaces what was. A new source of keys is fetched anew, and polled again if polling had paused."""
    if request.jwks_polling_disabled:
        raise ApiError("invalid_request_error", "jwks_polling_disabled: only false is accepted; polling pauses by itself")
    wanted = request.model_dump(exclude_none=True, include={"name", "issuer_url", "check_jti", "max_jwt_lifetime_seconds"})
    if request.issuer_url is not None or request.jwks is not None:
        async with core.database.read() as connection:
            row = await named.find_live(connection, _t, by.organization_id, issuer_id, KIND)
        source = request.jwks or source_of(row)
        await _check(core, request.issuer_url or row["issuer_url"], source)
        wanted |= _unfetched(core, source)
    elif request.jwks_polling_disabled is False:
        wanted |= {"failures": 0, "polling_disabled_at": None, "next_poll_at": core.now()}
    async with core.database.write() as connection:
        row = await named.find_live(connection, _t, by.organization_id, issuer_id, KIND)
        if request.name is not None:
            await named.refuse_taken(connection, _t, by.organization_id, request.name, KIND, issuer_id)
        if request.issuer_url is not None:
            await _refuse_strangers(connection, issuer_id, request.issuer_url)
        if request.model_fields_set - {"name"}:
            await grants.refuse_issuer(connection, by, issuer_id)
        await named.change(core, connection, _t, by, row, **wanted)
        await audit.record(core, connection, by, "federation_issuer_updated", _told(row))
    return _issuer(row)


async def archive(core: Core, by: Principal, issuer_id: str) -> Issuer:
    """End it. Again: the record as it is. Raises ApiError while a live rule refers to it."""
    r = identities.federation_rules
    async with core.database.write() as connection:
        row = await named.find(connection, _t, by.organization_id, issuer_id, KIND)
        if row["archived_at"] is None:
            referring = select(r.c.id).where(r.c.issuer_id == issuer_id, r.c.archived_at.is_(None)).limit(1)
            if (rule_id := (await connection.execute(referring)).scalar_one_or_none()) is not None:
                raise ApiError("invalid_request_error", f"the rule {rule_id} refers to it", hint="archive its rules first")
            ended = {"archived_at": core.now(), "archived_by": by.id, "next_poll_at": None}
            await named.change(core, connection, _t, by, row, **ended)
            await audit.record(core, connection, by, "federation_issuer_archived", {"federation_issuer_id": issuer_id})
    return _issuer(row)


async def _check(core: Core, issuer_url: str, source: Jwks) -> None:
    if isinstance(source, JwksInline):
        for number, key in enumerate(source.keys):
            if (problem := jwks.problem_of(key)) is not None:
                raise ApiError("invalid_request_error", f"jwks.keys.{number}: {problem}")
        return
    if isinstance(source, JwksDiscovery):
        field, url = ("jwks.discovery_base", source.discovery_base) if source.discovery_base else ("issuer_url", issuer_url)
    else:
        field, url = "jwks.url", source.url
    try:
        if source.ca_cert_pem is not None:
            certs.load_bundle(source.ca_cert_pem)
    except PenstockError as exc:
        raise ApiError("invalid_request_error", f"jwks.ca_cert_pem: {exc.public}", detail=exc.detail) from exc
    try:
        await core.fetch.check(Url.parse(url))
    except ValueError as exc:
        raise ApiError("invalid_request_error", f"{field}: {exc}") from exc


async def _refuse_over_limit(core: Core, connection: AsyncConnection, organization_id: str) -> None:
    limit = core.config.limits.issuers_per_organization
    query = select(func.count()).where(_t.c.organization_id == organization_id, _t.c.archived_at.is_(None))
    if (await connection.execute(query)).scalar_one() >= limit:
        raise ApiError(
            "invalid_request_error", f"the organization has {limit} federation issuers already", hint="archive one of them"
        )


async def _refuse_strangers(connection: AsyncConnection, issuer_id: str, issuer_url: str) -> None:
    r = identities.federation_rules
    query = select(r.c.id, r.c.match).where(r.c.issuer_id == issuer_id, r.c.archived_at.is_(None))
    for rule_id, match in await connection.execute(query):
        if (problem := tenants.problem_of(issuer_url, RuleMatch.model_validate_json(match))) is not None:
            raise ApiError("invalid_request_error", f"issuer_url: rule {rule_id}: {problem}")


def _unfetched(core: Core, source: Jwks) -> dict[str, Any]:
    is_inline = isinstance(source, JwksInline)
    return {
        "jwks": source.model_dump_json(exclude_none=True),
        "keys": None,
        "fetched_at": None,
        "failures": 0,
        "next_poll_at": None if is_inline else core.now(),
        "polling_disabled_at": None,
    }


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"federation_issuer_id": row["id"], "name": row["name"], "issuer_url": row["issuer_url"]}


def _issuer(row: Mapping[Any, Any]) -> Issuer:
    source = source_of(row)
    status = None
    if not isinstance(source, JwksInline):
        status = PollStatus(
            consecutive_failures=row["failures"], last_fetched_at=row["fetched_at"], next_poll_at=row["next_poll_at"]
        )
    return Issuer(
        id=row["id"],
        name=row["name"],
        issuer_url=row["issuer_url"],
        jwks=source,
        check_jti=row["check_jti"],
        max_jwt_lifetime_seconds=row["max_jwt_lifetime_seconds"],
        jwks_polling_disabled_at=row["polling_disabled_at"],
        poll_status=status,
        **named.told(row),
    )
