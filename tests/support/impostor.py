"""An edge in somebody else's hands: it takes callers as an edge does, and ends their inner TLS itself instead of relaying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from tests.support.tape import Tape

from penstock.net.listen import Listener, listen_tls
from penstock.net.tls import start_tls
from penstock.net.transports import Parked, cut
from penstock.net.upgrade import UpgradeListener, UpgradeRequest
from penstock.net.websocket import open_websocket
from penstock.protocol.metadata import REPLICA
from penstock.schema.callers import EdgeAddress
from penstock.tls import contexts
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    import asyncio

    from tests.support.world import World

    from penstock.tls.certs import KeyPair


class FakeEdge:
    """outer: what it shows callers. inner: what it shows in the proxy's place; where there is none it holds the stream.

    outside, inside: what it read and wrote within outer and inner TLS.
    """

    def __init__(self, platform: World, outer: KeyPair, *, inner: KeyPair | None = None) -> None:
        self.outside, self.inside = Tape(), Tape()
        callers = platform.edge_identity().caller_ca_pem
        self._outer = self.outside.on(contexts.edge_callers(outer, [callers]))
        self._inner = self.inside.on(contexts.proxy_inner(inner)) if inner is not None else None
        self._listener: Listener | None = None
        self._transports: list[asyncio.Transport] = []

    @property
    def address(self) -> EdgeAddress:
        assert self._listener is not None
        host, port = self._listener.addresses[0]
        return EdgeAddress(host=host, port=port, server_name=edge_server_name("up"))

    async def __aenter__(self) -> Self:
        self._listener = await listen_tls(
            "127.0.0.1", 0, lambda: UpgradeListener(self._requested), context=self._outer, handshake_timeout=5.0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for transport in self._transports:
            cut(transport)

    def _requested(self, request: UpgradeRequest) -> None:
        self._transports.append(request.transport)
        early = request.accept([(REPLICA, b"00000000-0000-0000-0000-000000000000")])
        websocket = open_websocket(request.transport, Parked(), client_side=False, initial=early)
        if self._inner is not None:
            start_tls(websocket, _Listening(), self._inner, server_side=True, on_failed=lambda _: None)


class _Listening(Parked):
    """Reads on; the tape has it."""

    def connection_made(self, transport: Any) -> None:
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        pass
