"""What is done beside the API, by whoever owns the machine: the first organization, more workspaces, keys and tokens.

Each function opens the store by itself and may run while a server runs on the same files: the server's waiting edges see
the change within the poll interval.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from penstock.config.files import is_there, named_by
from penstock.control.auth import passwords, scopes
from penstock.control.auth.actors import Machine
from penstock.control.errors import ApiError
from penstock.control.service import api_keys, edges, organizations, people, roots, sessions, workspaces
from penstock.control.service.core import Core
from penstock.control.storage import identities, tables
from penstock.control.storage.database import Database
from penstock.control.storage.master_key import create_master_key, load_master_key
from penstock.control.storage.migrate import migrate, schema_version
from penstock.control.storage.sqlite import Sqlite
from penstock.errors import ConfigError, missing_libraries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.config import ControlConfig
    from penstock.control.storage.backend import Backend
    from penstock.control.storage.vault import Vault
    from penstock.secret import Secret

_MACHINE: Final = Machine()


class InitializedError(ConfigError):
    """It was done before."""


@dataclass(frozen=True, slots=True)
class Initial:
    """What `initialize` made; the secrets are shown this once and stored as hashes."""

    organization_id: str
    workspace_id: str
    api_key: Secret
    tunnels_key: Secret
    enrolment_token: Secret
    operator_email: str
    operator_password: Secret
    admin_email: str
    admin_password: Secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new API key; the secret is shown this once."""

    id: str
    caller_id: str
    secret: Secret


async def initialize(
    config: ControlConfig,
    *,
    organization: str = "default",
    workspace: str = "default",
    operator_email: str = "operator@localhost",
    admin_email: str = "admin@localhost",
) -> Initial:
    """Make the store, the master key, the roots, the first operator, organization, admin, workspace, keys and enrolment token.

    Raises InitializedError when it was done before: nothing is ever overwritten.
    """
    if operator_email == admin_email:
        raise ConfigError("the operator and the organization's admin are two users", hint="give two addresses")
    vault = await asyncio.to_thread(_prepare, config)
    async with _opened(config, vault) as core, core.database.write() as connection:
        if await is_initialized(connection):
            raise InitializedError(
                f"{config.data_dir} is initialized already", hint="start the server, or choose another data_dir"
            )
        await roots.create_platform_roots(core, connection)
        role = scopes.OPERATOR_ROLE
        _, operator_password = await people.add(
            core, connection, _MACHINE, organization_id=None, email=operator_email, role=role
        )
        row, workspace_id = await organizations.add(core, connection, _MACHINE, organization, workspace)
        _, admin_password = await people.add(
            core, connection, _MACHINE, organization_id=row["id"], email=admin_email, role="admin"
        )
        where = {"organization_id": row["id"], "workspace_id": workspace_id, "name": "first"}
        _, api_key = await api_keys.add(core, connection, _MACHINE, **where, scope=scopes.DEVELOPER)
        _, tunnels_key = await api_keys.add(core, connection, _MACHINE, **where, scope=scopes.MANAGE_TUNNELS)
        _, enrolment_token = await edges.add_token(core, connection, _MACHINE)
    return Initial(
        organization_id=row["id"],
        workspace_id=workspace_id,
        api_key=api_key,
        tunnels_key=tunnels_key,
        enrolment_token=enrolment_token,
        operator_email=operator_email,
        operator_password=operator_password,
        admin_email=admin_email,
        admin_password=admin_password,
    )


async def create_workspace(config: ControlConfig, organization_id: str, name: str) -> str:
    """One more workspace; its id."""
    async with open_core(config) as core, core.database.write() as connection:
        query = select(tables.organizations.c.id).where(tables.organizations.c.id == organization_id)
        if (await connection.execute(query)).one_or_none() is None:
            raise ConfigError(f"there is no organization {organization_id}")
        return (await workspaces.add(core, connection, _MACHINE, organization_id, name))["id"]


async def create_api_key(config: ControlConfig, workspace_id: str, name: str = "", *, scope: str = scopes.DEVELOPER) -> ApiKey:
    """One more API key of a workspace, or with `scopes.MANAGE_TUNNELS` a Tunnels API key."""
    async with open_core(config) as core, core.database.write() as connection:
        query = select(tables.workspaces.c.organization_id).where(tables.workspaces.c.id == workspace_id)
        organization_id = (await connection.execute(query)).scalar_one_or_none()
        if organization_id is None:
            raise ConfigError(f"there is no workspace {workspace_id}")
        where = {"organization_id": organization_id, "workspace_id": workspace_id, "name": name}
        row, secret = await api_keys.add(core, connection, _MACHINE, **where, scope=scope)
        return ApiKey(row["id"], row["caller_id"], secret)


async def first_key(config: ControlConfig, scope: str) -> Secret:
    """A key of the oldest organization's default workspace, for a control plane of one person."""
    async with open_core(config) as core, core.database.read() as connection:
        w = tables.workspaces
        query = select(w.c.id).where(w.c.is_default.is_(True)).order_by(w.c.created_at).limit(1)
        workspace_id = (await connection.execute(query)).scalar_one()
    return (await create_api_key(config, workspace_id, "first", scope=scope)).secret


async def revoke_api_key(config: ControlConfig, key_id: str) -> None:
    """End a key and, by the feed, every certificate it got."""
    async with open_core(config) as core, core.database.write() as connection:
        if not await api_keys.revoke(core, connection, _MACHINE, key_id):
            raise ConfigError(f"there is no live API key {key_id}")


async def create_operator(config: ControlConfig, email: str) -> Secret:
    """One more platform operator; the first password."""
    async with open_core(config) as core, core.database.write() as connection:
        try:
            _, password = await people.add(
                core, connection, _MACHINE, organization_id=None, email=email, role=scopes.OPERATOR_ROLE
            )
        except ApiError as exc:
            raise ConfigError(exc.public, hint=exc.hint) from exc
    return password


async def reset_password(config: ControlConfig, email: str) -> Secret:
    """A new password for somebody whom nobody else can let in again: an operator, or an organization's only admin."""
    async with open_core(config) as core:
        password, hashed = passwords.generate(core.entropy)
        async with core.database.write() as connection:
            person = await sessions.find_person(connection, identities.users.c.email == email)
            if person is None:
                raise ConfigError(f"there is no user {email}")
            await people.set_password(core, connection, _MACHINE, person["id"], hashed, person["organization_id"])
    return password


async def create_enrolment_token(config: ControlConfig) -> Secret:
    """One more enrolment token."""
    async with open_core(config) as core, core.database.write() as connection:
        return (await edges.add_token(core, connection, _MACHINE))[1]


@asynccontextmanager
async def open_core(config: ControlConfig) -> AsyncGenerator[Core]:
    """The store of an initialized control plane, upgraded to this program's schema. Raises ConfigError."""
    vault = await asyncio.to_thread(_open_files, config)
    async with _opened(config, vault) as core:
        async with core.database.read() as connection:
            if not await is_initialized(connection):
                raise _uninitialized(config)
        yield core


async def is_initialized(connection: AsyncConnection) -> bool:
    """Whether there is an organization."""
    return (await connection.execute(select(tables.organizations.c.id).limit(1))).first() is not None


@asynccontextmanager
async def _opened(config: ControlConfig, vault: Vault) -> AsyncGenerator[Core]:
    database = Database(backend_of(config))
    try:
        yield Core(config, database, vault)
    finally:
        await database.aclose()


def _open_files(config: ControlConfig) -> Vault:
    backend = backend_of(config)
    if schema_version(backend) is None:
        raise _uninitialized(config)
    with named_by("data_dir" if config.master_key_file is None else "master_key_file"):
        vault = load_master_key(config.key_file)
    migrate(backend)
    return vault


def _prepare(config: ControlConfig) -> Vault:
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"data_dir: cannot make {config.data_dir}: {(exc.strerror or '').lower()}",
            hint="name a folder that is there, or can be made",
        ) from exc
    if not os.access(config.data_dir, os.W_OK | os.X_OK):
        raise ConfigError(
            f"data_dir: cannot write in {config.data_dir}", hint="check who owns the folder, or choose another data_dir"
        )
    backend = backend_of(config)
    # A key from an attempt that died half-way is used again; a database without its key is refused, never given a new one.
    with named_by("data_dir" if config.master_key_file is None else "master_key_file"):
        if is_there(config.key_file):
            vault = load_master_key(config.key_file)
        elif schema_version(backend) is not None:
            raise ConfigError(
                f"there is no master key at {config.key_file}", hint="restore the key that belongs to this database"
            )
        else:
            vault = create_master_key(config.key_file)
    migrate(backend)
    return vault


def backend_of(config: ControlConfig) -> Backend:
    """The database of these settings, not opened. Raises ConfigError where its driver is not installed."""
    if config.database_url is None:
        return Sqlite(config.database_file)
    try:
        from penstock.control.storage.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"database_url needs a library that is not installed ({exc.name})", hint=missing_libraries("postgresql")
        ) from exc
    return Postgresql(config.database_url)


def _uninitialized(config: ControlConfig) -> ConfigError:
    if config.data_dir.exists() and not config.data_dir.is_dir():
        return ConfigError(f"data_dir: {config.data_dir} is not a folder", hint="name the folder of the control plane's store")
    setting, named = ("database_url", "the database") if config.database_url is not None else ("data_dir", config.data_dir)
    return ConfigError(f"{setting}: {named} is not initialized", hint=f"run `penstock control init`, or check {setting}")
