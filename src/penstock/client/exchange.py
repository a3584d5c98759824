"""Workload identity: a workload's own JWT in, a short bearer of the platform out (RFC 7523, as JSON).

The platform answers a failed exchange with one opaque sentence. What can be known here, without its help, is said here:
when the JWT expired, and what audience it was made for. The JWT itself is in no message.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import httpx2
from pydantic import BaseModel, ValidationError

from penstock.client.reach import check_url, is_loopback, no_answer
from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError
from penstock.schema.errors import ErrorEnvelope
from penstock.secret import Secret
from penstock.tls import contexts

if TYPE_CHECKING:
    from pathlib import Path

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_BETA: Final = "oauth-2025-04-20,oidc-federation-2026-04-01"
_SECONDS: Final = 30.0
_JWT: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)  # RFC 7515 7.1: three parts in base64url
_JWT_LIMIT: Final = 16_384  # published; more is not a JWT of any identity provider


class _Granted(BaseModel):
    access_token: str
    expires_in: int
    scope: str = ""


class _OAuthError(BaseModel):
    """RFC 6749 5.2."""

    error: str
    error_description: str | None = None


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
    if len(jwt) > _JWT_LIMIT or _JWT.fullmatch(jwt) is None:
        raise IdentityError(
            "the identity token is not a JWT",
            hint="give the token alone, three parts with two dots and at most 16 KiB, and not the JSON it came in",
        )
    body = {
        "grant_type": _GRANT,
        "assertion": jwt,
        "federation_rule_id": identity.federation_rule_id,
        "organization_id": identity.organization_id,
    }
    if identity.workspace_id:
        body["workspace_id"] = identity.workspace_id
    response = await _post(base_url, body, ca_file)
    if not response.is_success:
        raise _refusal(base_url, response, identity, datetime.now(UTC))
    try:
        granted = _Granted.model_validate_json(response.content)
    except ValidationError:
        raise UnavailableError(f"{base_url} does not answer like a token endpoint", hint="check the API URL") from None
    return Bearer(Secret(granted.access_token), granted.expires_in, granted.scope)


async def _post(base_url: str, body: dict[str, str], ca_file: Path | None) -> httpx2.Response:
    check_url(base_url)
    context = contexts.control_client(ca_file) if base_url.startswith("https:") else contexts.unused_client()
    try:
        async with httpx2.AsyncClient(verify=context, timeout=_SECONDS, trust_env=not is_loopback(base_url)) as http:
            return await http.post(f"{base_url.rstrip('/')}/v1/oauth/token", json=body, headers={"anthropic-beta": _BETA})
    except httpx2.HTTPError as exc:
        raise no_answer(base_url, exc) from exc


class _Refused(NamedTuple):
    """What the platform says: of its own error types, or of RFC 6749's, which the launch edition answered with."""

    kind: str
    message: str
    request_id: str | None


def _refused(content: bytes) -> _Refused | None:
    with contextlib.suppress(ValidationError):
        envelope = ErrorEnvelope.model_validate_json(content)
        return _Refused(envelope.error.type, envelope.error.message, envelope.request_id)
    with contextlib.suppress(ValidationError):
        plain = _OAuthError.model_validate_json(content)
        return _Refused(plain.error, plain.error_description or plain.error, None)
    return None


def _refusal(base_url: str, response: httpx2.Response, identity: Identity, now: datetime) -> PenstockError:
    status, said = response.status_code, _refused(response.content)
    if said is None:
        return UnavailableError(
            f"{base_url} answered the token exchange with {status}, and not as a platform", hint="check the API URL"
        )
    jwt = identity.assertion.reveal()
    message = said.message.replace(jwt, "[the identity token]")  # whatever it echoes
    detail = f"{message} (status {status}, request {said.request_id})"
    if status == 429 or status >= 500:
        return UnavailableError("the token exchange cannot be served now", detail=detail, hint="try again shortly")
    if status == 400 and said.kind.startswith("invalid_request"):
        return ConfigError(
            "the token exchange does not understand the request",
            detail=detail,
            hint=(
                "check ANTHROPIC_FEDERATION_RULE_ID (fdrl_…), ANTHROPIC_ORGANIZATION_ID (a UUID) and ANTHROPIC_WORKSPACE_ID "
                "(wrkspc_…): a rule of several workspaces needs the last"
            ),
        )
    if status == 404:
        return ConfigError(f"{base_url} has no token exchange", detail=detail, hint="check the API URL")
    return IdentityError(
        "the identity token is not accepted", detail=detail, hint=_likely(_claims(jwt), identity, base_url, now)
    )


def _likely(claims: dict[str, Any], identity: Identity, base_url: str, now: datetime) -> str:
    """The published causes: the certain one alone, else all that are left, the likeliest first."""
    expires, begins = claims.get("exp"), claims.get("nbf")
    if isinstance(expires, (int, float)) and expires < now.timestamp():
        return f"the token expired at {_time(expires)}: mint a new one and run again"
    if isinstance(begins, (int, float)) and begins > now.timestamp():
        return f"the token holds from {_time(begins)} on: compare this machine's clock with its issuer's"
    audience = claims.get("aud")
    listed = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    shown = ", ".join(repr(str(one)[:200]) for one in listed)
    host = httpx2.URL(base_url).host
    without = " and has no scheme, as https:// would be" if host in listed else ""
    workspace = identity.workspace_id or "the rule's workspace (ANTHROPIC_WORKSPACE_ID is not set)"
    return (
        f"the token's audience is {shown}{without}: the federation rule must name it byte for byte; "
        f"its subject is {str(claims.get('sub'))[:200]!r}: the rule must match it; "
        f"the rule's service account must be a member of {workspace}; "
        "the platform's authentication history says which it was"
    )


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"


def _claims(jwt: str) -> dict[str, Any]:
    """The payload, unverified: it is the asker's own token, read to explain a refusal."""
    part = jwt.split(".")[1]
    try:
        claims: object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return cast("dict[str, Any]", claims) if isinstance(claims, dict) else {}
