"""An organization's own side: workspaces, people, keys, and the certificates of its callers."""

from __future__ import annotations

from typing import Final

from penstock.cli.resources.table import ARCHIVED, Command, Flag, Kind, Resource

_WORKSPACE: Final = "/v1/organizations/workspaces/{workspace_id}"
_USER: Final = "/v1/organizations/users/{user_id}"
_KEY: Final = "/v1/organizations/api_keys/{api_key_id}"
_TUNNELS_SCOPE: Final = "workspace:manage_tunnels"

WORKSPACES: Final = Resource(
    "workspaces",
    "Workspaces of the organization.",
    (
        Command(
            "create",
            "POST",
            "/v1/organizations/workspaces",
            "Make a workspace.",
            (Flag("name", "Its name.", is_required=True),),
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/workspaces",
            "List workspaces, newest first.",
            (ARCHIVED,),
            columns=("id", "name", "created_at", "archived_at"),
        ),
        Command("get", "GET", _WORKSPACE, "Show one workspace."),
        Command("update", "POST", _WORKSPACE, "Rename a workspace.", (Flag("name", "Its new name.", is_required=True),)),
        Command(
            "archive",
            "POST",
            f"{_WORKSPACE}/archive",
            "End a workspace with its keys, tunnels and callers.",
            asks="archive workspace {workspace_id} with its keys, tunnels and callers",
        ),
    ),
)

_ROLES: Final = ("admin", "developer", "user")
_GRANTS: Final = (
    Flag("manage_tunnels", "Whether they may manage tunnels.", Kind.SWITCH),
    Flag("manage_federation", "Whether they may manage federation.", Kind.SWITCH),
)

USERS: Final = Resource(
    "users",
    "People of the organization, their roles and what they may manage.",
    (
        Command(
            "create",
            "POST",
            "/penstock/v1/users",
            "Make a user and print the first password.",
            (
                Flag("email", "The address they sign in with.", is_required=True),
                Flag("name", "Their name."),
                Flag("role", "What they may do; developer if not given.", choices=_ROLES),
                *_GRANTS,
            ),
            reveals="password",
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/users",
            "List users, newest first.",
            (
                Flag("email", "Only the one with this address."),
                Flag("role", "Only those of this role; repeatable.", Kind.LIST, into="roles"),
            ),
            columns=("id", "email", "name", "role", "manage_tunnels", "manage_federation", "added_at"),
        ),
        Command("get", "GET", _USER, "Show one user."),
        Command(
            "update",
            "POST",
            _USER,
            "Change a user's role, name or grants.",
            (Flag("role", "What they may do.", choices=_ROLES), Flag("name", "Their name."), *_GRANTS),
            needs_change=True,
        ),
        Command(
            "remove",
            "DELETE",
            _USER,
            "Remove a user; their sessions and certificates end.",
            asks="remove user {user_id}",
        ),
        Command("sign-out", "POST", f"{_USER}/sign_out", "End a user's sessions."),
        Command(
            "reset-password",
            "POST",
            "/penstock/v1/users/{user_id}/reset_password",
            "Make a new password and print it; their sessions end.",
            reveals="password",
            asks="replace the password of user {user_id}",
        ),
    ),
)

_KEY_COLUMNS: Final = ("id", "name", "partial_key_hint", "oauth_scope", "scope.workspace_id", "status", "created_at")
_KEY_FILTERS: Final = (
    Flag("status", "Only those of this status.", choices=("active", "inactive", "archived")),
    Flag("workspace_id", "Only those of this workspace."),
    Flag("created_by_user_id", "Only those that this user made."),
)
_NEW_KEY: Final = (
    Flag("name", "What it is for.", is_required=True),
    Flag("workspace_id", "Where it acts; the default workspace if not given."),
)


def _keys(one: str) -> tuple[Command, ...]:
    """What is the same for both kinds of key; `one` is a key's name in a sentence."""
    a_key = f"an {one}" if one[0] == "A" else f"a {one}"
    return (
        Command("get", "GET", _KEY, f"Show one {one}, without its secret."),
        Command(
            "update",
            "POST",
            _KEY,
            f"Rename, disable or enable {a_key}.",
            (Flag("name", "Its new name."), Flag("status", "Whether it works.", choices=("active", "inactive"))),
            needs_change=True,
        ),
        Command(
            "archive",
            "POST",
            _KEY,
            f"End {a_key} for good, and the certificates it got.",
            asks=f"archive {one} {{api_key_id}} for good",
            sends={"status": "archived"},
        ),
    )


API_KEYS: Final = Resource(
    "api-keys",
    "API keys: each calls through the tunnels of one workspace.",
    (
        Command(
            "create",
            "POST",
            "/penstock/v1/api_keys",
            "Make an API key and print it.",
            (
                *_NEW_KEY,
                Flag(
                    "scope",
                    "What it opens; workspace:developer if not given.",
                    choices=("workspace:developer", "workspace:inference"),
                    into="oauth_scope",
                ),
            ),
            reveals="api_key",
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/api_keys",
            "List keys of both kinds, newest first.",
            _KEY_FILTERS,
            columns=_KEY_COLUMNS,
        ),
        *_keys("API key"),
    ),
)

TUNNELS_KEYS: Final = Resource(
    "tunnels-keys",
    "Tunnels API keys: each manages the tunnels of one workspace, and makes no calls.",
    (
        Command(
            "create",
            "POST",
            "/penstock/v1/api_keys",
            "Make a Tunnels API key and print it.",
            _NEW_KEY,
            reveals="api_key",
            sends={"oauth_scope": _TUNNELS_SCOPE},
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/api_keys",
            "List Tunnels API keys, newest first.",
            _KEY_FILTERS,
            columns=_KEY_COLUMNS,
            only={"oauth_scope": _TUNNELS_SCOPE},
        ),
        *_keys("Tunnels API key"),
    ),
)
