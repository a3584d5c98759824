"""SQLAlchemy's asyncio engine, and not its ORM, which comes with sessions that nothing here has: 80 ms of a start."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


def _nothing(_: str) -> None: ...


@contextlib.contextmanager
def _hollow(*names: str) -> Generator[None]:
    """For a moment, modules that nobody has imported yet are empty, and whatever is asked of them is None."""
    hollow = {name: ModuleType(name) for name in names if name not in sys.modules}
    for module in hollow.values():
        module.__dict__["__getattr__"] = _nothing
    sys.modules.update(hollow)
    try:
        yield
    finally:
        for name in hollow:
            del sys.modules[name]


with _hollow("sqlalchemy.ext.asyncio.session", "sqlalchemy.ext.asyncio.scoping"):
    from sqlalchemy.ext.asyncio import create_async_engine

__all__ = ("create_async_engine",)
