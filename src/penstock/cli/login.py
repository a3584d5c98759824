"""`penstock login` and `penstock logout`: a person's session, kept in a file of their own."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.output import talk
from penstock.errors import ConfigError
from penstock.secret import Secret

if TYPE_CHECKING:
    from penstock.client.sessions import Kept

ApiUrl = Annotated[
    str | None, typer.Option("--api-url", envvar="PENSTOCK_API_URL", help="The platform; the last one if not given.")
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", envvar="PENSTOCK_CA_FILE", metavar="FILE", help="CA of the platform instead of the system's."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("login", help="Sign in; the session is kept for some hours in a file that only you can read.")(_login)
    app.command("logout", help="End the session and remove its file.")(_logout)
    app.command("password", help="Change the password of who is signed in; every session ends.")(_password)


def _login(
    api_url: ApiUrl = None,
    email: Annotated[str | None, typer.Option(help="Sign in with this address and a password, not with a browser.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,  # noqa: FBT002 - typer's way of a flag
    ca_file: CaFile = None,
) -> None:
    from penstock.client import sessions  # noqa: PLC0415 - only when asked for

    kept = sessions.find()
    url = api_url or (kept.api_url if kept is not None else None)
    if url is None:
        raise ConfigError("which platform to sign in to is not known", hint="give --api-url or set PENSTOCK_API_URL")
    if ca_file is None and kept is not None and kept.api_url == url.rstrip("/"):
        ca_file = kept.ca_file
    session = asyncio.run(_sign_in(url, email, ca_file, is_piped=password_stdin))
    file = sessions.keep(url, session, ca_file=ca_file)
    until = session.expires_at.astimezone().strftime("%H:%M")
    talk().print(f"signed in to {url} as {session.email} until {until}; the session is in {file}", markup=False)


async def _sign_in(url: str, email: str | None, ca_file: Path | None, *, is_piped: bool):
    from penstock.client import browser  # noqa: PLC0415 - only when asked for
    from penstock.client.sessions import SignIn  # noqa: PLC0415

    async with SignIn(url, ca_file=ca_file) as control:
        methods = await control.methods()
        if methods.oidc is not None and email is None:
            return await control.with_code(await browser.ask(methods.oidc, _show))
        address = email or await asyncio.to_thread(_ask, "email: ")
        password = await asyncio.to_thread(_read_password, is_piped)
        return await control.with_password(address, password)


def _show(url: str) -> None:
    talk().print("to sign in, open this address in a browser on this machine:", markup=False)
    talk().print(url, markup=False)
    webbrowser.open(url)


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError("an address is needed to sign in", hint="give --email")
    return input(prompt)


def _read_password(is_piped: bool, prompt: str = "password: ") -> Secret:  # noqa: FBT001 - a thread's argument
    if is_piped:
        return Secret(sys.stdin.readline().rstrip("\r\n"))
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password", hint="give --password-stdin")
    return Secret(getpass.getpass(prompt))


def _logout(ca_file: CaFile = None) -> None:
    from penstock.client import sessions  # noqa: PLC0415 - only when asked for

    kept = sessions.find()
    if kept is None:
        talk().print("nobody is signed in", markup=False)
        return
    _forget(kept)  # first: whatever the platform answers, this machine has forgotten it
    if not kept.is_over:
        asyncio.run(_end(kept.api_url, Secret(kept.session_token), ca_file or kept.ca_file))
    talk().print(f"signed out of {kept.api_url}", markup=False)


def _forget(session: Kept) -> None:
    """Whatever lies here of a session: its file, and the certificate that calls were made with."""
    from penstock.client import kept, sessions  # noqa: PLC0415 - only when asked for

    sessions.place().unlink(missing_ok=True)
    if (folder := kept.find_folder(os.environ)) is not None:
        kept.KeptPair(folder, session.api_url, Secret(session.session_token)).remove()


def _password(
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read old and new, a line each.")] = False,  # noqa: FBT002
    ca_file: CaFile = None,
) -> None:
    from penstock.cli.resources.request import refused_as_failures  # noqa: PLC0415 - only when asked for
    from penstock.client import sessions  # noqa: PLC0415

    kept = sessions.find()
    if kept is None or kept.is_over:
        raise ConfigError("nobody is signed in", hint="run `penstock login` first")
    old = _read_password(password_stdin, "old password: ")
    new = _read_password(password_stdin, "new password: ")
    if not password_stdin and new != _read_password(is_piped=False, prompt="new password again: "):
        raise ConfigError("the two new passwords differ", hint="nothing was changed; try again")
    with refused_as_failures():
        asyncio.run(sessions.change_password(kept, old, new, ca_file=ca_file))
    _forget(kept)  # it has ended there
    talk().print(f"changed the password of {kept.email}; run `penstock login` again", markup=False)


async def _end(url: str, token: Secret, ca_file: Path | None) -> None:
    from penstock.client.sessions import sign_out  # noqa: PLC0415 - only when asked for

    await sign_out(url, token, ca_file=ca_file)
