"""What the owner of the control plane's machine does with its store: back it up, rotate its key, prove its audit log."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.output import EXIT_FAILED, data, missing_extra, one_line, say, talk
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.control.config import ControlConfig
    from penstock.control.service.audit_log import Filters

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The control plane's settings, YAML.")]
ResealOnly = Annotated[
    bool, typer.Option("--reseal-only", help="Seal everything under the first key of the file and leave the file alone.")
]
Expect = Annotated[str | None, typer.Option(metavar="POSITION:HASH", help="A record noted earlier, which must still be there.")]


def add_to(control: typer.Typer, app: typer.Typer) -> None:
    """Register the commands: those of the store beside `penstock control`, those of the log under `penstock audit`."""
    control.command("backup", help="Copy the SQLite store as of this moment, while it serves.")(_backup)
    control.command("after-restore", help="After restoring a backup and before starting: let edges accept it.")(_after_restore)
    control.command("rotate-master-key", help="Make a new master key and seal everything under it, while it serves.")(_rotate)
    audit = typer.Typer(help="The audit log: who did what.", no_args_is_help=True)
    audit.command("verify", help="Prove that no record was edited, removed or reordered; exit 1 if one was.")(_verify)
    audit.command("export", help="Print the records, one JSON object a line, oldest first.")(_export)
    app.add_typer(audit, name="audit")


def _backup(file: Annotated[Path, typer.Argument(help="Where to; must not exist.")], config: Config = None) -> None:
    settings = _settings(config)
    from penstock.control.service import backup  # noqa: PLC0415 - only when asked for

    asyncio.run(backup.back_up(settings, file))
    talk().print(f"copied to {one_line(str(file))}; back up {one_line(str(settings.key_file))} as well, and apart from it")


def _after_restore(config: Config = None) -> None:
    settings = _settings(config)
    from penstock.control.service import backup  # noqa: PLC0415 - only when asked for

    asyncio.run(backup.after_restore(settings))
    talk().print("edges will accept this store; what was revoked, rotated or archived since the backup has to be done again")


def _rotate(
    config: Config = None,
    *,
    reseal_only: Annotated[
        bool, typer.Option("--reseal-only", help="Seal everything under the first key of the file and leave the file alone.")
    ] = False,
) -> None:
    settings = _settings(config)
    from penstock.control.service import master_key  # noqa: PLC0415 - only when asked for

    work = master_key.reseal_all(settings) if reseal_only else master_key.rotate(settings)
    rotation = asyncio.run(work)
    data().print_json(json.dumps({"master_key_id": rotation.key_id, "resealed": rotation.resealed}))
    talk().print("back up the new key now; backups of the database made before need the key of their time")


def _verify(config: Config = None, expect: Expect = None) -> None:
    settings = _settings(config)
    from penstock.control.service import audit_log  # noqa: PLC0415 - only when asked for
    from penstock.control.service.bootstrap import open_core  # noqa: PLC0415

    async def verify() -> audit_log.Verdict:
        async with open_core(settings) as core:
            return await audit_log.verify(core, expected=_expected(expect))

    verdict = asyncio.run(verify())
    for finding in verdict.findings:
        say(one_line(finding))
    if verdict.findings:
        raise typer.Exit(EXIT_FAILED)
    end = {"records": verdict.records, "position": verdict.position, "hash": verdict.hash}
    data().print_json(json.dumps(end))
    talk().print(f"nothing was edited, removed or reordered; note {verdict.position}:{verdict.hash} for --expect, elsewhere")


def _export(
    config: Config = None,
    activity: Annotated[list[str] | None, typer.Option("--type", help="Only this activity; may be repeated.")] = None,
    organization: Annotated[str | None, typer.Option(help="Only this organization's.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this actor did.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what happened to this thing, a tunnel for example.")] = None,
) -> None:
    settings = _settings(config)
    from penstock.control.service.audit_log import Filters  # noqa: PLC0415 - only when asked for

    filters = Filters(tuple(activity or ()), organization, actor, subject)
    asyncio.run(_print_all(settings, filters))


async def _print_all(settings: ControlConfig, filters: Filters) -> None:
    from penstock.control.service import audit_log  # noqa: PLC0415 - only when asked for
    from penstock.control.service.bootstrap import open_core  # noqa: PLC0415

    async with open_core(settings) as core:
        async for line in audit_log.export(core, filters):
            sys.stdout.write(line + "\n")


def _expected(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    position, _, digest = text.partition(":")
    if not position.isdigit() or not digest:
        raise ConfigError("--expect must be POSITION:HASH", hint="as `penstock audit verify` printed it")
    return int(position), digest


def _settings(config: Path | None) -> ControlConfig:
    try:
        from penstock.control.config import ControlConfig  # noqa: PLC0415 - only when asked for
    except ModuleNotFoundError as exc:
        missing_extra("control", exc)
    from penstock.config.load import load  # noqa: PLC0415

    settings: Any = load(ControlConfig, role="control", file=config, environment=os.environ)
    return settings
