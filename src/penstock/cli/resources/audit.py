"""The audit log: read from the platform by those who may; exported and proven on the control plane's own machine too."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.output import EXIT_FAILED, data, say, talk
from penstock.cli.resources.options import ApiKeyFile, ApiUrl, CaFile, Options
from penstock.cli.resources.table import Command, Flag, Kind, Resource
from penstock.cli.store import settings_of
from penstock.errors import ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.control.service import audit_log


Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The control plane's settings: read its store on this machine.")
]
File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Prove what `audit export` wrote, without the store.")
]
Part = Annotated[
    bool, typer.Option("--part", help="The file is filtered or one organization's: records between its own are elsewhere.")
]
Expect = Annotated[str | None, typer.Option(metavar="POSITION:HASH", help="A record noted earlier, which must still be there.")]
_FILTERS: Final = (
    Flag("type", "Only this activity; repeatable.", Kind.LIST),
    Flag("organization_id", "Only this organization's; an operator sees all."),
    Flag("actor_id", "Only what this actor did."),
    Flag("subject_id", "Only what happened to this thing, a tunnel for example."),
    Flag("created_after", "From this time on, as in 2026-11-21T10:00:00Z."),
    Flag("created_before", "Before this time."),
)


def _verify(config: Config = None, expect: Expect = None, file: File = None, *, part: Part = False) -> None:
    verdict = _of_log(config, _expected(expect)) if file is None else _of_file(file, _expected(expect), is_part=part)
    for finding in verdict.findings:
        say(one_line(finding))
    if verdict.findings:
        raise typer.Exit(EXIT_FAILED)
    end = {"records": verdict.records, "position": verdict.position, "hash": verdict.hash}
    data().print_json(json.dumps(end))
    talk().print(f"nothing was edited, removed or reordered; note {verdict.position}:{verdict.hash} for --expect, elsewhere")


def _of_log(config: Path | None, expected: tuple[int, str] | None) -> audit_log.Verdict:
    settings = settings_of(config)
    from penstock.control.service import audit_log  # noqa: PLC0415 - only when asked for
    from penstock.control.service.bootstrap import open_core  # noqa: PLC0415

    async def verify() -> audit_log.Verdict:
        async with open_core(settings) as core:
            return await audit_log.verify(core, expected=expected)

    return asyncio.run(verify())


def _of_file(file: Path, expected: tuple[int, str] | None, *, is_part: bool) -> audit_log.Verdict:
    from penstock.control.service.audit_file import verify_file  # noqa: PLC0415 - only when asked for

    try:
        with file.open("rb") as opened:
            return verify_file(opened, is_part=is_part, expected=expected)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be read", detail=str(exc), hint="name what `penstock audit export` wrote") from exc


def _export(
    config: Config = None,
    activity: Annotated[list[str] | None, typer.Option("--type", help="Only this activity; repeatable.")] = None,
    organization: Annotated[str | None, typer.Option("--organization-id", help="Only this organization's.")] = None,
    actor: Annotated[str | None, typer.Option("--actor-id", help="Only what this actor did.")] = None,
    subject: Annotated[str | None, typer.Option("--subject-id", help="Only what happened to this thing.")] = None,
    api_url: ApiUrl = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
) -> None:
    asked = {"type": activity or [], "organization_id": organization, "actor_id": actor, "subject_id": subject}
    if config is not None:
        lines = _of_store(config, asked)
    else:
        from penstock.cli.resources.credential import open_client  # noqa: PLC0415 - only when asked for
        from penstock.cli.resources.request import lines_of  # noqa: PLC0415

        client = open_client(Options(api_url, api_key_file, ca_file), os.environ)
        lines = lines_of(client, "/penstock/v1/audit/export", {name: value for name, value in asked.items() if value})
    asyncio.run(_print_all(lines))


async def _print_all(lines: AsyncGenerator[str]) -> None:
    """Where the reader leaves, as `head` does, the lines' sources are closed from the inside out before the program ends."""
    async with aclosing(lines):
        async for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()  # here, where a pipe that is closed is met in order, and not while the interpreter ends


async def _of_store(config: Path, asked: dict[str, Any]) -> AsyncGenerator[str]:
    settings = settings_of(config)
    from penstock.control.service import audit_log  # noqa: PLC0415 - only when asked for
    from penstock.control.service.bootstrap import open_core  # noqa: PLC0415

    filters = audit_log.Filters(tuple(asked["type"]), asked["organization_id"], asked["actor_id"], asked["subject_id"])
    async with open_core(settings) as core, aclosing(audit_log.export(core, filters)) as lines:
        async for line in lines:
            yield line


def _expected(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    position, _, digest = text.partition(":")
    if not position.isdigit() or not digest:
        raise ConfigError("--expect must be POSITION:HASH", hint="as `penstock audit verify` printed it")
    return int(position), digest


def _add_more(group: typer.Typer) -> None:
    group.command("export", help="Print all records, one JSON object a line, oldest first.")(_export)
    group.command("verify", help="Prove that no record was edited, removed or reordered; exit 1 if one was.")(_verify)


AUDIT: Final = Resource(
    "audit",
    "The audit log: who did what.",
    (
        Command(
            "list",
            "GET",
            "/penstock/v1/audit/activities",
            "List activities, newest first.",
            _FILTERS,
            columns=("created_at", "type", "actor.type", "actor.id", "actor.ip_address", "id"),
            newest=50,
        ),
    ),
    more=_add_more,
)
