"""A directory under a test's control plane, provisioned as often as the test likes. `side` is a fixture: import it by name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca

from penstock.client.control import ControlClient
from penstock.setup import keys, material
from penstock.setup.directory import Directory
from penstock.setup.keys import KeyType
from penstock.setup.progress import Progress
from penstock.setup.provision import Wanted, provision
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.control import Api

    from penstock.secret import Secret

FAST = Wanted(key_type=KeyType.ECDSA)
"""RSA-4096 takes half a second."""


@dataclass
class Side:
    """A directory and the platform it is provisioned against."""

    api: Api
    folder: Path
    told: list[str] = field(default_factory=list)
    key: Secret | None = None
    """A credential in place of the first Tunnels API key."""

    @asynccontextmanager
    async def platform(self) -> AsyncGenerator[ControlClient]:
        async with ControlClient(self.api.control.url, self.key or self.api.initial.tunnels_key) as client:
            yield client

    async def init(self, wanted: Wanted = FAST, *, is_dry: bool = False) -> list[str]:
        """The changes it made."""
        progress = Progress(self.told.append, is_dry=is_dry)
        async with self.platform() as platform:
            await provision(Directory(self.folder), platform, wanted, progress)
        return progress.changes

    def read(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def entries(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.folder.iterdir() if not file.name.startswith(".")}

    async def tunnels(self) -> list[dict[str, Any]]:
        return (await self.api.http.get("/v1/tunnels", params={"limit": 1000})).json()["data"]

    async def certificates(self) -> list[dict[str, Any]]:
        url = f"/v1/tunnels/{self.read('tunnel-id')}/certificates"
        return (await self.api.http.get(url, params={"include_archived": True})).json()["data"]

    async def rotations(self) -> int:
        return len([record for record in await self.api.audit_records() if record["type"] == "tunnel_token_rotated"])


def write_offline(folder: Path, *, duration: timedelta = timedelta(days=90), ca_life: timedelta = keys.CA_LIFE) -> None:
    """What `setup init` leaves behind for `ca.DOMAIN`, made without a platform."""
    now = datetime.now(UTC)
    authority = certs.make_ca("offline CA", certs.make_ec_key(), certs.Validity.lasting(now, ca_life), serial=ca.serial())
    key = certs.make_ec_key()
    entries = {
        material.DOMAIN: f"{ca.DOMAIN}\n",
        material.CA_CERTIFICATE: authority.certificate_pem,
        material.CA_KEY: authority.key_pem.reveal(),
        material.KEY: certs.key_to_pem(key).reveal(),
        material.CERTIFICATE: keys.server_certificate(authority, key, ca.DOMAIN, duration, now),
    }
    folder.mkdir()
    for name, text in entries.items():
        (folder / name).write_text(text)


@pytest.fixture
def side(api: Api, tmp_path: Path) -> Side:
    return Side(api, tmp_path / "data")
