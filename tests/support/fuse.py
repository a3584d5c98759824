"""A run of setup that is killed at a chosen step: before or after any request, before or after any file is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.setup.directory import Directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Killed(BaseException):
    """As good as SIGKILL to code that must not rely on cleaning up."""


class Fuse:
    """Blows at the n-th thing that is done to the outside, before or after it is done."""

    def __init__(self, at: int) -> None:
        self.left = at

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def fused(fuse: Fuse, call: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        fuse.burn()
        result = await call(*args, **kwargs)
        fuse.burn()
        return result

    return wrapper


class OneByOne(Directory):
    """Writes each entry by itself, so that a kill may come between any two."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder)
        self._fuse = fuse

    async def store(self, changes: Mapping[str, str | None]) -> None:
        for name, text in changes.items():
            self._fuse.burn()
            await super().store({name: text})
        self._fuse.burn()
