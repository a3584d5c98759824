"""Both databases. A test module that imports `database` runs once on SQLite and once on a real PostgreSQL.

An initialized store is made once a session and copied for each test: migrating and initializing is most of what a test of one
request would take.
"""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.support import postgresql

from penstock.config.load import validate
from penstock.control.config import ControlConfig
from penstock.control.service.bootstrap import Initial, initialize

_session = ExitStack()
atexit.register(_session.close)


def make_config(folder: Path, **settings: Any) -> ControlConfig:
    values = {"data_dir": folder, "listen_addr": "127.0.0.1:0", "admin_addr": None, "shutdown_timeout": 2, **settings}
    return validate(ControlConfig, values, source="test")


@cache
def server() -> postgresql.PostgreSQL:
    """The session's server, started by the first test that needs it."""
    return _session.enter_context(postgresql.running())


class Store(ABC):
    """A kind of database: its empty ones, and copies of its initialized one."""

    def __init__(self) -> None:
        self._template: tuple[ControlConfig, Initial] | None = None

    @abstractmethod
    def empty(self) -> dict[str, Any]:
        """The settings of an empty database."""

    @abstractmethod
    def _copy(self, template: ControlConfig, folder: Path) -> dict[str, Any]: ...

    async def initialized(self, folder: Path, settings: dict[str, Any]) -> tuple[ControlConfig, Initial]:
        """A control plane's folder and database; all of a session hold the same secrets."""
        if self._template is None:
            kept = Path(_session.enter_context(tempfile.TemporaryDirectory()), "control")
            config = make_config(kept, **self.empty())
            self._template = config, await initialize(config)
        template, initial = self._template
        folder.mkdir(mode=0o700)
        config = make_config(folder, **self._copy(template, folder), **settings)
        shutil.copy2(template.key_file, config.key_file)
        return config, initial


class Sqlite(Store):
    def empty(self) -> dict[str, Any]:
        return {}

    def _copy(self, template: ControlConfig, folder: Path) -> dict[str, Any]:
        shutil.copy2(template.database_file, folder)
        return {}


class Postgresql(Store):
    def empty(self) -> dict[str, Any]:
        return {"database_url": server().database()}

    def _copy(self, template: ControlConfig, folder: Path) -> dict[str, Any]:
        assert template.database_url is not None
        return {"database_url": server().database(template.database_url.reveal())}


STORES: dict[str, Store] = {"sqlite": Sqlite(), "postgresql": Postgresql()}


@pytest.fixture(params=list(STORES))
def database(request: pytest.FixtureRequest) -> Store:
    """One kind after the other."""
    return STORES[request.param]


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
