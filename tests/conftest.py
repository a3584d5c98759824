"""Shared fixtures: the event loop async tests run on, and how failures are logged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

from penstock.stack import ports

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine is no defect of the code: an example's time is not a verdict (the library's default ends at 200 ms).
settings.register_profile("penstock", settings(deadline=None))
settings.load_profile("penstock")


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Where structlog is not configured it draws tracebacks with every local variable: a second each."""
    printed = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, printed])


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_remembered_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What callers remember of tunnels goes into a folder of the run, not into that of who runs it; processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_PINS", str(tmp_path_factory.mktemp("pins")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ports_of_its_own() -> Iterator[None]:
    """Processes that test side by side choose among different ports: between the choice and the start nobody holds one."""
    with pytest.MonkeyPatch.context() as patch:
        if worker := os.environ.get("PYTEST_XDIST_WORKER"):
            number, of = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
            patch.setattr(ports, "_POOL", ports._POOL[number::of])
        yield


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; `uvloop` is what `penstock.net.loop` adds, and integration tests run it."""
    return "asyncio"
