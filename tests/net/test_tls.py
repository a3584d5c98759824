from __future__ import annotations

import asyncio
import gc
import ssl
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from penstock.net.tls import HANDSHAKE_LIMIT, TLSTransport, start_tls
from penstock.tls import certs, contexts
from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.pair import MemoryTransport, memory_pair
from tests.support.recording import Recorder, settle

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23


class Wire:
    """A memory pair under a client's and a server's TLS session, and what both saw."""

    def __init__(
        self,
        *,
        client: ssl.SSLContext | None = None,
        server: ssl.SSLContext | None = None,
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


# --- the handshake ----------------------------------------------------------------------------------------------------


async def test_both_sides_learn_who_the_other_is() -> None:
    wire = await Wire().opened()
    assert isinstance(wire.client.transport, TLSTransport)
    assert wire.c.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert ("DNS", f"*.{ca.DOMAIN}") in wire.c.get_extra_info("peercert")["subjectAltName"]
    assert certs.parse_certificate(wire.c.get_extra_info("peercert_der")) if hasattr(certs, "parse_certificate") else True
    assert wire.s.get_extra_info("peercert_der") is None
    assert wire.s.get_extra_info("server_name") == ca.HOST
    assert wire.c.get_extra_info("server_name") == ca.HOST
    assert wire.c.get_extra_info("cipher")[1] == "TLSv1.3"
    assert wire.c.get_extra_info("peername") == "memory"
    assert wire.c.get_extra_info("no such thing", 3) == 3


async def test_what_is_written_before_the_handshake_is_done_is_the_first_thing_to_arrive() -> None:
    wire = Wire()
    wire.c.write(b"early ")
    wire.c.write(bytearray(b"bird"))
    await wire.server.until_received(10)
    assert wire.server.received == b"early bird"


async def test_bytes_that_were_read_before_the_session_began_are_its_beginning() -> None:
    wire = Wire(begin="c")
    await wire.until(lambda: wire.to_server)
    await settle()
    assert wire.below_server.get_protocol().received  # type: ignore[attr-defined]
    hello = bytes(wire.below_server.get_protocol().received)  # type: ignore[attr-defined]
    opened = Recorder()
    start_tls(
        wire.below_server,
        opened,
        tls_contexts()[1],
        server_side=True,
        on_failed=wire.server_failures.append,
        initial=hello,
    )
    await opened.until(lambda: opened.transport)
    wire.c.write(b"x")
    await opened.until_received(1)


async def test_a_protocol_that_pauses_at_once_gets_nothing_until_it_resumes() -> None:
    class Pausing(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

    wire = Wire(begin="")
    wire.server = Pausing()
    good_client, good_server = tls_contexts()
    start_tls(wire.below_server, wire.server, good_server, server_side=True, on_failed=wire.server_failures.append)
    c = start_tls(
        wire.below_client,
        wire.client,
        good_client,
        server_side=False,
        server_hostname=ca.HOST,
        on_failed=wire.client_failures.append,
    )
    c.write(b"in one flight with our Finished")
    await wire.server.until(lambda: wire.server.transport)
    await settle()
    assert wire.server.received == b""
    wire.server.transport.resume_reading()
    await wire.server.until_received(31)
    assert wire.server.delivered_while_paused == 0


@pytest.mark.parametrize("story", ca.broken_servers())
async def test_a_refused_server_receives_an_alert_that_names_the_reason(story: str) -> None:
    authority = ca.ca()
    pair = ca.broken_servers()[story](authority)
    client = contexts.caller_inner([certs.certificate_to_pem(authority.certificate)], None)
    try:
        server = contexts.proxy_inner(pair)
    except Exception as exc:  # noqa: BLE001
        pytest.skip(f"OpenSSL will not even serve it: {exc}")
    wire = Wire(client=client, server=server)
    await wire.until(lambda: wire.client_failures or wire.client.transport)
    if wire.client.transport:
        pytest.skip("OpenSSL accepts it: the rule is check_peer's")
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.client_failures[0], ssl.SSLCertVerificationError)
    assert "ALERT" in str(getattr(wire.server_failures[0], "reason", ""))
    assert wire.client.calls == wire.server.calls == []
    assert APPLICATION_DATA in records(wire.to_server)  # the alert, under handshake keys


async def test_a_client_without_a_certificate_hears_which_alert_it_got() -> None:
    authority, callers = ca.ca(), ca.ca("callers")
    client = contexts.caller_inner([certs.certificate_to_pem(authority.certificate)], None)
    server = contexts.proxy_inner(ca.server(authority), [certs.certificate_to_pem(callers.certificate)], "require")
    wire = Wire(client=client, server=server)
    await wire.until(lambda: wire.server_failures)
    # In TLS 1.3 the client was done before the server looked.
    loss = await wire.client.until_lost()
    assert isinstance(loss, ssl.SSLError)
    assert "CERTIFICATE_REQUIRED" in str(loss.reason)
    assert wire.server.calls == []
    assert len(wire.server_failures) == 1


async def test_a_client_with_a_foreign_certificate_hears_which_alert_it_got() -> None:
    authority, callers, strangers = ca.ca(), ca.ca("callers"), ca.ca("strangers")
    client = contexts.caller_inner([certs.certificate_to_pem(authority.certificate)], ca.caller(strangers))
    server = contexts.proxy_inner(ca.server(authority), [certs.certificate_to_pem(callers.certificate)], "require")
    wire = Wire(client=client, server=server)
    loss = await wire.client.until_lost()
    assert isinstance(loss, ssl.SSLError)
    assert "UNKNOWN_CA" in str(loss.reason)


# --- check_peer -------------------------------------------------------------------------------------------------------


async def test_a_caller_that_refuses_does_so_before_its_finished_leaves() -> None:
    asked: list[bytes | None] = []

    def refuse(session: ssl.SSLObject) -> None:
        asked.append(session.getpeercert(binary_form=True))
        raise ValueError("signed through an intermediate")

    wire = Wire(check_server=refuse)
    wire.c.write(b"a secret")
    await wire.until(lambda: wire.server_failures)
    assert asked[0]
    assert [str(exc) for exc in wire.client_failures] == ["signed through an intermediate"]
    assert wire.client.calls == wire.server.calls == []  # the server never completed its handshake
    assert "BAD_CERTIFICATE" in str(wire.server_failures[0].reason)  # type: ignore[attr-defined]
    # ClientHello (and the middlebox's change_cipher_spec), then the alert in the clear: nothing under keys ever left.
    assert APPLICATION_DATA not in records(wire.to_server)
    assert records(wire.to_server)[-1] == ALERT


async def test_a_refusal_can_say_more_below_before_the_end() -> None:
    below_client, below_server = memory_pair(Recorder(), Recorder())
    said = bytearray()
    below_client.tap = said.extend
    server, client = Recorder(), Recorder()
    good_client, good_server = tls_contexts()

    def refuse(_: ssl.SSLObject) -> None:
        raise ValueError("no")

    start_tls(below_server, server, good_server, server_side=True, on_failed=lambda exc: None)
    failed: list[Exception] = []

    def on_failed(exc: Exception) -> None:
        failed.append(exc)
        assert not below_client.is_closing()
        below_client.write(b"because of the rule")

    start_tls(
        below_client,
        client,
        good_client,
        server_side=False,
        server_hostname=ca.HOST,
        check_peer=refuse,
        on_failed=on_failed,
    )
    async with asyncio.timeout(5):
        while not said.endswith(b"because of the rule"):
            await asyncio.sleep(0)
    assert len(failed) == 1


async def test_a_server_that_refuses_delivers_nothing_and_the_client_sees_no_clean_end() -> None:
    def refuse(_: ssl.SSLObject) -> None:
        raise PermissionError("not this caller")

    wire = Wire(check_client=refuse)
    wire.c.write(b"payload in one flight with Finished")
    loss = await wire.client.until_lost()
    assert loss is not None
    assert "eof_received" not in wire.client.calls
    assert wire.server.calls == []
    assert isinstance(wire.server_failures[0], PermissionError)


async def test_in_tls_1_2_a_refused_server_gets_no_payload() -> None:
    client, server = tls_contexts_1_2()

    def refuse(_: ssl.SSLObject) -> None:
        raise ValueError("no")

    wire = Wire(client=client, server=server, check_server=refuse)
    wire.c.write(b"a secret")
    await wire.until(lambda: wire.client_failures)
    await wire.until(lambda: wire.server.loss or wire.server_failures)
    assert wire.server.received == b""
    assert wire.server.loss[0] is not None


def tls_contexts_1_2() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = ca.ca()
    client = contexts.agent_outer([certs.certificate_to_pem(authority.certificate)])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return client, contexts.edge_agents(ca.server(authority))


async def test_tls_1_2_carries_bytes_and_ends_cleanly() -> None:
    client, server = tls_contexts_1_2()
    wire = await Wire(client=client, server=server).opened()
    wire.c.write(bytes(100_000))
    wire.c.close()
    assert await wire.server.until_lost() is None
    assert len(wire.server.received) == 100_000


# --- failures of the handshake ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["c", "s"])
async def test_a_handshake_that_stalls_times_out_and_is_cut(side: str) -> None:
    wire = Wire(begin=side, timeout=0.02)
    below = (wire.below_client if side == "c" else wire.below_server).peer.get_protocol()
    failures = wire.client_failures if side == "c" else wire.server_failures
    await wire.until(lambda: failures)
    assert isinstance(failures[0], TimeoutError)
    assert await below.until_lost() is not None  # type: ignore[attr-defined]
    await settle()
    assert len(failures) == 1


async def test_a_peer_that_leaves_in_the_handshake_fails_it_once() -> None:
    wire = Wire(begin="c")
    wire.below_server.close()
    await wire.until(lambda: wire.client_failures)
    await settle()
    assert isinstance(wire.client_failures[0], ConnectionError)
    assert len(wire.client_failures) == 1
    assert wire.client.calls == []


async def test_a_lower_layer_that_is_gone_already_fails_the_handshake() -> None:
    wire = Wire(begin="")
    wire.below_client.abort()
    failed: list[Exception] = []
    start_tls(wire.below_client, wire.client, tls_contexts()[0], server_side=False, server_hostname="x", on_failed=failed.append)
    assert failed == []  # never inside the call
    await settle()
    assert isinstance(failed[0], ConnectionError)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\x16\x03\x01\xff\xff" + b"a" * 70_000])
async def test_garbage_fails_the_handshake_and_is_answered_with_an_alert(garbage: bytes) -> None:
    wire = Wire(begin="s")
    wire.below_client.write(garbage)
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.server_failures[0], ssl.SSLError)
    await settle()
    assert records(wire.to_client) == [ALERT]


async def test_an_endless_handshake_is_refused() -> None:
    wire = Wire(begin="s")
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(0x4000 - 4)
    for _ in range(HANDSHAKE_LIMIT // len(record) + 2):
        wire.below_client.write(record)
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.server_failures[0], ssl.SSLError)


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


async def test_back_pressure_from_below_reaches_the_protocol_even_across_the_handshake() -> None:
    wire = Wire(begin="s")
    wire.below_client.write(bytes(100_000)) if False else None
    wire = await Wire().opened()
    wire.below_client.stall()
    wire.c.write(bytes(100_000))
    assert wire.client.is_full
    wire.below_client.go_on()
    await wire.client.until_writable()
    assert wire.c.get_write_buffer_size() <= wire.c.get_write_buffer_limits()[0]


async def test_a_protocol_connected_while_below_is_full_is_told_so() -> None:
    wire = Wire(begin="c")
    wire.c.write(bytes(200_000))  # goes down with our Finished, before anybody is connected
    tls_server = start_tls(
        wire.below_server,
        wire.server,
        tls_contexts()[1],
        server_side=True,
        on_failed=wire.server_failures.append,
    )
    assert tls_server
    await wire.until(lambda: wire.client.transport or wire.client_failures)
    assert wire.client.calls[:2] == ["connection_made", "pause_writing"] or not wire.client.is_full


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
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(inclusive=True, filename_pattern="*/net/tls.py")]
        ).traces)
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


async def test_closing_or_aborting_in_the_handshake_connects_nobody() -> None:
    for end in ("close", "abort"):
        wire = Wire()
        getattr(wire.c, end)()
        await wire.until(lambda wire=wire: wire.server_failures)
        assert wire.client.calls == []
        assert wire.client_failures == []


def test_memory_transports_are_what_the_tests_above_run_on() -> None:
    assert issubclass(MemoryTransport, asyncio.Transport)
