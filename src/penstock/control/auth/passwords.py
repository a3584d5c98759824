"""Passwords, as Argon2id strings. What we make ourselves is random; what people choose has to cost a guesser something."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST: Final = 12
LONGEST: Final = 1024  # bytes hashed for a stranger

_SALT: Final = 16
_HASH: Final = 32
_MEMORY: Final = 19 * 1024  # KiB; with two passes the first choice of OWASP's list, 50 ms of one core
_PASSES: Final = 2
_GENERATED: Final = 18  # bytes: 144 random bits need no slow hash
# What a stranger's attempts may take of this process at a time; the next ones wait.
_hashing: Final = asyncio.Semaphore(2)


def generate(entropy: Callable[[int], bytes]) -> tuple[Secret, str]:
    """A password that a person will paste and change, and its hash."""
    text = urlsafe_b64encode(entropy(_GENERATED)).decode()
    return Secret(text), _derive(text, entropy(_SALT), memory=8, passes=1)


async def derive(password: Secret, entropy: Callable[[int], bytes]) -> str:
    """The hash of a password a person chose."""
    salt = entropy(_SALT)
    async with _hashing:
        return await asyncio.to_thread(_derive, password.reveal(), salt, memory=_MEMORY, passes=_PASSES)


async def verify(password: Secret, hashed: str | None) -> bool:
    """Whether this is the password. Takes as long for somebody who has none, so that nobody learns who has."""
    given = password.reveal().encode()[:LONGEST]
    async with _hashing:
        return await asyncio.to_thread(_verify, given, hashed or _NOBODYS) and hashed is not None


def _derive(password: str, salt: bytes, *, memory: int, passes: int) -> str:
    function = Argon2id(salt=salt, length=_HASH, iterations=passes, lanes=1, memory_cost=memory)
    return function.derive_phc_encoded(password.encode()[:LONGEST])


def _verify(password: bytes, hashed: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password, hashed)
    except InvalidKey:
        return False
    return True


_NOBODYS: Final = (
    f"$argon2id$v=19$m={_MEMORY},t={_PASSES},p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
