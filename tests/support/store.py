"""Both databases. A test module that imports `database` runs once on SQLite and once on a real PostgreSQL."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
from tests.support import postgresql


@cache
def server() -> postgresql.PostgreSQL:
    """The session's server, started by the first test that needs it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgresql.running())


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of an empty database."""
    return {} if request.param == "sqlite" else {"database_url": server().database()}
