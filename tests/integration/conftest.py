"""Integration tests run on the loop that production runs on, each module against one world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.world import Upstream, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Control and an edge; a module adds its private sides."""
    async with world(tmp_path_factory.mktemp("world")) as running:
        yield running


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    """The server behind the route `echo`, played by the test."""
    async with Upstream() as running:
        yield running
