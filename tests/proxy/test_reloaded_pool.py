"""Kept connections to upstreams when a reload changes what they were dialled on: route, permission, CA."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.rig import PATIENCE, Link, answering, get
from tests.proxy.site import reloading, write
from tests.support import ca

from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


def same(_: Path, url: str) -> dict[str, Any]:
    return {"shutdown_timeout": "2s", "routes": {"echo": url}}


def other_route(_: Path, url: str) -> dict[str, Any]:
    return {"routes": {"echo": {"url": url, "host_header": "upstream"}}}


def other_permission(_: Path, url: str) -> dict[str, Any]:
    return {"upstream": {"allowed_ips": ["127.0.0.1"]}, "routes": {"echo": url}}


def own_permission(_: Path, url: str) -> dict[str, Any]:
    return {"routes": {"echo": {"url": url, "allowed_ips": ["127.0.0.1"]}}}


@pytest.mark.parametrize(
    ("changed", "is_kept"), [(same, True), (other_route, False), (other_permission, False), (own_permission, False)]
)
async def test_a_kept_connection_is_used_again_only_on_the_terms_it_was_dialled_on(
    tmp_path: Path, changed: Callable[[Path, str], dict[str, Any]], is_kept: bool
) -> None:
    async with reloading(tmp_path, limits={"upstream_idle": "1m"}) as (s, change), s.caller() as stream:
        await stream.fetch(get())
        url = s.proxy.live.config.routes["echo"].url
        change(**changed(tmp_path, url))
        await s.until(lambda: s.events("config reloaded"))
        if not is_kept:
            await s.until(lambda: s.upstream.running == 0)
        await stream.fetch(get())
        assert len(s.upstream.links) == (1 if is_kept else 2)


async def test_a_connection_that_was_busy_during_the_reload_is_not_kept(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(link: Link) -> None:
        while True:
            await link.request()
            await go.wait()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with reloading(tmp_path, slow, limits={"upstream_idle": "1m"}) as (s, change), s.caller() as stream:
        await stream.send(get())
        await asyncio.wait_for(s.upstream.arrived.wait(), PATIENCE)
        change(**other_permission(tmp_path, s.proxy.live.config.routes["echo"].url))
        await s.until(lambda: s.events("config reloaded"))
        go.set()
        assert (await stream.response()).body == b"ok"
        await s.until(lambda: s.upstream.running == 0)
        assert (await stream.fetch(get())).body == b"ok"


async def test_a_kept_connection_to_a_ca_that_is_not_trusted_any_more_is_closed(tmp_path: Path) -> None:
    upstream_ca = ca.ca("upstream-ca")
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        try:
            await answering(b"ok")(Link(reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contexts.control_server(ca.server(upstream_ca, "localhost")))
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    ca_file = write(tmp_path, "upstream.crt", upstream_ca.certificate_pem)
    upstream = {"allowed_ips": ["127.0.0.0/8"], "tls": {"ca_file": str(ca_file)}}
    routes = {"echo": url}
    async with (
        reloading(tmp_path, upstream=upstream, routes=routes, limits={"upstream_idle": "1m"}) as (s, _),
        s.caller() as stream,
    ):
        assert (await stream.fetch(get())).status == 200
        write(tmp_path, "upstream.crt", ca.ca("another").certificate_pem)
        await s.until(lambda: s.events("config reloaded"))
        assert (await stream.fetch(get())).error == b"upstream_tls"
        assert len(served) == 1
    server.close()
    await server.wait_closed()
