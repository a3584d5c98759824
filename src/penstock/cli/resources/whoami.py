"""`penstock whoami`: whose credential a command would use and where it was found, where it acts, and what it opens."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.resources.options import ApiKeyFile, ApiUrl, CaFile, Options, Workspace
from penstock.cli.resources.table import Command

if TYPE_CHECKING:
    from penstock.client.access import Access

_ME: Final = Command("whoami", "GET", "/penstock/v1/me", "Show whose credential is used, where it acts and what it opens.")
_HELP: Final = """Show whose credential a command here would use, where it was found, where it acts and what it opens.

    The first of these counts: --api-key-file or PENSTOCK_API_KEY (with --api-url or PENSTOCK_API_URL), PENSTOCK_PROFILE,
    .penstock/profile.json here, the session of `penstock login`, ~/.config/penstock/profile.json, ANTHROPIC_API_KEY or
    ANTHROPIC_AUTH_TOKEN with ANTHROPIC_BASE_URL.
    """


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("whoami", help=_HELP)(_whoami)


def _whoami(
    workspace: Workspace = None,
    api_url: ApiUrl = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    from penstock.cli.resources import output, request  # noqa: PLC0415 - only when asked for
    from penstock.cli.resources.credential import client_of, find  # noqa: PLC0415

    access = find(Options(api_url, api_key_file, ca_file), os.environ)
    client = client_of(access, workspace)

    async def ask() -> dict[str, Any]:
        async with client:
            return await request.perform(client, _ME, "/penstock/v1/me", {}, None)

    answer, origin = asyncio.run(ask()), _origin(access)
    shown = {**answer, **origin} if as_json else {**origin, "kind": answer.get("type"), **answer}
    output.show(_ME, shown, as_json=as_json, secret_file=None)


def _origin(access: Access) -> dict[str, Any]:
    """What only this machine knows."""
    until = access.expires_at.isoformat() if access.expires_at is not None else None
    return {"platform": access.api_url, "credential": access.source, "expires_at": until}
