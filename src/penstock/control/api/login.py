"""How people sign in and out (`/penstock/v1/login`, `/penstock/v1/logout`, `/penstock/v1/me`)."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Depends, Request, Response

from penstock.control.api.conditions import ByAnyone, ByPerson, CoreOf
from penstock.control.api.routes import LateRoute
from penstock.control.auth.principals import Operator
from penstock.control.errors import ApiError
from penstock.control.service import sessions
from penstock.control.service.oidc_login import OidcSignIn
from penstock.schema.identities import LoginMethods, Me, OidcCode, PasswordChange, PasswordLogin, Session, SignedOut

router: Final = APIRouter(prefix="/penstock/v1", route_class=LateRoute)


def _oidc(request: Request) -> OidcSignIn | None:
    oidc: OidcSignIn | None = request.app.state.oidc
    return oidc


Oidc: TypeAlias = Annotated[OidcSignIn | None, Depends(_oidc)]


@router.get("/login")
async def methods(oidc: Oidc) -> LoginMethods:
    """How to sign in here."""
    return LoginMethods(oidc=await oidc.method() if oidc is not None else None)


@router.post("/login/oidc", responses={401: {}, 404: {}})
async def login_with_oidc(oidc: Oidc, body: OidcCode) -> Session:
    """Sign in with what the identity provider gave."""
    if oidc is None:
        raise ApiError("not_found_error", "no identity provider is configured here", hint="sign in with a password")
    return await oidc.sign_in(body)


@router.post("/login", responses={401: {}})
async def login(core: CoreOf, body: PasswordLogin) -> Session:
    """Sign in with a password."""
    return await sessions.sign_in_with_password(core, body)


@router.post("/logout")
async def logout(core: CoreOf, person: ByPerson) -> SignedOut:
    """End this session."""
    await sessions.sign_out(core, person)
    return SignedOut(id=person.credential_id)


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
