"""A secret that cannot be printed: tokens, keys and credentials travel inside `Secret` from file to wire."""

from __future__ import annotations

import hmac
from typing import Final, final

_MASK: Final = "********"


@final
class Secret:
    """Text that shows itself only through `reveal()`; comparison takes constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself: for the wire and for files, never for logs, errors or arguments of a process."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # a secret is no dictionary key

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __reduce__(self) -> str | tuple[object, ...]:
        msg = "a Secret is not pickled"
        raise TypeError(msg)
