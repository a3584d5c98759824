"""Which of an edge's workers hold a link of ours. Pure: the kernel deals links out by chance, and the agent tries again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from penstock.config.types import HostPort

MOST_LINKS: Final = 16
"""Links an agent holds at most so that each worker has one; the workers beyond that hand streams over."""


class Placed(Protocol):
    """A link, and where it is."""

    @property
    def edge(self) -> HostPort: ...
    @property
    def worker(self) -> tuple[int, int] | None: ...


P = TypeVar("P", bound=Placed)


def surplus(links: Collection[P]) -> P | None:
    """A link that shares its worker with another of ours while another worker of its edge has none; None when all is well."""
    at = Counter((link.edge, link.worker) for link in links)
    for link in links:
        if link.worker is not None and at[link.edge, link.worker] > 1 and len(held(links, link.edge)) < link.worker[1]:
            return link
    return None


def held(links: Collection[P], edge: HostPort) -> set[int]:
    """The workers of `edge` with a link of ours."""
    return {link.worker[0] for link in links if link.edge == edge and link.worker is not None}


def wanted(links: Collection[P], least: int, most: int) -> int:
    """How many links there should be: `least`, or one for each worker of each edge that has more than one, up to `most`."""
    workers = {link.edge: link.worker[1] for link in links if link.worker is not None}
    return max(least, min(sum(workers.values()), most))
