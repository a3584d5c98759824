from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tracemalloc
import weakref
from typing import TYPE_CHECKING

import pytest
from tests.conformance.stacks import tls_contexts
from tests.net.tlswire import Wire, records
from tests.support import ca
from tests.support.recording import Recorder, settle

from penstock.net.dial import dial_tls
from penstock.net.listen import listen_tls
from penstock.net.streams import ByteStream
from penstock.net.tls import TLSTransport, start_tls
from penstock.net.watch import INTERVAL
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.anyio


def refuse(_: ssl.SSLObject) -> None:
    raise PermissionError


# --- the session ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [None, 1, 7, 1000])
async def test_session_tickets_behind_the_handshake_confuse_nobody(split: int | None) -> None:
    authority = ca.ca()
    client = contexts.caller_inner([certs.certificate_to_pem(authority.certificate)], None)
    server = contexts.proxy_inner(ca.server(authority), tickets=4)
    wire = await Wire(client=client, server=server, split=split).opened()
    await settle()
    assert wire.client.calls == ["connection_made"]
    wire.s.write(b"after the tickets")
    await wire.client.until_received(17)
    assert wire.c.get_extra_info("ssl_object").session_reused is False


async def test_a_large_write_becomes_full_records_and_is_handed_down_in_pieces() -> None:
    wire = await Wire().opened()
    del wire.to_server[:]
    size = 5_000_000
    wire.c.write(memoryview(bytes(size)))
    await wire.server.until_received(size)
    types = records(wire.to_server)
    assert len(types) == -(-size // 16_384)


async def test_a_write_of_items_wider_than_a_byte_is_sent_whole() -> None:
    wire = await Wire().opened()
    wire.c.write(memoryview(bytes(range(200))).cast("I"))
    await wire.server.until_received(200)
    assert wire.server.received == bytes(range(200))


async def test_a_truncated_session_is_an_error_and_no_end() -> None:
    wire = await Wire().opened()
    wire.c.write(b"half of it")
    await wire.server.until_received(10)
    wire.below_client.close()  # a clean end below, but no close_notify
    assert isinstance(await wire.server.until_lost(), ssl.SSLEOFError)
    assert "eof_received" not in wire.server.calls


async def test_a_record_that_was_tampered_with_is_an_error_and_answered_with_an_alert() -> None:
    wire = await Wire().opened()
    del wire.to_client[:]
    wire.below_client.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    loss = await wire.server.until_lost()
    assert isinstance(loss, ssl.SSLError)
    heard = await wire.client.until_lost()
    assert isinstance(heard, ssl.SSLError)
    assert "ALERT" in str(heard.reason)


async def test_what_came_before_a_bad_record_is_delivered() -> None:
    wire = await Wire().opened()
    wire.below_client.stall()
    wire.c.write(b"good")
    wire.below_client.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    wire.below_client.go_on()
    await wire.server.until_lost()
    assert wire.server.received == b"good"


async def test_the_end_of_one_side_is_one_close_notify_each() -> None:
    wire = await Wire().opened()
    del wire.to_server[:], wire.to_client[:]
    wire.c.close()
    assert await wire.server.until_lost() is None
    assert await wire.client.until_lost() is None
    assert len(records(wire.to_server)) == 1


async def test_a_peer_that_never_ends_is_let_go_after_the_time_is_over() -> None:
    wire = Wire(begin="s")
    good_client, _ = tls_contexts()
    c = start_tls(
        wire.below_client,
        wire.client,
        good_client,
        server_side=False,
        server_hostname=ca.HOST,
        shutdown_timeout=0.02,
        on_failed=wire.client_failures.append,
    )
    await wire.server.until(lambda: wire.server.transport)
    wire.below_server.pause_reading()
    c.close()
    await asyncio.sleep(0)
    wire.below_server.resume_reading()
    assert await wire.client.until_lost(timeout=1) is None


async def test_back_pressure_from_below_reaches_the_protocol() -> None:
    wire = await Wire().opened()
    wire.below_client.stall()
    wire.c.write(bytes(100_000))
    assert wire.client.is_full
    wire.below_client.go_on()
    await wire.client.until_writable()
    assert wire.c.get_write_buffer_size() <= wire.c.get_write_buffer_limits()[0]


async def test_a_protocol_connected_while_below_is_full_is_told_so() -> None:
    wire = Wire()
    wire.c.write(bytes(200_000))  # goes down with our Finished, before anybody is connected
    await wire.client.until(lambda: wire.client.is_full)
    assert wire.client.calls == ["connection_made", "pause_writing"]
    await wire.client.until_writable()


async def test_many_sessions_share_their_buffers_without_mixing_them() -> None:
    wires = [Wire(split=97) for _ in range(8)]
    for wire in wires:
        await wire.opened()
    for number, wire in enumerate(wires):
        wire.c.write(bytes([number]) * 40_000)
        wire.s.write(bytes([number + 100]) * 40_000)
    for number, wire in enumerate(wires):
        await wire.server.until_received(40_000)
        await wire.client.until_received(40_000)
        assert wire.server.received == bytes([number]) * 40_000
        assert wire.client.received == bytes([number + 100]) * 40_000


async def test_an_idle_session_holds_no_buffers_even_after_a_burst() -> None:
    wires = [await Wire().opened() for _ in range(20)]
    gc.collect()
    tracemalloc.start()
    try:
        for wire in wires:
            wire.s.write(bytes(300_000))
            await wire.client.until_received(300_000)
            wire.client.received.clear()
            del wire.to_client[:], wire.to_server[:]
        await settle()
        gc.collect()
        held = sum(
            trace.size
            for trace in tracemalloc.take_snapshot()
            .filter_traces([tracemalloc.Filter(inclusive=True, filename_pattern="*/net/tls.py")])
            .traces
        )
    finally:
        tracemalloc.stop()
    assert held < 20 * 512


async def test_a_finished_session_forms_no_cycle() -> None:
    wire = await Wire().opened()
    wire.c.close()
    await wire.client.until_lost()
    await wire.server.until_lost()
    await settle()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(wire.c), weakref.ref(wire.s)
        del wire
        await settle()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_finished_session_over_sockets_forms_no_cycle_even_if_it_was_paused() -> None:
    client, server = tls_contexts()
    near, far = Recorder(), Recorder()
    listener = await listen_tls("127.0.0.1", 0, lambda: far, context=server)
    tls = await dial_tls("127.0.0.1", listener.port, context=client, server_hostname=ca.HOST)
    tls.set_protocol(near)
    await far.until(lambda: far.transport)
    far.transport.pause_reading()  # both look after their peer while they are paused
    with without_collector():
        gone = weakref.ref(tls), weakref.ref(far.transport)
        far.transport.resume_reading()
        tls.resume_reading()
        tls.close()
        await far.until_lost()
        await near.until_lost()
        near.transport = far.transport = tls = None
        await asyncio.sleep(2 * INTERVAL)  # their last looks
        assert [ref() for ref in gone] == [None, None]
    listener.close()


@pytest.mark.parametrize("check", [None, refuse], ids=["by OpenSSL", "by the check"])
async def test_a_failed_handshake_is_gone_with_its_failure(check: Callable[[ssl.SSLObject], None] | None) -> None:
    _, server = tls_contexts()
    stranger = contexts.caller_inner([certs.certificate_to_pem(ca.ca().certificate)], None) if check is None else None
    failures: list[Exception] = []
    listener = await listen_tls("127.0.0.1", 0, Recorder, context=server, on_failed=lambda exc, _: failures.append(exc))
    with without_collector():
        before = sessions()
        try:
            await dial_tls(
                "127.0.0.1",
                listener.port,
                context=stranger or tls_contexts()[0],
                server_hostname=ca.HOST,
                check_peer=check,
            )
        except (ssl.SSLError, PermissionError) as exc:
            kept = exc
            assert kept.__traceback__ is not None
            async with asyncio.timeout(5):
                while not failures:
                    await asyncio.sleep(0.01)
            del kept
        await asyncio.sleep(2 * INTERVAL)
        assert sessions() == before  # whoever keeps the failure (the server does here) keeps no session with it
    listener.close()


async def test_a_stream_over_a_failed_handshake_is_gone_with_it() -> None:
    wire = Wire(begin="s")
    stream = ByteStream()
    gone = weakref.ref(stream)
    stranger = contexts.caller_inner([certs.certificate_to_pem(ca.ca().certificate)], None)
    with without_collector():
        start_tls(wire.below_client, stream, stranger, server_side=False, server_hostname=ca.HOST, on_failed=stream.fail)
        with contextlib.suppress(ssl.SSLError):
            await stream.opened()
        del stream
        await settle()
        assert gone() is None


def sessions() -> int:
    return sum(type(thing) is TLSTransport for thing in gc.get_objects())


async def test_closing_or_aborting_in_the_handshake_connects_nobody() -> None:
    for end in ("close", "abort"):
        wire = Wire()
        getattr(wire.c, end)()
        await wire.until(lambda wire=wire: wire.server_failures)
        assert wire.client.calls == []
        assert wire.client_failures == []
