"""Imports without the parts of libraries that nothing here uses: their CPU and memory would be every start's.

The only place that hides a module. Each use says what is left out and what that saves.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def absent(*names: str) -> Generator[None]:
    """For a moment, modules that nobody has imported yet are as if they were not installed."""
    with _instead(names, lambda _: None):
        yield


@contextlib.contextmanager
def hollow(*names: str) -> Generator[None]:
    """For a moment, modules that nobody has imported yet are there, and whatever is taken from them is None."""
    with _instead(names, _Hollow):
        yield


class _Hollow(ModuleType):
    def __getattr__(self, name: str) -> None: ...


@contextlib.contextmanager
def _instead(names: tuple[str, ...], stand_in: Callable[[str], ModuleType | None]) -> Generator[None]:
    modules = cast("dict[str, ModuleType | None]", sys.modules)  # None there is Python's own way to forbid an import
    placed = {name: stand_in(name) for name in names if name not in modules}
    modules.update(placed)
    try:
        yield
    finally:
        for name in placed:
            del modules[name]
