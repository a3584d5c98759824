"""Who is who, as the control plane says it (`/penstock/v1/me`, `/penstock/v1/login`, …)."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Literal

from penstock.schema.wire import Wire


class Me(Wire):
    """`GET /penstock/v1/me`: whose credential this is, and what it opens."""

    id: str
    type: str
    """`api_key`, `service_account`, `user` or `operator`."""
    organization_id: str | None
    """None for an operator."""
    workspace_id: str | None
    scopes: tuple[str, ...]


class OidcLogin(Wire):
    """What a program needs to send a person to the identity provider. No secret: the control plane redeems the code."""

    authorization_endpoint: str
    client_id: str
    scope: str


class LoginMethods(Wire):
    """`GET /penstock/v1/login`: how people sign in here."""

    password: bool = True
    oidc: OidcLogin | None = None


class PasswordLogin(Wire):
    """`POST /penstock/v1/login`."""

    email: str
    password: str


class OidcCode(Wire):
    """`POST /penstock/v1/login/oidc`: what came back from the identity provider, and what it was asked with."""

    code: str
    code_verifier: str
    redirect_uri: str
    nonce: str


class Session(Wire):
    """A signed-in person's bearer, for hours."""

    session_token: str
    expires_at: datetime
    user_id: str
    email: str
    organization_id: str | None


class PasswordChange(Wire):
    """`POST /penstock/v1/me/password`."""

    old_password: str
    new_password: str


class SignedOut(Wire):
    """What is left of a session."""

    id: str
    type: Literal["session_ended"] = "session_ended"
