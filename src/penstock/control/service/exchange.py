"""The token exchange: an assertion in, a short bearer of one workspace out.

Whoever asks learns nothing of why not: a refused assertion is always the same 401, and the reason goes into the history of the
organization whose rule was named. Only a request that is no request at all is told so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sqlalchemy import delete, insert, select

from penstock import ids
from penstock.control.auth import keys, scopes
from penstock.control.errors import ApiError
from penstock.control.federation import assertion, matching
from penstock.control.federation.assertion import LEEWAY, Unverified, Verified
from penstock.control.federation.denial import Denial
from penstock.control.service import audit, authentications
from penstock.control.service.issuer_keys import source_of
from penstock.control.storage import identities, tables
from penstock.schema.federation import RuleMatch, TokenAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.service.core import Core
    from penstock.control.service.issuer_keys import IssuerKeys
    from penstock.schema.federation import TokenRequest

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SHORTEST: Final = 60
_DEFAULT: Final = "default"

# What of an issuer decides; the rest of its row tells how fetching its keys goes.
_DECIDES: Final = ("issuer_url", "jwks", "check_jti", "max_jwt_lifetime_seconds", "archived_at")

_r = identities.federation_rules
_t = identities.access_tokens


@dataclass(frozen=True, slots=True)
class _Workload:
    """Whoever presents an assertion, for the audit log."""

    id: str
    organization_id: str
    actor_type: str = "service_account"


async def exchange(core: Core, issuer_keys: IssuerKeys, request: TokenRequest) -> TokenAnswer:
    """A bearer for an assertion. Raises ApiError: 400 for a malformed request, 401 for everything else."""
    _check_form(request)
    async with core.database.read() as connection:
        found = await _rule(connection, request)
    if found is None:
        refuse()  # no history: whose would it be
    rule, issuer, account = found
    unverified: Unverified | None = None
    try:
        _check_live(rule, issuer, account, request)
        unverified = assertion.read(request.assertion)
        verified = await _verify(core, issuer_keys, unverified, issuer)
        await matching.check(RuleMatch.model_validate_json(rule["match"]), verified, core.config.audiences)
        return await _grant(core, rule, issuer, verified, request)
    except Denial as denial:
        async with core.database.write() as connection:
            await authentications.write(
                core,
                connection,
                rule,
                outcome="denied",
                reason=denial.reason,
                detail=denial.detail or None,
                subject=unverified.subject if unverified is not None else None,
                workspace_id=request.workspace_id,
            )
        refuse()


def refuse() -> NoReturn:
    """The one answer to every assertion that is not accepted."""
    raise ApiError("authentication_error", "Authentication failed")


def _check_form(request: TokenRequest) -> None:
    if request.grant_type != GRANT:
        raise ApiError("invalid_request_error", f"grant_type: must be {GRANT}")
    if not ids.is_valid(ids.RULE, request.federation_rule_id):
        raise ApiError("invalid_request_error", "federation_rule_id: must look like fdrl_…")
    workspace = request.workspace_id
    if workspace is not None and workspace != _DEFAULT and not ids.is_valid(ids.WORKSPACE, workspace):
        raise ApiError("invalid_request_error", "workspace_id: must look like wrkspc_… or be `default`")


async def _rule(
    connection: AsyncConnection, request: TokenRequest
) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]] | None:
    """The rule with its issuer and service account; None for an unknown, archived or foreign one, all alike."""
    o, i, s = tables.organizations, identities.federation_issuers, identities.service_accounts
    live = (_r.c.archived_at.is_(None), o.c.deleted_at.is_(None))
    query = select(_r, o.c.suspended_at).join(o, o.c.id == _r.c.organization_id).where(*live)
    named = query.where(_r.c.id == request.federation_rule_id, _r.c.organization_id == request.organization_id.lower())
    rule = (await connection.execute(named)).mappings().one_or_none()
    if rule is None:
        return None
    issuer = (await connection.execute(select(i).where(i.c.id == rule["issuer_id"]))).mappings().one()
    account = (await connection.execute(select(s).where(s.c.id == rule["service_account_id"]))).mappings().one()
    return dict(rule), dict(issuer), dict(account)


def _check_live(rule: Mapping[str, Any], issuer: Mapping[str, Any], account: Mapping[str, Any], request: TokenRequest) -> None:
    if rule["suspended_at"] is not None:
        raise Denial("organization_suspended")
    if issuer["archived_at"] is not None:
        raise Denial("issuer_archived")
    if account["archived_at"] is not None:
        raise Denial("service_account_archived")
    if request.service_account_id not in {None, account["id"]}:
        raise Denial("service_account_mismatch", f"the rule's is {account['id']}")


async def _verify(core: Core, issuer_keys: IssuerKeys, unverified: Unverified, issuer: Mapping[str, Any]) -> Verified:
    # Before any key is fetched: a stranger's issuer makes us fetch nothing.
    if unverified.issuer != issuer["issuer_url"]:
        raise Denial("issuer_mismatch", f"iss is {unverified.issuer[:300]}; the issuer is {issuer['issuer_url'][:300]}")
    key = await issuer_keys.find(issuer, source_of(issuer), unverified.kid)
    return assertion.verify(unverified, key, now=core.now(), lifetime_most=issuer["max_jwt_lifetime_seconds"])


async def _grant(
    core: Core, rule: Mapping[str, Any], issuer: Mapping[str, Any], verified: Verified, request: TokenRequest
) -> TokenAnswer:
    now = core.now()
    remaining = verified.expires_at - now.timestamp()
    lifetime = int(max(_SHORTEST, min(rule["token_lifetime_seconds"], 2 * remaining)))
    secret = keys.make(keys.Kind.ACCESS_TOKEN, core.entropy)
    async with core.database.write() as connection:
        account = await _still(connection, rule, issuer, request)
        workspace_id = await _workspace(connection, rule, request.workspace_id)
        await _check_member(connection, rule["service_account_id"], workspace_id)
        if issuer["check_jti"] and verified.jti is not None:
            await _spend(connection, issuer["id"], verified, now)
        token = {
            "id": core.new_id(ids.ACCESS_TOKEN),
            "digest": keys.digest(secret),
            "organization_id": rule["organization_id"],
            "workspace_id": workspace_id,
            "service_account_id": rule["service_account_id"],
            "rule_id": rule["id"],
            "scope": rule["oauth_scope"],
            "created_at": now,
            "expires_at": now + timedelta(seconds=lifetime),
        }
        await connection.execute(delete(_t).where(_t.c.expires_at <= now))
        await connection.execute(insert(_t).values(token))
        await authentications.write(
            core,
            connection,
            rule,
            outcome="granted",
            subject=verified.subject,
            workspace_id=workspace_id,
            token_id=token["id"],
        )
        minted = {
            "token_id": token["id"],
            "federation_rule_id": rule["id"],
            "service_account_id": rule["service_account_id"],
            "workspace_id": workspace_id,
            "subject": verified.subject,
            "expires_at": token["expires_at"],
        }
        who = _Workload(rule["service_account_id"], rule["organization_id"])
        await audit.record(core, connection, who, "token_exchanged", minted)
    granted = " ".join(sorted(scopes.of_workload(rule["oauth_scope"], account["organization_role"]) & scopes.PUBLISHED))
    return TokenAnswer(access_token=secret.reveal(), expires_in=lifetime, scope=granted)


async def _still(
    connection: AsyncConnection, rule: Mapping[str, Any], issuer: Mapping[str, Any], request: TokenRequest
) -> Mapping[str, Any]:
    """The service account as it is now. Raises Denial when the rule or its issuer is not what the assertion was held against.

    Fetching the issuer's keys takes as long as the issuer likes; whoever ended the rule meanwhile ended it.
    """
    found = await _rule(connection, request)
    if found is None:
        raise Denial("rule_changed", "the rule was archived meanwhile")
    now_rule, now_issuer, account = found
    _check_live(now_rule, now_issuer, account, request)
    if now_rule != rule or any(now_issuer[name] != issuer[name] for name in _DECIDES):
        raise Denial("rule_changed", "the rule or its issuer was changed meanwhile")
    return account


async def _workspace(connection: AsyncConnection, rule: Mapping[str, Any], wanted: str | None) -> str:
    """Where the token will act: the workspace asked for, or the only one there is to choose. Raises Denial."""
    w, e = tables.workspaces, identities.federation_rule_workspaces
    live = select(w.c.id, w.c.is_default).where(w.c.organization_id == rule["organization_id"], w.c.archived_at.is_(None))
    if not rule["applies_to_all_workspaces"]:
        live = live.join(e, e.c.workspace_id == w.c.id).where(e.c.rule_id == rule["id"])
    enabled = (await connection.execute(live)).all()
    default = next((row.id for row in enabled if row.is_default), None)
    if wanted is None:
        if len(enabled) == 1:
            return str(enabled[0].id)
        # The organization's default, if the rule covers all there are; with a list, nobody can tell which was meant.
        if rule["applies_to_all_workspaces"] and default is not None:
            return str(default)
        reason = "workspace_id_required" if enabled else "workspace_not_enabled"
        raise Denial(reason, f"the rule is enabled for {len(enabled)} workspaces")
    chosen = default if wanted == _DEFAULT else next((row.id for row in enabled if row.id == wanted), None)
    if chosen is None:
        raise Denial("workspace_not_enabled", f"the rule is not enabled for {wanted}")
    return str(chosen)


async def _check_member(connection: AsyncConnection, account_id: str, workspace_id: str) -> None:
    m = identities.service_account_members
    query = select(m.c.role).where(m.c.service_account_id == account_id, m.c.workspace_id == workspace_id)
    if (await connection.execute(query)).one_or_none() is None:
        raise Denial("service_account_not_member", f"{account_id} is no member of {workspace_id}")


async def _spend(connection: AsyncConnection, issuer_id: str, verified: Verified, now: datetime) -> None:
    """Use up the assertion's `jti`, in the transaction of the token: of two at once, one gets it. Raises Denial."""
    t = identities.spent_assertions
    digest = hashlib.sha256((verified.jti or "").encode()).hexdigest()
    query = select(t.c.jti_digest).where(t.c.issuer_id == issuer_id, t.c.jti_digest == digest)
    if (await connection.execute(query)).one_or_none() is not None:
        raise Denial("jti_reused", f"jti {(verified.jti or '')[:100]} was used before")
    await connection.execute(delete(t).where(t.c.expires_at <= now))
    # Kept until the assertion could not be accepted any more, leeway included.
    until = datetime.fromtimestamp(verified.expires_at + 2 * LEEWAY, UTC)
    await connection.execute(insert(t).values(issuer_id=issuer_id, jti_digest=digest, expires_at=until))
