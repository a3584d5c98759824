"""Workload identity: a workload's own JWT in, a short bearer of the platform out (RFC 7523, as JSON).

The platform answers a failed exchange with one opaque sentence. What can be known here, without its help, is said here:
when the JWT expired, and what audience it was made for. The JWT itself is in no message.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import httpx2
from pydantic import BaseModel, ValidationError

from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError
from penstock.schema.errors import ErrorEnvelope
from penstock.secret import Secret
from penstock.tls import contexts

if TYPE_CHECKING:
    from pathlib import Path

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_BETA: Final = "oauth-2025-04-20,oidc-federation-2026-04-01"
_SECONDS: Final = 30.0
_JWT_LIMIT: Final = 16_384  # published; more is not a JWT of any identity provider


class _Granted(BaseModel):
    access_token: str
    expires_in: int
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """What the exchange gave. `scope` is space-separated (RFC 6749 3.3)."""

    token: Secret
    expires_in: int
    scope: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: the workload's JWT and the rule that should match it."""

    assertion: Secret
    federation_rule_id: str
    organization_id: str
    workspace_id: str | None = None


async def exchange(base_url: str, identity: Identity, *, ca_file: Path | None = None) -> Bearer:
    """The bearer for `identity`. Raises IdentityError with the likely cause, UnavailableError when nothing answers."""
    jwt = identity.assertion.reveal()
    if len(jwt) > _JWT_LIMIT or jwt.count(".") != 2:
        raise IdentityError(
            "the identity token is not a JWT", hint="give the token itself: three parts with two dots, at most 16 KiB"
        )
    body = {
        "grant_type": _GRANT,
        "assertion": jwt,
        "federation_rule_id": identity.federation_rule_id,
        "organization_id": identity.organization_id,
    }
    if identity.workspace_id:
        body["workspace_id"] = identity.workspace_id
    is_tls = base_url.startswith("https:")
    try:
        async with httpx2.AsyncClient(
            verify=contexts.control_client(ca_file) if is_tls else contexts.unused_client(), timeout=_SECONDS
        ) as http:
            response = await http.post(f"{base_url.rstrip('/')}/v1/oauth/token", json=body, headers={"anthropic-beta": _BETA})
    except httpx2.HTTPError as exc:
        raise UnavailableError(
            f"{base_url} does not answer the token exchange",
            detail=f"{type(exc).__name__}: {exc}",
            hint="check the API URL, DNS, and that this network may reach it",
        ) from exc
    if not response.is_success:
        raise _refusal(response, jwt, datetime.now(UTC))
    try:
        granted = _Granted.model_validate_json(response.content)
    except ValidationError:
        raise UnavailableError(f"{base_url} does not answer like a token endpoint", hint="check the API URL") from None
    return Bearer(Secret(granted.access_token), granted.expires_in, granted.scope)


def _refusal(response: httpx2.Response, jwt: str, now: datetime) -> PenstockError:
    try:
        envelope = ErrorEnvelope.model_validate_json(response.content)
    except ValidationError:
        return UnavailableError(
            "the token exchange was answered by something else than a platform",
            detail=f"status {response.status_code}",
            hint="check the API URL",
        )
    detail = f"{envelope.error.message} (status {response.status_code}, request {envelope.request_id})"
    if response.status_code == 429 or response.status_code >= 500:
        return UnavailableError("the token exchange cannot be served now", detail=detail, hint="try again shortly")
    claims = _claims(jwt)
    if response.status_code == 400 and envelope.error.type == "invalid_request_error":
        return ConfigError(
            "the token exchange does not understand the request",
            detail=detail,
            hint="check ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID and ANTHROPIC_WORKSPACE_ID",
        )
    return IdentityError("the identity token is not accepted", detail=detail, hint=_likely(claims, now))


def _likely(claims: dict[str, Any], now: datetime) -> str:
    expires = claims.get("exp")
    if isinstance(expires, (int, float)) and expires < now.timestamp():
        when = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"the token expired at {when}: mint a new one and run again"
    audience = claims.get("aud")
    shown = ", ".join(str(one) for one in cast("list[object]", audience)) if isinstance(audience, list) else str(audience)
    return (
        f"the federation rule must name this token's audience byte for byte, scheme included (it is {shown[:200]!r}), "
        f"and match its subject ({str(claims.get('sub'))[:200]!r}); the platform's authentication history says which it was"
    )


def _claims(jwt: str) -> dict[str, Any]:
    """The payload, unverified: it is the asker's own token, read to explain a refusal."""
    part = jwt.split(".")[1]
    try:
        claims: object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return cast("dict[str, Any]", claims) if isinstance(claims, dict) else {}
