"""What the image runs: one entry point for every role. The image's `/setup` is `penstock setup`."""

from __future__ import annotations

import sys

from penstock.cli.arguments import of_container
from penstock.cli.main import main as run


def main(name: str | None = None) -> None:
    """Run a container's command; as `name` where the program itself is one command."""
    arguments = sys.argv[1:]
    run(of_container(arguments) if name is None else [name, *arguments])


if __name__ == "__main__":
    main()
