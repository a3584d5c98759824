"""`penstock proxy` as people and images start it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.proxy.rig import Link, Upstream, get
from tests.proxy.site import AUTHORITY, Site
from tests.support import ca
from tests.support.command import SECONDS, Standing, run, standing

from penstock.cli import roles
from penstock.config.types import HostPort

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended

# The guide's file, its values a reader's own.
GUIDE = """
listen_addr: "{listen}"
log_level: info
shutdown_timeout: 30s
tunnel_domain: {domain}
tls:
  cert_file: {folder}/tls.crt
  key_file: {folder}/tls.key
routes:
  echo: http://hello-mcp:9000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pair = ca.server(AUTHORITY)
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    (tmp_path / "tls.key").chmod(0o644)  # as the guide's manual flow has it
    file = tmp_path / "mcp-gateway.yaml"
    file.write_text(GUIDE.format(listen="127.0.0.1:0", folder=tmp_path, domain=ca.DOMAIN))
    return file


@pytest.mark.parametrize("spelling", ["-config {}", "--config {}", "-config={}", "--config={}"])
def test_the_effective_settings_are_printed_under_every_spelling(
    command: Callable[..., Ended], file: Path, spelling: str
) -> None:
    ended = command("proxy", *spelling.format(file).split(), "-check-config")
    assert (ended.code, ended.err) == (0, "")
    settings = yaml.safe_load(ended.out)
    assert settings["routes"]["echo"]["url"] == "http://hello-mcp:9000"
    assert (settings["shutdown_timeout"], settings["limits"]["idle_timeout"]) == ("30s", "5m")


def test_a_certificate_that_does_not_name_the_tunnels_domain_is_warned_of_beside_the_settings(
    command: Callable[..., Ended], file: Path
) -> None:
    ended = command("proxy", "-config", str(file), "-check-config", "-tunnel-domain", "other.example.com")
    assert (ended.code, yaml.safe_load(ended.out)["tunnel_domain"]) == (0, "other.example.com")
    assert "certificate does not name what routes are for" in ended.err
    assert "echo.other.example.com" in ended.err
    assert "renew-cert" in ended.err


def test_what_is_printed_is_a_file_that_says_the_same(command: Callable[..., Ended], file: Path, tmp_path: Path) -> None:
    first = command("proxy", "--config", str(file), "--check-config", "-tunnel-domain", "other.example.com")
    assert yaml.safe_load(first.out)["tunnel_domain"] == "other.example.com"
    (tmp_path / "printed.yaml").write_text(first.out)
    assert command("proxy", "--config", str(tmp_path / "printed.yaml"), "--check-config").out == first.out


def test_a_certificate_that_is_over_is_said_to_be(command: Callable[..., Ended], file: Path) -> None:
    over = ca.valid(timedelta(minutes=30), starts_in=-timedelta(hours=2))
    pair = ca.server(AUTHORITY, validity=over)
    (file.parent / "tls.crt").write_text(pair.certificate_pem)
    (file.parent / "tls.key").write_text(pair.key_pem.reveal())
    ended = command("proxy", "-config", str(file), "--check-config")
    assert ended.code == 0
    assert "certificate has expired" in ended.err
    assert "penstock setup renew-cert" in ended.err


def test_without_a_flag_the_published_place_is_read(
    command: Callable[..., Ended], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(roles.PROXY_CONFIG) == "/etc/mcp-gateway/config.yaml"
    monkeypatch.setattr(roles, "PROXY_CONFIG", file)
    assert command("proxy", "--check-config").code == 0


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("routes:\n  echo: ", "routes:\n  - echo: ", "routes: cannot unmarshal !!seq into map[string]string"),
        ("hello-mcp:9000", "hello-mcp", "routes.echo: invalid upstream (must be scheme://host:port)"),
        ("hello-mcp:9000", "hello-mcp:9000/mcp", "routes.echo: invalid upstream (must be scheme://host:port)"),
        ("log_level: info", "log_levle: info", "log_levle: unknown setting"),
        ("tls.key", "no.key", "no.key: no such file or directory"),
    ],
)
def test_a_wrong_file_ends_with_2_and_the_published_words(
    command: Callable[..., Ended], file: Path, was: str, now: str, said: str
) -> None:
    file.write_text(file.read_text().replace(was, now))
    ended = command("proxy", "-config", str(file), "--check-config")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def started(file: Path) -> contextlib.AbstractContextManager[Standing]:
    return standing("proxy", "-config", str(file), folder=file.parent, PENSTOCK_PROXY_ADMIN_ADDR="127.0.0.1:0")


def site_of(proxy: Standing, upstream: Upstream) -> Site:
    """The process as the tests of the proxy see one; its log is read from its output."""
    port = int(json.loads(proxy.until("proxy started"))["address"].rpartition(":")[2])
    return Site(SimpleNamespace(address=HostPort("127.0.0.1", port)), upstream, [])  # type: ignore[arg-type]


def test_the_guides_file_starts_it_and_a_signal_stops_it_with_0(file: Path) -> None:
    with started(file) as proxy:
        proxy.until("proxy started")
        for line in ("route configured", "private key is readable by everybody", "callers are not checked"):
            assert line in proxy.said
        assert proxy.stop(signal.SIGTERM) == 0
        assert "proxy stopped" in proxy.said


def test_a_start_that_fails_once_it_listens_does_not_stop_what_never_served(
    command: Callable[..., Ended], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("PENSTOCK_PROXY_ADMIN_ADDR", address)
        ended = command("proxy", "-config", str(file))
    assert ended.code == 2
    assert f"penstock: admin_addr: cannot listen on {address} for the admin port: the port is busy" in ended.err
    assert "route configured" in ended.out + ended.err
    assert "proxy stop" not in ended.out + ended.err


@pytest.mark.anyio
async def test_a_call_in_flight_outlives_the_signal_and_the_exit_is_0(file: Path) -> None:
    release = asyncio.Event()

    async def slow(link: Link) -> None:
        await link.request()
        await release.wait()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream = Upstream(slow)
    _route(file, await upstream.start())
    with started(file) as proxy:
        async with site_of(proxy, upstream).caller() as stream:
            await stream.send(get())
            await asyncio.wait_for(upstream.arrived.wait(), SECONDS)
            proxy.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(proxy.until, "proxy stopping")
            release.set()
            assert (await stream.response()).body == b"ok"
        assert await asyncio.to_thread(proxy.process.wait, SECONDS) == 0
    await upstream.stop()


@pytest.mark.anyio
async def test_a_second_signal_ends_it_at_once(file: Path) -> None:
    async def never(link: Link) -> None:
        await link.request()
        await link.read()

    upstream = Upstream(never)
    _route(file, await upstream.start())
    with started(file) as proxy:
        async with site_of(proxy, upstream).caller() as stream:
            await stream.send(get())
            await asyncio.wait_for(upstream.arrived.wait(), SECONDS)
            proxy.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(proxy.until, "proxy stopping")
            began = time.monotonic()
            proxy.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(proxy.process.wait, SECONDS) == 130
            assert time.monotonic() - began < 20  # of the 29 s that the call still had
    await upstream.stop()


def _route(file: Path, port: int) -> None:
    text = file.read_text().replace("http://hello-mcp:9000", f"http://127.0.0.1:{port}")
    file.write_text(text + "upstream:\n  allowed_ips: [127.0.0.0/8]\n")


@pytest.mark.parametrize("flag", ["--no-watch-config", "-no-watch-config"])
def test_a_hang_up_reads_the_file_again_and_the_log_level_with_it(file: Path, flag: str) -> None:
    with standing("proxy", "-config", str(file), flag, folder=file.parent, PENSTOCK_PROXY_ADMIN_ADDR="127.0.0.1:0") as proxy:
        proxy.until("proxy started")
        file.write_text(file.read_text().replace("log_level: info", "log_level: error"))
        proxy.process.send_signal(signal.SIGHUP)
        assert "log_level: info → error" in json.loads(proxy.until("config reloaded"))["changes"]
        file.write_text("routes: []")
        proxy.process.send_signal(signal.SIGHUP)
        assert "routes: cannot unmarshal !!seq" in json.loads(proxy.until("config not reloaded"))["error"]
        assert proxy.stop(signal.SIGTERM) == 0
        assert "proxy stopped" not in proxy.said


def test_a_missing_file_is_one_line_and_a_hint(tmp_path: Path) -> None:
    ended = run("proxy", "-config", "nowhere.yaml", folder=tmp_path)
    assert ended.returncode == 2
    assert "open nowhere.yaml: no such file or directory" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_callers_ca_that_is_no_pem_is_named_with_its_setting(
    command: Callable[..., Ended], file: Path, tmp_path: Path
) -> None:
    """The API's answer is JSON; saved as it came it is what somebody will name here."""
    answer = tmp_path / "callers-ca.crt"
    answer.write_text(json.dumps({"caller_ca_pem": AUTHORITY.certificate_pem}))
    file.write_text(file.read_text() + f"callers: {{mode: require, ca_file: {answer}}}\n")
    ended = command("proxy", "-config", str(file), "-check-config")
    assert ended.code == 2
    assert f"callers.ca_file: {answer} holds no PEM certificate" in ended.err
    assert "caller_ca_pem" in ended.err
