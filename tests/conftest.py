"""Shared fixtures: the event loop async tests run on, and how failures are logged."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import settings

# A busy machine is no defect of the code: an example's time is not a verdict (the library's default ends at 200 ms).
settings.register_profile("penstock", settings(deadline=None))
settings.load_profile("penstock")


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Where structlog is not configured it draws tracebacks with every local variable: a second each."""
    printed = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, printed])


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; `uvloop` is what `penstock.net.loop` adds, and integration tests run it."""
    return "asyncio"
