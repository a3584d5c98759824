"""Encryption at rest: AES-256-GCM under a master key that is never in the database.

The associated data is where the value belongs (table, column, row, organization, key), so a sealed value copied into another
cell does not open there. Layout: version, key id (4 bytes), nonce (12), ciphertext and tag.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_VERSION: Final = b"\x01"
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


def key_id(key: bytes) -> bytes:
    """Names a master key without telling anything about it."""
    return hashlib.sha256(b"penstock master key id" + key).digest()[:_KEY_ID]


@final
class Vault:
    """Seals under the first of some master keys, opens under any of them.

    `fresh` gives the keys once they changed, and None while they have not. It is asked before every seal, so that after a
    rotation nothing is sealed under the old key any more, and when a value's key is unknown.
    """

    def __init__(
        self,
        *keys: bytes,
        entropy: Callable[[int], bytes] = os.urandom,
        fresh: Callable[[], Sequence[bytes] | None] = lambda: None,
    ) -> None:
        self._entropy = entropy
        self._fresh = fresh
        self._use(keys)

    @property
    def key_id(self) -> bytes:
        """The key that seals."""
        return self._current

    def seal(self, plain: bytes, cell: Cell) -> bytes:
        """`plain`, for this cell only; inside a write transaction, or a rotation may pass it by.

        Random nonces: 2^32 seals under one key are far away.
        """
        self.refresh()
        nonce = self._entropy(_NONCE)
        body = self._ciphers[self._current].encrypt(nonce, plain, cell.bind(self._current))
        return _VERSION + self._current + nonce + body

    def open(self, sealed: bytes, cell: Cell) -> bytes:
        """What was sealed for this cell. Raises SealError."""
        by, nonce, body = sealed_by(sealed), sealed[1 + _KEY_ID : _HEAD], sealed[_HEAD:]
        if by not in self._ciphers:
            self.refresh()
        if sealed[:1] != _VERSION or by not in self._ciphers:
            raise SealError(
                "a stored secret is sealed under another master key",
                detail=f"{cell.table}.{cell.column} of {cell.row}",
                hint="restore the master key that belongs to this database",
            )
        try:
            return self._ciphers[by].decrypt(nonce, body, cell.bind(by))
        except (InvalidTag, ValueError) as exc:  # ValueError: cut short
            raise SealError(
                "a stored secret was altered or moved",
                detail=f"{cell.table}.{cell.column} of {cell.row}",
                hint="restore a backup",
            ) from exc

    def refresh(self) -> None:
        """Take new keys, if there are."""
        if keys := self._fresh():
            self._use(keys)

    def _use(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self._current = key_id(keys[0])


def sealed_by(sealed: bytes) -> bytes:
    """The id of the key a value was sealed under."""
    return sealed[1 : 1 + _KEY_ID]
