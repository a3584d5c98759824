"""A TCP forwarder that can be told to misbehave: it stands between an agent and an edge, as a bad network does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from penstock.config.types import HostPort
from penstock.net.transports import cut

if TYPE_CHECKING:
    from collections.abc import Callable


class Forwarder:
    """`async with Forwarder(address) as between`: dial `between.address` in its place."""

    def __init__(self, target: HostPort) -> None:
        self.target = target
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._is_silent = False

    @property
    def address(self) -> HostPort:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return HostPort(host, port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _End(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0.02)

    # --- faults -----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection."""
        for end in list(self._ends):
            end.cut()

    def reorder(self) -> None:
        """Of every connection the next two pieces each way change places, as no TCP would let them: what a broken box does."""
        for end in list(self._ends):
            end.reorders = True

    def silence(self) -> None:
        """From now on nothing passes and nothing is said about it: a cable that was pulled, a firewall that forgot."""
        self._is_silent = True
        for end in list(self._ends):
            end.hush()

    def heal(self) -> None:
        """New connections pass again; old ones stay as they are."""
        self._is_silent = False

    # --- what ends report -------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        return self._is_silent

    def opened(self, end: _End) -> None:
        self._ends.add(end)

    def closed(self, end: _End) -> None:
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """One side of one connection; `other` is the other side."""

    def __init__(self, forwarder: Forwarder, other: _End | None = None) -> None:
        self._forwarder = forwarder
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.reorders = False
        self._early: list[bytes] = []
        self._held: bytes | None = None
        self._dialling: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._forwarder.opened(self)
        if self.other is None:
            self._forwarder.accepted += 1
            if not self._forwarder.is_silent:
                self._dialling = asyncio.get_running_loop().create_task(self._dial())
        else:
            self.other.other = self  # at once, or what comes before the dial has returned would be kept for nobody
            for data in self.other._early:
                transport.write(data)
            self.other._early.clear()

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        target = self._forwarder.target
        try:
            await loop.create_connection(lambda: _End(self._forwarder, self), target.host, target.port)
        except OSError:
            self.cut()

    def data_received(self, data: bytes) -> None:
        if self._forwarder.is_silent:
            return
        if self.reorders:
            if self._held is None:
                self._held = data
                return
            data, self._held, self.reorders = data + self._held, None, False
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._early.append(data)

    def pause_writing(self) -> None:
        self._to_other(lambda transport: transport.pause_reading())

    def resume_writing(self) -> None:
        self._to_other(lambda transport: transport.resume_reading())

    def connection_lost(self, exc: Exception | None) -> None:
        self._forwarder.closed(self)
        if self._dialling is not None:
            self._dialling.cancel()
        other, transport = self.other, self.other.transport if self.other else None
        if other is not None and transport is not None and not self._forwarder.is_silent:
            transport.close() if exc is None else other.cut()

    def cut(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            cut(self.transport)

    def hush(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _to_other(self, act: Callable[[asyncio.Transport], None]) -> None:
        if self.other is not None and self.other.transport is not None:
            with contextlib.suppress(RuntimeError):
                act(self.other.transport)
