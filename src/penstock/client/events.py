"""One event stream for each edge that this process has streams through: the edge says on it what is about to end.

It is a courtesy. Where it cannot be had calls go on as they are, and are cut when the edge has waited long enough.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import h11

from penstock.errors import PenstockError, UnavailableError
from penstock.net.backoff import Backoff
from penstock.net.dial import dial_tls
from penstock.net.streams import ByteStream
from penstock.net.tasks import Tasks
from penstock.protocol import events
from penstock.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.client.identity import CallerCredentials
    from penstock.protocol.events import Event
    from penstock.schema.callers import EdgeAddress

SETTLE_SECONDS: Final = 0.5  # a process that makes one call and ends needs no event stream
SILENCE_SECONDS: Final = 60.0  # the edge shows every 25 that it lives
_DIAL_SECONDS: Final = 10.0
_READ: Final = 16 * 1024
_HEAD: Final = 16 * 1024


class EdgeEvents:
    """The event streams of one process. `on_event(server_name, event)` is told what comes, an edge's name first.

    `is_used(server_name)` says whether there is a reason to keep one: streams through that edge.
    """

    def __init__(
        self,
        credentials: CallerCredentials,
        on_event: Callable[[str, Event], None],
        is_used: Callable[[str], bool],
        *,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._on_event = on_event
        self._is_used = is_used
        self.settle_seconds = settle_seconds
        self._tasks = Tasks(lambda _name, _exc: None)  # a courtesy, see above
        self._followed: set[str] = set()
        self.standing: set[str] = set()
        """Server names of the edges that have said hello."""

    def follow(self, edge: EdgeAddress, edge_ca_pem: str) -> None:
        """A stream goes through this edge: listen to it from now on, unless that is done already."""
        if edge.server_name not in self._followed:
            self._followed.add(edge.server_name)
            self._tasks.spawn(self._follow(edge, edge_ca_pem), f"events of {edge.server_name}")

    async def aclose(self) -> None:
        """Listen to nobody any more."""
        await self._tasks.aclose()

    async def _follow(self, edge: EdgeAddress, edge_ca_pem: str) -> None:
        waits = Backoff(random.random, base=0.5, cap=30.0)  # spreads load, keeps no secret
        try:
            await asyncio.sleep(self.settle_seconds)
            while self._is_used(edge.server_name):
                try:
                    await self._listen(edge, edge_ca_pem)
                    waits.reset()
                except (PenstockError, OSError, TimeoutError):
                    pass
                finally:
                    self.standing.discard(edge.server_name)
                await asyncio.sleep(waits.next())
        finally:
            self._followed.discard(edge.server_name)

    async def _listen(self, edge: EdgeAddress, edge_ca_pem: str) -> None:
        """One connection, until it ends or nothing goes through that edge any more."""
        context = await self._credentials.outer(edge_ca_pem)
        transport = await dial_tls(
            edge.host, edge.port, context=context, server_hostname=edge.server_name, timeout=_DIAL_SECONDS
        )
        stream = ByteStream.over(transport)
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                rest = await _ask(stream, edge.server_name)
            reader = events.EventReader()
            while rest or self._is_used(edge.server_name):
                for event in reader.receive_data(rest):
                    if event.kind == events.HELLO:
                        self.standing.add(edge.server_name)
                    self._on_event(edge.server_name, event)
                async with asyncio.timeout(SILENCE_SECONDS):
                    rest = await stream.read(_READ)
                if not rest:
                    return
        finally:
            transport.abort()


async def _ask(stream: ByteStream, host: str) -> bytes:
    """Ask for events; what followed the head of the answer. UnavailableError when the edge gives none."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
    request = h11.Request(method="GET", target=events.PATH, headers=[("Host", host), ("Accept", events.CONTENT_TYPE)])
    await stream.write(parser.send(request) + (parser.send(h11.EndOfMessage()) or b""))
    try:
        while (answer := parser.next_event()) is h11.NEED_DATA:
            data = await stream.read(_READ)
            parser.receive_data(data)
            if not data:
                raise UnavailableError("the edge ended the connection")
    except h11.RemoteProtocolError as exc:
        raise RemoteProtocolError("the edge's answer is no HTTP", detail=str(exc)) from exc
    if not isinstance(answer, h11.Response) or answer.status_code != 200:
        raise UnavailableError("the edge gives no events")
    rest, _ = parser.trailing_data
    return bytes(rest)
