"""What the owner of the control plane's machine does with its store: back it up, rotate its key."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.output import data, missing_extra, talk
from penstock.errors import one_line

if TYPE_CHECKING:
    from penstock.control.config import ControlConfig

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The control plane's settings, YAML.")]
ResealOnly = Annotated[
    bool, typer.Option("--reseal-only", help="Seal everything under the first key of the file and leave the file alone.")
]


def add_to(control: typer.Typer) -> None:
    """Register the commands beside `penstock control`."""
    control.command("backup", help="Copy the SQLite store as of this moment, while it serves.")(_backup)
    control.command("after-restore", help="After restoring a backup and before starting: let edges accept it.")(_after_restore)
    control.command("rotate-master-key", help="Make a new master key and seal everything under it, while it serves.")(_rotate)


def _backup(file: Annotated[Path, typer.Argument(help="Where to; must not exist.")], config: Config = None) -> None:
    settings = settings_of(config)
    from penstock.control.service import backup  # noqa: PLC0415 - only when asked for

    asyncio.run(backup.back_up(settings, file))
    told = f"copied to {one_line(str(file))}; back up {one_line(str(settings.key_file))} as well, and apart from it"
    talk().print(told, markup=False)


def _after_restore(config: Config = None) -> None:
    settings = settings_of(config)
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
    settings = settings_of(config)
    from penstock.control.service import master_key  # noqa: PLC0415 - only when asked for

    work = master_key.reseal_all(settings) if reseal_only else master_key.rotate(settings)
    rotation = asyncio.run(work)
    data().print_json(json.dumps({"master_key_id": rotation.key_id, "resealed": rotation.resealed}))
    talk().print("back up the new key now; backups of the database made before need the key of their time")


def settings_of(config: Path | None) -> ControlConfig:
    """The settings of the control plane on this machine. Raises ConfigError."""
    try:
        from penstock.control.config import ControlConfig  # noqa: PLC0415 - only when asked for
    except ModuleNotFoundError as exc:
        missing_extra("control", exc)
    from penstock.config.load import load  # noqa: PLC0415

    settings: Any = load(ControlConfig, role="control", file=config, environment=os.environ)
    return settings
