"""The event loop and the process around it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")

# Each stream through a role is one descriptor or two; a soft limit of 1024, the common default, is 500 streams.
DESCRIPTORS = 65_536


def run(main: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run `main` to its end on uvloop where it is installed, else on asyncio's own loop."""
    with _without_tracebacks_for_server_names():
        try:
            import uvloop  # noqa: PLC0415 - an extra that not every installation and no Windows has
        except ImportError:
            return asyncio.run(main, debug=debug)
        with asyncio.Runner(debug=debug, loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)


@contextlib.contextmanager
def _without_tracebacks_for_server_names() -> Generator[None]:
    """`ssl` refuses a handshake whose server name is not ASCII, as it should, and prints a traceback at a stranger's will."""
    report = sys.unraisablehook

    def filtered(unraisable: sys.UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            report(unraisable)

    sys.unraisablehook = filtered
    try:
        yield
    finally:
        sys.unraisablehook = report


def raise_descriptor_limit(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of open files towards `wanted`, as far as the hard one allows; returns what holds now."""
    if sys.platform == "win32":
        return wanted  # no such limit there
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    target = wanted if hard == unlimited else min(wanted, hard)
    if soft != unlimited and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            return soft  # macOS refuses more than kern.maxfilesperproc
        return target
    return wanted if soft == unlimited else soft
