"""Background tasks have an owner, and their failures a reader. The only place that calls `loop.create_task`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_AGAIN: Final = 1.0  # seconds: a fault that stays fills no disk with lines, and one that goes costs no more


class Tasks:
    """The background tasks of one object.

    A task that raises is reported once through `on_error(name, exc)`, by default to the loop's exception handler; its
    siblings go on.
    """

    __slots__ = ("_closed", "_on_error", "_tasks")

    def __init__(self, on_error: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `coro` in the background. After `aclose` began it is closed at once and RuntimeError raised."""
        if self._closed:
            coro.close()
            msg = f"{name}: its owner is closed"
            raise RuntimeError(msg)
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def keep(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
        """Run `make()` for as long as the owner lives: where it fails, that is reported and it is run again, a moment later."""

        async def run() -> None:
            while True:
                try:
                    return await make()
                except Exception as exc:  # noqa: BLE001 - a fault nobody foresaw is no reason to stop what others rely on
                    with contextlib.suppress(Exception):  # nor is a report that cannot be made, for want of files say
                        self._report(asyncio.get_running_loop(), name, exc)
                await asyncio.sleep(_AGAIN)

        return self.spawn(run(), name)

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        exc = task.exception()
        if exc is None:
            return
        self._report(task.get_loop(), task.get_name(), exc)

    def _report(self, loop: asyncio.AbstractEventLoop, name: str, exc: BaseException) -> None:
        if self._on_error is not None:
            self._on_error(name, exc)
        else:
            loop.call_exception_handler({"message": f"background task failed: {name}", "exception": exc})

    async def aclose(self) -> None:
        """Cancel all and wait for them. A task that calls this is not cancelled by itself."""
        self._closed = True
        current = asyncio.current_task()
        while waiting := {task for task in self._tasks if task is not current}:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
