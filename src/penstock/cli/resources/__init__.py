"""The platform's API as commands: one table, from which every `penstock RESOURCE VERB` is made.

`table` says what a row is; `tunnels`, `organization`, `federation` and `platform` are the rows; `build` makes commands of them,
`request` and `output` carry one out. A new endpoint is a new row: `tests/cli/test_resources.py` holds the table to the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.cli.resources import build
from penstock.cli.resources.federation import FEDERATION, SERVICE_ACCOUNTS
from penstock.cli.resources.organization import API_KEYS, TUNNELS_KEYS, USERS, WORKSPACES
from penstock.cli.resources.platform import EDGES, ORGANIZATIONS
from penstock.cli.resources.tunnels import LINKS, TUNNELS

if TYPE_CHECKING:
    import typer

    from penstock.cli.resources.table import Resource

RESOURCES: Final[tuple[Resource, ...]] = (
    TUNNELS,
    LINKS,
    WORKSPACES,
    USERS,
    API_KEYS,
    TUNNELS_KEYS,
    SERVICE_ACCOUNTS,
    FEDERATION,
    ORGANIZATIONS,
    EDGES,
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    build.add_to(app, RESOURCES)
