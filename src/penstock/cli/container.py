"""What the image runs: one entry point for every role, so that command lines of the published images go on working.

No argument, or a first one that begins with `-`, is the proxy; `tunnel` is the agent in cloudflared's spelling; anything else
is a command of `penstock`. The image's `/setup` is `penstock setup`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULE: Final = "penstock.cli.container"


def command(arguments: Sequence[str]) -> list[str]:
    """The arguments of `penstock` that a container's arguments mean."""
    if not arguments or arguments[0].startswith("-"):
        return ["proxy", *arguments]
    return list(arguments)


def main(name: str | None = None) -> None:
    """Run a container's command; as `name` where the program itself is one command."""
    from penstock.cli.main import main as run  # noqa: PLC0415 - `command` alone is cheap to ask

    arguments = sys.argv[1:]
    run(command(arguments) if name is None else [name, *arguments])


if __name__ == "__main__":
    main()
