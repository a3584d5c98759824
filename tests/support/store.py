"""Both databases. A test module that imports `database` runs once on SQLite and once on a real PostgreSQL."""

from __future__ import annotations

import atexit
import sqlite3
from contextlib import ExitStack, closing
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import postgresql

if TYPE_CHECKING:
    from penstock.control.config import ControlConfig


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


def run_sql(config: ControlConfig, *statements: str) -> list[list[str]]:
    """Do to a store what only someone beside this program can do; the last statement's rows, as text."""
    if config.database_url is not None:
        output = server().sql(config.database_url.reveal(), ";".join(statements))
        return [line.split("|") for line in output.splitlines()]
    with closing(sqlite3.connect(config.database_file)) as connection, connection:
        rows: list[list[str]] = []
        for statement in statements:
            rows = [[str(value) for value in row] for row in connection.execute(statement).fetchall()]
        return rows


def without_triggers(config: ControlConfig) -> tuple[str, ...]:
    """The statements that take the audit log's own guard away."""
    if config.database_url is not None:
        return ("ALTER TABLE audit DISABLE TRIGGER ALL",)
    return ("DROP TRIGGER audit_refuses_update", "DROP TRIGGER audit_refuses_delete")
