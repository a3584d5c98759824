"""Organizations and what belongs to them: workspaces, people and keys.

Workspaces, users and API keys have the published shapes (`/v1/organizations/…`); what is not published, making keys, people and
organizations, is ours (`/penstock/v1/…`).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Annotated, Literal, TypeAlias

from pydantic import StringConstraints

from penstock.schema.wire import Wire

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Email: TypeAlias = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")
]
Role: TypeAlias = Literal["admin", "developer", "user"]
KeyScope: TypeAlias = Literal["workspace:developer", "workspace:inference", "workspace:manage_tunnels"]


# --- organizations: a platform operator's --------------------------------------------------------------------------------


class Organization(Wire):
    """One organization. Suspended: nothing of it works, and nothing is lost."""

    id: str
    name: str
    created_at: datetime
    suspended_at: datetime | None
    type: Literal["organization"] = "organization"


class OwnOrganization(Wire):
    """The organization of whoever asks, as published."""

    id: str
    name: str
    type: Literal["organization"] = "organization"


class OrganizationCreate(Wire):
    """Body of `POST /penstock/v1/organizations`."""

    name: Name
    admin_email: Email


class OrganizationCreated(Organization):
    """The answer, once: with the first admin's password."""

    workspace_id: str
    admin_id: str
    admin_email: str
    admin_password: str


class OrganizationPage(Wire):
    """One page, newest first."""

    data: tuple[Organization, ...]
    next_page: str | None = None


class Deleted(Wire):
    """What is left of a deleted thing."""

    id: str
    type: str


# --- workspaces ------------------------------------------------------------------------------------------------------------


class DataResidency(Wire):
    """Published, and nothing here decides by it: a self-hosted platform is where its owner put it."""

    allowed_inference_geos: Literal["unrestricted"] = "unrestricted"
    default_inference_geo: Literal["global"] = "global"
    workspace_geo: Literal["us"] = "us"


class Workspace(Wire):
    """One workspace, as published."""

    id: str
    archived_at: datetime | None
    compartment_id: str
    created_at: datetime
    data_residency: DataResidency = DataResidency()
    display_color: str = "#6C5BB9"
    external_key_id: str | None = None
    name: str
    tags: dict[str, str] = {}  # noqa: RUF012 - pydantic copies a default
    type: Literal["workspace"] = "workspace"


class _NotKept(Wire):
    """What is published of a workspace and not kept here: refused, so that nobody believes it was taken."""

    data_residency: None = None
    display_color: None = None
    external_key_id: None = None
    tags: None = None
    user_profile_id: None = None


class WorkspaceUpdate(_NotKept):
    """Body of `POST /v1/organizations/workspaces/{workspace_id}`."""

    name: Name | None = None


class WorkspaceCreate(_NotKept):
    """Body of `POST /v1/organizations/workspaces`."""

    name: Name


class WorkspacePage(Wire):
    """One page in the id-cursor style."""

    data: tuple[Workspace, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None


# --- people ----------------------------------------------------------------------------------------------------------------


class User(Wire):
    """One person; the published object and what managing is granted."""

    id: str
    added_at: datetime
    email: str
    name: str
    role: str
    manage_tunnels: bool
    manage_federation: bool
    type: Literal["user"] = "user"


class UserCreate(Wire):
    """Body of `POST /penstock/v1/users`. Admins get both grants unless it is said otherwise."""

    email: Email
    name: Name | None = None
    role: Role = "developer"
    manage_tunnels: bool | None = None
    manage_federation: bool | None = None


class UserUpdate(Wire):
    """Body of `POST /v1/organizations/users/{user_id}`; what is left out stays."""

    role: Role | None = None
    name: Name | None = None
    manage_tunnels: bool | None = None
    manage_federation: bool | None = None


class UserWithPassword(User):
    """A new person or a new password, shown once."""

    password: str


class UserPage(Wire):
    """One page in the id-cursor style."""

    data: tuple[User, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None


# --- keys ------------------------------------------------------------------------------------------------------------------


class KeyPlace(Wire):
    """Where a key acts."""

    type: Literal["workspace"] = "workspace"
    workspace_id: str


class KeyMaker(Wire):
    """Who made a key."""

    id: str
    type: Literal["user", "service_account"]


class ApiKey(Wire):
    """One API key or Tunnels API key; the published object, and in `oauth_scope` which of the two it is."""

    id: str
    created_at: datetime
    created_by: KeyMaker | None
    expires_at: None = None
    name: str
    partial_key_hint: str | None
    principal: None = None
    scope: KeyPlace
    oauth_scope: str
    status: Literal["active", "inactive", "archived"]
    type: Literal["api_key"] = "api_key"


class ApiKeyCreate(Wire):
    """Body of `POST /penstock/v1/api_keys`. Without a workspace: the one the request acts in."""

    name: Name
    workspace_id: str | None = None
    oauth_scope: KeyScope = "workspace:developer"


class ApiKeyCreated(ApiKey):
    """The answer, once: with the key itself."""

    api_key: str


class ApiKeyUpdate(Wire):
    """Body of `POST /v1/organizations/api_keys/{api_key_id}`. Archiving is for good."""

    name: Name | None = None
    status: Literal["active", "inactive", "archived"] | None = None


class ApiKeyPage(Wire):
    """One page in the id-cursor style."""

    data: tuple[ApiKey, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None
