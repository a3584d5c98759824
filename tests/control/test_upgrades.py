"""Every version of the schema, with rows of its time, is brought to this program's, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.support.control import make_config
from tests.support.store import Store, database, run_sql

from penstock.control.service.bootstrap import backend_of
from penstock.control.storage import identities
from penstock.control.storage.migrate import HEAD, migrate, schema_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from penstock.control.config import ControlConfig

__all__ = ["database"]  # both of them

SCRIPTS = Config()
SCRIPTS.set_main_option("script_location", "penstock.control.storage:migrations")
VERSIONS = sorted(script.revision for script in ScriptDirectory.from_config(SCRIPTS).walk_revisions())

# What a store of the first version held, in the first version's columns.
_AT = "'2026-01-01 00:00:00'"
_ORGANIZATION = "6f1c2d0a-5a2e-4f0e-9f57-1f1d6a0f4f10"
FIRST = (
    f"INSERT INTO organizations (id, name, created_at) VALUES ('{_ORGANIZATION}', 'first', {_AT})",
    f"INSERT INTO workspaces (id, organization_id, name, created_at) VALUES ('wrkspc_1', '{_ORGANIZATION}', 'w', {_AT})",
    (
        "INSERT INTO api_keys (id, organization_id, workspace_id, caller_id, name, digest, created_at)"
        f" VALUES ('apikey_1', '{_ORGANIZATION}', 'wrkspc_1', 'clr_1', 'k', 'd', {_AT})"
    ),
    f"INSERT INTO caller_certificates (serial, api_key_id, created_at, expires_at) VALUES ('ab', 'apikey_1', {_AT}, {_AT})",
)


@pytest.fixture
def at(tmp_path: Path, database: Store) -> Callable[[str], ControlConfig]:
    """Makes a store of a version, the first version's rows in it."""

    def make(version: str) -> ControlConfig:
        config = make_config(tmp_path, **database.empty())

        def steps(connection: Connection) -> None:
            SCRIPTS.attributes["connection"] = connection
            for revision in [known for known in VERSIONS if known <= version]:
                command.upgrade(SCRIPTS, revision)
                if revision == VERSIONS[0]:
                    for statement in FIRST:
                        connection.exec_driver_sql(statement)

        backend_of(config).upgrade(steps)
        return config

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_any_version_is_upgraded_with_its_rows(at: Callable[[str], ControlConfig], version: str) -> None:
    config = at(version)
    backend = backend_of(config)
    assert schema_version(backend) == version
    migrate(backend)
    assert schema_version(backend) == HEAD
    (row,) = run_sql(config, "SELECT id, workspace_id FROM api_keys")
    assert row == ["apikey_1", "wrkspc_1"]
    ((serial,),) = run_sql(config, "SELECT serial FROM caller_certificates")
    assert serial == "ab"
    backend.upgrade(_compare)


def _compare(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    assert compare_metadata(context, identities.metadata) == []


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(at: Callable[[str], ControlConfig]) -> None:
    config = at(VERSIONS[0])
    run_sql(config, "CREATE TABLE audit (in_the_way integer)")
    with pytest.raises(Exception, match="cannot be used as the database"):
        migrate(backend_of(config))
    assert run_sql(config, "SELECT version_num FROM alembic_version") == [[VERSIONS[0]]]
    run_sql(config, "DROP TABLE audit")
    migrate(backend_of(config))
    assert schema_version(backend_of(config)) == HEAD
