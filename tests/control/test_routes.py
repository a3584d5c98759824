"""Routes that are made when they are first asked for."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute

from penstock.control.api import federation, organization, own
from penstock.control.api.routes import LateRoute

if TYPE_CHECKING:
    from collections.abc import Iterator


def fresh() -> Iterator[LateRoute]:
    for router in (organization.published, federation.published, own.router):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            yield LateRoute(route.path, route.endpoint, methods=route.methods)


def test_a_route_that_two_threads_ask_for_at_once_is_whole_for_both() -> None:
    """A request comes while the API's document is made."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            for route in fresh():
                both = Barrier(2)

                def look(route: LateRoute = route, both: Barrier = both) -> tuple[object, object]:
                    both.wait()
                    return route.dependant, route.body_field

                first, second = threads.submit(look), threads.submit(look)
                assert first.result() == second.result()
    finally:
        sys.setswitchinterval(interval)
