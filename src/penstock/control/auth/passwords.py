"""Passwords, as Argon2id strings. What we make ourselves is random; what people choose has to cost a guesser something."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
_threads: Final = ThreadPoolExecutor(2, "passwords")


def generate(entropy: Callable[[int], bytes]) -> tuple[Secret, str]:
    """A password that a person will paste and change, and its hash."""
    text = urlsafe_b64encode(entropy(_GENERATED)).decode()
    return Secret(text), _derive(text, entropy(_SALT), memory=8, passes=1)


async def derive(password: Secret, entropy: Callable[[int], bytes]) -> str:
    """The hash of a password a person chose."""
    hashing = partial(_derive, password.reveal(), entropy(_SALT), memory=_MEMORY, passes=_PASSES)
    return await asyncio.get_running_loop().run_in_executor(_threads, hashing)


async def verify(password: Secret, hashed: str | None) -> bool:
    """Whether this is the password. Takes as long for somebody who has none, so that nobody learns who has."""
    given = password.reveal().encode()[:LONGEST]
    return await asyncio.get_running_loop().run_in_executor(_threads, _verify, given, hashed)


def _derive(password: str, salt: bytes, *, memory: int, passes: int) -> str:
    function = Argon2id(salt=salt, length=_HASH, iterations=passes, lanes=1, memory_cost=memory)
    return function.derive_phc_encoded(password.encode()[:LONGEST])


def _verify(password: bytes, hashed: str | None) -> bool:
    # Made-up passwords have a fast hash: whoever still has theirs must not be answered sooner than the rest, or nobody at all.
    if hashed is None or not hashed.startswith(_SLOW):
        _matches(password, _NOBODYS)
    return hashed is not None and _matches(password, hashed)


def _matches(password: bytes, hashed: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password, hashed)
    except InvalidKey:
        return False
    return True


_SLOW: Final = f"$argon2id$v=19$m={_MEMORY},t={_PASSES},p=1$"
_NOBODYS: Final = f"{_SLOW}AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
