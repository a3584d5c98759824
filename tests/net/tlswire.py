"""Two TLS sessions over a memory pair, and what each saw of the other."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder

from penstock.net.tls import start_tls
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import Callable

ALERT, HANDSHAKE = 21, 22


class Wire:
    """A memory pair under a client's and a server's TLS session, and what both saw."""

    def __init__(
        self,
        *,
        client: contexts.TLSContext | None = None,
        server: contexts.TLSContext | None = None,
        hostname: str = ca.HOST,
        timeout: float = 5.0,
        check_server: Callable[[ssl.SSLObject], None] | None = None,
        check_client: Callable[[ssl.SSLObject], None] | None = None,
        split: int | None = None,
        begin: str = "cs",
    ) -> None:
        good_client, good_server = tls_contexts()
        self.below_client, self.below_server = memory_pair(Recorder(), Recorder(), split=split)
        self.to_server, self.to_client = bytearray(), bytearray()
        self.below_client.tap, self.below_server.tap = self.to_server.extend, self.to_client.extend
        self.client, self.server = Recorder(), Recorder()
        self.client_failures: list[Exception] = []
        self.server_failures: list[Exception] = []
        self.c: Any = None
        self.s: Any = None
        if "s" in begin:
            self.s = start_tls(
                self.below_server,
                self.server,
                server or good_server,
                server_side=True,
                handshake_timeout=timeout,
                check_peer=check_client,
                on_failed=self.server_failures.append,
            )
        if "c" in begin:
            self.c = start_tls(
                self.below_client,
                self.client,
                client or good_client,
                server_side=False,
                server_hostname=hostname,
                handshake_timeout=timeout,
                check_peer=check_server,
                on_failed=self.client_failures.append,
            )

    async def opened(self) -> Wire:
        await self.client.until(lambda: self.client.transport or self.client_failures)
        await self.server.until(lambda: self.server.transport or self.server_failures)
        assert not self.client_failures
        assert not self.server_failures
        return self

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)


def records(stream: bytes | bytearray) -> list[int]:
    """The types of the TLS records in `stream`, which must be whole ones."""
    types, position = [], 0
    while position < len(stream):
        types.append(stream[position])
        position += 5 + int.from_bytes(stream[position + 3 : position + 5], "big")
    assert position == len(stream), "a record is incomplete"
    return types


def tls_contexts_1_2() -> tuple[contexts.TLSContext, contexts.TLSContext]:
    authority = ca.ca()
    client = contexts.agent_outer([certs.certificate_to_pem(authority.certificate)])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return client, contexts.edge_agents(ca.server(authority))
