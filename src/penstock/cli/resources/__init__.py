"""The platform's API as commands: one table, from which every `penstock RESOURCE VERB` is made.

`table` says what a row is; `tunnels`, `organization`, `federation`, `callers`, `audit` and `platform` are the rows; `build`
makes commands of them, `request` and `output` carry one out. A new endpoint is a new row:
`tests/cli/test_resource_table.py` holds the table to the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.cli.resources import build, whoami
from penstock.cli.resources.audit import AUDIT
from penstock.cli.resources.callers import CALLERS
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
    CALLERS,
    AUDIT,
    ORGANIZATIONS,
    EDGES,
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    whoami.add_to(app)
    build.add_to(app, RESOURCES)
