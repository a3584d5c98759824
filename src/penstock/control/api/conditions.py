"""What a request must bring before a route serves it: a credential, the published headers.

The credential comes first: who is nobody learns nothing about the rest.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Request

from penstock.control.auth import principals
from penstock.control.auth.principals import Edge, WorkspaceKey
from penstock.control.errors import ApiError
from penstock.control.service.core import Core
from penstock.control.service.feed import Feed
from penstock.secret import Secret

TUNNELS_BETA: Final = "mcp-tunnels-2026-06-22"
# What SDKs send along with the tunnels' own; anything else is refused, as published.
_KNOWN_BETAS: Final = {
    TUNNELS_BETA,
    "mcp-tunnels-2026-05-19",
    "oauth-2025-04-20",
    "oidc-federation-2026-04-01",
    "mcp-client-2025-11-20",
    "managed-agents-2026-04-01",
}
_VERSIONS: Final = {"2023-06-01", "2026-10-21"}


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


async def _workspace_key(
    request: Request, core: Annotated[Core, Depends(core_of)], secret: Annotated[Secret, Depends(bearer)]
) -> WorkspaceKey:
    async with core.database.read() as connection:
        key = await principals.workspace_key(connection, secret)
    request.state.by = key.id
    request.state.headers = {
        "anthropic-organization-id": key.organization_id,
        "anthropic-workspace-id": key.workspace_id,
    }
    asked = request.headers.get("anthropic-workspace-id")
    if asked is not None and asked != key.workspace_id:
        raise ApiError("invalid_request_error", "anthropic-workspace-id: not the workspace of this API key")
    return key


async def _edge(request: Request, core: Annotated[Core, Depends(core_of)], secret: Annotated[Secret, Depends(bearer)]) -> Edge:
    async with core.database.read() as connection:
        edge = await principals.edge(connection, secret)
    request.state.by = edge.id
    return edge


async def _published(request: Request, key: Annotated[WorkspaceKey, Depends(_workspace_key)]) -> WorkspaceKey:
    version = request.headers.get("anthropic-version")
    if version not in _VERSIONS:
        sentence = "header is required" if version is None else "is not a known version"
        raise ApiError("invalid_request_error", f"anthropic-version: {sentence}", hint=f"send one of {sorted(_VERSIONS)}")
    betas = {name.strip() for line in request.headers.getlist("anthropic-beta") for name in line.split(",")} - {""}
    if unknown := sorted(betas - _KNOWN_BETAS):
        raise ApiError("invalid_request_error", f"Unexpected value(s) `{unknown[0]:.100}` for the `anthropic-beta` header")
    if TUNNELS_BETA not in betas:
        raise ApiError("invalid_request_error", f"anthropic-beta: `{TUNNELS_BETA}` is required for all Tunnel endpoints")
    return key


CoreOf = Annotated[Core, Depends(core_of)]
FeedOf = Annotated[Feed, Depends(feed_of)]
Bearer = Annotated[Secret, Depends(bearer)]
ByWorkspaceKey = Annotated[WorkspaceKey, Depends(_workspace_key)]
"""Any API key."""
ByPublishedKey = Annotated[WorkspaceKey, Depends(_published)]
"""An API key with the published version and beta headers."""
ByEdge = Annotated[Edge, Depends(_edge)]
"""An enrolled edge."""
