"""How `penstock` is spoken to, so that command lines of the published images go on working. Pure, and quick to import.

The image has one entry point: no argument, or a first one that begins with `-`, is the proxy; `tunnel` is the agent in
cloudflared's spelling; anything else is a command of `penstock`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENTRY_POINT: Final = "penstock.cli.container"
"""The module that the image runs; what follows it on the command line are a container's arguments."""
PROXY_CONFIG: Final = Path("/etc/mcp-gateway/config.yaml")
"""Where the published image of the proxy has its settings."""
_GO_FLAGS: Final = {
    f"-{name}": f"--{name}" for name in ("config", "tunnel-domain", "check-config", "no-watch-config", "log-level")
}
_SWITCHES: Final = frozenset({"--no-autoupdate", "--no-prechecks", "--help"})
"""Flags without a value; every other takes the next argument, and if it is none of ours is refused by its name."""


def of_container(arguments: Sequence[str]) -> list[str]:
    """The arguments of `penstock` that a container's arguments mean."""
    if not arguments or arguments[0].startswith("-"):
        return ["proxy", *arguments]
    return list(arguments)


def accept_published(arguments: Sequence[str]) -> list[str]:
    """The arguments in our spelling."""
    return accept_cloudflared(accept_go_flags(arguments))


def accept_go_flags(arguments: Sequence[str]) -> list[str]:
    """The published proxy takes Go's single-dash flags: `-config FILE` and `-config=FILE` mean `--config`."""
    if not arguments or arguments[0] != "proxy":
        return list(arguments)
    accepted: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        accepted.append(_GO_FLAGS.get(name, name) + separator + value)
    return accepted


def accept_cloudflared(arguments: Sequence[str]) -> list[str]:
    """`tunnel [flags] run [flags]` is `agent [flags]`, and without `--url` there is no local target, as published."""
    if not arguments or arguments[0] != "tunnel":
        return list(arguments)
    taken: list[str] = []
    has_run = False
    rest = iter(arguments[1:])
    for argument in rest:
        if argument.startswith("-"):
            taken.append(argument)
            if argument not in _SWITCHES and "=" not in argument:
                taken += [value] if (value := next(rest, None)) is not None else []
        elif argument == "run" and not has_run:
            has_run = True
        else:  # a name, or a token: never echoed
            raise ConfigError(
                "`penstock tunnel` runs the tunnel of its token, and takes no name and no other command",
                hint="set TUNNEL_TOKEN and run `penstock tunnel run --url http://localhost:8080`",
            )
    if not has_run and "--help" not in taken:
        raise ConfigError("`penstock tunnel` has one command", hint="penstock tunnel run --url http://localhost:8080")
    return ["agent", *_no_target(taken, os.environ), *taken]


def _no_target(flags: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    has_url = environment.get("TUNNEL_URL") or any(flag.partition("=")[0] in {"--url", "--config"} for flag in flags)
    return [] if has_url else ["--url", ""]
