"""What every command on the platform's API takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ApiUrl: TypeAlias = Annotated[
    str | None, typer.Option("--api-url", envvar="PENSTOCK_API_URL", help="The platform; else the one signed in to.")
]
ApiKeyFile: TypeAlias = Annotated[
    str | None, typer.Option("--api-key-file", metavar="FILE", help="A key instead of the session; - is stdin.")
]
CaFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--ca-file", envvar="PENSTOCK_CA_FILE", metavar="FILE", help="CA of the platform instead of the system's."),
]
Workspace: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        envvar="ANTHROPIC_WORKSPACE_ID",
        metavar="ID",
        help="Where to act, signed in as a person; the default workspace if not given. A key has its own.",
    ),
]


@dataclass(frozen=True, slots=True)
class Options:
    """What was said on the command line."""

    api_url: str | None = None
    api_key_file: str | None = None
    ca_file: Path | None = None
    workspace_id: str | None = None
