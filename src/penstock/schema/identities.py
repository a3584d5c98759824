"""Who is who, as the control plane says it (`/penstock/v1/me`, `/penstock/v1/login`, …)."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer peer may say more


class Me(_Wire):
    """`GET /penstock/v1/me`: whose credential this is, and what it opens."""

    id: str
    type: str
    """`api_key`, `service_account`, `user` or `operator`."""
    organization_id: str | None
    """None for an operator."""
    workspace_id: str | None
    scopes: tuple[str, ...]


class OidcLogin(_Wire):
    """What a program needs to send a person to the identity provider. No secret: the control plane redeems the code."""

    authorization_endpoint: str
    client_id: str
    scope: str


class LoginMethods(_Wire):
    """`GET /penstock/v1/login`: how people sign in here."""

    password: bool = True
    oidc: OidcLogin | None = None


class PasswordLogin(_Wire):
    """`POST /penstock/v1/login`."""

    email: str
    password: str


class OidcCode(_Wire):
    """`POST /penstock/v1/login/oidc`: what came back from the identity provider, and what it was asked with."""

    code: str
    code_verifier: str
    redirect_uri: str
    nonce: str


class Session(_Wire):
    """A signed-in person's bearer, for hours."""

    session_token: str
    expires_at: datetime
    user_id: str
    email: str
    organization_id: str | None


class PasswordChange(_Wire):
    """`POST /penstock/v1/me/password`."""

    old_password: str
    new_password: str


class SignedOut(_Wire):
    """What is left of a session."""

    id: str
    type: Literal["session_ended"] = "session_ended"
