"""Which link carries the next stream: a pure choice among what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def connector_id(self) -> str:
        """The agent behind the link; its links share it. Callers know it as `Penstock-Replica`."""
        ...

    @property
    def load(self) -> int:
        """Streams open now."""
        ...

    @property
    def carried(self) -> int:
        """Streams opened since it registered."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether new streams may be opened: registered, not draining, below the peer's limit."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether it owes a sign of life: it may have died and nobody knows yet."""
        ...


_C = TypeVar("_C", bound=Candidate)


def choose(links: Iterable[_C], *, replica: str | None, tried: Collection[_C]) -> _C | None:
    """The least loaded open link not yet tried, silent ones last; of equals, the one that has carried least: they take turns.

    Links of the replica asked for win over all others while one is open: a server behind it may hold the caller's
    session. When none is, any other will do, and the server itself says that it does not know the session.
    """
    able = [link for link in links if link.is_open and link not in tried]
    asked = [link for link in able if link.connector_id == replica] if replica is not None else []
    return min(asked or able, key=lambda link: (link.is_silent, link.load, link.carried), default=None)
