from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import ssl
import sys
from typing import Any

import pytest
from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.recording import Recorder

from penstock.errors import ConfigError, UnavailableError
from penstock.net.dial import dial_tcp, dial_tls
from penstock.net.listen import listen_tcp, listen_tls

pytestmark = pytest.mark.anyio

LOOPBACK = "127.0.0.1"


async def test_port_0_is_any_free_one_and_known_afterwards() -> None:
    listener = await listen_tcp(LOOPBACK, 0, Recorder)
    assert listener.addresses == ((LOOPBACK, listener.port),)
    assert listener.port > 0
    listener.close()
    assert listener.port > 0


async def test_a_busy_port_is_a_configuration_error_with_a_hint() -> None:
    listener = await listen_tcp(LOOPBACK, 0, Recorder)
    with pytest.raises(ConfigError, match="busy") as raised:
        await listen_tcp(LOOPBACK, listener.port, Recorder)
    assert raised.value.hint
    listener.close()


async def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="not on this machine"):
        await listen_tcp("192.0.2.1", 0, Recorder)


async def test_closing_stops_accepting_and_leaves_open_connections_alone() -> None:
    far = Recorder()
    listener = await listen_tcp(LOOPBACK, 0, lambda: far)
    transport = await dial_tcp(LOOPBACK, listener.port)
    await far.until(lambda: far.transport)
    listener.close()
    with pytest.raises(UnavailableError):
        await dial_tcp(LOOPBACK, listener.port)
    transport.write(b"still here")
    await far.until_received(10)
    transport.abort()


async def test_a_failed_handshake_is_reported_with_its_connection_and_makes_no_protocol() -> None:
    client, server = tls_contexts()
    made: list[Recorder] = []
    failed: list[tuple[Exception, Any]] = []
    done = asyncio.Event()

    def on_failed(exc: Exception, transport: asyncio.Transport) -> None:
        failed.append((exc, transport.get_extra_info("peername")))
        done.set()

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    listener = await listen_tls(LOOPBACK, 0, make, context=server, on_failed=on_failed)
    with pytest.raises(ssl.SSLCertVerificationError):
        await dial_tls(LOOPBACK, listener.port, context=client, server_hostname="other.example.com")
    async with asyncio.timeout(5):
        await done.wait()
    exc, peer = failed[0]
    assert "ALERT" in str(exc)
    assert peer[0] == LOOPBACK
    assert made == []
    listener.close()


async def test_a_certificate_is_replaced_for_the_connections_that_follow() -> None:
    client, server = tls_contexts()
    asked = 0

    def context() -> Any:
        nonlocal asked
        asked += 1
        return server

    listener = await listen_tls(LOOPBACK, 0, Recorder, context=context)
    for _ in range(2):
        transport = await dial_tls(LOOPBACK, listener.port, context=client, server_hostname=ca.HOST)
        transport.abort()
    assert asked == 2
    listener.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
async def test_running_out_of_descriptors_delays_callers_and_ends_nothing() -> None:
    loop = asyncio.get_running_loop()
    reported: list[str] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    far = Recorder()
    listener = await listen_tcp(LOOPBACK, 0, lambda: far)
    caller, _ = await loop.create_connection(Recorder, LOOPBACK, listener.port)
    await far.until(lambda: far.transport)

    far = Recorder()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = await _dial_with_no_descriptor_left(listener.port, soft, hard)
    try:
        assert far.transport is None
        assert any("out of system resource" in message for message in reported)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await far.until(lambda: far.transport)  # asyncio tries again after a second
    waiting.abort()
    caller.abort()
    listener.close()
    loop.set_exception_handler(None)


async def _dial_with_no_descriptor_left(port: int, soft: int, hard: int) -> asyncio.Transport:
    gc.collect()  # what earlier tests left must not free a descriptor meanwhile
    sock = socket.socket()
    sock.setblocking(False)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fillers = []
    while True:
        filler = os.dup(sock.fileno())
        fillers.append(filler)
        if filler > highest:
            break
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, hard))
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, (LOOPBACK, port))
        await asyncio.sleep(0.05)
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    transport, _ = await loop.create_connection(Recorder, sock=sock)
    return transport
