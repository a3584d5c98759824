"""A running proxy whose files change under it: streams go on, what is new holds for what comes, what is wrong for nobody."""

from __future__ import annotations

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.oauth.issuer import issuing
from tests.proxy.rig import Link, Upstream, answering, get
from tests.proxy.site import AUTHORITY, CALLERS, FAST, Site, reloading, site, write
from tests.support import ca

from penstock.proxy import reload
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.proxy.config import ProxyConfig
    from penstock.tls.certs import KeyPair

pytestmark = pytest.mark.anyio


def put(folder: Path, pair: KeyPair) -> None:
    write(folder, "tls.crt", pair.certificate_pem)
    write(folder, "tls.key", pair.key_pem.reveal())


async def presented(s: Site) -> int:
    """The serial number of the certificate that a new handshake gets."""
    shown: list[bytes] = []

    def look(session: ssl.SSLObject) -> None:
        shown.append(session.getpeercert(binary_form=True) or b"")

    async with s.caller(check_peer=look):
        return certs.load_certificate(shown[0]).serial_number


def serial_of(pair: KeyPair) -> int:
    return certs.load_certificate(pair.certificate_pem).serial_number


# --- the certificate --------------------------------------------------------------------------------------------------


async def test_a_new_pair_is_shown_to_new_handshakes_and_live_streams_live_on(tmp_path: Path) -> None:
    async with site(tmp_path, reload_interval=FAST) as s, s.caller() as old:
        assert (await old.fetch(get())).status == 200
        before = await presented(s)
        pair = ca.server(AUTHORITY)
        put(tmp_path, pair)
        await s.until(lambda: s.events("certificate reloaded"))
        assert (await presented(s)) == serial_of(pair) != before
        assert (await old.fetch(get())).status == 200
        expires = certs.load_certificate(pair.certificate_pem).not_valid_after_utc
        assert s.events("certificate reloaded")[0]["certificate_expires"] == expires.isoformat()
        assert len(s.events("certificate reloaded")) == 1


async def test_a_kubernetes_secret_is_followed_through_its_links(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    for revision in ("..2026_1", "..2026_2"):
        (mount / revision).mkdir()
        put(mount / revision, ca.server(AUTHORITY))
    (mount / "..data").symlink_to("..2026_1")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    tls = {"cert_file": str(mount / "tls.crt"), "key_file": str(mount / "tls.key")}
    async with site(tmp_path, tls=tls, reload_interval=FAST) as s:
        before = await presented(s)
        # As the kubelet does: a new link, renamed over the old one.
        (mount / "..data_tmp").symlink_to("..2026_2")
        os.replace(mount / "..data_tmp", mount / "..data")  # noqa: PTH105 - Path.replace would say the same less plainly
        await s.until(lambda: s.events("certificate reloaded"))
        assert await presented(s) != before


async def test_a_certificate_waits_for_its_key(tmp_path: Path) -> None:
    async with site(tmp_path, reload_interval=FAST) as s:
        before = await presented(s)
        pair = ca.server(AUTHORITY)
        write(tmp_path, "tls.crt", pair.certificate_pem)
        await s.until(lambda: s.events("certificate not reloaded"))
        line = s.events("certificate not reloaded")[0]
        assert line["error"].endswith(": the certificate and the private key do not belong together")
        assert line["hint"]
        assert await presented(s) == before
        write(tmp_path, "tls.key", pair.key_pem.reveal())
        await s.until(lambda: s.events("certificate reloaded"))
        assert await presented(s) == serial_of(pair)


def garbage(folder: Path) -> None:
    write(folder, "tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def expired(folder: Path) -> None:
    put(folder, ca.server(AUTHORITY, validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1])))


def gone(folder: Path) -> None:
    (folder / "tls.key").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(garbage, "cannot be used"), (expired, "the new certificate has expired"), (gone, "tls.key: no such file or directory")],
)
async def test_a_bad_pair_keeps_the_old_one_and_is_told_once(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    async with site(tmp_path, reload_interval=FAST) as s:
        before = await presented(s)
        spoil(tmp_path)
        await s.until(lambda: s.events("certificate not reloaded"))
        assert reason in s.events("certificate not reloaded")[0]["error"]
        assert await presented(s) == before
        pair = ca.server(AUTHORITY)
        put(tmp_path, pair)
        await s.until(lambda: s.events("certificate reloaded"))
        assert await presented(s) == serial_of(pair)
        assert len(s.events("certificate not reloaded")) == 1


# --- the settings -----------------------------------------------------------------------------------------------------


async def test_a_changed_file_is_in_use_at_once_and_its_difference_in_the_log(tmp_path: Path) -> None:
    other = Upstream(answering(b"other"))
    port = await other.start()
    async with reloading(tmp_path) as (s, change), s.caller() as stream:
        assert (await stream.fetch(get())).body != b"other"
        was = s.proxy.live.config.routes["echo"].url
        change(routes={"echo": f"http://localhost:{port}", "new": "http://localhost:1"}, shutdown_timeout="2s")
        await s.until(lambda: s.events("config reloaded"))
        assert (await stream.fetch(get())).body == b"other"  # the same stream, which had found its route before
        changes = s.events("config reloaded")[0]["changes"]
        assert changes == [
            f"routes.echo.url: {was} → http://localhost:{port}",
            "routes.new.url: not set → http://localhost:1",
            f"routes.wiki.url: {was} → not set",
            "shutdown_timeout: 30s → 2s",
        ]
        assert "new" in {line["route"] for line in s.events("route configured")}
    await other.stop()
    for link in other.links:
        await link.ended()


async def test_a_stream_of_a_route_that_is_gone_lives_on(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def events(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 20\r\n\r\ndata: 1\n\n")
        await more.wait()
        await link.send(b"data: 23\n\n\n")

    async with reloading(tmp_path, events) as (s, change), s.caller() as stream:
        await stream.send(get())
        got = b""
        while b"data: 1" not in got:
            got += await stream.read()
        change(routes={"wiki": "http://localhost:1"})
        await s.until(lambda: s.events("config reloaded"))
        more.set()
        while b"data: 23" not in got:
            got += await stream.read()
        assert (await stream.fetch(get())).error == b"no_route"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"routes": {"echo": "http://localhost:1", "bad": "localhost"}}, "routes.bad: invalid upstream"),
        ({"routes": {"echo": "http://localhost:1"}, "log_levle": "info"}, "log_levle: unknown setting"),
        ({"routes": {"echo": "http://localhost:1"}, "listen_addr": "127.0.0.1:9"}, "listen_addr cannot change while running"),
        ({"routes": {"echo": "http://localhost:1"}, "upstream": {"tls": {"ca_file": "/no/ca.crt"}}}, "open /no/ca.crt"),
        ({"routes": None}, "routes: required"),
    ],
)
async def test_wrong_settings_change_nothing_and_are_told_once(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    async with reloading(tmp_path) as (s, change), s.caller() as stream:
        live = s.proxy.live
        good = (tmp_path / "config.yaml").read_text()
        change(**wrong)
        await s.until(lambda: s.events("config not reloaded"))
        assert said in s.events("config not reloaded")[0]["error"]
        assert s.proxy.live is live
        assert (await stream.fetch(get())).status == 200
        (tmp_path / "config.yaml").write_text(good)
        change(shutdown_timeout="2s")
        await s.until(lambda: s.events("config reloaded"))
        assert s.events("config reloaded")[0]["changes"] == ["shutdown_timeout: 30s → 2s"]
        assert len(s.events("config not reloaded")) == 1


async def test_a_wrong_file_does_not_hold_up_the_certificate(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (s, change):
        change(routes=None)
        await s.until(lambda: s.events("config not reloaded"))
        put(tmp_path, ca.server(AUTHORITY))
        await s.until(lambda: s.events("certificate reloaded"))


async def test_a_file_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    async with reloading(tmp_path, interval="60ms") as (s, change):
        file = tmp_path / "config.yaml"
        whole = file.read_text()
        half = whole.replace("  wiki:", "  wiki-to-be:")
        for number in range(40):  # of a valid half that is never the same, and never left to stand
            file.write_text(f"# {number}\n{half}")
            await asyncio.sleep(0.005)
            file.write_text(f"# {number}\n{whole}")
            await asyncio.sleep(0.015)
        change(shutdown_timeout="2s")
        await s.until(lambda: s.events("config reloaded"))
        assert [line["changes"] for line in s.events("config reloaded")] == [["shutdown_timeout: 30s → 2s"]]


async def test_unwatched_settings_are_read_when_asked_for(tmp_path: Path) -> None:
    async with reloading(tmp_path, is_watched=False) as (s, change):
        change(shutdown_timeout="2s")
        put(tmp_path, ca.server(AUTHORITY))
        await s.until(lambda: s.events("certificate reloaded"))  # several looks have passed
        assert not s.events("config reloaded")
        s.proxy.reload()
        await s.until(lambda: s.events("config reloaded"))
        s.proxy.reload()
        await s.until(lambda: s.events("config unchanged"))


async def test_callers_are_checked_by_the_new_ca_and_the_new_list(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (s, change):
        async with s.caller() as stream:
            assert (await stream.fetch(get())).status == 200
        ca_file = write(tmp_path, "callers.crt", CALLERS.certificate_pem)
        change(callers={"mode": "require", "ca_file": str(ca_file), "allow": [ca.WORKSPACE]})
        await s.until(lambda: s.events("config reloaded"))
        with pytest.raises((ssl.SSLError, OSError)):
            async with s.caller() as stream:
                await stream.fetch(get())
        async with s.caller(identity=ca.caller(CALLERS)) as stream:
            assert (await stream.fetch(get())).status == 200
        other = ca.ca("callers-2")
        write(tmp_path, "callers.crt", other.certificate_pem)
        await s.until(lambda: len(s.events("config reloaded")) == 2)
        assert s.events("config reloaded")[1]["changes"] == ["callers.ca_file: other content"]
        async with s.caller(identity=ca.caller(other)) as stream:
            assert (await stream.fetch(get())).status == 200


@pytest.mark.parametrize("why", ["expired", "list", "ca", "required"])
async def test_a_caller_who_would_not_be_let_in_any_more_begins_no_further_request(tmp_path: Path, why: str) -> None:
    ca_file = write(tmp_path, "callers.crt", CALLERS.certificate_pem)
    before = {"mode": "request" if why == "required" else "require", "ca_file": str(ca_file)}
    async with (
        reloading(tmp_path, callers=before) as (s, change),
        s.caller(identity=None if why == "required" else ca.caller(CALLERS)) as stream,
        s.caller(identity=ca.caller(CALLERS, workspace_id="wrkspc_01Another")) as other,
    ):
        assert (await stream.fetch(get())).status == 200
        match why:
            case "expired":
                s.proxy.live.callers._now = lambda: datetime.now(UTC) + timedelta(days=3660)
            case "list":
                change(callers={**before, "allow": ["wrkspc_01Another"]})
                await s.until(lambda: s.events("config reloaded"))
                assert (await other.fetch(get())).status == 200  # nobody else is disturbed
            case "ca":
                write(tmp_path, "callers.crt", ca.ca("callers-2").certificate_pem)
                await s.until(lambda: s.events("config reloaded"))
            case _:
                change(callers={**before, "mode": "require"})
                await s.until(lambda: s.events("config reloaded"))
        ended = len(s.events("request ended"))
        await stream.send(get())
        with pytest.raises(ssl.SSLEOFError):  # the Close behind it says why: inner TLS has no word for it
            await stream.read()
        assert stream.close_code == 1001
        assert len(s.events("request ended")) == ended
        (said,) = s.events("caller no longer admitted")
        assert said["caller"] == (None if why == "required" else ca.CALLER)


async def test_a_route_that_comes_to_ask_for_tokens_asks_at_the_next_request(tmp_path: Path) -> None:
    async with issuing() as issuer, reloading(tmp_path) as (s, change), s.caller() as stream:
        assert (await stream.fetch(get())).status == 200
        url = s.proxy.live.config.routes["echo"].url
        change(routes={"echo": {"url": url, "require_oauth": issuer.settings(tmp_path)}})
        await s.until(lambda: s.events("config reloaded"))
        token = f"Authorization: Bearer {issuer.token()}\r\n"
        for headers, status in (("", 401), (token, 200)):
            assert (await stream.fetch(get(headers=headers))).status == status
        change(shutdown_timeout="2s")
        await s.until(lambda: len(s.events("config reloaded")) == 2)
        assert (await stream.fetch(get(headers=token))).status == 200
        assert issuer.asked.count("/keys") == 1  # the gate that did not change kept its keys
        write(tmp_path, "issuer.crt", ca.ca("another").certificate_pem)
        await s.until(lambda: len(s.events("config reloaded")) == 3)
        assert (await stream.fetch(get(headers=token))).error == b"keys_unavailable"
        change(routes={"echo": url})
        await s.until(lambda: len(s.events("config reloaded")) == 4)
        assert (await stream.fetch(get())).status == 200


async def test_a_request_that_waits_for_keys_gets_its_answer_when_its_gate_goes(tmp_path: Path) -> None:
    async with issuing() as issuer:

        def with_oauth(url: str) -> dict[str, Any]:
            return {"echo": {"url": url, "require_oauth": issuer.settings(tmp_path)}}

        async with reloading(tmp_path, routes=with_oauth) as (s, change), s.caller() as stream:
            issuer.release.clear()
            await stream.send(get(headers=f"Authorization: Bearer {issuer.token()}\r\n"))
            await s.until(lambda: issuer.asked)
            change(routes={"echo": s.proxy.live.config.routes["echo"].url})
            await s.until(lambda: s.events("config reloaded"))
            issuer.release.set()
            assert (await stream.response()).status == 200


async def test_settings_reload_while_the_key_is_away(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (s, change):
        (tmp_path / "tls.key").unlink()
        change(shutdown_timeout="2s")
        await s.until(lambda: s.events("config reloaded"))
        change(shutdown_timeout="3s")
        await s.until(lambda: len(s.events("config reloaded")) == 2)


async def test_no_look_at_the_files_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw costs a look: a certificate that comes later is taken."""
    seen = reload._read_pair
    faults = [RuntimeError("a fault of ours")]

    def read(config: ProxyConfig) -> object:
        if faults:
            raise faults.pop()
        return seen(config)

    async with reloading(tmp_path) as (s, _):
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        monkeypatch.setattr(reload, "_read_pair", read)
        await s.until(lambda: not faults)
        put(tmp_path, ca.server(AUTHORITY))
        await s.until(lambda: s.events("certificate reloaded"))
