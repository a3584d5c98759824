"""Encryption at rest: AES-256-GCM under a master key that lives in a file beside the database, not in it.

The associated data is where the value belongs (table, column, row, organization, key), so a sealed value copied into another
cell does not open there. Layout: version, key id (4 bytes), nonce (12), ciphertext and tag.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION: Final = b"\x01"
_KEY: Final = 32
_KEY_ID: Final = 4
_NONCE: Final = 12
_HEAD: Final = 1 + _KEY_ID + _NONCE


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a sealed value belongs."""

    table: str
    column: str
    row: str
    organization: str

    def bind(self, key_id: bytes) -> bytes:
        """The associated data; JSON, so that no two places spell alike."""
        return json.dumps([self.table, self.column, self.row, self.organization, key_id.hex()]).encode()


class SealError(PenstockError):
    """A sealed value does not open: another key, another cell, or altered bytes."""


@final
class Vault:
    """Seals and opens under one master key."""

    def __init__(self, key: bytes, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._cipher = AESGCM(key)
        # Names the key without telling anything about it.
        self._key_id = hashlib.sha256(b"penstock master key id" + key).digest()[:_KEY_ID]
        self._entropy = entropy

    def seal(self, plain: bytes, cell: Cell) -> bytes:
        """`plain`, for this cell only. Random nonces: 2^32 seals under one key are far away."""
        nonce = self._entropy(_NONCE)
        return _VERSION + self._key_id + nonce + self._cipher.encrypt(nonce, plain, cell.bind(self._key_id))

    def open(self, sealed: bytes, cell: Cell) -> bytes:
        """What was sealed for this cell. Raises SealError."""
        key_id, nonce, body = sealed[1 : 1 + _KEY_ID], sealed[1 + _KEY_ID : _HEAD], sealed[_HEAD:]
        if sealed[:1] != _VERSION or key_id != self._key_id:
            raise SealError(
                "a stored secret is sealed under another master key",
                detail=f"{cell.table}.{cell.column} of {cell.row}",
                hint="restore the master key that belongs to this database",
            )
        try:
            return self._cipher.decrypt(nonce, body, cell.bind(key_id))
        except (InvalidTag, ValueError) as exc:  # ValueError: cut short
            raise SealError(
                "a stored secret was altered or moved",
                detail=f"{cell.table}.{cell.column} of {cell.row}",
                hint="restore a backup",
            ) from exc


def create_master_key(file: Path, entropy: Callable[[int], bytes] = os.urandom) -> Vault:
    """Write a new master key, mode 0600. Raises ConfigError, also when there is one: a key is never overwritten."""
    key = entropy(_KEY)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # made 0600
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(base64.b64encode(key) + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
            os.link(temporary, file)  # whole or not at all, and never over another
        finally:
            Path(temporary).unlink()
    except OSError as exc:
        reason = (exc.strerror or "").lower()
        raise ConfigError(f"cannot write {file}: {reason}", hint="check the folder and who may write there") from exc
    return Vault(key)


def load_master_key(file: Path) -> Vault:
    """The vault of a key file. Raises ConfigError."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(256)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"there is no master key at {file}", hint="initialize this control plane, or restore the key"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {file}: {(exc.strerror or '').lower()}", hint="check who may read it") from exc
    # A group may read it: that is how orchestrators mount secrets. The world may not.
    if os.name == "posix" and stat.S_IMODE(mode) & 0o007:
        raise ConfigError(f"{file} is readable by everyone", hint=f"chmod 600 {file}")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY:
        raise ConfigError(f"{file} holds no master key", hint="it is 32 bytes in base64; restore it from the backup")
    return Vault(key)
