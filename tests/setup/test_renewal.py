"""`setup renew-cert`: a new certificate under the stored CA and the stored key, without a word to anybody."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.provisioned import write_offline

from penstock.errors import CertificateError, ConfigError
from penstock.secret import Secret
from penstock.setup.directory import Directory
from penstock.setup.keys import KeyType
from penstock.setup.progress import Progress
from penstock.setup.renewal import renew
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

LIFE = timedelta(days=90)


class Folder:
    def __init__(self, path: Path, **made: Any) -> None:
        self.path = path
        self.told: list[str] = []
        write_offline(path, **made)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def leaf(self) -> certs.x509.Certificate:
        return certs.load_certificate(self.read("tls.crt"))

    async def renew(self, *, is_dry: bool = False, **asked: Any) -> list[str]:
        progress = Progress(self.told.append, is_dry=is_dry)
        await renew(Directory(self.path), progress, **{"duration": LIFE, **asked})
        return progress.changes


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


async def test_the_certificate_is_new_and_the_ca_and_the_key_are_the_stored_ones(folder: Folder) -> None:
    before = {name: folder.read(name) for name in ("ca.crt", "ca.key", "tls.key", "tls.crt")}
    now = datetime.now(UTC)
    assert await folder.renew(duration=timedelta(days=30), now=now)
    assert {name for name, text in before.items() if folder.read(name) != text} == {"tls.crt"}
    anchor = rules.check_ca_certificate(folder.read("ca.crt"), now)
    rules.check_server_certificate(certs.certificate_to_der(folder.leaf()), [anchor], ca.HOST, datetime.now(UTC))
    assert certs.belong_together(folder.read("tls.crt"), Secret(folder.read("tls.key")))
    assert folder.leaf().not_valid_after_utc == now.replace(microsecond=0) + timedelta(days=30)


async def test_it_asks_nobody(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert await folder.renew()


async def test_while_enough_is_left_nothing_is_touched_and_it_is_said_when_it_will_be(folder: Folder) -> None:
    before = folder.read("tls.crt")
    modified = (folder.path / "tls.crt").stat().st_mtime_ns
    assert await folder.renew(renew_before=timedelta(days=30)) == []
    assert (folder.read("tls.crt"), (folder.path / "tls.crt").stat().st_mtime_ns) == (before, modified)
    acts = folder.leaf().not_valid_after_utc - timedelta(days=30)
    assert folder.told == [f"  nothing to do: the server certificate is renewed from {acts:%Y-%m-%d %H:%M} UTC on"]
    # one second before that time still nothing, and from then on it acts
    assert await folder.renew(renew_before=timedelta(days=30), now=acts - timedelta(seconds=1)) == []
    assert await folder.renew(renew_before=timedelta(days=30), now=acts)


async def test_without_a_margin_it_always_renews(folder: Folder) -> None:
    assert await folder.renew()
    assert await folder.renew()


async def test_a_certificate_that_callers_refuse_is_renewed_however_long_it_lasts(folder: Folder) -> None:
    stranger = ca.server(ca.ca())
    (folder.path / "tls.crt").write_text(stranger.certificate_pem)
    assert await folder.renew(renew_before=timedelta(days=1))
    assert certs.belong_together(folder.read("tls.crt"), Secret(folder.read("tls.key")))


async def test_another_type_of_key_replaces_the_key_and_the_same_type_does_not(folder: Folder) -> None:
    ecdsa = folder.read("tls.key")
    await folder.renew(key_type=KeyType.ECDSA)
    assert folder.read("tls.key") == ecdsa
    await folder.renew(key_type=KeyType.RSA)
    assert folder.read("tls.key") != ecdsa
    assert certs.belong_together(folder.read("tls.crt"), Secret(folder.read("tls.key")))


async def test_what_a_ca_signs_ends_with_it_and_that_is_said(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "short", ca_life=timedelta(days=10))
    await folder.renew()
    assert folder.leaf().not_valid_after_utc == certs.load_certificate(folder.read("ca.crt")).not_valid_after_utc
    assert any("the CA ends on" in line and "rotate-ca" in line for line in folder.told)


async def test_an_expired_ca_signs_nothing_and_the_way_out_is_named(folder: Folder) -> None:
    before = folder.read("tls.crt")
    with pytest.raises(CertificateError) as refused:
        await folder.renew(now=datetime.now(UTC) + timedelta(days=6 * 365))
    assert "rotate-ca" in str(refused.value.hint)
    assert folder.read("tls.crt") == before


@pytest.mark.parametrize("missing", ["ca.key", "ca.crt", "tunnel-domain"])
async def test_an_output_without_a_ca_is_said_plainly(folder: Folder, missing: str) -> None:
    (folder.path / missing).unlink()
    with pytest.raises(ConfigError, match="holds no CA"):
        await folder.renew()


async def test_a_dry_run_changes_nothing(folder: Folder) -> None:
    before = folder.read("tls.crt")
    [change] = await folder.renew(is_dry=True)
    assert change.startswith(f"renew the server certificate for *.{ca.DOMAIN} until ")
    assert folder.read("tls.crt") == before
