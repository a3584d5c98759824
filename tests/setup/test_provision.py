from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support import ca
from tests.support.control import api, database, start_api
from tests.support.provisioned import FAST, Side, side

from penstock.client.control import ControlClient, Edition
from penstock.control.auth.scopes import ORG_MANAGE_TUNNELS
from penstock.control.service.bootstrap import create_api_key
from penstock.errors import ConfigError, IdentityError
from penstock.protocol.token import parse_token
from penstock.secret import Secret
from penstock.setup.directory import Directory
from penstock.setup.keys import KeyType
from penstock.setup.progress import Progress
from penstock.setup.provision import Wanted, provision
from penstock.tls import certs, rules

__all__ = ["api", "database", "side", "start_api"]

pytestmark = pytest.mark.anyio


async def test_an_empty_directory_becomes_a_private_side_that_callers_would_trust(side: Side) -> None:
    await side.init()
    [tunnel] = await side.tunnels()
    assert (side.read("tunnel-id"), side.read("tunnel-domain")) == (tunnel["id"], tunnel["domain"])
    authority = rules.check_ca_certificate(side.read("ca.crt"), certs.datetime.now(certs.UTC))
    leaf = certs.load_certificate(side.read("tls.crt"))
    rules.check_server_certificate(
        certs.certificate_to_der(leaf), [authority], f"echo.{tunnel['domain']}", certs.datetime.now(certs.UTC)
    )
    [registered] = await side.certificates()
    assert registered["fingerprint"] == authority.fingerprint
    assert parse_token(side.read("tunnel-token"))
    assert side.read("callers-ca.crt").startswith("-----BEGIN CERTIFICATE-----")


async def test_private_entries_are_for_their_owner_alone_whatever_the_umask(side: Side) -> None:
    umask = os.umask(0)
    try:
        await side.init()
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in side.folder.iterdir()}
    for name in ("ca.key", "tls.key", "tunnel-token"):
        assert modes[name] == 0o600
    for name in ("ca.crt", "tls.crt", "tunnel-id", "tunnel-domain"):
        assert modes[name] == 0o644
    assert stat.S_IMODE(side.folder.stat().st_mode) == 0o700


async def test_a_second_run_changes_nothing(side: Side) -> None:
    await side.init(replace(FAST, token_version="1"))
    before = side.entries()
    assert await side.init(replace(FAST, token_version="1")) == []
    assert side.entries() == before
    assert len(await side.tunnels()) == 1


async def test_the_published_defaults_are_an_rsa_key_of_4096_bits_for_90_days(side: Side) -> None:
    await side.init(Wanted())
    leaf = certs.load_certificate(side.read("tls.crt"))
    key = leaf.public_key()
    assert isinstance(key, certs.rsa.RSAPublicKey)
    assert key.key_size == 4096
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert timedelta(days=90) <= life < timedelta(days=90, minutes=10)
    authority = certs.load_certificate(side.read("ca.crt"))
    assert isinstance(authority.public_key(), certs.ec.EllipticCurvePublicKey)


async def test_a_dry_run_tells_and_touches_nothing(side: Side) -> None:
    changes = await side.init(is_dry=True)
    assert [change.partition(" ")[0] for change in changes] == [
        "create",
        "write",
        "make",
        "register",
        "issue",
        "fetch",
        "write",
    ]
    assert any(f"dir:{side.folder} can be written" in told for told in side.told)
    assert any("the credential may manage tunnels" in told for told in side.told)
    assert await side.tunnels() == []
    assert not side.folder.exists()
    await side.init(replace(FAST, token_version="1"))
    before = side.entries()
    changes = await side.init(replace(FAST, token_version="2"), is_dry=True)
    assert changes == ["rotate the agent's token: version 1 becomes 2"]
    assert side.entries() == before


async def test_a_dry_run_fails_where_the_real_one_would(side: Side) -> None:
    side.folder.write_text("no folder")
    with pytest.raises(ConfigError, match="not a directory"):
        await side.init(is_dry=True)
    side.folder.unlink()
    wrong = replace(side, key=Secret("pst-tunnels-wrong"))
    with pytest.raises(IdentityError, match="not accepted"):
        await wrong.init(is_dry=True)
    assert not side.folder.exists()


async def test_a_tunnel_that_is_given_is_used_and_none_is_made(side: Side) -> None:
    tunnel = await side.api.tunnel()
    await side.init(replace(FAST, tunnel_id=tunnel["id"]))
    assert side.read("tunnel-id") == tunnel["id"]
    assert len(await side.tunnels()) == 1


async def test_another_tunnel_id_begins_anew(side: Side) -> None:
    await side.init()
    before = side.entries()
    other = await side.api.tunnel()
    await side.init(replace(FAST, tunnel_id=other["id"]))
    after = side.entries()
    assert after["tunnel-domain"].strip() == other["domain"]
    for name in ("ca.crt", "ca.key", "tls.crt", "tls.key", "tunnel-token"):
        assert after[name] != before[name]
    [registered] = await side.certificates()
    assert registered["tunnel_id"] == other["id"]


async def test_the_token_is_rotated_when_its_version_changes_and_only_then(side: Side) -> None:
    await side.init(replace(FAST, token_version="1"))
    first = side.read("tunnel-token")
    await side.init(replace(FAST, token_version="1"))
    assert side.read("tunnel-token") == first
    await side.init(FAST)
    assert side.read("tunnel-token") == first
    await side.init(replace(FAST, token_version="two"))
    assert side.read("tunnel-token") != first
    assert side.read("token-version") == "two"
    assert await side.rotations() == 1


async def test_a_token_without_a_noted_version_is_rotated_by_the_first_one_named(side: Side) -> None:
    await side.init(FAST)
    first = side.read("tunnel-token")
    told = await side.init(replace(FAST, token_version="2"))
    assert told == ["rotate the agent's token: version unnamed becomes 2"]
    assert side.read("tunnel-token") != first
    assert await side.init(replace(FAST, token_version="2")) == []
    assert await side.rotations() == 1


async def test_a_certificate_near_its_end_is_renewed_by_the_way(side: Side) -> None:
    await side.init(replace(FAST, duration=timedelta(hours=1)))
    first = side.read("tls.crt")
    await side.init(FAST)  # of 90 days there is less than a third left
    assert side.read("tls.crt") != first
    assert side.entries()["tls.key"]


async def test_a_full_tunnel_says_which_certificates_stand_in_the_way(side: Side) -> None:
    tunnel = await side.api.tunnel()
    taken = [(await side.api.register(tunnel["id"])).json()["id"] for _ in range(2)]
    with pytest.raises(ConfigError, match="maximum of 2") as caught:
        await side.init(replace(FAST, tunnel_id=tunnel["id"]))
    assert all(certificate in str(caught.value.detail) for certificate in taken)
    await side.api.http.post(f"/v1/tunnels/{tunnel['id']}/certificates/{taken[0]}/archive")
    await side.init(replace(FAST, tunnel_id=tunnel["id"]))  # goes on, with the CA it had made
    assert len([one for one in await side.certificates() if one["archived_at"] is None]) == 2


@pytest.mark.parametrize("tunnel_id", ["tnl_00000000000000000000000", "nonsense/.."])
async def test_a_tunnel_that_is_not_there_is_said_plainly(side: Side, tunnel_id: str) -> None:
    with pytest.raises(ConfigError):
        await side.init(replace(FAST, tunnel_id=tunnel_id))


async def test_an_archived_tunnel_is_said_plainly(side: Side) -> None:
    await side.init()
    await side.api.http.post(f"/v1/tunnels/{side.read('tunnel-id')}/archive")
    with pytest.raises(ConfigError, match="archived"):
        await side.init()


async def test_a_ca_whose_key_is_another_ones_is_said_plainly(side: Side) -> None:
    await side.init()
    (side.folder / "ca.key").write_text(ca.ca().key_pem.reveal())
    with pytest.raises(ConfigError, match="not the key of"):
        await side.init()


async def test_two_runs_at_once_make_one_tunnel(side: Side) -> None:
    await asyncio.gather(*(side.init() for _ in range(4)))
    assert len(await side.tunnels()) == 1
    assert len(await side.certificates()) == 1


async def test_the_launch_edition_provisions_a_tunnel_it_is_given_and_makes_none(side: Side) -> None:
    key = await create_api_key(side.api.config, side.api.initial.workspace_id, scope=ORG_MANAGE_TUNNELS)
    output = Directory(side.folder)
    async with ControlClient(side.api.control.url, key.secret, edition=Edition.LAUNCH) as platform:
        with pytest.raises(ConfigError, match="creates no tunnels") as caught:
            await provision(output, platform, FAST, Progress(side.told.append))
        assert "--tunnel-id" in str(caught.value.hint)
        tunnel = await side.api.tunnel()
        await provision(output, platform, replace(FAST, tunnel_id=tunnel["id"]), Progress(side.told.append))
    assert len(await side.certificates()) == 1


async def test_what_root_writes_belongs_to_whom_the_directory_belongs(side: Side) -> None:
    side.folder.mkdir()
    owner = (65532, 65532) if os.geteuid() == 0 else (os.geteuid(), side.folder.stat().st_gid)
    os.chown(side.folder, *owner)
    await side.init()
    assert {(file.stat().st_uid, file.stat().st_gid) for file in side.folder.iterdir()} == {owner}


async def test_a_mode_that_was_opened_to_the_proxys_user_stays_open(side: Side) -> None:
    await side.init()
    (side.folder / "tls.key").chmod(0o644)  # the published manual flow
    await side.init(replace(FAST, key_type=KeyType.RSA))
    assert stat.S_IMODE((side.folder / "tls.key").stat().st_mode) == 0o644
