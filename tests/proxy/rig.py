"""A pipeline on plain TCP with a scripted upstream behind it: everything of a proxy but WebSocket and TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

import h11
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import CapturingLogger
from tests.support.ca import DOMAIN, HOST

from penstock.proxy.guard import Guard, LookUp, Resolver, system_lookup
from penstock.proxy.limits import ProxyLimits
from penstock.proxy.metrics import ProxyMetrics
from penstock.proxy.oauth.gate import Gates
from penstock.proxy.pipeline import Pipeline
from penstock.proxy.pool import Pool
from penstock.proxy.route_settings import RouteConfig
from penstock.proxy.routes import RouteTable
from penstock.proxy.service import Service
from penstock.tls import contexts

PATIENCE = 10.0
LOOPBACK = [ip_network("127.0.0.0/8")]

Script = Callable[["Link"], Awaitable[None]]


class Link:
    """One connection, from either end, read and written in bytes; all waits are timed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._left = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def read(self, most: int = 65536) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(most)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(mark)

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def rest(self, got: bytearray | None = None) -> bytes:
        """All up to a clean end, also put into `got`, for what ends otherwise."""
        got = bytearray() if got is None else got
        while data := await self.read():
            got += data
        return bytes(got)

    async def is_ended(self) -> bool:
        """True for a clean end; ConnectionResetError for a cut."""
        return await self.read() == b""

    async def request(self) -> tuple[bytes, bytes]:
        """(head, body) of one request, as h11 reads it."""
        head = await self.until(b"\r\n\r\n")
        http = h11.Connection(h11.SERVER)
        http.receive_data(head)
        assert isinstance(http.next_event(), h11.Request)
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self.read())
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                return head, body

    async def response(self, method: str = "GET") -> Response:
        """One response, as h11 reads it; what came after it is kept for the next."""
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        http.send(h11.EndOfMessage())
        http.receive_data(self._left) if self._left else None
        self._left = b""
        answer = Response()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self.read())
            elif isinstance(event, h11.InformationalResponse):
                answer.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = dict(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                self._left = http.trailing_data[0]
                return answer

    def close(self) -> None:
        self.writer.close()

    def cut(self) -> None:
        if self.writer.transport.get_extra_info("socket").fileno() >= 0:  # asyncio's abort() trips over itself when it is gone
            self.writer.transport.abort()

    async def ended(self) -> None:
        """The socket is closed, so that none is left for the next test to trip over."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.writer.wait_closed()
        except OSError:
            pass


@dataclass
class Response:
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    informational: list[int] = field(default_factory=list)

    @property
    def error(self) -> bytes | None:
        return self.headers.get(b"penstock-error")


@dataclass
class Rig:
    service: Service
    port: int
    upstream: Upstream
    logged: CapturingLogger
    pipelines: set[Pipeline]
    closes: list[int]
    links: list[Link] = field(default_factory=list)

    async def connect(self) -> Link:
        link = Link(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.links.append(link)
        return link

    async def fetch(self, request: bytes, method: str = "GET") -> Response:
        link = await self.connect()
        await link.send(request)
        try:
            return await link.response(method)
        finally:
            link.close()

    def events(self, name: str) -> list[Mapping[str, object]]:
        return [call.kwargs for call in self.logged.calls if call.kwargs["event"] == name]

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait for a state that nothing announces, a turn of the loop at a time."""
        async with asyncio.timeout(PATIENCE):
            while not is_true():
                await asyncio.sleep(0)


class Upstream:
    """Runs `script` on each connection; `links` are all it had."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.links: list[Link] = []
        self.arrived = asyncio.Event()
        self.failures: list[BaseException] = []
        self.running = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        self.links.append(link)
        self.arrived.set()
        self.running += 1
        try:
            await self._script(link)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as exc:  # noqa: BLE001 - reported by stop()
            self.failures.append(exc)
        finally:
            self.running -= 1
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in self.links:
            link.cut()
        async with asyncio.timeout(PATIENCE):
            while self.running:
                await asyncio.sleep(0)
        assert not self.failures, self.failures


async def hello(link: Link) -> None:
    """An upstream that answers every request with what it got."""
    while True:
        head, body = await link.request()
        answer = head + body
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


def answering(body: bytes) -> Script:
    """An upstream that answers every request with this."""

    async def script(link: Link) -> None:
        while True:
            await link.request()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return script


def reply(data: bytes, *, then_close: bool = True) -> Script:
    """An upstream that reads a request and answers with these bytes."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(data)
        if not then_close:
            await link.read()

    return script


@asynccontextmanager
async def rig(
    script: Script = hello,
    *,
    limits: Mapping[str, object] | None = None,
    guard: Guard | None = None,
    lookup: LookUp = system_lookup,
    upstream_host: str = "127.0.0.1",
    host_header: str = "preserve",
    sse_keepalive: float = 0.0,
    port: int | None = None,
    upgrade: str = HOST,
) -> AsyncGenerator[Rig]:
    upstream = Upstream(script)
    upstream_port = await upstream.start()
    settings = ProxyLimits.model_validate(limits or {})
    url = f"http://{upstream_host}:{port or upstream_port}"
    logged = CapturingLogger()
    resolver = Resolver(guard or Guard(LOOPBACK), lookup=lookup)
    pool = Pool(resolver, settings, contexts.upstream(None))
    service = Service(
        routes=RouteTable({"echo": RouteConfig(url=url, host_header=host_header, sse_keepalive=sse_keepalive)}, DOMAIN),
        pool=pool,
        gates=Gates(),
        limits=settings,
        metrics=ProxyMetrics(CollectorRegistry()),
        log=structlog.wrap_logger(logged, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)),
        loop=asyncio.get_running_loop(),
    )
    pipelines: set[Pipeline] = set()
    closes: list[int] = []

    def accept() -> Pipeline:
        def leave(code: int, reason: str) -> None:
            closes.append(code)
            assert reason
            assert pipeline._transport is not None
            pipeline._transport.close()  # as the WebSocket below would: behind what was written

        number = len(pipelines) + 1
        pipeline = Pipeline(service, upgrade=upgrade, number=number, leave=leave, on_lost=pipelines.discard)
        pipelines.add(pipeline)
        return pipeline

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    try:
        running = Rig(service, server.sockets[0].getsockname()[1], upstream, logged, pipelines, closes)
        yield running
    finally:
        server.close()
        for link in running.links:
            link.cut()
        for pipeline in list(pipelines):
            pipeline.abort()
        await pool.aclose()
        await upstream.stop()
        await running.until(lambda: not pipelines)
        for link in [*running.links, *upstream.links]:
            await link.ended()


def get(path: str = "/", *, headers: str = "", method: str = "GET", host: str = HOST) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def post(body: bytes, *, headers: str = "", path: str = "/mcp") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
