"""`setup rotate-ca`: at every moment callers trust what the proxy shows, and no run leaves what the next cannot finish."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.support.control import api, database, start_api
from tests.support.fuse import Fuse, Killed, OneByOne, fused
from tests.support.provisioned import FAST, Side, side
from tests.support.site import until

from penstock.client.control import ControlClient
from penstock.client.pins import Pins
from penstock.errors import ConfigError, UnavailableError
from penstock.secret import Secret
from penstock.setup import material
from penstock.setup.directory import Directory
from penstock.setup.progress import Progress
from penstock.setup.renewal import renew
from penstock.setup.rotation import Asked, rotate_ca
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from typing import Any

__all__ = ["api", "database", "side", "start_api"]

pytestmark = pytest.mark.anyio

AT_ONCE = timedelta(0)


@dataclass
class Watcher:
    """Stands for whoever calls: remembers under which CA it was asked to look, and can be told to see nothing."""

    side: Side
    seen: list[str] = field(default_factory=list)
    is_blind: bool = False

    async def see(self, domain: str, ca_pem: str) -> None:
        assert domain == self.side.read("tunnel-domain")
        if self.is_blind:
            raise UnavailableError("calls do not pass yet")
        self.seen.append(certs.fingerprint(certs.load_certificate(ca_pem)))


async def rotate(side: Side, *, is_dry: bool = False, **asked: Any) -> tuple[bool, list[str]]:
    progress = Progress(side.told.append, is_dry=is_dry)
    async with side.platform() as platform:
        done = await rotate_ca(Directory(side.folder), platform, Asked(**{"settle": AT_ONCE, **asked}), progress)
    return done, progress.changes


async def active(side: Side) -> set[str]:
    return {one["fingerprint"] for one in await side.certificates() if one["archived_at"] is None}


def fingerprint(side: Side) -> str:
    return certs.fingerprint(certs.load_certificate(side.read("ca.crt")))


async def is_trusted(side: Side) -> None:
    """What the proxy shows is signed by a CA that callers are told of, and is of its key."""
    assert certs.belong_together(side.read("tls.crt"), Secret(side.read("tls.key")))
    [signer] = [
        certs.load_certificate(text)
        for name, text in side.entries().items()
        if name in {"ca.crt", "ca-next.crt", "old-ca.crt"} and _signed(side.read("tls.crt"), text)
    ][:1]
    assert certs.fingerprint(signer) in await active(side)


def _signed(leaf: str, ca_pem: str) -> bool:
    return certs.is_issued_by(certs.load_certificate(leaf), [certs.load_certificate(ca_pem)])


async def test_another_ca_takes_the_place_of_the_old_one_which_signed_it_and_is_archived(side: Side) -> None:
    await side.init()
    before = side.entries()
    old = fingerprint(side)
    watcher = Watcher(side)
    done, changes = await rotate(side, see=watcher.see)
    assert done
    assert await active(side) == {fingerprint(side)} != {old}
    assert watcher.seen == [fingerprint(side)]
    after = side.entries()
    assert {name for name in after if before.get(name) != after[name]} == {"ca.crt", "ca.key", "tls.crt"}
    assert before.keys() == after.keys()
    new = certs.load_certificate(side.read("ca.crt"))
    assert certs.is_issued_by(new, [certs.load_certificate(before["ca.crt"])])
    pins, now = Pins(), datetime.now(UTC)
    pins.remember("echo", rules.usable_anchors([before["ca.crt"]], now), now)
    assert pins.believed("echo", rules.usable_anchors([side.read("ca.crt")], now), now)  # who remembers the old one can tell
    anchors = rules.usable_anchors([side.read("ca.crt"), before["ca.crt"]], datetime.now(UTC))
    leaf = certs.certificate_to_der(certs.load_certificate(side.read("tls.crt")))
    rules.check_server_certificate(leaf, anchors, f"echo.{side.read('tunnel-domain')}", datetime.now(UTC))
    assert [change.split(" ")[0] for change in changes] == ["make", "register", "put", "issue", "archive"]
    assert await side.init() == []


async def test_without_anybody_who_sees_calls_the_old_ca_stays_until_it_is_confirmed(side: Side) -> None:
    await side.init()
    old = fingerprint(side)
    assert (await rotate(side))[0] is False
    assert await active(side) == {old, fingerprint(side)}
    assert (await rotate(side))[0] is False  # asking again makes no third one
    assert len(await side.certificates()) == 2
    assert await side.init() == []
    done, changes = await rotate(side, is_confirmed=True)
    assert done
    assert [change.split(" ")[0] for change in changes] == ["archive"]
    assert await active(side) == {fingerprint(side)}


async def test_while_calls_do_not_pass_the_old_ca_stays(side: Side) -> None:
    await side.init()
    old = fingerprint(side)
    watcher = Watcher(side, is_blind=True)
    with pytest.raises(UnavailableError, match="do not pass"):
        await rotate(side, see=watcher.see)
    assert old in await active(side)
    watcher.is_blind = False
    assert (await rotate(side, see=watcher.see))[0]
    assert old not in await active(side)


async def test_killed_anywhere_callers_trust_what_the_proxy_shows_and_the_next_run_finishes(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.init()
    at, is_killed = 0, True
    while is_killed:
        old = side.read("ca.crt")
        (side.folder / "old-ca.crt").write_text(old)
        fuse, watcher = Fuse(at), Watcher(side)
        with monkeypatch.context() as patched:
            patched.setattr(ControlClient, "_call", fused(fuse, ControlClient._call))
            async with side.platform() as platform:
                asked = Asked(see=watcher.see, settle=AT_ONCE)
                try:
                    await rotate_ca(OneByOne(side.folder, fuse), platform, asked, Progress(side.told.append))
                    is_killed = False
                except Killed:
                    pass
        await is_trusted(side)
        if is_killed:
            await renew(Directory(side.folder), Progress(side.told.append), duration=timedelta(days=90))
            await is_trusted(side)  # whatever else runs in between
            await rotate(side, see=watcher.see)
        new = certs.fingerprint(certs.load_certificate(side.read("ca.crt")))
        if new == certs.fingerprint(certs.load_certificate(old)):
            raise AssertionError(f"killed at {at}, nothing was rotated")
        assert await active(side) == {new}, f"killed at {at}"
        assert not {"ca-next.crt", "ca-next.key", material.RETIRING} & side.entries().keys(), f"killed at {at}"
        at += 1
    assert at > 15


async def test_before_the_new_ca_is_used_callers_are_given_time_to_hear_of_it(side: Side) -> None:
    await side.init()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(rotate(side, settle=timedelta(minutes=1)))
        await until(lambda: any("waiting 60 s until every caller has heard" in line for line in side.told))
        waiting.cancel()
    assert "ca-next.crt" in side.entries()
    assert len(await active(side)) == 2
    await is_trusted(side)


async def test_a_full_tunnel_is_left_as_it_is(side: Side) -> None:
    await side.init()
    await side.api.register(side.read("tunnel-id"))
    old = fingerprint(side)
    with pytest.raises(ConfigError, match="maximum of 2") as caught:
        await rotate(side)
    assert "tcrt_" in str(caught.value.detail)
    assert fingerprint(side) == old
    await is_trusted(side)


async def test_a_ca_whose_key_is_lost_is_replaced_by_one_that_nobody_signed(side: Side) -> None:
    await side.init()
    (side.folder / "ca.key").unlink()
    done, _ = await rotate(side, is_confirmed=True)
    assert done
    new = certs.load_certificate(side.read("ca.crt"))
    assert new.issuer == new.subject
    assert await active(side) == {fingerprint(side)}


async def test_a_dry_run_tells_the_steps_and_touches_nothing(side: Side) -> None:
    await side.init()
    before = side.entries()
    _, changes = await rotate(side, is_dry=True)
    assert [change.split(" ")[0] for change in changes] == ["make", "register", "put", "issue", "archive"]
    assert side.entries() == before
    assert len(await active(side)) == 1


async def test_an_output_without_a_private_side_is_said_plainly(side: Side) -> None:
    with pytest.raises(ConfigError, match="no private side"):
        await rotate(side)


async def test_another_tunnel_forgets_a_rotation_that_did_not_finish(side: Side) -> None:
    await side.init()
    await rotate(side)
    other = await side.api.tunnel()
    await side.init(replace(FAST, tunnel_id=other["id"]))
    assert material.RETIRING not in side.entries()
