"""People: an organization's users with a role and two grants, and the operators of the platform, who belong to none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from penstock import ids
from penstock.control.auth import passwords
from penstock.control.errors import ApiError
from penstock.control.service import audit, grants
from penstock.control.service.pages import IdPage, read_ids
from penstock.control.storage import identities
from penstock.control.storage.database import advance_feed
from penstock.schema.organizations import User, UserCreate, UserUpdate, UserWithPassword

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core
    from penstock.control.service.pages import IdCursor
    from penstock.secret import Secret

_t = identities.users
_s = identities.sessions


async def add(
    core: Core,
    connection: AsyncConnection,
    by: Acting,
    *,
    organization_id: str | None,
    email: str,
    role: str,
    name: str | None = None,
    manage_tunnels: bool | None = None,
    manage_federation: bool | None = None,
) -> tuple[dict[str, Any], Secret]:
    """A new person and a password, in the transaction of whatever it is part of. Raises ApiError for a taken address."""
    taken = select(_t.c.id).where(_t.c.email == email, _t.c.removed_at.is_(None))
    if (await connection.execute(taken)).one_or_none() is not None:
        raise ApiError("conflict_error", "email: there is a user with this address", hint="one address is one person here")
    password, hashed = passwords.generate(core.entropy)
    is_admin = role == "admin"
    row: dict[str, Any] = {
        "id": core.new_id(ids.USER),
        "organization_id": organization_id,
        "email": email,
        "name": name or email.partition("@")[0],
        "role": role,
        "manage_tunnels": is_admin if manage_tunnels is None else manage_tunnels,
        "manage_federation": is_admin if manage_federation is None else manage_federation,
        "password_hash": hashed,
        "created_at": core.now(),
        "removed_at": None,
    }
    await connection.execute(insert(_t).values(row))
    created = {"user_id": row["id"], "email": email, "role": role}
    await audit.record(core, connection, by, "user_created", created, organization_id=organization_id)
    return row, password


async def create(core: Core, by: Principal, request: UserCreate) -> UserWithPassword:
    """A new user of the organization, with a first password. Raises ApiError."""
    grants.refuse_letting_in(by)
    async with core.database.write() as connection:
        row, password = await add(
            core, connection, by, organization_id=by.organization_id, **request.model_dump(exclude_unset=False)
        )
    return UserWithPassword(**_user(row).model_dump(), password=password.reveal())


async def get(core: Core, by: Principal, user_id: str) -> User:
    """One user. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _user(await _find(connection, by.organization_id, user_id))


async def list_page(core: Core, by: Principal, cursor: IdCursor, *, email: str | None, roles: tuple[str, ...]) -> IdPage[User]:
    """Newest first."""
    query = select(_t).where(_t.c.organization_id == by.organization_id, _t.c.removed_at.is_(None))
    if email is not None:
        query = query.where(_t.c.email == email.lower())
    if roles:
        query = query.where(_t.c.role.in_(roles))
    async with core.database.read() as connection:
        return (await read_ids(connection, query, _t, cursor)).of(_user)


async def change(core: Core, by: Principal, user_id: str, request: UserUpdate) -> User:
    """Another name, role or grant. The last admin stays one."""
    wanted = request.model_dump(exclude_none=True)
    async with core.database.write() as connection:
        row = dict(await _find(connection, by.organization_id, user_id))
        grants.refuse_person(by, row)
        row |= wanted
        grants.refuse_person(by, row)
        if row["role"] != "admin":
            await _keep_an_admin(connection, by.organization_id, user_id)
        if wanted:
            await connection.execute(update(_t).where(_t.c.id == user_id).values(wanted))
            await advance_feed(connection)  # who calls no more has no certificates any more
        changed = {"user_id": user_id, **{name: row[name] for name in ("role", "manage_tunnels", "manage_federation")}}
        await audit.record(core, connection, by, "user_updated", changed)
    return _user(row)


async def remove(core: Core, by: Principal, user_id: str) -> None:
    """End a user's sessions and certificates; the record stays for the audit log. The last admin cannot go."""
    async with core.database.write() as connection:
        grants.refuse_person(by, await _find(connection, by.organization_id, user_id))
        await _keep_an_admin(connection, by.organization_id, user_id)
        ended = {"removed_at": core.now(), "password_hash": None}
        await connection.execute(update(_t).where(_t.c.id == user_id).values(ended))
        await connection.execute(delete(_s).where(_s.c.user_id == user_id))
        await advance_feed(connection)
        await audit.record(core, connection, by, "user_removed", {"user_id": user_id})


async def reset_password(core: Core, by: Principal, user_id: str) -> UserWithPassword:
    """A new password, shown once; every session ends."""
    grants.refuse_letting_in(by)
    password, hashed = passwords.generate(core.entropy)
    async with core.database.write() as connection:
        row = await _find(connection, by.organization_id, user_id)
        await set_password(core, connection, by, user_id, hashed)
    return UserWithPassword(**_user(row).model_dump(), password=password.reveal())


async def sign_out(core: Core, by: Principal, user_id: str) -> User:
    """End every session of a user."""
    async with core.database.write() as connection:
        row = await _find(connection, by.organization_id, user_id)
        await connection.execute(delete(_s).where(_s.c.user_id == user_id))
        await audit.record(core, connection, by, "user_signed_out", {"user_id": user_id})
    return _user(row)


async def set_password(
    core: Core, connection: AsyncConnection, by: Acting, user_id: str, hashed: str, organization_id: str | None = None
) -> None:
    """Replace a password and end every session that was opened with the old one."""
    await connection.execute(update(_t).where(_t.c.id == user_id).values(password_hash=hashed))
    await connection.execute(delete(_s).where(_s.c.user_id == user_id))
    fields = {"user_id": user_id}
    await audit.record(core, connection, by, "user_password_set", fields, organization_id=organization_id)


async def _keep_an_admin(connection: AsyncConnection, organization_id: str, besides: str) -> None:
    others = select(func.count()).where(
        _t.c.organization_id == organization_id, _t.c.role == "admin", _t.c.removed_at.is_(None), _t.c.id != besides
    )
    if not (await connection.execute(others)).scalar_one():
        raise ApiError("invalid_request_error", "the organization's last admin stays", hint="make another admin first")


async def _find(connection: AsyncConnection, organization_id: str, user_id: str) -> Mapping[str, Any]:
    query = select(_t).where(_t.c.id == user_id, _t.c.organization_id == organization_id, _t.c.removed_at.is_(None))
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "user not found")
    return dict(row)


def _user(row: Mapping[Any, Any]) -> User:
    names = ("id", "email", "name", "role", "manage_tunnels", "manage_federation")
    return User(added_at=row["created_at"], **{name: row[name] for name in names})
