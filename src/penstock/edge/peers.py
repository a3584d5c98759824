"""Passing a caller's stream on to where its tunnel's link is: another worker of this edge, or another edge.

The request travels as it came, with two headers more: the caller's certificate and a mark of the hop. The target decides anew
from its own directory, as if the caller had dialled it. A stream is passed between edges once, and between workers once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import random
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import PenstockError, TunnelErrorCode, UnavailableError
from penstock.net.closing import END_TIMEOUT
from penstock.net.dial import dial_tls, dial_unix
from penstock.net.streams import ByteStream
from penstock.net.upgrade import request_upgrade
from penstock.protocol import events
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.events import Event
from penstock.protocol.metadata import CALLER, ERROR, EVENT, HOP, HOP_EDGE, HOP_REPLICA, HOP_WORKER, LINK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from uuid import UUID

    from penstock.edge.asking import Asked
    from penstock.edge.directory import Directory
    from penstock.net.link.stream import Headers
    from penstock.net.upgrade import UpgradeRequest, UpgradeResponse
    from penstock.schema.edges import EdgeRecord
    from penstock.tls.contexts import TLSContext

_SHUN: Final = 3.0  # seconds an edge that did not answer is left alone: a lease may outlive its edge by ten
_DIAL_SECONDS: Final = 2.0  # edges of one platform are near each other, and the caller waits
_REPLICA_SECONDS: Final = 2.0  # for the replica asked for: then another is chosen, and the server says what it does not know
_TRY_ANOTHER: Final = {TunnelErrorCode.AGENT_UNAVAILABLE.value.encode(), TunnelErrorCode.RATE_LIMITED.value.encode()}


_READ: Final = 1024
_SERIALS: Final = 100  # of callers, in one head: 40 bytes each, and a head has a limit


@dataclass(frozen=True, slots=True)
class PassedOn:
    """A stream that another took or refused; its transport is open and paused after a 101. `by`: the edge's name."""

    transport: asyncio.Transport
    response: UpgradeResponse
    by: str


class Peers:
    """The other edges, and the other workers of this one."""

    def __init__(
        self,
        *,
        name: Callable[[], str],
        context: Callable[[], TLSContext | None],
        holders: Callable[[UUID], Sequence[str]],
        siblings: Callable[[], Sequence[Path]],
        open_seconds: float,
    ) -> None:
        self._name = name
        self._holders = holders
        self._siblings = siblings
        self._open_seconds = open_seconds
        self._context = context
        self._shunned: dict[str, float] = {}

    async def open(
        self, request: UpgradeRequest, asked: Asked, tunnel_id: UUID, directory: Directory, *, replica_only: bool = False
    ) -> PassedOn | None:
        """The answer of the first that has the tunnel; None when nobody does, all of them within the time that one may take.

        `replica_only`: of the first that has the replica asked for, which is worth less waiting, as any other will do.
        """
        try:
            async with asyncio.timeout(min(self._open_seconds, _REPLICA_SECONDS) if replica_only else self._open_seconds):
                return await self._first(
                    request, _marked(request, asked, replica_only=replica_only), asked, tunnel_id, directory
                )
        except TimeoutError:
            return None

    async def _first(
        self, request: UpgradeRequest, headers: Headers, asked: Asked, tunnel_id: UUID, directory: Directory
    ) -> PassedOn | None:
        if asked.hop != HOP_WORKER:
            for path in self._siblings():
                if (answer := await self._ask_worker(path, request, headers)) is not None:
                    return answer
        if asked.hop is None:
            for edge in self._edges(tunnel_id, directory):
                if (answer := await self._ask_edge(edge, request, headers)) is not None:
                    return answer
        return None

    async def tell_workers(self, event: Event, serials: Collection[str]) -> None:
        """Let the other workers tell callers that listen there. One that does not take it has none that matter."""
        ordered = sorted(serials)
        for path in self._siblings():
            for first in range(0, len(ordered), _SERIALS):
                with contextlib.suppress(PenstockError, OSError, TimeoutError):
                    await _tell(path, event, ordered[first : first + _SERIALS])

    def _edges(self, tunnel_id: UUID, directory: Directory) -> list[EdgeRecord]:
        now = asyncio.get_running_loop().time()
        self._shunned = {name: until for name, until in self._shunned.items() if until > now}
        names = set(self._holders(tunnel_id)) - {self._name()} - self._shunned.keys()
        found = list({edge.name: edge for edge in directory.edges.values() if edge.name in names}.values())
        random.shuffle(found)  # spreads load, keeps no secret
        return found

    async def _ask_worker(self, path: Path, request: UpgradeRequest, headers: Headers) -> PassedOn | None:
        try:
            transport = await dial_unix(path, timeout=_DIAL_SECONDS)
        except UnavailableError:
            return None
        return await self._ask(transport, request, [*headers, (HOP, HOP_WORKER)], self._name())

    async def _ask_edge(self, edge: EdgeRecord, request: UpgradeRequest, headers: Headers) -> PassedOn | None:
        context = self._context()
        if context is None:
            return None
        try:
            transport = await dial_tls(
                edge.host, edge.port, context=context, server_hostname=edge.server_name, timeout=_DIAL_SECONDS
            )
        except (PenstockError, ssl.SSLError):
            self._shunned[edge.name] = asyncio.get_running_loop().time() + _SHUN
            return None
        return await self._ask(transport, request, [*headers, (HOP, HOP_EDGE)], edge.name)

    async def _ask(self, transport: asyncio.Transport, request: UpgradeRequest, headers: Headers, by: str) -> PassedOn | None:
        try:
            response = await request_upgrade(
                transport, host=request.host, path=request.path, headers=headers, timeout=self._open_seconds
            )
        except (PenstockError, TimeoutError, OSError):
            return None
        if response.status != 101 and response.header(ERROR) in _TRY_ANOTHER and response.header(LINK) is None:
            # With a link's name, the head was lost with that link and is not to be tried again.
            return None
        return PassedOn(transport, response, by)


def _marked(request: UpgradeRequest, asked: Asked, *, replica_only: bool) -> Headers:
    """The request's own headers and the caller's certificate; marks of a hop are ours alone to make."""
    headers = [(name, value) for name, value in request.headers if name not in {HOP, HOP_REPLICA, CALLER}]
    return [*headers, (CALLER, base64.b64encode(asked.certificate)), *([(HOP_REPLICA, b"only")] if replica_only else [])]


async def _tell(path: Path, event: Event, serials: Sequence[str]) -> None:
    told = {"kind": event.kind, "link": event.link, "serials": serials}
    value = base64.b64encode(json.dumps(told).encode()).decode()
    stream = ByteStream.over(await dial_unix(path, timeout=_DIAL_SECONDS))
    try:
        await stream.write(f"GET {events.PATH} HTTP/1.1\r\nHost: worker\r\n{EVENT.decode()}: {value}\r\n\r\n".encode())
        async with asyncio.timeout(END_TIMEOUT):
            while await stream.read(_READ):
                pass
    finally:
        stream.abort()


def read_told(value: bytes) -> tuple[Event, list[str]]:
    """An event from another worker, and for whom. RemoteProtocolError for anything else."""
    try:
        told: Any = json.loads(base64.b64decode(value, validate=True))
        return Event(str(told["kind"]), str(told["link"])), [str(serial) for serial in told["serials"]]
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        raise RemoteProtocolError("an event from a worker cannot be read") from None
