from __future__ import annotations

import pytest
from tests.support.pair import memory_pair
from tests.support.recording import Recorder

from penstock.net.arrivals import Arrivals

pytestmark = pytest.mark.anyio


async def test_one_too_many_displaces_the_one_that_has_been_there_longest_and_no_other() -> None:
    pairs = [memory_pair(Recorder(), Recorder()) for _ in range(4)]
    first, second, third, fourth = (near for near, _ in pairs)
    displaced: list[None] = []
    arrivals = Arrivals(2, lambda: displaced.append(None))
    arrivals.enter(first)
    arrivals.enter(second)
    arrivals.leave(second)  # it said what it wants
    arrivals.enter(third)
    assert not first.is_closing()
    arrivals.enter(fourth)
    assert [transport.is_closing() for transport in (first, second, third, fourth)] == [True, False, False, False]
    assert (len(arrivals), len(displaced)) == (2, 1)
    arrivals.leave(first)
    assert len(arrivals) == 2
    for transport in (second, third, fourth):
        transport.abort()
