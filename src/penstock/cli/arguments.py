"""How the image's one entry point is spoken to, so that command lines of the published images go on working.

No argument, or a first one that begins with `-`, is the proxy; `tunnel` is the agent in cloudflared's spelling; anything else
is a command of `penstock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_POINT: Final = "penstock.cli.container"
"""The module that the image runs; what follows it on the command line are a container's arguments."""


def of_container(arguments: Sequence[str]) -> list[str]:
    """The arguments of `penstock` that a container's arguments mean."""
    if not arguments or arguments[0].startswith("-"):
        return ["proxy", *arguments]
    return list(arguments)
