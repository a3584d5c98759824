"""The whole proxy on a socket and its callers: upgrade, WebSocket, inner TLS, HTTP, a real upstream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from structlog.testing import capture_logs
from tests.proxy.rig import PATIENCE, Link, Response, Script, Upstream, hello
from tests.support import ca
from tests.support.ca import DOMAIN, HOST

from penstock.config.load import as_yaml, load
from penstock.net.dial import dial_tcp, handshake
from penstock.net.streams import ByteStream
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import WebSocketTransport, open_websocket
from penstock.proxy.config import ProxyConfig
from penstock.proxy.reload import Source
from penstock.proxy.server import Proxy
from penstock.tls import contexts

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from penstock.tls.certs import KeyPair

AUTHORITY = ca.ca()
CALLERS = ca.ca("callers")
FAST = "20ms"  # how often a reloading proxy looks at its files


class Stream(Link):
    """A caller's stream to the proxy, inside inner TLS."""

    def __init__(self, stream: ByteStream, websocket: WebSocketTransport) -> None:
        self._stream = stream
        self._websocket = websocket
        self._left = b""

    @property
    def close_code(self) -> int | None:
        return self._websocket.close_code

    @property
    def close_reason(self) -> str:
        return self._websocket.close_reason

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._stream.write(data)

    async def read(self, most: int = 65536) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._stream.read(most)

    async def fetch(self, request: bytes, method: str = "GET") -> Response:
        await self.send(request)
        return await self.response(method)

    def cut(self) -> None:
        self._stream.transport.abort()

    async def aclose(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._stream.aclose()


@dataclass
class Site:
    proxy: Proxy
    upstream: Upstream
    log: list[Any]

    def events(self, name: str) -> list[Any]:
        return [line for line in self.log if line["event"] == name]

    async def until(self, is_true: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_true():
                await asyncio.sleep(0)

    @asynccontextmanager
    async def caller(
        self,
        *,
        host: str = HOST,
        server_name: str | None = None,
        identity: KeyPair | None = None,
        trusts: ca.Authority = AUTHORITY,
        check_peer: Callable[[ssl.SSLObject], None] | None = None,
        close_reason: str = "",
    ) -> AsyncGenerator[Stream]:
        lower = await dial_tcp("127.0.0.1", self.proxy.address.port, timeout=PATIENCE)
        try:
            answer = await request_upgrade(lower, host=host, timeout=PATIENCE)
            assert answer.status == 101, answer
            websocket = open_websocket(lower, asyncio.Protocol(), client_side=True, initial=answer.rest)

            def failed(_: Exception) -> None:
                if close_reason:
                    websocket.refuse(4000, close_reason)

            tls = await handshake(
                websocket,
                context=contexts.caller_inner([trusts.certificate_pem], identity),
                server_hostname=server_name or host,
                timeout=PATIENCE,
                check_peer=check_peer,
                on_failed=failed,
            )
            yield Stream(ByteStream.over(tls), websocket)
        finally:
            lower.abort()


def write(folder: Path, name: str, text: str, *, mode: int = 0o600) -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


def settings(folder: Path, url: str, *, server: KeyPair | None = None, **changes: Any) -> ProxyConfig:
    pair = server or ca.server(AUTHORITY)
    values: dict[str, Any] = {
        "listen_addr": "127.0.0.1:0",
        "admin_addr": "127.0.0.1:0",
        "tunnel_domain": DOMAIN,
        "tls": {
            "cert_file": str(write(folder, "tls.crt", pair.certificate_pem)),
            "key_file": str(write(folder, "tls.key", pair.key_pem.reveal())),
        },
        "routes": {"echo": url, "wiki": url},
        "upstream": {"allowed_ips": ["127.0.0.0/8"]},
        **changes,
    }
    return load(ProxyConfig, role="proxy", flags=values)


@asynccontextmanager
async def site(
    folder: Path,
    script: Script = hello,
    *,
    scheme: str = "http",
    source: Callable[[ProxyConfig], Source] | None = None,
    **changes: Any,
) -> AsyncGenerator[Site]:
    upstream = Upstream(script)
    port = await upstream.start()
    with capture_logs() as log:
        url = f"{scheme}://localhost:{port}"
        if callable(routes := changes.get("routes")):
            changes["routes"] = routes(url)
        config = settings(folder, url, **changes)
        proxy = Proxy(config, source=source(config) if source is not None else None)
        await proxy.start()
        try:
            yield Site(proxy, upstream, log)
        finally:
            async with asyncio.timeout(PATIENCE):
                await proxy.stop()
            await upstream.stop()
            for link in upstream.links:
                await link.ended()


@asynccontextmanager
async def reloading(
    folder: Path, script: Script = hello, *, is_watched: bool = True, interval: str = FAST, **changes: Any
) -> AsyncGenerator[tuple[Site, Callable[..., None]]]:
    """A site whose settings are a file, and what writes other settings into it; None takes a setting out."""
    file = folder / "config.yaml"

    def source(config: ProxyConfig) -> Source:
        file.write_text(as_yaml(config))
        return Source(lambda: load(ProxyConfig, role="proxy", file=file), file if is_watched else None)

    def change(**values: Any) -> None:
        merged = {**yaml.safe_load(file.read_text()), **values}
        file.write_text(yaml.safe_dump({name: value for name, value in merged.items() if value is not None}))

    async with site(folder, script, source=source, reload_interval=interval, **changes) as s:
        yield s, change


def required(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"callers": {"mode": "require", "ca_file": str(write(folder, "callers.crt", CALLERS.certificate_pem)), **changes}}
