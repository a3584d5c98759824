"""Background tasks have an owner, and their failures a reader. The only place that calls `loop.create_task`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


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

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        exc = task.exception()
        if exc is None:
            return
        if self._on_error is not None:
            self._on_error(task.get_name(), exc)
        else:
            task.get_loop().call_exception_handler(
                {"message": f"background task failed: {task.get_name()}", "exception": exc, "task": task}
            )

    async def aclose(self) -> None:
        """Cancel all and wait for them. A task that calls this is not cancelled by itself."""
        self._closed = True
        current = asyncio.current_task()
        while waiting := {task for task in self._tasks if task is not current}:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
