"""What a request must bring before a route serves it: a credential, the published headers.

The credential comes first: who is nobody learns nothing about the rest.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Request

from penstock.control.auth import principals, scopes
from penstock.control.auth.principals import Edge, Operator, Principal
from penstock.control.errors import ApiError
from penstock.control.service.core import Core
from penstock.control.service.feed import Feed
from penstock.secret import Secret

TUNNELS_BETA: Final = "mcp-tunnels-2026-06-22"
LAUNCH_BETA: Final = "mcp-tunnels-2026-05-19"
# What SDKs send along with the tunnels' own; anything else is refused, as published.
KNOWN_BETAS: Final = {
    TUNNELS_BETA,
    LAUNCH_BETA,
    "oauth-2025-04-20",
    "oidc-federation-2026-04-01",
    "mcp-client-2025-11-20",
    "mcp-client-2026-09-15",
    "managed-agents-2026-04-01",
    "admin-user-sign-out-2026-10-08",
}
VERSIONS: Final = {"2023-06-01", "2026-10-21"}
_OF_ORGANIZATION: Final = "/v1/organizations/"
_HINTS: Final = {
    scopes.MANAGE_TUNNELS: "tunnels are managed with a Tunnels API key, a token of that scope or a person's session",
    scopes.ORG_MANAGE_TUNNELS: "the launch edition of the Tunnels API takes a workload's token of that scope, or a session",
    scopes.DEVELOPER: "calls are made with an API key, a token of that scope or a person's session",
    scopes.ADMIN: "sign in as an admin of the organization",
    scopes.MANAGE_FEDERATION: "sign in as somebody who may manage federation",
}


def core_of(request: Request) -> Core:
    """The services of the application this request came to."""
    core: Core = request.app.state.core
    return core


def feed_of(request: Request) -> Feed:
    """The feed of the application this request came to."""
    feed: Feed = request.app.state.feed
    return feed


def bearer(request: Request) -> Secret:
    """The credential: `Authorization: Bearer` or `x-api-key`, and not two different ones. Raises ApiError."""
    authorization, api_key = request.headers.getlist("authorization"), request.headers.getlist("x-api-key")
    given = {value.strip() for value in api_key}
    for value in authorization:
        scheme, _, credential = value.partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError("authentication_error", "Authorization: only Bearer is known")
        given.add(credential.strip())
    if not given or given == {""}:
        raise ApiError("authentication_error", "a credential is required", hint="send Authorization: Bearer or x-api-key")
    if len(given) > 1:
        raise ApiError("authentication_error", "two different credentials were sent")
    return Secret(given.pop())


async def _identity(
    request: Request, core: Annotated[Core, Depends(core_of)], secret: Annotated[Secret, Depends(bearer)]
) -> Principal | Operator:
    async with core.database.read() as connection:
        workspace = request.headers.get("anthropic-workspace-id")
        found = await principals.authenticate(connection, secret, core.now(), workspace)
    request.state.by = found.id
    return found


async def _principal(request: Request, found: Annotated[Principal | Operator, Depends(_identity)]) -> Principal:
    if isinstance(found, Operator):
        raise ApiError("permission_error", "a platform operator belongs to no organization", hint="sign in as one of its users")
    request.state.headers = {"anthropic-organization-id": found.organization_id}
    if not request.url.path.startswith(_OF_ORGANIZATION):  # as published, what is the organization's names no workspace
        request.state.headers["anthropic-workspace-id"] = found.workspace_id
    return found


def require(principal: Principal, *any_of: str) -> Principal:
    """The principal, if it has one of these scopes. Raises ApiError 403, which names what is missing."""
    if principal.scopes.isdisjoint(any_of):
        needed = " or ".join(any_of)
        raise ApiError("permission_error", f"this credential lacks the scope {needed}", hint=_HINTS.get(any_of[0]))
    return principal


async def _caller(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    return require(principal, scopes.DEVELOPER, scopes.INFERENCE)


async def _tunnels_reader(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    return require(principal, scopes.MANAGE_TUNNELS, scopes.READ_TUNNELS)


async def _admin(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    return require(principal, scopes.ADMIN)


async def _member(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    return principal if principal.is_person else require(principal, scopes.ADMIN)


async def _federation_manager(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
    return require(principal, scopes.MANAGE_FEDERATION)


async def _person(found: Annotated[Principal | Operator, Depends(_identity)]) -> Principal | Operator:
    if isinstance(found, Principal) and not found.is_person:
        raise ApiError("permission_error", "only people do this", hint="run `penstock login`")
    return found


async def _operator(found: Annotated[Principal | Operator, Depends(_identity)]) -> Operator:
    if not isinstance(found, Operator):
        raise ApiError("permission_error", "only a platform operator may do this", hint="sign in as an operator")
    return found


async def _edge(request: Request, core: Annotated[Core, Depends(core_of)], secret: Annotated[Secret, Depends(bearer)]) -> Edge:
    async with core.database.read() as connection:
        edge = await principals.edge(connection, secret)
    request.state.by = edge.id
    return edge


async def versioned(request: Request, _: Annotated[Principal | Operator, Depends(_identity)]) -> set[str]:
    """The published version header, and no unknown beta; the betas that were sent. After the credential, as everything."""
    version = request.headers.get("anthropic-version")
    if version not in VERSIONS:
        sentence = "header is required" if version is None else "is not a known version"
        raise ApiError("invalid_request_error", f"anthropic-version: {sentence}", hint=f"send one of {sorted(VERSIONS)}")
    betas = {name.strip() for line in request.headers.getlist("anthropic-beta") for name in line.split(",")} - {""}
    if unknown := sorted(betas - KNOWN_BETAS):
        text = f"Unexpected value(s) `{unknown[0]:.100}` for the `anthropic-beta` header"  # the published words
        raise ApiError("invalid_request_error", text, hint="try again without it")
    return betas


async def _published(
    request: Request,
    key: Annotated[Principal, Depends(_principal)],
    betas: Annotated[set[str], Depends(versioned)],
) -> Principal:
    # What changes nothing is a GET; people who may not manage may look.
    if request.method == "GET":
        require(key, scopes.MANAGE_TUNNELS, scopes.READ_TUNNELS)
    else:
        require(key, scopes.MANAGE_TUNNELS)
    _require(TUNNELS_BETA, betas)
    return key


async def _published_at_launch(
    key: Annotated[Principal, Depends(_principal)], betas: Annotated[set[str], Depends(versioned)]
) -> Principal:
    require(key, scopes.ORG_MANAGE_TUNNELS)
    _require(LAUNCH_BETA, betas)
    return key


def _require(beta: str, betas: set[str]) -> None:
    if beta not in betas:
        raise ApiError("invalid_request_error", f"anthropic-beta: `{beta}` is required for all Tunnel endpoints")


BETA_OF: Final = {_published: TUNNELS_BETA, _published_at_launch: LAUNCH_BETA}
"""The beta that a condition asks for."""

CoreOf = Annotated[Core, Depends(core_of)]
FeedOf = Annotated[Feed, Depends(feed_of)]
Bearer = Annotated[Secret, Depends(bearer)]
ByAnyone = Annotated[Principal | Operator, Depends(_identity)]
"""Any credential of a person or a program."""
ByPrincipal = Annotated[Principal, Depends(_principal)]
"""Any credential of an organization, whatever its scopes."""
ByCaller = Annotated[Principal, Depends(_caller)]
"""Whoever may call through tunnels: an API key, a developer's token or session."""
ByTunnelsReader = Annotated[Principal, Depends(_tunnels_reader)]
"""Whoever manages the workspace's tunnels or may look at them, on a path of ours."""
ByTunnels = Annotated[Principal, Depends(_published)]
"""Whoever manages tunnels (or, for a GET, may look at them), with the published version and beta headers."""
ByLaunchTunnels = Annotated[Principal, Depends(_published_at_launch)]
"""Whoever manages tunnels of the whole organization, with the launch edition's headers."""
ByAdmin = Annotated[Principal, Depends(_admin)]
"""An organization's admin, or a workload with `org:admin`."""
ByMember = Annotated[Principal, Depends(_member)]
"""A person of the organization, or a workload with `org:admin`."""
ByFederationManager = Annotated[Principal, Depends(_federation_manager)]
"""Whoever may manage federation."""
ByPerson = Annotated[Principal | Operator, Depends(_person)]
"""Somebody who signed in, operator or not."""
ByOperator = Annotated[Operator, Depends(_operator)]
"""A platform operator."""
ByEdge = Annotated[Edge, Depends(_edge)]
"""An enrolled edge."""
