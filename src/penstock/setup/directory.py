"""A directory as output: one file an entry, replaced whole, private unless the entry is public, its owner kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.config.files import private_folder, read_file, write_file
from penstock.errors import ConfigError, UnavailableError
from penstock.setup import material

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_LOCK: Final = ".setup.lock"
_ANOTHER: Final = "choose a directory you can write with --output, or give this one to its user"
_PATIENCE: Final = 60.0  # seconds; a run takes a few, RSA-4096 included
_LOOK_EVERY: Final = 0.1
_UNFINISHED: Final = tuple(f".{name}-" for name in material.ALL)  # how `config.files` names what it is still writing


class Directory:
    """`dir:PATH`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, path: str) -> Directory:
        """From what stands behind `dir:`."""
        return cls(Path(path).expanduser())

    def __str__(self) -> str:
        return f"dir:{self.folder}"

    @contextlib.asynccontextmanager
    async def exclusively(self) -> AsyncGenerator[None]:
        """As `Output`; a lock that ends with its process, so that a killed run leaves none behind."""
        private_folder(self.folder, hint=_ANOTHER)
        lock = self.folder / _LOCK
        try:
            # Not through a link: root gives it to the folder's user, who could have put there a way to any other file.
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"open {lock}: {(exc.strerror or str(exc)).lower()}", hint="run as the user who owns it, or remove it"
            ) from exc
        try:
            if not _is_own_file(descriptor):
                raise ConfigError(f"{lock} is another file's name, too, or no file", hint="remove it")
            if (owner := _owner(self.folder)) is not None:
                os.fchown(descriptor, *owner)  # root made it once; the directory's own user comes after
            await _lock(descriptor, self.folder)
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    async def load(self) -> dict[str, str]:
        """As `Output`."""
        found = {name: read_file(self.folder / name) for name in material.ALL}
        return {name: text for name, text in found.items() if text is not None}

    async def check_writable(self) -> None:
        """As `Output`: of a folder that is not there yet, whether it could be made."""
        there = self.folder.absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise ConfigError(f"cannot write to {self.folder}: {there} is not a folder", hint=_ANOTHER)
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot write to {self.folder}: {there} may not be written by this user", hint=_ANOTHER)
        for name in material.ALL:
            if (self.folder / name).is_dir():
                raise ConfigError(f"cannot write to {self.folder / name}: it is a folder", hint=_ANOTHER)

    async def store(self, changes: Mapping[str, str | None]) -> None:
        """As `Output`."""
        for name, text in changes.items():
            file = self.folder / name
            if text is None:
                file.unlink(missing_ok=True)
                _sync(self.folder)
                continue
            mode = 0o644 if name in material.PUBLIC else 0o600
            with contextlib.suppress(FileNotFoundError):
                mode |= file.stat().st_mode & 0o044  # the published manual flow opens the key to the proxy's user
            write_file(file, text, mode=mode, owner=_owner(file))
            _sync(self.folder)  # after each: the order holds through a power cut

    def _sweep(self) -> None:
        """Remove what a killed run was writing: it may be half a private key."""
        for left in self.folder.glob(".*-*"):
            if left.name.startswith(_UNFINISHED) and left.is_file():
                left.unlink(missing_ok=True)


def _is_own_file(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _owner(file: Path) -> tuple[int, int] | None:
    """Whom a new version belongs to, when root writes into somebody's directory."""
    if os.geteuid() != 0:
        return None
    status = file.stat() if file.exists() else file.parent.stat()
    return status.st_uid, status.st_gid


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)  # the names, not only the contents
    finally:
        os.close(descriptor)


async def _lock(descriptor: int, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() > give_up:
                raise UnavailableError(
                    f"another setup has been working on {folder} for {_PATIENCE:g} s",
                    hint="let it finish, or stop it, and run again",
                ) from None
            await asyncio.sleep(_LOOK_EVERY)
        except OSError as exc:
            raise ConfigError(f"cannot lock {folder}: {(exc.strerror or str(exc)).lower()}") from exc
        else:
            return
