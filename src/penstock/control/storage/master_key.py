"""The master key's file: 32 bytes in base64 a line. The first line seals, the others only open what is still under them.

Who holds this file and the database holds every secret of the platform; who holds one of the two holds nothing.
"""

from __future__ import annotations

import base64
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from penstock.control.storage.vault import Vault
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KEY: Final = 32
_LIMIT: Final = 4096  # bytes of the file: far more keys than a rotation ever leaves behind


@final
class MasterKeyFile:
    """The keys as last read. Raises ConfigError from every method when the file is unfit."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, ...] = ()
        self.keys = self._read()

    def fresh(self) -> Sequence[bytes] | None:
        """The keys, if the file changed since they were read. A stat in the loop: a microsecond, and seals are few."""
        try:
            changed = _look(self._file.stat()) != self._seen
        except OSError:
            return None  # gone for a moment or for good: the keys in memory go on
        if changed:
            self.keys = self._read()
        return self.keys if changed else None

    def replace(self, keys: Sequence[bytes]) -> None:
        """Put these keys in the file's place, whole or not at all."""
        temporary = _written(self._file, keys)
        try:
            temporary.chmod(stat.S_IMODE(self._file.stat().st_mode))  # a group that may read it goes on reading it
            temporary.replace(self._file)
            _sync_folder(self._file.parent)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise _unwritable(self._file, exc) from exc
        self.keys = self._read()

    def _read(self) -> tuple[bytes, ...]:
        self._seen, text = _text(self._file)
        try:
            keys = tuple(base64.b64decode(line, validate=True) for line in text.split())
        except ValueError:
            keys = ()
        if not keys or any(len(key) != _KEY for key in keys):
            raise ConfigError(
                f"{self._file} holds no master key", hint="it is 32 bytes in base64 a line; restore it from the backup"
            )
        return keys


def create_master_key(file: Path, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
    """Write a new master key, mode 0600. Raises ConfigError, also when there is one: a key is never overwritten."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = _written(file, [new_key(entropy)])
        try:
            os.link(temporary, file)  # whole or not at all, and never over another
        finally:
            temporary.unlink()
        _sync_folder(file.parent)
    except OSError as exc:
        raise _unwritable(file, exc) from exc
    return load_master_key(file)


def load_master_key(file: Path) -> Vault:
    """The vault of a key file, which follows the file from then on. Raises ConfigError."""
    source = MasterKeyFile(file)
    return Vault(*source.keys, fresh=source.fresh)


def new_key(entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """A master key."""
    return entropy(_KEY)


def _written(file: Path, keys: Sequence[bytes]) -> Path:
    """A new file beside `file` with these keys, on the disk and not only on its way there."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # made 0600
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(b"".join(base64.b64encode(key) + b"\n" for key in keys))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as exc:
        raise _unwritable(file, exc) from exc
    return Path(temporary)


def _text(file: Path) -> tuple[tuple[int, ...], bytes]:
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            text = opened.read(_LIMIT)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"there is no master key at {file}", hint="initialize this control plane, or restore the key"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {file}: {(exc.strerror or '').lower()}", hint="check who may read it") from exc
    # A group may read it: that is how orchestrators mount secrets. The world may not.
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o007:
        raise ConfigError(f"{file} is readable by everyone", hint=f"chmod 600 {file}")
    return _look(status), text


def _look(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(file: Path, exc: OSError) -> ConfigError:
    return ConfigError(f"cannot write {file}: {(exc.strerror or '').lower()}", hint="check the folder and who may write there")
