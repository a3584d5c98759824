"""Callers' certificates: who may call now. Programs get theirs by themselves; `issue` is for those that cannot."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock.cli.output import talk
from penstock.cli.resources.options import ApiKeyFile, ApiUrl, CaFile, Options, Workspace
from penstock.cli.resources.table import Command, Resource
from penstock.config.files import private_folder, write_file

if TYPE_CHECKING:
    from penstock.schema.callers import CallerCertificate

Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where caller.crt, caller.key and callers-ca.crt go.")]


def _issue(
    out: Folder,
    api_url: ApiUrl = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
    workspace: Workspace = None,
) -> None:
    from penstock.cli.resources.credential import open_client  # noqa: PLC0415 - only when asked for
    from penstock.cli.resources.request import refused_as_failures  # noqa: PLC0415
    from penstock.tls import certs  # noqa: PLC0415

    client = open_client(Options(api_url, api_key_file, ca_file, workspace), os.environ)
    private_folder(out, hint="choose a folder you can write with --out")
    key = certs.make_ec_key()

    async def ask() -> tuple[CallerCertificate, str]:
        async with client:
            with refused_as_failures():
                return await client.caller_certificate(certs.make_csr(key, "penstock caller")), await client.caller_ca()

    issued, authority = asyncio.run(ask())
    write_file(out / "caller.key", certs.key_to_pem(key).reveal())
    write_file(out / "caller.crt", issued.certificate_pem, mode=0o644)
    write_file(out / "callers-ca.crt", authority, mode=0o644)
    until = issued.expires_at.strftime("%Y-%m-%d %H:%M UTC")
    talk().print(f"{out}: caller {issued.caller_id} of {issued.workspace_id} until {until}; the key never left", markup=False)


def _add_more(group: typer.Typer) -> None:
    group.command("issue", help="Make a key here and get a certificate of a day for it.")(_issue)


CALLERS: Final = Resource(
    "callers",
    "Callers' certificates: who may call through tunnels now.",
    (
        Command(
            "list",
            "GET",
            "/penstock/v1/callers/certificates",
            "List live certificates, newest first.",
            columns=("id", "caller_id", "holder_id", "workspace_id", "created_at", "expires_at"),
        ),
        Command(
            "revoke",
            "DELETE",
            "/penstock/v1/callers/certificates/{serial}",
            "End a certificate; whoever holds the key, session or membership behind it may get another.",
            asks="revoke caller certificate {serial}: its streams are cut",
        ),
    ),
    more=_add_more,
)
