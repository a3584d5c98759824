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
from uuid import UUID

from sqlalchemy import insert, select, update

from penstock import ids
from penstock.control.auth import keys, scopes
from penstock.control.auth.actors import Machine
from penstock.control.service import audit, roots
from penstock.control.service.core import Core
from penstock.control.storage import tables
from penstock.control.storage.database import Database, advance_feed
from penstock.control.storage.master_key import create_master_key, load_master_key
from penstock.control.storage.migrate import migrate, schema_version
from penstock.control.storage.sqlite import Sqlite
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.config import ControlConfig
    from penstock.control.storage.backend import Backend
    from penstock.control.storage.vault import Vault
    from penstock.secret import Secret

_MACHINE: Final = Machine()


@dataclass(frozen=True, slots=True)
class Initial:
    """What `initialize` made; the secrets are shown this once and stored as hashes."""

    organization_id: str
    workspace_id: str
    api_key: Secret
    tunnels_key: Secret
    enrolment_token: Secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A new API key; the secret is shown this once."""

    id: str
    caller_id: str
    secret: Secret


async def initialize(config: ControlConfig, *, organization: str = "default", workspace: str = "default") -> Initial:
    """Make the store, the master key, the roots, one organization, one workspace, its two keys and an enrolment token.

    Raises ConfigError when it was done before: nothing is ever overwritten.
    """
    vault = await asyncio.to_thread(_prepare, config)
    async with _opened(config, vault) as core, core.database.write() as connection:
        if await is_initialized(connection):
            raise ConfigError(f"{config.data_dir} is initialized already", hint="start the server, or choose another data_dir")
        organization_id = str(UUID(bytes=core.entropy(16), version=4))
        await connection.execute(
            insert(tables.organizations).values(id=organization_id, name=organization, created_at=core.now())
        )
        await roots.create_platform_roots(core, connection)
        await roots.create_caller_ca(core, connection, organization_id)
        created = {"created_organization_id": organization_id, "name": organization}
        await audit.record(core, connection, _MACHINE, "organization_created", created, organization_id=organization_id)
        workspace_id = await _new_workspace(core, connection, organization_id, workspace, is_default=True)
        key = await _new_api_key(core, connection, organization_id, workspace_id, "first")
        tunnels_key = await _new_api_key(core, connection, organization_id, workspace_id, "first", scope=scopes.MANAGE_TUNNELS)
        enrolment_token = await _new_enrolment_token(core, connection)
    return Initial(organization_id, workspace_id, key.secret, tunnels_key.secret, enrolment_token)


async def create_workspace(config: ControlConfig, organization_id: str, name: str) -> str:
    """One more workspace; its id."""
    async with open_core(config) as core, core.database.write() as connection:
        query = select(tables.organizations.c.id).where(tables.organizations.c.id == organization_id)
        if (await connection.execute(query)).one_or_none() is None:
            raise ConfigError(f"there is no organization {organization_id}")
        return await _new_workspace(core, connection, organization_id, name)


async def create_api_key(config: ControlConfig, workspace_id: str, name: str = "", *, scope: str = scopes.DEVELOPER) -> ApiKey:
    """One more API key of a workspace, or with `scopes.MANAGE_TUNNELS` a Tunnels API key."""
    async with open_core(config) as core, core.database.write() as connection:
        query = select(tables.workspaces.c.organization_id).where(tables.workspaces.c.id == workspace_id)
        organization_id = (await connection.execute(query)).scalar_one_or_none()
        if organization_id is None:
            raise ConfigError(f"there is no workspace {workspace_id}")
        return await _new_api_key(core, connection, organization_id, workspace_id, name, scope=scope)


async def first_tunnels_key(config: ControlConfig) -> Secret:
    """A Tunnels API key of the oldest organization's default workspace, for a control plane of one person."""
    async with open_core(config) as core, core.database.read() as connection:
        w = tables.workspaces
        query = select(w.c.id).where(w.c.is_default.is_(True)).order_by(w.c.created_at).limit(1)
        workspace_id = (await connection.execute(query)).scalar_one()
    return (await create_api_key(config, workspace_id, "first", scope=scopes.MANAGE_TUNNELS)).secret


async def revoke_api_key(config: ControlConfig, key_id: str) -> None:
    """End a key and, by the feed, every certificate it got."""
    async with open_core(config) as core, core.database.write() as connection:
        t = tables.api_keys
        query = update(t).where(t.c.id == key_id, t.c.revoked_at.is_(None)).values(revoked_at=core.now())
        organization_id = (await connection.execute(query.returning(t.c.organization_id))).scalar_one_or_none()
        if organization_id is None:
            raise ConfigError(f"there is no live API key {key_id}")
        await advance_feed(connection)
        await audit.record(
            core, connection, _MACHINE, "api_key_revoked", {"api_key_id": key_id}, organization_id=organization_id
        )


async def create_enrolment_token(config: ControlConfig) -> Secret:
    """One more enrolment token."""
    async with open_core(config) as core, core.database.write() as connection:
        return await _new_enrolment_token(core, connection)


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
    database = Database(_backend(config))
    try:
        yield Core(config, database, vault)
    finally:
        await database.aclose()


def _open_files(config: ControlConfig) -> Vault:
    backend = _backend(config)
    if schema_version(backend) is None:
        raise _uninitialized(config)
    vault = load_master_key(config.key_file)
    migrate(backend)
    return vault


def _prepare(config: ControlConfig) -> Vault:
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"cannot make {config.data_dir}: {(exc.strerror or '').lower()}", hint="choose another data_dir"
        ) from exc
    if not os.access(config.data_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write in {config.data_dir}", hint="check who owns the folder, or choose another data_dir")
    backend = _backend(config)
    # A key from an attempt that died half-way is used again; a database without its key is refused, never given a new one.
    if config.key_file.exists():
        vault = load_master_key(config.key_file)
    elif schema_version(backend) is not None:
        raise ConfigError(f"there is no master key at {config.key_file}", hint="restore the key that belongs to this database")
    else:
        vault = create_master_key(config.key_file)
    migrate(backend)
    return vault


def _backend(config: ControlConfig) -> Backend:
    if config.database_url is None:
        return Sqlite(config.database_file)
    try:
        from penstock.control.storage.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"database_url needs a library that is not installed ({exc.name})", hint="pip install 'penstock[postgresql]'"
        ) from exc
    return Postgresql(config.database_url)


def _uninitialized(config: ControlConfig) -> ConfigError:
    return ConfigError(f"{config.data_dir} is not initialized", hint="run `penstock control init`, or check data_dir")


async def _new_workspace(
    core: Core, connection: AsyncConnection, organization_id: str, name: str, *, is_default: bool = False
) -> str:
    workspace_id = core.new_id(ids.WORKSPACE)
    await connection.execute(
        insert(tables.workspaces).values(
            id=workspace_id, organization_id=organization_id, name=name, is_default=is_default, created_at=core.now()
        )
    )
    created = {"workspace_id": workspace_id, "name": name}
    await audit.record(core, connection, _MACHINE, "workspace_created", created, organization_id=organization_id)
    return workspace_id


async def _new_api_key(
    core: Core,
    connection: AsyncConnection,
    organization_id: str,
    workspace_id: str,
    name: str,
    *,
    scope: str = scopes.DEVELOPER,
) -> ApiKey:
    kind = keys.Kind.TUNNELS_KEY if scope == scopes.MANAGE_TUNNELS else keys.Kind.API_KEY
    key = ApiKey(core.new_id(ids.API_KEY), core.new_id(ids.CALLER), keys.make(kind, core.entropy))
    await connection.execute(
        insert(tables.api_keys).values(
            id=key.id,
            organization_id=organization_id,
            workspace_id=workspace_id,
            caller_id=key.caller_id,
            name=name,
            digest=keys.digest(key.secret),
            scope=scope,
            hint=keys.hint(key.secret),
            created_at=core.now(),
        )
    )
    created = {"api_key_id": key.id, "workspace_id": workspace_id, "name": name}
    await audit.record(core, connection, _MACHINE, "api_key_created", created, organization_id=organization_id)
    return key


async def _new_enrolment_token(core: Core, connection: AsyncConnection) -> Secret:
    token = keys.make(keys.Kind.ENROLMENT, core.entropy)
    values = {"id": core.new_id(ids.ENROLMENT), "digest": keys.digest(token), "created_at": core.now()}
    await connection.execute(insert(tables.enrolment_tokens).values(values))
    await audit.record(core, connection, _MACHINE, "enrolment_token_created", {"enrolment_token_id": values["id"]})
    return token
