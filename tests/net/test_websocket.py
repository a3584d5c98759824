from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from typing import Any

import pytest
from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.net.tls import start_tls
from penstock.net.websocket import WebSocketClosed, open_websocket
from penstock.protocol.websocket import Close, Ping, Pong, Role, WebSocketCodec

pytestmark = pytest.mark.anyio

KEY = b"\x01\x02\x03\x04"


class Ends:
    """A WebSocket, `b`, whose other side is one too, `a`, or what the test writes by hand."""

    def __init__(self, *, by_hand: bool = False, **settings: Any) -> None:
        self.hand = Recorder()
        self.below_a, self.below_b = memory_pair(self.hand, Recorder())
        self.codec = WebSocketCodec(Role.CLIENT, lambda size: KEY[:size])
        self.a, self.b = Recorder(), Recorder()
        self.ws_a = None if by_hand else open_websocket(self.below_a, self.a, client_side=True)
        self.ws_b = open_websocket(self.below_b, self.b, client_side=False, **settings)
        self.heard_by_hand = WebSocketCodec(Role.CLIENT, lambda size: KEY[:size])

    async def heard(self) -> list[object]:
        await settle()
        data, self.hand.received = bytes(self.hand.received), bytearray()
        return list(self.heard_by_hand.receive_data(data))


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_connection_made_is_called_at_once_and_what_was_read_before_is_delivered() -> None:
    hand = Recorder()
    _, below = memory_pair(hand, Recorder())
    early = WebSocketCodec(Role.CLIENT, lambda size: KEY[:size]).payload(b"early")
    b = Recorder()
    open_websocket(below, b, client_side=False, initial=early)
    assert b.calls == ["connection_made", "data_received"]
    assert b.received == b"early"


async def test_an_orderly_close_is_a_clean_end_and_its_code_is_known() -> None:
    ends = Ends()
    ends.ws_a.close()  # type: ignore[union-attr]
    assert await ends.b.until_lost() is None
    assert ends.b.calls[-2:] == ["eof_received", "connection_lost"]
    assert (ends.ws_b.close_code, ends.ws_b.close_reason) == (1000, "")


async def test_going_away_is_a_clean_end() -> None:
    ends = Ends()
    ends.ws_a.refuse(1001, "drain")  # type: ignore[union-attr]
    assert await ends.b.until_lost() is None
    assert (ends.ws_b.close_code, ends.ws_b.close_reason) == (1001, "drain")


async def test_a_refusal_is_an_error_that_names_its_code_and_reason_after_all_that_was_written() -> None:
    ends = Ends()
    ends.ws_a.write(b"the alert")  # type: ignore[union-attr]
    ends.ws_a.refuse(1008, "leaf_signed_directly")  # type: ignore[union-attr]
    ends.ws_a.refuse(1008, "again")  # type: ignore[union-attr]
    loss = await ends.b.until_lost()
    assert isinstance(loss, WebSocketClosed)
    assert (loss.code, loss.reason) == (1008, "leaf_signed_directly")
    assert "1008 leaf_signed_directly" in str(loss)
    assert ends.b.received == b"the alert"
    assert "eof_received" not in ends.b.calls
    assert await ends.a.until_lost() is None


async def test_a_close_without_a_code_is_no_clean_end() -> None:
    ends = Ends(by_hand=True)
    ends.below_a.write(b"\x88\x80" + KEY)
    loss = await ends.b.until_lost()
    assert isinstance(loss, WebSocketClosed)
    assert loss.code is None


async def test_an_end_below_without_a_close_is_an_error() -> None:
    ends = Ends(by_hand=True)
    ends.below_a.close()
    assert isinstance(await ends.b.until_lost(), ConnectionResetError)


async def test_a_broken_rule_is_answered_with_its_code() -> None:
    ends = Ends(by_hand=True)
    ends.below_a.write(b"\x81\x80" + KEY)
    assert isinstance(await ends.b.until_lost(), ConnectionAbortedError)
    [event] = await ends.heard()
    assert isinstance(event, Close)
    assert event.code == 1003


async def test_a_close_is_answered_with_a_close() -> None:
    ends = Ends(by_hand=True)
    ends.below_a.write(ends.codec.close(1000))
    await ends.b.until_lost()
    assert await ends.heard() == [Close(1000, "")]


async def test_the_reason_of_a_refused_handshake_reaches_the_other_side_behind_the_alert() -> None:
    ends = Ends()
    client, server = tls_contexts()
    refused: list[Exception] = []

    def refuse(_: object) -> None:
        raise ValueError("leaf_signed_directly")

    start_tls(ends.ws_b, Recorder(), server, server_side=True, on_failed=refused.append)
    start_tls(
        ends.ws_a,  # type: ignore[arg-type]
        Recorder(),
        client,
        server_side=False,
        server_hostname=ca.HOST,
        check_peer=refuse,
        on_failed=lambda exc: ends.ws_a.refuse(1008, str(exc)),  # type: ignore[union-attr]
    )
    async with asyncio.timeout(5):
        while not (refused and ends.ws_b.close_reason):
            await asyncio.sleep(0)
    assert "BAD_CERTIFICATE" in str(refused[0])
    assert ends.ws_b.close_reason == "leaf_signed_directly"


# --- signs of life ----------------------------------------------------------------------------------------------------


async def test_a_ping_is_answered_with_its_payload() -> None:
    ends = Ends(by_hand=True)
    ends.below_a.write(ends.codec.ping(b"42"))
    assert await ends.heard() == [Pong(b"42")]


async def test_a_flood_of_pings_piles_up_nothing_while_the_pinger_does_not_read() -> None:
    ends = Ends(by_hand=True)
    ends.below_b.stall()
    ends.ws_b.write(bytes(100_000))  # choked
    queued = ends.below_b.get_write_buffer_size()
    for number in range(1000):
        ends.below_a.write(ends.codec.ping(b"%d" % number))
    await settle(2000)
    assert ends.below_b.get_write_buffer_size() == queued
    ends.below_b.go_on()
    pongs = [event for event in await ends.heard() if isinstance(event, Pong)]
    assert pongs == [Pong(b"999")]


async def test_a_silent_peer_is_pinged_and_one_that_answers_lives_on() -> None:
    ends = Ends(by_hand=True, ping_interval=(0.02, 0.03), ping_timeout=0.05)
    for _ in range(3):
        await ends.hand.until(lambda: ends.hand.received)
        assert await ends.heard() == [Ping(b"")]
        ends.below_a.write(ends.codec.pong())
    assert ends.b.loss == []


async def test_a_peer_that_answers_no_ping_is_lost() -> None:
    ends = Ends(by_hand=True, ping_interval=(0.02, 0.03), ping_timeout=0.05)
    assert isinstance(await ends.b.until_lost(timeout=2), TimeoutError)
    assert isinstance(await ends.hand.until_lost(), ConnectionResetError)


async def test_any_byte_is_a_sign_of_life() -> None:
    ends = Ends(by_hand=True, ping_interval=(0.02, 0.03), ping_timeout=0.04)
    for _ in range(20):
        ends.below_a.write(ends.codec.payload(b"."))
        await asyncio.sleep(0.01)  # the passage of time is what is tested
    assert ends.b.loss == []


async def test_a_side_that_does_not_read_gives_signs_of_life_and_declares_nobody_dead() -> None:
    ends = Ends(by_hand=True, ping_interval=(0.02, 0.03), ping_timeout=0.02, read_ahead=1)
    ends.ws_b.pause_reading()
    ends.below_a.write(ends.codec.payload(b"waits"))
    pongs = 0
    async with asyncio.timeout(5):
        while pongs < 4:
            await ends.hand.until(lambda: ends.hand.received)
            pongs += (await ends.heard()).count(Pong(b""))
    assert ends.b.loss == []


async def test_pings_and_a_close_behind_a_little_data_are_seen_while_paused() -> None:
    ends = Ends(by_hand=True)
    ends.ws_b.pause_reading()
    ends.below_a.write(ends.codec.payload(b"waits") + ends.codec.ping(b"there?"))
    assert await ends.heard() == [Pong(b"there?")]
    assert ends.b.received == b""


async def test_what_is_held_for_a_paused_reader_is_bounded() -> None:
    ends = Ends(by_hand=True)
    ends.ws_b.pause_reading()
    frame = ends.codec.payload(bytes(10_000))
    for _ in range(100):
        ends.below_a.write(frame)
    await settle(300)
    assert ends.below_a.get_write_buffer_size() > 900_000
    ends.ws_b.resume_reading()
    await ends.b.until_received(1_000_000)


async def test_what_is_held_of_tiny_frames_takes_hardly_more_memory_than_its_bytes() -> None:
    ends = Ends(by_hand=True)
    ends.ws_b.pause_reading()
    sent = bytes(range(256)) * 100
    ends.below_a.write(b"".join(ends.codec.payload(sent[at : at + 1]) for at in range(len(sent))))
    await settle(100)
    inbox = ends.ws_b._inbox
    assert inbox is not None
    assert sum(map(len, inbox)) == len(sent)
    assert sum(sys.getsizeof(piece) + 8 for piece in inbox) < 1.2 * len(sent)
    ends.ws_b.resume_reading()
    await ends.b.until_received(len(sent))
    assert ends.b.received == sent


async def test_the_timer_ends_with_the_connection_and_no_cycle_is_left() -> None:
    ends = Ends()
    ends.ws_a.close()  # type: ignore[union-attr]
    await ends.a.until_lost()
    await ends.b.until_lost()
    await settle()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(ends.ws_a), weakref.ref(ends.ws_b)
        del ends
        await settle()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
