"""A process that may open no file, or write to none."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def without_files() -> contextlib.AbstractContextManager[None]:
    """Those that are open stay open, and no other can be."""
    return _limited_to_none(resource.RLIMIT_NOFILE)


def no_file_grows() -> contextlib.AbstractContextManager[None]:
    """As on a disk that is full: a file can be made, and nothing written to it."""
    return _limited_to_none(resource.RLIMIT_FSIZE)


@contextlib.contextmanager
def _limited_to_none(what: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))
