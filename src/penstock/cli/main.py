"""`penstock`: one command for every role. Rooms are imported when their command runs, so that help is quick."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import __version__
from penstock.cli import agent, call, health, login, pins, resources, roles, setup, stack, up
from penstock.cli.output import EXIT_FAILED, report
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED: Final = 130  # what shells make of SIGINT

app = typer.Typer(
    name="penstock",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Self-hosted MCP tunnels.

    \b
    penstock up                                      see it work: a tool call through a real tunnel
    penstock up --route NAME=http://127.0.0.1:9000   put your own MCP server behind one
    penstock stack --api-url URL --route NAME=URL    the same against a platform elsewhere
    penstock call URL hello name=you                 call a tool through a tunnel
    penstock login --api-url URL                     sign in; penstock tunnels list, and so on
    """,
)


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        print(__version__)  # noqa: T201 - data on stdout
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    del version


up.add_to(app)
stack.add_to(app)
roles.add_to(app)
agent.add_to(app)
call.add_to(app)
login.add_to(app)
setup.add_to(app)
health.add_to(app)
resources.add_to(app)
pins.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: expected failures become one line and a hint, and nothing becomes a traceback unasked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    try:
        app(args=agent.accept_cloudflared(roles.accept_go_flags(given)), prog_name="penstock")
    except PenstockError as exc:
        sys.exit(report(exc))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; the flush at exit must not complain
        sys.exit(EXIT_FAILED)
    except Exception as exc:  # the last line of defence of a program for people
        if os.environ.get("PENSTOCK_TRACEBACK"):
            raise
        sys.exit(
            report(
                PenstockError(
                    "internal error",
                    detail=f"{type(exc).__name__}: {exc}",
                    hint="this is a defect of Penstock; run again with PENSTOCK_TRACEBACK=1 and report what it prints",
                )
            )
        )


if __name__ == "__main__":
    main()
