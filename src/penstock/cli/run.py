"""Runs one program until a signal, or until it fails: SIGINT and SIGTERM stop it in order, a second one ends it at once;
SIGHUP reloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from penstock.net import heap
from penstock.net import loop as loops
from penstock.net.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from typing import NoReturn


class Role(Protocol):
    """What every role is to the program that runs it."""

    async def start(self) -> None:
        """Working when it returns."""

    async def stop(self) -> None:
        """Graceful and bounded in time."""


@runtime_checkable
class Reloadable(Protocol):
    """A role that can read its files again while it runs."""

    def reload(self) -> None:
        """Begin to; it tells the log how that went."""


@runtime_checkable
class Mortal(Protocol):
    """A role that can find that it cannot go on."""

    async def until_failed(self) -> NoReturn:
        """Raises the PenstockError that ends the process; after `start`."""
        raise NotImplementedError


def run_role(make: Callable[[], Role]) -> None:
    """Start the role, wait for a signal, stop it."""

    async def serve(stopping: asyncio.Event) -> None:
        role = make()
        if isinstance(role, Reloadable):
            _reload_on_hangup(role)
        tasks = Tasks()
        try:
            await unless_stopped(stopping, role.start())
            heap.settle()
            tasks.spawn(heap.tend(), "heap")
            if isinstance(role, Mortal) and not stopping.is_set():
                await unless_stopped(stopping, role.until_failed())
            await stopping.wait()
        finally:
            await tasks.aclose()
            await role.stop()

    run_until_signal(serve)


def run_until_signal(program: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `program` with an event that the first signal sets; the second cancels it, and is a KeyboardInterrupt."""

    async def main() -> None:
        with _stop_signals() as stopping:
            await program(stopping)

    try:
        loops.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def unless_stopped(stopping: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do `work`; a signal that comes first cancels it."""
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            waiting = group.create_task(stopping.wait())
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            waiting.cancel()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _reload_on_hangup(role: Reloadable) -> None:
    """For as long as the loop runs. Other roles keep what the system does: a hang-up ends them."""
    with contextlib.suppress(NotImplementedError, AttributeError):  # Windows has neither the signal nor the handlers
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, role.reload)


@contextlib.contextmanager
def _stop_signals() -> Generator[asyncio.Event]:
    stopping = asyncio.Event()
    running = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()

    names = (signal.SIGINT, signal.SIGTERM)
    try:
        for name in names:
            running.add_signal_handler(name, on_signal)
    except NotImplementedError:  # Windows' loop has no signal handlers; KeyboardInterrupt does it there
        yield stopping
        return
    try:
        yield stopping
    finally:
        for name in names:
            running.remove_signal_handler(name)
