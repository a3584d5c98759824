"""What `penstock control init` made: printed once, or kept in a folder or a Kubernetes Secret for those who need it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def values(made: Any) -> dict[str, str]:
    """Everything, by the names it is printed under."""
    return {
        "organization_id": made.organization_id,
        "workspace_id": made.workspace_id,
        "api_key": made.api_key.reveal(),
        "tunnels_key": made.tunnels_key.reveal(),
        "enrolment_token": made.enrolment_token.reveal(),
        "admin_email": made.admin_email,
        "admin_password": made.admin_password.reveal(),
        "operator_email": made.operator_email,
        "operator_password": made.operator_password.reveal(),
    }


async def place(output: str) -> Callable[[dict[str, str]], Awaitable[None]]:
    """Where they are to be kept, found fit before anything is made; each under its name with hyphens."""
    from penstock.setup.cluster import Cluster  # noqa: PLC0415 - only when asked for
    from penstock.setup.output import parse_output  # noqa: PLC0415

    chosen = parse_output(output, Cluster.of_this_pod())
    async with chosen.exclusively():
        await chosen.load()
        await chosen.store({})

    async def keep(made: dict[str, str]) -> None:
        try:
            async with chosen.exclusively():
                await chosen.load()
                await chosen.store({name.replace("_", "-"): value for name, value in made.items()})
        except BaseException:
            print(json.dumps(made, indent=2))  # noqa: T201 - it exists now, and nowhere else
            raise

    return keep
