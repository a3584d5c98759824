"""What each kind of key opens, and what it does not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from penstock.control.storage.migrate import migrate
from penstock.control.storage.sqlite import Sqlite
from penstock.tls import certs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


async def test_an_api_key_manages_no_tunnels_and_a_tunnels_key_gets_no_certificate(api: Api) -> None:
    for path in ("/v1/tunnels", "/v1/tunnels/tnl_x"):
        refused = await api.http.get(path, headers=api.bearing(api.initial.api_key))
        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "permission_error"
        assert "workspace:manage_tunnels" in refused.json()["error"]["message"]
    body = {"csr_pem": certs.make_csr(certs.make_ec_key(), "caller")}
    refused = await api.http.post("/penstock/v1/callers/certificates", json=body, headers=api.bearing(api.initial.tunnels_key))
    assert refused.status_code == 403


async def test_every_credential_can_ask_who_it_is(api: Api) -> None:
    for key, scope in ((api.initial.api_key, "workspace:developer"), (api.initial.tunnels_key, "workspace:manage_tunnels")):
        me = (await api.http.get("/penstock/v1/me", headers=api.bearing(key))).json()
        assert me["type"] == "api_key"
        assert me["scopes"] == [scope]
        assert (me["organization_id"], me["workspace_id"]) == (api.initial.organization_id, api.initial.workspace_id)


def test_a_database_of_the_first_schema_keeps_its_keys_and_certificates(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "penstock.control.storage:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO organizations VALUES ('org', 'o', '2026-01-01')")
        for name, day in (("second", "02"), ("first", "01")):
            connection.execute(f"INSERT INTO workspaces VALUES ('wrkspc_{name}', 'org', '{name}', '2026-01-{day}')")
        connection.execute(
            "INSERT INTO api_keys VALUES ('apikey_1', 'org', 'wrkspc_first', 'clr_1', 'n', 'digest', '2026-01-01', NULL)"
        )
        connection.execute("INSERT INTO caller_certificates VALUES ('ab', 'apikey_1', '2026-01-01', '2026-01-02')")
    migrate(Sqlite(file))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT id FROM workspaces WHERE is_default").fetchall() == [("wrkspc_first",)]
        assert connection.execute("SELECT scope FROM api_keys").fetchall() == [("workspace:developer",)]
        columns = "serial, caller_id, organization_id, workspace_id, holder_id"
        certificate = connection.execute(f"SELECT {columns} FROM caller_certificates").fetchone()
        assert certificate == ("ab", "clr_1", "org", "wrkspc_first", "apikey_1")
