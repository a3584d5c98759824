"""What people and programs see of a proxy that works: its metrics, its log, the words that published pages tell them of."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.rig import PATIENCE, get, post
from tests.proxy.site import AUTHORITY, Site, site
from tests.support import ca
from tests.support.ca import DOMAIN
from tests.support.pages import Page

from penstock.tls import certs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def routes(url: str) -> dict[str, Any]:
    """One that works, one that leads outside, one where nothing listens."""
    return {"echo": url, "outside": "http://192.0.2.7:80", "closed": f"http://127.0.0.1:{closed_port()}"}


async def ask(s: Site, route: str, request: bytes | None = None) -> int:
    host = f"{route}.{DOMAIN}"
    async with s.caller(host=host) as stream:
        status = (await stream.fetch(request or get(host=host))).status
        await stream.aclose()
        return status


async def fail_a_handshake(s: Site) -> None:
    with pytest.raises(ssl.SSLError):
        async with s.caller(trusts=ca.ca("someone-else")):
            pass
    await s.until(lambda: s.events("tls handshake failed"))


async def scrape(s: Site) -> str:
    address = s.proxy.admin_address
    assert address is not None
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    text = (await asyncio.wait_for(reader.read(-1), PATIENCE)).decode()
    writer.close()
    await writer.wait_closed()
    return text


async def test_everything_that_happens_is_counted(tmp_path: Path) -> None:
    async with site(tmp_path, routes=routes) as s:
        host = f"echo.{DOMAIN}"
        statuses = [await ask(s, "echo", post(b"12345")), await ask(s, "outside"), await ask(s, "closed"), await ask(s, "none")]
        assert statuses == [200, 502, 502, 502]
        async with s.caller() as stream:
            await stream.send(get(host="a b"))
            await stream.read()
        await fail_a_handshake(s)
        async with s.caller(host=host) as stream:
            await stream.fetch(get())
            text = await scrape(s)
        pair = (tmp_path / "tls.crt").read_text()
        for line in (
            'penstock_proxy_requests_total{route="echo",status="200"} 2.0',
            'penstock_proxy_requests_total{route="outside",status="502"} 1.0',
            'penstock_proxy_requests_total{route="none",status="502"} 1.0',
            'penstock_proxy_request_seconds_bucket{le="+Inf",route="echo"} 2.0',
            'penstock_proxy_body_bytes_total{direction="request",route="echo"} 5.0',
            'penstock_proxy_refusals_total{code="address_refused"} 1.0',
            'penstock_proxy_refusals_total{code="upstream_unreachable"} 1.0',
            'penstock_proxy_refusals_total{code="no_route"} 1.0',
            'penstock_proxy_refusals_total{code="bad_request"} 1.0',
            'penstock_proxy_handshakes_failed_total{reason="unknown certificate authority"} 1.0',
            'penstock_proxy_upstream_connections{state="open"} 1.0',
            'penstock_proxy_upstream_connections{state="idle"} 1.0',
            "penstock_proxy_streams 1.0",
        ):
            assert line in text.splitlines()
        expiry = re.search(r"^penstock_proxy_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
        assert expiry is not None
        assert float(expiry[1]) == certs.load_certificate(pair).not_valid_after_utc.timestamp()


async def test_every_metric_is_explained(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        said = set(re.findall(r"^# TYPE (penstock_\S+)", await scrape(s), re.MULTILINE))
    said = {name for name in said if not name.endswith("_created")}
    explained = set(re.findall(r"^\| `(penstock_[a-z_]+)", Page("proxy.md").text, re.MULTILINE))
    assert "penstock_proxy_requests_total" in said
    assert said <= explained


async def test_the_published_words_are_said_word_for_word(tmp_path: Path) -> None:
    async with site(tmp_path, routes=routes) as s:
        for route in ("echo", "outside", "closed", "none"):
            await ask(s, route)
        await fail_a_handshake(s)
        said = {line["event"] for line in s.log}
        assert {
            "route configured",
            "request started",
            "no route for host",
            "IP validation failed: 192.0.2.7 is not a private address",
            "tls handshake failed",
        } <= said
        assert s.events("tls handshake failed")[0]["reason"] == "unknown certificate authority"
        [unreachable] = s.events("upstream failed")
        assert re.fullmatch(r"dial tcp 127\.0\.0\.1:[0-9]+: connect: connection refused", unreachable["error"])


async def test_a_certificate_that_names_somebody_else_is_said_in_the_published_words(tmp_path: Path) -> None:
    other = ca.server(AUTHORITY, "*.zz99zz99.tunnel.penstock.internal")
    async with site(tmp_path, server=other) as s:
        with pytest.raises(ssl.SSLError):
            async with s.caller():
                pass
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] in {"bad certificate", "server-name"}


async def test_a_requests_two_lines_have_ids_and_sizes_and_nothing_of_what_passed(tmp_path: Path) -> None:
    secrets = {"query": "s3cr3t-query", "token": "s3cr3t-token", "cookie": "s3cr3t-cookie", "body": "s3cr3t-body"}
    async with site(tmp_path) as s:
        headers = (
            f"Authorization: Bearer {secrets['token']}\r\nCookie: a={secrets['cookie']}\r\nMcp-Session-Id: s3cr3t-session\r\n"
        )
        await ask(s, "echo", post(secrets["body"].encode(), path=f"/mcp?code={secrets['query']}", headers=headers))
        await s.until(lambda: s.events("request ended"))
        started, ended = s.events("request started")[0], s.events("request ended")[0]
        assert started["request"] == ended["request"]
        assert set(ended) == {
            "event",
            "log_level",
            "role",
            "request",
            "route",
            "method",
            "path",
            "caller",
            "status",
            "outcome",
            "seconds",
            "received",
            "sent",
        }
        assert (ended["route"], ended["method"], ended["path"], ended["received"]) == (
            "echo",
            "POST",
            "/mcp",
            len(secrets["body"]),
        )
        assert (ended["status"], ended["outcome"]) == (200, "ok")
        assert "s3cr3t" not in str(s.log)
