"""`penstock`: one command for every role."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Final

from penstock.cli.output import EXIT_FAILED, report
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED: Final = 130  # what shells make of SIGINT
_YOUNG: Final = 200_000
"""New containers between two looks of the garbage collector: a role makes as many when it starts and drops hardly any, and at
Python's 700 looking was a tenth of its CPU. What holds once it works `penstock.net.heap` sets."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: expected failures become one line and a hint, and nothing becomes a traceback unasked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    gc.set_threshold(_YOUNG, 10, 10)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # none is wanted; it would look through all distributions
    try:
        _run(given)
    except PenstockError as exc:
        sys.exit(report(exc))
    except KeyboardInterrupt:
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


def _run(given: Sequence[str]) -> None:
    if given[:1] == ["health"] and not {"--help", "-h"} & set(given):
        from penstock.cli import probe  # noqa: PLC0415 - by itself, for engines run it every few seconds

        probe.main(given[1:])
        return
    from penstock.cli import arguments, commands  # noqa: PLC0415 - as above

    given = arguments.accept_published(given)
    commands.program(given[0] if given else None)(args=given, prog_name="penstock")


if __name__ == "__main__":
    main()
