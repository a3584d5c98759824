"""Signing in: a person's session from a control plane, and the file it is kept in.

The file is JSON, `{"api_url", "session_token", "expires_at", "email", "ca_file"}`, mode 0600, at `$PENSTOCK_SESSION` or
`~/.config/penstock/session.json`.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.client.control import ControlClient
from penstock.config.files import read_file, write_file
from penstock.errors import ConfigError, IdentityError
from penstock.schema.identities import LoginMethods, OidcCode, PasswordChange, PasswordLogin, Session
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping


_SIGN_IN_AGAIN: Final = (
    "check the address and the password; an admin makes a new one with `penstock users reset-password`, whoever runs the "
    "platform with `penstock control reset-password`"
)


_OLD: Final = "check the old password; where the session has ended, run `penstock login` first"


class Kept(BaseModel):
    """A session as it lies in its file."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    api_url: str
    session_token: str
    expires_at: datetime
    email: str
    ca_file: Path | None = None
    """What `penstock login --ca-file` named: the platform is known by it from then on."""

    @property
    def is_over(self) -> bool:
        """Whether its time has passed."""
        return self.expires_at <= datetime.now(UTC)


@final
class SignIn(ControlClient):
    """A control plane before one is anybody there."""

    def __init__(self, base_url: str, *, ca_file: Path | None = None) -> None:
        super().__init__(base_url, Secret("nobody"), ca_file=ca_file, credential="sign-in", refused_hint=_SIGN_IN_AGAIN)

    async def methods(self) -> LoginMethods:
        """How to sign in there."""
        return await self._call(LoginMethods, "GET", "/penstock/v1/login")

    async def with_password(self, email: str, password: Secret) -> Session:
        """A session for an address and its password."""
        body = PasswordLogin(email=email, password=password.reveal())
        return await self._call(Session, "POST", "/penstock/v1/login", json=body.model_dump())

    async def with_code(self, code: OidcCode) -> Session:
        """A session for what the identity provider gave."""
        return await self._call(Session, "POST", "/penstock/v1/login/oidc", json=code.model_dump())


async def sign_out(api_url: str, token: Secret, *, ca_file: Path | None = None) -> None:
    """End a session there. One that has ended already is as good as ended."""
    async with ControlClient(api_url, token, ca_file=ca_file, credential="session") as control:
        with contextlib.suppress(IdentityError):
            await control.sign_out()


async def change_password(kept: Kept, old: Secret, new: Secret, *, ca_file: Path | None = None) -> None:
    """Give the person of a session another password; all their sessions end. Raises PenstockError where one is refused."""
    token = Secret(kept.session_token)
    body = PasswordChange(old_password=old.reveal(), new_password=new.reveal())
    ca = ca_file or kept.ca_file
    async with ControlClient(kept.api_url, token, ca_file=ca, credential="session", refused_hint=_OLD) as control:
        await control.ask("POST", "/penstock/v1/me/password", json=body.model_dump())


def keep(api_url: str, session: Session, environment: Mapping[str, str] | None = None, *, ca_file: Path | None = None) -> Path:
    """Write a session down, for this user alone; where."""
    file = place(environment)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = Kept(
        api_url=api_url.rstrip("/"),
        session_token=session.session_token,
        expires_at=session.expires_at,
        email=session.email,
        ca_file=ca_file.absolute() if ca_file is not None else None,
    )
    write_file(file, kept.model_dump_json(indent=2) + "\n")
    return file


def find(environment: Mapping[str, str] | None = None) -> Kept | None:
    """The session kept, over or not. Raises ConfigError for a file that is none, or that others may read."""
    file = place(environment)
    text = read_file(file)
    if text is None:
        return None
    if os.name == "posix" and file.stat().st_mode & 0o077:
        raise ConfigError(f"session {file}: readable or writable by others", hint=f"chmod 600 {file}")
    try:
        return Kept.model_validate_json(text)
    except ValidationError:
        raise ConfigError(f"session {file}: not a session", hint="run `penstock login` again") from None


def place(environment: Mapping[str, str] | None = None) -> Path:
    """Where a session is kept."""
    variables = os.environ if environment is None else environment
    if named := variables.get("PENSTOCK_SESSION"):
        return Path(named)
    home = variables.get("HOME") or variables.get("USERPROFILE")
    if not home:
        raise ConfigError("there is no home folder to keep a session in", hint="set PENSTOCK_SESSION to a file")
    return Path(home) / ".config" / "penstock" / "session.json"
