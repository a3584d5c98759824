"""A control plane of one edge, answer by answer, and an edge that is to enrol with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from penstock.edge.server import Edge
from penstock.schema.edges import EdgeEnrolmentRequest, fresh_message
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.site import Site

    from penstock.edge.state import StoredPage


@dataclass
class Control:
    """A control plane of one edge, by its answers; `status` overrides them."""

    site: Site
    status: int | None = None
    replayed: str | None = None
    """The nonce of an old answer, which is told again."""
    presence: int | None = None
    """The status that reports are answered with; 0 for no answer."""
    delta: StoredPage | None = None
    """What is answered to those who take a delta."""
    no_deltas: bool = False
    """Those who take a delta are answered 500."""
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """What the feed was asked."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    enrolments: list[EdgeEnrolmentRequest] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def publish(self) -> None:
        self.page = self.site.snapshot(f"{self.site.version + 1:032x}")
        self.news.set()
        self.news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Control]:
        self.publish()
        self.serving: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for serving in self.serving:
                serving.cancel()
            await asyncio.gather(*self.serving, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self.serving.add(serving)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                target = lines[0].split(" ")[1]
                self.requests.append((target.partition("?")[0], fields.get("authorization", "")))
                status, answer, extra = await self._answer(target, body)
                if writer.is_closing():
                    break
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n{extra}\r\n".encode() + answer)
        writer.close()
        self.serving.discard(serving)

    async def _answer(self, target: str, body: bytes) -> tuple[int, bytes, str]:
        if self.status is not None:
            error = {"type": "authentication_error", "message": "the enrolment token is spent"}
            return self.status, json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode(), ""
        if target == "/penstock/v1/edges/enrol":
            request = EdgeEnrolmentRequest.model_validate_json(body)
            self.enrolments.append(request)
            enrolment = self.site.enrolment(request.name, certs.load_csr(request.csr_pem))
            return 200, enrolment.model_dump_json().encode(), ""
        if target.startswith("/penstock/v1/edge/presence"):
            if self.presence == 0:
                await asyncio.Event().wait()
            if self.presence is not None:
                return self.presence, b"", ""
            return 200, b'{"is_known": true, "holders": {}}', ""
        asked = dict(parse_qsl(target.partition("?")[2]))
        self.asked.append(asked)
        if int(asked["after"]) >= self.version:
            try:
                async with asyncio.timeout(int(asked["wait"])):
                    await self.news.wait()
            except TimeoutError:
                return 204, b"", self.fresh(asked["nonce"])
        if self.no_deltas and "delta" in asked:
            return 500, b"", ""
        if self.delta is not None and "delta" in asked:
            extra = f"Penstock-Signature: {_text(self.delta.signature)}\r\nPenstock-Feed: delta\r\n"
            return 200, self.delta.body, extra + self.fresh(asked["nonce"])
        return 200, self.page.body, f"Penstock-Signature: {_text(self.page.signature)}\r\n{self.fresh(asked['nonce'])}"

    @property
    def version(self) -> int:
        return int(json.loads(self.page.body)["version"])

    def fresh(self, nonce: str) -> str:
        message = fresh_message(self.version, self.replayed or nonce)
        return f"Penstock-Fresh: {_text(self.site.feed_key.sign(message))}\r\n"


def _text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def fresh(control: Control, folder: Path, name: str | None = "fresh", **settings: Any) -> Edge:
    """An edge that has not enrolled yet."""
    folder.mkdir(exist_ok=True)
    settings = {"control_url": control.url, "state_dir": folder, "limits": {"stop_seconds": 0.1}, **settings}
    return Edge(control.site.edge_config("fresh", **settings).model_copy(update={"name": name}))
