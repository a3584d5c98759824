"""The ways from the same client to the same upstream: directly, through our parts, through each peer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import psutil
from tests.support.chain import Chain

from bench.download import Source, trusting_the_pair
from bench.programs import FrpPorts, Programs
from penstock.client.streams import TunnelStream, TunnelStreams
from penstock.net.dial import dial_tcp, dial_tls
from penstock.net.transports import Parked
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import open_websocket
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.load import Connection, Open
    from penstock.config.types import HostPort
    from penstock.net.websocket import WebSocketTransport

READY_SECONDS = 90.0


@dataclass(frozen=True)
class Way:
    """How a connection is opened, the names that requests on it carry, and the processes of ours or a peer's on it."""

    name: str
    open: Open
    domain: str
    hops: dict[str, psutil.Process]
    events: Open
    """As `open`, to the upstream that has event streams and downloads; peers that only pass bytes on have no such way."""
    source: Source | None = None
    """The same upstream, for a caller in another process."""

    @property
    def echo(self) -> str:
        return f"echo.{self.domain}"

    @property
    def stream(self) -> str:
        return f"events.{self.domain}"


@contextlib.asynccontextmanager
async def ways(folder: Path, peers: dict[str, Path]) -> AsyncIterator[tuple[dict[str, Way], Programs]]:
    """Everything running and warm."""
    programs = Programs(folder, peers)
    try:
        events = programs.start_upstream()
        echo = programs.start_nginx() if programs.has("nginx") else events
        await until_open(events, echo)
        routes = {"echo": f"http://127.0.0.1:{echo}", "events": f"http://127.0.0.1:{events}"}
        async with Chain(folder, routes) as chain:
            streams = TunnelStreams(chain.access)
            try:
                found = [
                    directly(echo, events),
                    await through_proxy(chain, streams),
                    through_chain(chain, streams),
                    await through_link(chain, streams, events),
                    *await through_peers(chain, streams, programs, echo, events),
                ]
                yield {way.name: way for way in found}, programs
            finally:
                await streams.aclose()
    finally:
        programs.stop()


def directly(echo: int, events: int) -> Way:
    return Way("directly", plainly(echo), "upstream", {}, plainly(events))


def plainly(port: int) -> Open:
    async def open_it(connection: Connection) -> None:
        connection.take(await dial_tcp("127.0.0.1", port))

    return open_it


async def nowhere(connection: Connection) -> None:
    raise NotImplementedError


def through_chain(chain: Chain, streams: TunnelStreams) -> Way:
    hops = {name: psutil.Process(chain.roles[name].process.pid) for name in ("edge", "agent", "proxy")}
    return dataclasses.replace(tunnelled("chain", chain.stack.domain, streams, hops), source=source_of(chain))


def source_of(chain: Chain, port: int = 0) -> Source:
    return Source(chain.access.api_url, chain.access.api_key.reveal(), f"events.{chain.stack.domain}", port)


def tunnelled(name: str, domain: str, streams: TunnelStreams, hops: dict[str, psutil.Process]) -> Way:
    def to(host: str) -> Open:
        async def open_it(connection: Connection) -> None:
            connection.take((await (await streams.open(host)).start_tls()).transport)

        return open_it

    return Way(name, to(f"echo.{domain}"), domain, hops, to(f"events.{domain}"))


async def through_link(chain: Chain, streams: TunnelStreams, upstream: int) -> Way:
    """Edge and agent alone, as the peers carry it: plain HTTP, from an upstream that stands in the proxy's place.

    Callers' outer TLS is still there. In the chain these two wait for the proxy, wake up for a request or two at a time, and
    pay for each time; here they are as busy as the peers are on their ways.
    """
    stack = await chain.add_tunnel("bare")
    ports = choose_free()
    settings = chain.write("agent-2", {"url": f"http://127.0.0.1:{upstream}", "metrics": str(ports.agent_metrics)})
    chain.run("agent", ["--config", str(settings)], name="agent-2", TUNNEL_TOKEN=stack.token_file.read_text().strip())
    await chain.until_ready("agent-2", f"http://{ports.agent_metrics}/ready", links=4)
    sample = await streams.open(f"echo.{chain.stack.domain}")
    sample.websocket.abort()
    edge = sample.resolution.edges[0]
    context = await sample.credentials.outer(sample.resolution.edge_ca_pem)

    async def open_it(connection: Connection) -> None:
        transport = await dial_tls(edge.host, edge.port, context=context, server_hostname=edge.server_name)
        await request_upgrade(transport, host=f"echo.{stack.domain}")
        connection.take(transport)

    hops = {hop: psutil.Process(chain.roles[role].process.pid) for hop, role in (("edge", "edge"), ("agent", "agent-2"))}
    return Way("link", open_it, stack.domain, hops, nowhere)


async def through_proxy(chain: Chain, streams: TunnelStreams) -> Way:
    """The caller's own WebSocket and TLS, dialled to the proxy without edge and agent."""
    domain, address = chain.stack.domain, chain.ports.proxy
    known = {host: await streams.open(host) for host in (f"echo.{domain}", f"events.{domain}")}
    for stream in known.values():
        stream.websocket.abort()

    def to(host: str) -> Open:
        async def open_it(connection: Connection) -> None:
            stream = dataclasses.replace(known[host], websocket=await websocket_to(address, host))
            connection.take((await stream.start_tls()).transport)

        return open_it

    hops = {"proxy": psutil.Process(chain.roles["proxy"].process.pid)}
    return Way("proxy", to(f"echo.{domain}"), domain, hops, to(f"events.{domain}"))


async def websocket_to(address: HostPort, host: str) -> WebSocketTransport:
    transport = await dial_tcp(address.host, address.port)
    response = await request_upgrade(transport, host=host)
    websocket = open_websocket(transport, Parked(), client_side=True, initial=response.rest)
    websocket.pause_reading()
    return websocket


# --- peers ------------------------------------------------------------------------------------------------------------


async def through_peers(chain: Chain, streams: TunnelStreams, programs: Programs, echo: int, events: int) -> list[Way]:
    found: list[Way] = []
    if programs.has("haproxy"):
        found.append(await through_haproxy(chain, streams, programs, echo, events))
    entries: dict[str, int] = {}
    if programs.has("chisel"):
        entries["chisel"] = programs.start_chisel(echo)
    if programs.has("frps", "frpc"):
        host = f"echo.{chain.stack.domain}"
        ports = programs.start_frp(echo, chain.stack.certificate_file, chain.stack.key_file, host)
        entries["frp"] = ports.plain
        found += await through_frp_with_tls(chain, streams, programs, ports)
    found += [await through_port(name, programs, port) for name, port in entries.items()]
    if programs.has("haproxy"):
        found += await through_tls_ends(chain, streams, programs, entries)
    if programs.has("cloudflared"):
        found.append(await through_cloudflared(chain, streams, programs))
    return found


async def through_haproxy(chain: Chain, streams: TunnelStreams, programs: Programs, echo: int, events: int) -> Way:
    domain = chain.stack.domain
    pair = chain.stack.certificate_file.read_text() + chain.stack.key_file.read_text()
    port = programs.start_haproxy(pair, {f"echo.{domain}": echo, f"events.{domain}": events})
    await until_open(port)
    echoes, streaming = [await trusting_the_pair(streams, f"{route}.{domain}", port) for route in ("echo", "events")]
    hops = hops_of(programs, "haproxy")
    return Way("haproxy", echoes, domain, hops, streaming, source_of(chain, port))


ENDS = {"chisel": ("chisel server", "chisel client"), "frp": ("frps", "frpc")}
"""The processes of a peer that carries a port."""


def hops_of(programs: Programs, *processes: str) -> dict[str, psutil.Process]:
    return {name: psutil.Process(programs.processes[name].pid) for name in processes}


async def through_port(name: str, programs: Programs, port: int) -> Way:
    await until_open(port)
    return Way(name, plainly(port), "upstream", hops_of(programs, *ENDS[name]), nowhere)


async def through_frp_with_tls(chain: Chain, streams: TunnelStreams, programs: Programs, ports: FrpPorts) -> list[Way]:
    """Callers speak TLS, which frpc ends with the proxy's pair; it asks for no certificate of theirs."""
    await until_open(ports.raw, ports.https)
    domain = chain.stack.domain
    hops = hops_of(programs, *ENDS["frp"])
    return [
        Way(f"frp {plugin}", await trusting_the_pair(streams, f"echo.{domain}", port), domain, hops, nowhere)
        for plugin, port in (("tls2raw", ports.raw), ("https2http", ports.https))
    ]


async def through_tls_ends(chain: Chain, streams: TunnelStreams, programs: Programs, entries: dict[str, int]) -> list[Way]:
    """As our edge takes callers: TLS 1.3 with their certificates. haproxy ends it before each peer's plain port."""
    pair = chain.stack.certificate_file.read_text() + chain.stack.key_file.read_text()
    ports = programs.start_tls_ends(pair, chain.stack.callers_ca_file, list(entries.values()))
    await until_open(*ports)
    domain = chain.stack.domain
    return [
        Way(
            f"{name} + haproxy",
            await trusting_the_pair(streams, f"echo.{domain}", port),
            domain,
            hops_of(programs, *ENDS[name], "haproxy in front"),
            nowhere,
        )
        for name, port in zip(entries, ports, strict=True)
    ]


async def through_cloudflared(chain: Chain, streams: TunnelStreams, programs: Programs) -> Way:
    """A second tunnel at the same edge, with a proxy of its own and the stock agent before it."""
    stack = await chain.add_tunnel("stock")
    ports = choose_free()
    chain.run_proxy("proxy-2", stack, ports)
    await chain.until_ready("proxy-2", f"http://{ports.proxy_admin}/readyz")
    sample: TunnelStream = await streams.open(f"echo.{chain.stack.domain}")
    sample.websocket.abort()
    ca_file = chain.folder / "edge-ca.pem"
    ca_file.write_text(sample.resolution.edge_ca_pem)
    token = stack.token_file.read_text().strip()
    ready = programs.start_cloudflared(token, str(chain.ports.agents), ca_file, f"http://{ports.proxy}")
    await until_linked(ready)
    roles = {"edge": chain.roles["edge"].process, "cloudflared": programs.processes["cloudflared"]}
    return tunnelled("cloudflared", stack.domain, streams, {name: psutil.Process(role.pid) for name, role in roles.items()})


async def until_open(*ports: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        for port in ports:
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)


async def until_linked(port: int) -> None:
    async with asyncio.timeout(READY_SECONDS), httpx2.AsyncClient(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if (await client.get(f"http://127.0.0.1:{port}/ready")).json()["readyConnections"] == 4:
                    return
            await asyncio.sleep(0.1)
