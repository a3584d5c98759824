"""Shared fixtures: the event loop async tests run on."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; `uvloop` is what `penstock.net.loop` adds, and integration tests run it."""
    return "asyncio"
