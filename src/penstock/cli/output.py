"""The rules of the terminal: one-line errors with a hint, colour only on a terminal, data apart from talk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, PenstockError, missing_libraries, one_line

if TYPE_CHECKING:
    from typing import NoReturn

    from rich.console import Console

EXIT_FAILED = 1
EXIT_USAGE = 2


def talk() -> Console:
    """What a person reads: stderr."""
    from rich.console import Console  # noqa: PLC0415 - 30 ms that no role needs

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # a path may hold `:x:`


def data() -> Console:
    """What a program may read: stdout."""
    from rich.console import Console  # noqa: PLC0415 - as above

    return Console(highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """A server's own text on stdout, exactly: `Console` would expand its tabs and draw its `:smile:`."""
    print(text)  # noqa: T201 - data on stdout


def report(error: PenstockError) -> int:
    """Print an expected failure as one line and a hint; the exit code it means."""
    print(f"penstock: {one_line(error.public)}", file=sys.stderr)  # noqa: T201 - the terminal is this module's work
    if error.detail:
        print(f"  because: {one_line(error.detail)}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"  hint: {one_line(error.hint)}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def missing_extra(role: str, exc: ModuleNotFoundError) -> NoReturn:
    """A role was asked for whose libraries are not installed. Raises ConfigError."""
    raise ConfigError(
        f"`penstock {role}` needs libraries that are not installed ({exc.name})",
        hint=missing_libraries(role),
    ) from exc
