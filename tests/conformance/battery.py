"""The rules of `penstock.net.transports`, one function each. Every function takes a `Factory` (see `stacks`) and asserts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.recording import Recorder, settle

from penstock.net.transports import cut

if TYPE_CHECKING:
    from tests.conformance.stacks import Factory

# More than any kernel buffer, window and watermark between the two ends on loopback takes in.
FLOOD = 24 << 20
PATTERN = bytes(range(251)) * 4_000


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


def _write_in_pieces(transport: asyncio.Transport, data: bytes) -> None:
    for start in range(0, len(data), 10_007):
        transport.write(data[start : start + 10_007])


async def _fill(sender: Recorder, limit: int = FLOOD) -> int:
    """Write until the transport has had enough, and the loop agrees; how much that was."""
    written, piece = 0, PATTERN[:65_536]
    while written < limit:
        if sender.is_full:
            await settle(50)
            if sender.is_full:
                return written
        sender.transport.write(piece)
        written += len(piece)
    raise AssertionError(f"{limit} bytes were taken without a word")


# --- rule 1 -----------------------------------------------------------------------------------------------------------


async def bytes_arrive_whole_and_in_order_both_ways(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    there, back = pattern(3 << 20), pattern(1 << 20)[::-1]
    async with make(a, b) as joined:
        for start in range(0, len(there), 100_003):
            joined.a.write(there[start : start + 100_003])
        joined.b.writelines([back[:10], bytearray(back[10:70_000]), memoryview(back)[70_000:]])
        await b.until_received(len(there))
        await a.until_received(len(back))
        assert b.received == there
        assert a.received == back
        for end in (a, b):
            assert end.calls[0] == "connection_made"
            assert end.calls.count("connection_made") == 1


async def one_byte_is_delivered_without_more(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        for count in range(1, 50):
            joined.a.write(b"x")
            await b.until_received(count)
            joined.b.write(b"y")
            await a.until_received(count)


async def empty_writes_mean_nothing(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.write(b"")
        joined.a.writelines([])
        joined.a.write(b"!")
        await b.until_received(1)
        assert b.calls == ["connection_made", "data_received"]


# --- rule 2 -----------------------------------------------------------------------------------------------------------


async def nothing_is_delivered_while_paused(make: Factory) -> None:
    sent = pattern(1 << 20)
    a, b = Recorder(), Recorder(pause_after=1)
    async with make(a, b) as joined:
        _write_in_pieces(joined.a, sent)
        await b.until(lambda: not joined.b.is_reading())
        first = len(b.received)
        await settle(100)
        assert len(b.received) == first
        b.pause_after = first + 1  # once more in mid-flight
        joined.b.resume_reading()
        await b.until(lambda: not joined.b.is_reading())
        await settle(100)
        joined.b.resume_reading()
        await b.until_received(len(sent))
        assert b.received == sent
        assert b.delivered_while_paused == 0


async def pausing_and_resuming_are_idempotent(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        for _ in range(3):
            joined.b.pause_reading()
            joined.b.pause_reading()
            assert not joined.b.is_reading()
            joined.b.resume_reading()
            joined.b.resume_reading()
            assert joined.b.is_reading()
        joined.a.write(b"on we go")
        await b.until_received(8)
        assert b.received == b"on we go"


async def a_paused_reader_is_felt_by_the_writer(make: Factory) -> None:
    """Rule 6 as well: each call once, and nothing lost on the way."""
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.b.pause_reading()
        written = await _fill(a)
        assert a.calls[-1] == "pause_writing"
        joined.b.resume_reading()
        await b.until_received(written)
        await a.until_writable()
        turns = [call for call in a.calls if call.endswith("_writing")]
        assert turns == ["pause_writing", "resume_writing"] * (len(turns) // 2)
        assert len(b.received) == written


# --- rule 3 -----------------------------------------------------------------------------------------------------------


async def a_clean_end_comes_after_everything_sent(make: Factory) -> None:
    sent = pattern(2 << 20)
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.write(sent)
        joined.a.close()
        joined.a.close()
        assert joined.a.is_closing()
        joined.a.write(b"too late")
        assert await b.until_lost() is None
        assert b.received == sent
        assert b.calls[-2:] == ["eof_received", "connection_lost"]
        assert await a.until_lost() is None
        assert "eof_received" not in a.calls


async def a_clean_end_waits_for_a_paused_reader(make: Factory) -> None:
    sent = pattern(300_000)
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.b.pause_reading()
        joined.a.write(sent)
        joined.a.close()
        await settle(100)
        assert b.calls == ["connection_made"]
        joined.b.resume_reading()
        assert await b.until_lost() is None
        assert b.received == sent
        assert b.delivered_while_paused == 0


async def an_end_reaches_a_peer_that_is_still_sending(make: Factory) -> None:
    """The last words must survive whatever the other side has on its way."""
    a, b = Recorder(), Recorder()
    last_words = pattern(200_000)
    async with make(a, b) as joined:
        for _ in range(40):
            joined.b.write(PATTERN[:65_536])
        await a.until_received(1)
        joined.a.write(last_words)
        joined.a.close()
        for _ in range(40):
            joined.b.write(PATTERN[:65_536])
        assert await b.until_lost() is None
        assert b.received == last_words
        await a.until_lost()
        assert a.delivered_after_end == 0


async def nothing_is_delivered_after_close(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.b.write(pattern(500_000))
        joined.a.close()
        await settle(100)
        assert await a.until_lost() is None
        assert a.received == b""


# --- rule 4 -----------------------------------------------------------------------------------------------------------


async def a_cut_is_an_error_to_both(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.write(b"hello")
        await b.until_received(5)
        cut(joined.a)
        assert await b.until_lost() is not None
        assert "eof_received" not in b.calls
        assert joined.b.is_closing()


async def a_lost_transport_takes_everything_quietly(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        cut(joined.a)
        await b.until_lost()
        await a.until_lost()
        for end in (joined.a, joined.b):
            end.write(b"into the void")
            end.pause_reading()
            end.resume_reading()
            end.set_write_buffer_limits(high=1)
            end.get_write_buffer_size()
            end.close()
            end.abort()
        await settle()
        assert len(a.loss) == len(b.loss) == 1


async def a_broken_wire_is_an_error_to_both(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.sever()
        assert await a.until_lost() is not None
        assert await b.until_lost() is not None
        for end in (a, b):
            assert end.calls == ["connection_made", "connection_lost"]


async def a_cut_does_not_wait_for_a_paused_reader(make: Factory) -> None:
    a, b = Recorder(), Recorder(pause_after=1)
    async with make(a, b) as joined:
        _write_in_pieces(joined.a, pattern(1 << 20))
        await b.until(lambda: not joined.b.is_reading())
        got = len(b.received)
        cut(joined.a)
        assert await b.until_lost() is not None
        assert len(b.received) == got
        assert "eof_received" not in b.calls


# --- rule 5 -----------------------------------------------------------------------------------------------------------


async def an_abort_overtakes_what_was_written(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.b.pause_reading()
        await _fill(a)
        cut(joined.a)
        assert await a.until_lost() is None
        assert await b.until_lost() is not None
        assert b.received == b""


async def aborting_is_idempotent_and_never_calls_back_inside(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.abort()
        joined.a.abort()
        joined.a.close()
        assert a.loss == []
        assert joined.a.is_closing()
        assert await a.until_lost() is None
        joined.a.abort()
        await settle()
        assert len(a.loss) == 1


async def an_abort_after_close_lets_go_at_once(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.b.pause_reading()
        await _fill(a)
        joined.a.close()
        await settle()
        assert a.loss == []
        joined.a.abort()
        await a.until_lost(timeout=1)


# --- rules 6, 7, 8 ----------------------------------------------------------------------------------------------------


async def watermarks_can_be_set_and_asked_for(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.set_write_buffer_limits(high=200_000, low=1_000)
        assert tuple(joined.a.get_write_buffer_limits()) == (1_000, 200_000)
        joined.b.pause_reading()
        await _fill(a)
        assert joined.a.get_write_buffer_size() > 1_000
        joined.b.resume_reading()
        await a.until_writable()
        assert joined.a.get_write_buffer_size() <= 1_000


async def unknown_information_is_the_default(make: Factory) -> None:
    a, b = Recorder(), Recorder()
    async with make(a, b) as joined:
        assert joined.a.get_extra_info("no such thing") is None
        assert joined.a.get_extra_info("no such thing", 7) == 7
        assert joined.a.get_extra_info("peername") is not None


async def a_protocol_can_be_replaced(make: Factory) -> None:
    a, b, heir = Recorder(), Recorder(), Recorder()
    async with make(a, b) as joined:
        joined.a.write(b"for b")
        await b.until_received(5)
        heir.connection_made(joined.b)
        joined.b.set_protocol(heir)
        assert joined.b.get_protocol() is heir
        joined.a.write(b"for the heir")
        await heir.until_received(12)
        joined.a.close()
        assert await heir.until_lost() is None
        assert b.received == b"for b"
        assert b.loss == []


async def a_protocol_that_raises_ends_its_own_transport(make: Factory) -> None:
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fails(data: bytes) -> None:
        raise RuntimeError("the protocol's own mistake")

    a, b = Recorder(), Recorder(on_data=fails)
    try:
        async with make(a, b) as joined:
            joined.a.write(b"x")
            await b.until_lost()
            assert await a.until_lost() is not None
            assert [str(context["exception"]) for context in reported] == ["the protocol's own mistake"]
    finally:
        loop.set_exception_handler(None)


RULES = [
    bytes_arrive_whole_and_in_order_both_ways,
    one_byte_is_delivered_without_more,
    empty_writes_mean_nothing,
    nothing_is_delivered_while_paused,
    pausing_and_resuming_are_idempotent,
    a_paused_reader_is_felt_by_the_writer,
    a_clean_end_comes_after_everything_sent,
    a_clean_end_waits_for_a_paused_reader,
    an_end_reaches_a_peer_that_is_still_sending,
    nothing_is_delivered_after_close,
    a_cut_is_an_error_to_both,
    a_lost_transport_takes_everything_quietly,
    a_broken_wire_is_an_error_to_both,
    a_cut_does_not_wait_for_a_paused_reader,
    an_abort_overtakes_what_was_written,
    aborting_is_idempotent_and_never_calls_back_inside,
    an_abort_after_close_lets_go_at_once,
    watermarks_can_be_set_and_asked_for,
    unknown_information_is_the_default,
    a_protocol_can_be_replaced,
    a_protocol_that_raises_ends_its_own_transport,
]
