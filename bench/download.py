"""A caller in a process of its own who downloads without a break, so that what it takes of its loop is nobody else's.

`python -m bench.download` reads its `Source` from stdin, which keeps the key out of argv, says `downloading` when the first
bytes came, and goes on until stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.load import Connection, get
from penstock.client.access import Access
from penstock.client.streams import TunnelStreams
from penstock.net import loop
from penstock.net.dial import dial_tls
from penstock.secret import Secret
from penstock.tls import rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.load import Open


@dataclass(frozen=True)
class Source:
    """Where a tunnel's upstream is downloaded from: through the edge, or from a peer at `port` that has the tunnel's pair.

    rate: bytes a second that the reader takes; 0 for what the way gives.
    """

    api_url: str
    api_key: str
    host: str
    port: int = 0
    rate: int = 0


@contextlib.asynccontextmanager
async def downloading(source: Source) -> AsyncIterator[None]:
    """The download is under way."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.download", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(dataclasses.asdict(source)).encode() + b"\n")
        async with asyncio.timeout(30):
            assert await child.stdout.readline() == b"downloading\n", "the download did not begin"
        yield
    finally:
        child.stdin.close()
        async with asyncio.timeout(30):
            assert await child.wait() == 0, "the download ended before it was told to"


LATE = 0.01  # seconds that a line's buffer makes up for when a timer is late


class Reader(Connection):
    """Asks again at each answer's end, and takes `rate` bytes a second, as a line does: what was not carried is lost."""

    def __init__(self, message: bytes, rate: int) -> None:
        super().__init__(message, Connection.ask)
        self.rate = rate
        self.free_at = 0.0

    def data_received(self, data: bytes) -> None:
        if not self.free_at:
            print("downloading", flush=True)
        super().data_received(data)
        clock = asyncio.get_running_loop()
        now = clock.time()
        self.free_at = max(self.free_at, now - LATE) + (len(data) / self.rate if self.rate else 0.0)
        if self.rate and self.transport is not None and self.free_at > now:
            self.transport.pause_reading()
            clock.call_later(self.free_at - now, self.transport.resume_reading)


async def trusting_the_pair(streams: TunnelStreams, host: str, port: int) -> Open:
    """TLS as our callers do it in the tunnel, to whoever has the proxy's certificate at `port`."""
    sample = await streams.open(host)
    sample.websocket.abort()

    async def open_it(connection: Connection) -> None:
        anchors = rules.usable_anchors(sample.resolution.trust_anchors, datetime.now(UTC))
        context = await sample.credentials.inner([anchor.pem for anchor in anchors])
        connection.take(await dial_tls("127.0.0.1", port, context=context, server_hostname=host))

    return open_it


async def download(source: Source) -> None:
    streams = TunnelStreams(Access(source.api_url, Secret(source.api_key)))
    reader = Reader(get(source.host, "/bulk"), source.rate)
    if source.port:
        await (await trusting_the_pair(streams, source.host, source.port))(reader)
    else:
        reader.take((await (await streams.open(source.host)).start_tls()).transport)
    reader.ask()
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not told.done():
        await asyncio.wait([told], timeout=0.1)
        if reader.lost is not None:
            raise reader.lost
    reader.close()
    await streams.aclose()


if __name__ == "__main__":
    loop.run(download(Source(**json.loads(sys.stdin.readline()))))
