"""What credentials open: the published scopes, two that only people have, and what each role of a person amounts to."""

from __future__ import annotations

from typing import Final

DEVELOPER: Final = "workspace:developer"
INFERENCE: Final = "workspace:inference"
MANAGE_TUNNELS: Final = "workspace:manage_tunnels"
ORG_MANAGE_TUNNELS: Final = "org:manage_tunnels"
ADMIN: Final = "org:admin"

# Not published and in no rule: what a person may do beside managing.
READ_TUNNELS: Final = "workspace:read_tunnels"
MANAGE_FEDERATION: Final = "org:manage_federation"

PUBLISHED: Final = frozenset({DEVELOPER, INFERENCE, MANAGE_TUNNELS, ORG_MANAGE_TUNNELS, ADMIN})

OPERATOR_ROLE: Final = "operator"
_OF_ROLE: Final = {
    "admin": frozenset({ADMIN, DEVELOPER, INFERENCE, READ_TUNNELS}),
    "developer": frozenset({DEVELOPER, INFERENCE, READ_TUNNELS}),
    "user": frozenset({READ_TUNNELS}),
}
ROLES: Final = tuple(_OF_ROLE)
CALLERS: Final = tuple(role for role, scopes in _OF_ROLE.items() if DEVELOPER in scopes)
"""Those who may call through tunnels, and hold certificates for it."""


def of_person(role: str, *, manage_tunnels: bool, manage_federation: bool) -> frozenset[str]:
    """A person's scopes. Managing tunnels and managing federation are granted apart, to any role."""
    scopes = _OF_ROLE.get(role, frozenset[str]())
    if manage_tunnels:
        scopes |= {MANAGE_TUNNELS, ORG_MANAGE_TUNNELS}
    if manage_federation:
        scopes |= {MANAGE_FEDERATION}
    return scopes


def of_workload(granted: str, organization_role: str) -> frozenset[str]:
    """A token's scopes: what its rule granted is a ceiling, and `org:admin` needs the service account's role as well."""
    scopes = frozenset(granted.split())
    if organization_role != "admin":
        return scopes - {ADMIN}
    return scopes | {MANAGE_FEDERATION} if ADMIN in scopes else scopes
