"""One `up` or `stack` a folder: two at once would each believe in their own database, edge and token."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextlib.contextmanager
def only_one(folder: Path, command: str) -> Generator[None]:
    """Hold the folder's lock; ConfigError when another process does. The kernel lets go of it however a process ends."""
    file_name = folder / "lock"
    file_name.touch(mode=0o600)
    with file_name.open("a+b") as file:
        try:
            _take(file.fileno())
        except OSError as exc:
            raise ConfigError(
                f"another `penstock {command}` runs in {folder}",
                hint="stop it first, or give this one a folder of its own with --dir",
            ) from exc
        yield


def _take(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt  # noqa: PLC0415 - Windows only

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]  # not typed elsewhere
    else:
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
