"""An upstream as cheap as asyncio can make one.

POST: 1 KB. GET /events: an event stream, its first event with its head, and a large event whenever somebody asks for
POST /burst. GET /bulk: 32 MiB. Asked for a WebSocket it says yes and goes on as before: so an agent may have it for its proxy.
"""

from __future__ import annotations

import asyncio
import sys

from penstock.net import loop
from penstock.net.upgrade.head import accept_for

BULK = 32 << 20
BURST = 200_000
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
_BULK = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % BULK


def event(size: int) -> bytes:
    data = b"data: %s\n\n" % (b"x" * size)
    return b"%x\r\n%s\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    streams: set[Upstream] = set()  # noqa: RUF012 - every connection that has an open event stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.pending = b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.streams.discard(self)

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            length = int(_header(self.pending[:end], b"content-length") or 0)
            if len(self.pending) < end + 4 + length:
                return
            request, self.pending = self.pending[:end], self.pending[end + 4 + length :]
            self.answer(request)

    def answer(self, request: bytes) -> None:
        if request.startswith(b"GET /events "):
            self.streams.add(self)
            self.transport.write(_EVENTS + event(100))
        elif request.startswith(b"GET /bulk "):
            self.transport.write(_BULK)
            self.transport.write(bytes(BULK))
        elif key := _header(request, b"sec-websocket-key"):
            self.transport.write(_SWITCHED % accept_for(key))
        else:
            if request.startswith(b"POST /burst "):
                for stream in self.streams:
                    stream.transport.write(event(BURST))
            self.transport.write(_ANSWER)


def _header(head: bytes, wanted: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == wanted:
            return value.strip()
    return b""


async def main(port: int) -> None:
    loop.raise_descriptor_limit()
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    loop.run(main(int(sys.argv[1])))
