"""Signing in: a password or the answer of an identity provider in, a bearer of some hours out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import delete, insert, select

from penstock import ids
from penstock.control.auth import keys, passwords
from penstock.control.errors import ApiError
from penstock.control.service import audit, people
from penstock.control.storage import identities, tables
from penstock.schema.identities import Session
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Operator, Principal
    from penstock.control.service.core import Core
    from penstock.schema.identities import PasswordChange, PasswordLogin

_t = identities.sessions
_u = identities.users


@dataclass(frozen=True, slots=True)
class _Person:
    """Whoever signs in, for the audit log; before that nobody knows who it is."""

    id: str
    organization_id: str | None
    actor_type: str = "user"


async def sign_in_with_password(core: Core, login: PasswordLogin) -> Session:
    """A session for an address and its password. Raises ApiError 401, the same for every reason."""
    email = login.email.strip().lower()[:320]
    async with core.database.read() as connection:
        person = await find_person(connection, _u.c.email == email)
    if wait := core.attempts.wait(email, core.now()):
        text = "too many failed sign-ins of this user"
        raise ApiError("rate_limit_error", text, hint="wait a quarter of an hour", retry_after=wait)
    core.attempts.begin(email, core.now())
    hashed = person["password_hash"] if person is not None else None
    is_right = await passwords.verify(Secret(login.password), hashed)
    if person is None or not is_right:
        await refuse(core, email, "password", person)
    core.attempts.succeeded(email)
    return await open_session(core, person["id"], "password", hashed)


async def refuse(core: Core, email: str, method: str, person: Mapping[str, Any] | None = None) -> NoReturn:
    """Write down who was refused, and refuse. Raises ApiError 401.

    Only for people there are: the audit log never shrinks, and strangers must not make it grow. For nobody something is written
    all the same, or the time of a commit would tell who is somebody.
    """
    async with core.database.write() as connection:
        if person is None:
            await audit.reseal(core, connection)
        else:
            who = _Person(person["id"], person["organization_id"])
            await audit.record(core, connection, who, "user_sign_in_refused", {"email": email, "method": method})
    raise ApiError("authentication_error", "sign-in failed", hint="check the address and the password, or ask an admin")


async def open_session(core: Core, user_id: str, method: str, hashed: str | None = None) -> Session:
    """A session for somebody who proved who they are, by a password with that hash if one is given.

    Raises ApiError when they were removed meanwhile, or got another password, which ended every session.
    """
    secret = keys.make(keys.Kind.SESSION, core.entropy)
    now = core.now()
    expires_at = now + timedelta(seconds=core.config.session_lifetime)
    async with core.database.write() as connection:
        person = await find_person(connection, _u.c.id == user_id)
        if person is None or hashed not in {None, person["password_hash"]}:
            raise ApiError("authentication_error", "sign-in failed")
        await connection.execute(delete(_t).where(_t.c.expires_at <= now))
        values = {
            "id": core.new_id(ids.SESSION),
            "user_id": user_id,
            "digest": keys.digest(secret),
            "created_at": now,
            "expires_at": expires_at,
        }
        await connection.execute(insert(_t).values(values))
        who = _Person(user_id, person["organization_id"])
        await audit.record(core, connection, who, "user_signed_in", {"user_id": user_id, "method": method})
    return Session(
        session_token=secret.reveal(),
        expires_at=expires_at,
        user_id=user_id,
        email=person["email"],
        organization_id=person["organization_id"],
    )


async def sign_out(core: Core, who: Principal | Operator) -> None:
    """End the session the request came with."""
    async with core.database.write() as connection:
        await connection.execute(delete(_t).where(_t.c.id == who.credential_id))
        await audit.record(core, connection, who, "user_signed_out", {"user_id": who.id})


async def change_password(core: Core, who: Principal | Operator, request: PasswordChange) -> None:
    """Replace one's own password. Every session ends, this one too. Raises ApiError."""
    if len(request.new_password) < passwords.SHORTEST:
        raise ApiError("invalid_request_error", f"new_password: at least {passwords.SHORTEST} characters")
    async with core.database.read() as connection:
        person = await find_person(connection, _u.c.id == who.id)
    if person is None or not await passwords.verify(Secret(request.old_password), person["password_hash"]):
        raise ApiError("permission_error", "old_password: not the password")
    hashed = await passwords.derive(Secret(request.new_password), core.entropy)
    async with core.database.write() as connection:
        await people.set_password(core, connection, who, who.id, hashed)


async def find_person(connection: AsyncConnection, which: ColumnElement[bool]) -> Mapping[str, Any] | None:
    """Somebody who may sign in: not removed, of no deleted organization."""
    o = tables.organizations
    query = select(_u).outerjoin(o, o.c.id == _u.c.organization_id)
    query = query.where(which, _u.c.removed_at.is_(None), o.c.deleted_at.is_(None))
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else dict(row)
