from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import LargeBinary
from tests.support.store import database

from penstock.control.service import audit_log, master_key
from penstock.control.service.bootstrap import open_core
from penstock.control.storage import identities
from penstock.control.storage.master_key import MasterKeyFile, load_master_key
from penstock.control.storage.sealed import SEALED, keys_in_use
from penstock.control.storage.vault import Cell, SealError, Vault, sealed_by
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio

CELL = Cell("tunnels", "sealed_secret", "tnl_1", "org")


async def token(api: Api, tunnel: dict[str, Any]) -> str:
    response = await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")
    assert response.status_code == 200, response.text
    return response.json()["tunnel_token"]


async def in_use(api: Api) -> set[bytes]:
    async with open_core(api.config) as core, core.database.read() as connection:
        return await keys_in_use(connection)


async def test_a_rotation_moves_everything_under_the_new_key_while_the_server_runs(api: Api) -> None:
    tunnel = await api.tunnel()
    before, old = await token(api, tunnel), api.config.key_file.read_bytes()
    rotation = await master_key.rotate(api.config)
    assert rotation.resealed >= 5  # edge CA, feed key, caller CA, the tunnel, the audit head
    assert await in_use(api) == {bytes.fromhex(rotation.key_id)}
    assert len(api.config.key_file.read_bytes().split()) == 1
    assert api.config.key_file.read_bytes() != old
    assert api.config.key_file.stat().st_mode & 0o777 == 0o600
    assert await token(api, tunnel) == before
    await api.tunnel()
    assert await in_use(api) == {bytes.fromhex(rotation.key_id)}
    assert (await api.enrol()).status_code == 200
    async with open_core(api.config) as core:
        assert (await audit_log.verify(core)).findings == []


async def test_nothing_is_left_under_an_old_key_by_writers_and_rotations_that_ran_at_once(api: Api) -> None:
    async def keep_creating() -> list[str]:
        return [(await api.tunnel())["id"] for _ in range(9)]

    made, *rotations = await asyncio.gather(keep_creating(), *(master_key.rotate(api.config) for _ in range(4)))
    (last,) = await in_use(api)
    assert last.hex() in {rotation.key_id for rotation in rotations}
    for tunnel_id in made:
        assert (await api.http.post(f"/v1/tunnels/{tunnel_id}/reveal_token")).status_code == 200


async def test_a_rotation_that_died_half_way_opens_everything_and_is_finished_by_the_next(api: Api) -> None:
    tunnel = await api.tunnel()
    before = await token(api, tunnel)
    file = MasterKeyFile(api.config.key_file)
    file.replace([b"n" * 32, *file.keys])  # the first step alone
    assert await token(api, tunnel) == before
    rotation = await master_key.rotate(api.config)
    assert await in_use(api) == {bytes.fromhex(rotation.key_id)}
    assert len(api.config.key_file.read_bytes().split()) == 1
    assert await token(api, tunnel) == before


async def test_a_file_somebody_else_writes_is_resealed_under_its_first_key(api: Api) -> None:
    tunnel = await api.tunnel()
    before = await token(api, tunnel)
    old = api.config.key_file.read_bytes()
    content = base64.b64encode(b"n" * 32) + b"\n" + old
    api.config.key_file.write_bytes(content)
    rotation = await master_key.reseal_all(api.config)
    assert rotation.key_id == Vault(b"n" * 32).key_id.hex()
    assert api.config.key_file.read_bytes() == content
    api.config.key_file.write_bytes(content.removesuffix(old))
    assert await token(api, tunnel) == before


async def test_without_the_right_key_nothing_is_rotated(api: Api) -> None:
    api.config.key_file.write_bytes(base64.b64encode(b"x" * 32))
    with pytest.raises(SealError, match="another master key"):
        await master_key.rotate(api.config)


def test_every_column_of_bytes_is_known_to_the_rotation() -> None:
    """Bytes in this schema are sealed values; one the rotation does not know would be lost with the old key."""
    columns = {
        column
        for table in identities.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert columns == {sealed.column for sealed in SEALED}


def test_a_vault_seals_under_the_first_key_and_opens_under_all() -> None:
    old, both = Vault(b"o" * 32), Vault(b"n" * 32, b"o" * 32)
    assert both.open(old.seal(b"x", CELL), CELL) == b"x"
    with pytest.raises(SealError):
        old.open(both.seal(b"x", CELL), CELL)


def test_a_vault_follows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(base64.b64encode(b"o" * 32))
    path.chmod(0o600)
    vault = load_master_key(path)
    sealed = vault.seal(b"x", CELL)
    MasterKeyFile(path).replace([b"n" * 32, b"o" * 32])
    assert sealed_by(vault.seal(b"y", CELL)) == Vault(b"n" * 32).key_id
    assert vault.open(sealed, CELL) == b"x"
    path.unlink()
    assert vault.open(sealed, CELL) == b"x"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"AAAA\n", base64.b64encode(b"k" * 32) + b"\nshort\n"])
def test_a_file_with_one_line_that_is_no_key_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no master key"):
        load_master_key(path)
