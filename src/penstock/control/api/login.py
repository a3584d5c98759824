"""How people sign in and out (`/penstock/v1/login`, `/penstock/v1/logout`, `/penstock/v1/me`)."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from penstock.control.api.conditions import ByAnyone, ByPerson, CoreOf
from penstock.control.auth.principals import Operator
from penstock.control.service import sessions
from penstock.schema.identities import LoginMethods, Me, PasswordChange, PasswordLogin, Session

router: Final = APIRouter(prefix="/penstock/v1")


@router.get("/login")
async def methods() -> LoginMethods:
    """How to sign in here."""
    return LoginMethods()


@router.post("/login")
async def login(core: CoreOf, body: PasswordLogin) -> Session:
    """Sign in with a password."""
    return await sessions.sign_in_with_password(core, body)


@router.post("/logout", status_code=204)
async def logout(core: CoreOf, person: ByPerson) -> Response:
    """End this session."""
    await sessions.sign_out(core, person)
    return Response(status_code=204)


@router.get("/me")
async def me(identity: ByAnyone) -> Me:
    """Whose credential this is."""
    if isinstance(identity, Operator):
        return Me(id=identity.id, type=identity.actor_type, organization_id=None, workspace_id=None, scopes=())
    return Me(
        id=identity.id,
        type=identity.actor_type,
        organization_id=identity.organization_id,
        workspace_id=identity.workspace_id,
        scopes=tuple(sorted(identity.scopes)),
    )


@router.post("/me/password", status_code=204)
async def change_password(core: CoreOf, person: ByPerson, body: PasswordChange) -> Response:
    """Change one's own password; every session ends."""
    await sessions.change_password(core, person, body)
    return Response(status_code=204)
