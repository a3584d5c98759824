"""Files that roles write: replaced whole or not at all, private unless said otherwise. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, IdentityError, unreadable

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def named_by(setting: str) -> Generator[None]:
    """What is wrong with a file inside is told with the setting, or the flag, that names it: `tls.key_file: open …`."""
    try:
        yield
    except (ConfigError, IdentityError) as exc:
        raise ConfigError(f"{setting}: {exc.public}", detail=exc.detail, hint=exc.hint) from exc


def private_folder(folder: Path, *, hint: str) -> None:
    """Make `folder` (0700) if need be and prove that it can be written; ConfigError with `hint` otherwise."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(dir=folder, prefix=".probe-")
        os.close(descriptor)
        Path(probe).unlink()
    except OSError as exc:
        is_file = isinstance(exc, FileExistsError | NotADirectoryError)
        reason = "it is not a folder" if is_file else (exc.strerror or str(exc)).lower()
        raise ConfigError(f"cannot write to {folder}: {reason}", hint=hint) from exc


def write_file(file: Path, data: str | bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace `file` in one step: a reader sees the old content or the new, also after a crash. owner: uid and gid.

    ConfigError, and the old content, where it cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    with writing(file):
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                # The file and never its name: whoever owns the folder could put a link to another file in its place meanwhile,
                # and root writes into other users' folders.
                if os.name == "posix":
                    os.fchmod(stream.fileno(), mode)
                if owner is not None:
                    os.fchown(stream.fileno(), *owner)
                os.fsync(stream.fileno())
            Path(temporary).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


@contextlib.contextmanager
def writing(file: Path) -> Generator[None]:
    """What the system refuses inside is a ConfigError that names `file`."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(
            f"cannot write to {file}: {(exc.strerror or str(exc)).lower()}",
            hint="is there room on the disk, and may this user write there?",
        ) from exc


def is_there(file: Path) -> bool:
    """Whether there is such a file; ConfigError where that cannot be told."""
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError as exc:  # a folder above it that is closed to this user, or is none
        raise unreadable(file, exc) from exc
    return True


def read_file(file: Path) -> str | None:
    """The text of `file`, or None when there is none; ConfigError when it cannot be read."""
    try:
        return read_text(file)
    except ConfigError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return None
        raise


def read_text(file: Path) -> str:
    """The text of a file that has to be there. Raises ConfigError."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise unreadable(file, exc) from exc
