from __future__ import annotations

import asyncio
import ssl

import pytest
from tests.conformance.stacks import tls_contexts
from tests.net.tlswire import ALERT, HANDSHAKE, Wire, records, tls_contexts_1_2
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.net.tls import HANDSHAKE_LIMIT, TLSTransport, start_tls
from penstock.tls import certs, contexts

pytestmark = pytest.mark.anyio


# --- the handshake ----------------------------------------------------------------------------------------------------


async def test_both_sides_learn_who_the_other_is() -> None:
    wire = await Wire().opened()
    assert isinstance(wire.client.transport, TLSTransport)
    assert wire.c.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert ("DNS", f"*.{ca.DOMAIN}") in wire.c.get_extra_info("peercert")["subjectAltName"]
    assert ssl.DER_cert_to_PEM_cert(wire.c.get_extra_info("peercert_der")).startswith("-----BEGIN CERTIFICATE")
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


# OpenSSL takes an intermediate (the rule is check_peer's) and does not even serve a weak key.
REFUSED_BY_OPENSSL = [story for story in ca.broken_servers() if story not in {"through an intermediate", "with a weak key"}]


@pytest.mark.parametrize("story", REFUSED_BY_OPENSSL)
async def test_a_refused_server_receives_an_alert_that_names_the_reason(story: str) -> None:
    authority = ca.ca()
    client = contexts.caller_inner([certs.certificate_to_pem(authority.certificate)], None)
    wire = Wire(client=client, server=contexts.proxy_inner(ca.broken_servers()[story](authority)))
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.client_failures[0], ssl.SSLCertVerificationError)
    assert "ALERT" in str(getattr(wire.server_failures[0], "reason", ""))
    assert wire.client.calls == wire.server.calls == []
    # In the clear, as OpenSSL itself does before it has sent anything under keys: our own refusal looks the same.
    assert records(wire.to_server) == [HANDSHAKE, ALERT]


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
    assert records(wire.to_server) == [HANDSHAKE, ALERT]  # ClientHello and the alert: nothing under keys ever left


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
    start_tls(
        wire.below_client, wire.client, tls_contexts()[0], server_side=False, server_hostname="x", on_failed=failed.append
    )
    assert failed == []  # never inside the call
    await settle()
    assert isinstance(failed[0], ConnectionError)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\x16\x03\x01\xff\xff" + b"a" * 70_000])
async def test_garbage_fails_the_handshake_and_ends_the_layer_below(garbage: bytes) -> None:
    wire = Wire(begin="s")
    wire.below_client.write(garbage)
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.server_failures[0], ssl.SSLError)
    assert await wire.below_client.get_protocol().until_lost() is None  # type: ignore[attr-defined]
    assert records(wire.to_client) in ([], [ALERT])  # OpenSSL has nothing to say to what is no record at all


async def test_an_endless_handshake_is_refused() -> None:
    wire = Wire(begin="s")
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(0x4000 - 4)
    for _ in range(HANDSHAKE_LIMIT // len(record) + 2):
        wire.below_client.write(record)
    await wire.until(lambda: wire.server_failures)
    assert isinstance(wire.server_failures[0], ssl.SSLError)
