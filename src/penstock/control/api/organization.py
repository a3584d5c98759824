"""An organization's own side: workspaces, people and keys.

Reading and changing them has the published paths and shapes (`/v1/organizations/…`); making people and keys, which is not
published, is ours (`/penstock/v1/…`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query

from penstock.control.api.conditions import ByAdmin, ByMember, ByPrincipal, CoreOf, versioned
from penstock.control.api.routes import LateRoute
from penstock.control.service import api_keys, organizations, people, workspaces
from penstock.control.service.pages import IdCursor
from penstock.schema.organizations import (
    ApiKey,
    ApiKeyCreate,
    ApiKeyCreated,
    ApiKeyPage,
    ApiKeyUpdate,
    Deleted,
    OwnOrganization,
    User,
    UserCreate,
    UserPage,
    UserUpdate,
    UserWithPassword,
    Workspace,
    WorkspaceCreate,
    WorkspacePage,
    WorkspaceUpdate,
)

published: Final = APIRouter(prefix="/v1/organizations", route_class=LateRoute, dependencies=[Depends(versioned)])
own: Final = APIRouter(prefix="/penstock/v1", route_class=LateRoute)


async def _cursor(
    after_id: str | None = None,
    before_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> IdCursor:
    return IdCursor(after_id, before_id, limit)


Cursor: TypeAlias = Annotated[IdCursor, Depends(_cursor)]


@published.get("/me")
async def own_organization(core: CoreOf, by: ByPrincipal) -> OwnOrganization:
    """The organization this credential is of."""
    found = await organizations.get(core, by.organization_id)
    return OwnOrganization(id=found.id, name=found.name)


@published.post("/workspaces")
async def create_workspace(core: CoreOf, by: ByAdmin, body: WorkspaceCreate) -> Workspace:
    """Make a workspace."""
    return await workspaces.create(core, by, body.name)


@published.get("/workspaces")
async def list_workspaces(
    core: CoreOf,
    by: ByMember,
    cursor: Cursor,
    ids: Annotated[list[str] | None, Query(max_length=100)] = None,
    *,
    include_archived: bool = False,
    include_default: bool = True,
) -> WorkspacePage:
    """The organization's workspaces, newest first."""
    page = await workspaces.list_page(
        core, by, cursor, only=ids, include_archived=include_archived, include_default=include_default
    )
    return WorkspacePage(data=page.data, has_more=page.has_more, first_id=page.first_id, last_id=page.last_id)


@published.get("/workspaces/{workspace_id}")
async def get_workspace(core: CoreOf, by: ByMember, workspace_id: str) -> Workspace:
    """One workspace."""
    return await workspaces.get(core, by, workspace_id)


@published.post("/workspaces/{workspace_id}")
async def update_workspace(core: CoreOf, by: ByAdmin, workspace_id: str, body: WorkspaceUpdate) -> Workspace:
    """Rename a workspace."""
    return await workspaces.rename(core, by, workspace_id, body.name)


@published.post("/workspaces/{workspace_id}/archive")
async def archive_workspace(core: CoreOf, by: ByAdmin, workspace_id: str) -> Workspace:
    """End a workspace with everything in it."""
    return await workspaces.archive(core, by, workspace_id)


@own.post("/users")
async def create_user(core: CoreOf, by: ByAdmin, body: UserCreate) -> UserWithPassword:
    """Make a user; the first password is shown once."""
    return await people.create(core, by, body)


@own.post("/users/{user_id}/reset_password")
async def reset_password(core: CoreOf, by: ByAdmin, user_id: str) -> UserWithPassword:
    """A new password, shown once."""
    return await people.reset_password(core, by, user_id)


@published.get("/users")
async def list_users(
    core: CoreOf,
    by: ByAdmin,
    cursor: Cursor,
    email: str | None = None,
    roles: Annotated[list[str] | None, Query(max_length=20)] = None,
) -> UserPage:
    """The organization's users, newest first."""
    page = await people.list_page(core, by, cursor, email=email, roles=tuple(roles or ()))
    return UserPage(data=page.data, has_more=page.has_more, first_id=page.first_id, last_id=page.last_id)


@published.get("/users/{user_id}")
async def get_user(core: CoreOf, by: ByAdmin, user_id: str) -> User:
    """One user."""
    return await people.get(core, by, user_id)


@published.post("/users/{user_id}")
async def update_user(core: CoreOf, by: ByAdmin, user_id: str, body: UserUpdate) -> User:
    """Change a user's role, name or grants."""
    return await people.change(core, by, user_id, body)


@published.delete("/users/{user_id}")
async def remove_user(core: CoreOf, by: ByAdmin, user_id: str) -> Deleted:
    """Remove a user."""
    await people.remove(core, by, user_id)
    return Deleted(id=user_id, type="user_deleted")


@published.post("/users/{user_id}/sign_out")
async def sign_out(core: CoreOf, by: ByAdmin, user_id: str) -> User:
    """End a user's sessions."""
    return await people.sign_out(core, by, user_id)


@own.post("/api_keys", responses={404: {}})
async def create_api_key(core: CoreOf, by: ByPrincipal, body: ApiKeyCreate) -> ApiKeyCreated:
    """Make an API key or, with that scope, a Tunnels API key; shown once."""
    return await api_keys.create(core, by, body)


@published.get("/api_keys")
async def list_api_keys(
    core: CoreOf,
    by: ByAdmin,
    cursor: Cursor,
    status: Literal["active", "inactive", "archived", "expired"] | None = None,
    workspace_id: str | None = None,
    created_by_user_id: str | None = None,
) -> ApiKeyPage:
    """The organization's keys of both kinds, newest first."""
    page = await api_keys.list_page(core, by, cursor, status=status, workspace_id=workspace_id, created_by=created_by_user_id)
    return ApiKeyPage(data=page.data, has_more=page.has_more, first_id=page.first_id, last_id=page.last_id)


@published.get("/api_keys/{api_key_id}")
async def get_api_key(core: CoreOf, by: ByAdmin, api_key_id: str) -> ApiKey:
    """One key, without its secret."""
    return await api_keys.get(core, by, api_key_id)


@published.post("/api_keys/{api_key_id}")
async def update_api_key(core: CoreOf, by: ByAdmin, api_key_id: str, body: ApiKeyUpdate) -> ApiKey:
    """Rename, disable, enable or archive a key."""
    return await api_keys.change(core, by, api_key_id, body)
