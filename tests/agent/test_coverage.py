from __future__ import annotations

from dataclasses import dataclass

import pytest

from penstock.agent.coverage import MOST_LINKS, surplus, wanted
from penstock.config.types import HostPort

ONE, TWO = HostPort("one", 1), HostPort("two", 1)


@dataclass(frozen=True)
class At:
    edge: HostPort
    worker: tuple[int, int] | None
    name: int = 0


@pytest.mark.parametrize(
    ("links", "is_uneven"),
    [
        ([], False),
        ([At(ONE, None), At(ONE, None, 1)], False),  # one process, or an edge that says nothing
        ([At(ONE, (0, 2))], False),  # the only link: the other worker hands over
        ([At(ONE, (0, 2)), At(ONE, (1, 2))], False),
        ([At(ONE, (0, 2)), At(ONE, (0, 2), 1)], True),
        ([At(ONE, (0, 2)), At(ONE, (0, 2), 1), At(ONE, (1, 2))], False),
        ([At(ONE, (0, 2)), At(TWO, (0, 2))], False),
        ([At(ONE, (0, 3)), At(ONE, (0, 3), 1), At(ONE, (1, 3))], True),
    ],
)
def test_a_link_moves_where_two_share_a_worker_and_another_worker_has_none(links: list[At], is_uneven: bool) -> None:
    found = surplus(links)
    assert (found is not None) == is_uneven
    if found is not None:
        assert sum((link.edge, link.worker) == (found.edge, found.worker) for link in links) > 1


@pytest.mark.parametrize(
    ("links", "most", "count"),
    [
        ([], MOST_LINKS, 4),
        ([At(ONE, (0, 2)), At(ONE, (1, 2))], MOST_LINKS, 4),
        ([At(ONE, (0, 3)), At(TWO, (0, 3))], MOST_LINKS, 6),
        ([At(ONE, (0, 3)), At(TWO, (0, 3))], 5, 5),
        ([At(ONE, (0, 64))], MOST_LINKS, MOST_LINKS),
    ],
)
def test_there_are_as_many_links_as_workers_within_reason(links: list[At], most: int, count: int) -> None:
    assert wanted(links, 4, most) == count
