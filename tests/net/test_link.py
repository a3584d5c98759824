from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from penstock.net.link import Link, LinkLimits, LinkStream, StreamLostError, StreamRefusedError
from penstock.net.streams import ByteStream
from penstock.net.transports import cut
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError
from penstock.protocol.http2 import Role, Settings, WindowBudget
from penstock.protocol.http2.frames import PREFACE, FrameType, frame
from penstock.protocol.http2.windows import FIRST_STEP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"echo.test"), (b":path", b"/")]
OK = [(b":status", b"200")]


class Owner:
    """Remembers what a link reports."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.requested: asyncio.Queue[LinkStream] = asyncio.Queue()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    def link_made(self) -> None:
        pass

    def stream_requested(self, stream: LinkStream) -> None:
        self.requested.put_nowait(stream)

    def link_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Ends:
    """An edge and an agent joined by a socket pair."""

    edge: Link
    agent: Link

    def __init__(self) -> None:
        self.edge_owner, self.agent_owner = Owner(), Owner()

    async def stream(self) -> tuple[LinkStream, LinkStream]:
        """One stream, answered: the edge's end and the agent's."""
        near = self.edge.open_stream(REQUEST)
        far = await self.agent_owner.requested.get()
        far.respond(OK)
        await near.response()
        return near, far


@contextlib.asynccontextmanager
async def joined(
    *, limits: LinkLimits | None = None, settings: Settings | None = None, budget: WindowBudget | None = None
) -> AsyncIterator[Ends]:
    ends = Ends()
    ends.edge = Link(Role.EDGE, ends.edge_owner, settings=settings, limits=limits, budget=budget)
    ends.agent = Link(Role.AGENT, ends.agent_owner, settings=settings, limits=limits)
    one, other = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: ends.edge, sock=one)
    await loop.create_connection(lambda: ends.agent, sock=other)
    try:
        async with asyncio.timeout(10):
            yield ends
    finally:
        ends.edge.abort()
        ends.agent.abort()
        await asyncio.wait([ends.edge_owner.lost, ends.agent_owner.lost], timeout=5)


class Recorder(asyncio.Protocol):
    """Keeps what a transport delivers, in order."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.blocked = 0
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.ended = True

    def pause_writing(self) -> None:
        self.blocked += 1

    def resume_writing(self) -> None:
        self.blocked -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Sipping(Recorder):
    """Takes one piece, and then no more until it is asked to."""

    def __init__(self, stream: LinkStream) -> None:
        super().__init__()
        self._stream = stream
        self._sipped = asyncio.Event()
        stream.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._stream.pause_reading()
        self._sipped.set()

    async def sip(self) -> None:
        self._sipped.clear()
        self._stream.resume_reading()
        await self._sipped.wait()


def own(stream: LinkStream, *, reading: bool = True) -> Recorder:
    recorder = Recorder()
    stream.set_protocol(recorder)
    if reading:
        stream.resume_reading()
    return recorder


async def until(holds: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.002)


# --- small pieces -----------------------------------------------------------------------------------------------------


async def test_what_waits_in_small_pieces_takes_hardly_more_memory_than_its_bytes() -> None:
    """As sent by a hostile agent, two bytes a frame, and as written by a program, one at a time."""
    sent = bytes(range(256)) * 200
    async with joined() as ends:
        near, far = await ends.stream()
        lower = ends.agent._lower
        assert lower is not None
        own(near, reading=False)
        lower.write(b"".join(frame(FrameType.DATA, 0, near.id, sent[at : at + 2]) for at in range(0, len(sent), 2)))
        await until(lambda: ends.edge._http._ledger.streams[near.id].window.credit <= 65_536 - len(sent))
        inbox = near._inbox
        assert inbox is not None
        assert sum(sys.getsizeof(piece) + 8 for piece in inbox) < 1.2 * len(sent)
        reader = Recorder()
        near.set_protocol(reader)
        near.resume_reading()
        await until(lambda: reader.data == sent)

        stream = ends.agent._http._ledger.streams[far.id]
        stream.send_window = 0
        for at in range(len(sent)):
            far.write(sent[at : at + 1])
        assert sum(sys.getsizeof(piece) + 8 for piece in stream.out) < 1.2 * len(sent)


# --- heads ------------------------------------------------------------------------------------------------------------


async def test_a_head_of_too_many_fields_is_not_sent_and_nothing_else_is_touched() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        with pytest.raises(LocalProtocolError, match="too many fields"):
            ends.edge.open_stream([*REQUEST, *([(b"x", b"y")] * 600)])
        assert ends.edge.load == 1
        answering, asked = ends.edge.open_stream(REQUEST), await ends.agent_owner.requested.get()
        asked.respond([*OK, *([(b"x", b"y")] * 600)])
        with pytest.raises(StreamLostError):
            await answering.response()
        reader = own(far)
        near.write(b"still here")
        await until(lambda: reader.data == b"still here")


async def test_a_peer_that_breaks_the_protocol_is_told_why_and_so_are_both_owners() -> None:
    async with joined() as ends:
        near, _ = await ends.stream()
        lower = ends.edge._lower
        assert lower is not None
        lower.write(frame(FrameType.PING, 0, 1, bytes(8)))
        mine, theirs = await ends.agent_owner.lost, await ends.edge_owner.lost
        assert isinstance(mine, RemoteProtocolError)
        assert "PING is on the wrong kind of stream" in mine.public
        assert isinstance(theirs, RemoteProtocolError)
        assert theirs.public == "the peer ended the link: PROTOCOL_ERROR, PING is on the wrong kind of stream"
        assert near.is_closing()


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_and_a_clean_end_delivers_all_that_was_sent_then_ends_the_other_side() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        near_end, far_end = own(near), own(far)
        near.write(b"up" * 100_000)
        far.write(b"down")
        await until(lambda: near_end.data == b"down")
        near.close()
        assert await far_end.lost is None
        assert far_end.ended
        assert far_end.data == b"up" * 100_000
        assert await near_end.lost is None
        await ends.edge.drained()
        await ends.agent.drained()


async def test_an_end_waits_for_a_paused_reader_and_keeps_what_came_before_it() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        far_end = own(far, reading=False)
        own(near)
        near.write(b"last words")
        near.close()
        await until(lambda: far.peer_ended)
        assert not far_end.ended
        far.resume_reading()
        assert await far_end.lost is None
        assert far_end.data == b"last words"


async def test_an_abort_overtakes_what_is_queued_and_is_a_loss_for_the_other_side_even_while_it_does_not_read() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        far_end = own(far, reading=False)
        own(near)
        near.write(bytes(1_000_000))  # far more than the window of a reader that does not read
        await until(lambda: ends.edge.buffered < 1_000_000)
        near.abort()
        lost = await far_end.lost
        assert isinstance(lost, StreamLostError)
        assert lost.code == 8  # CANCEL
        assert len(far_end.data) == 0
        assert ends.edge.buffered == 0


async def test_a_peer_that_goes_on_sending_on_a_stream_that_ended_is_drained_to_its_own_end() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        own(near)
        far_end = own(far)
        far.write(bytes(3_000_000))
        near.close()
        assert await far_end.lost is None  # its own three megabytes went somewhere, so its end could follow
        await until(lambda: ends.agent.load == 0 and ends.edge.load == 0)


async def test_a_closed_stream_whose_peer_takes_nothing_more_is_given_up_after_the_close_timeout() -> None:
    async with joined(limits=LinkLimits(close_timeout=0.2, ping_interval=0.1)) as ends:
        near, far = await ends.stream()
        near_end = own(near)
        own(far, reading=False)
        near.write(bytes(500_000))
        near.close()
        assert isinstance(await near_end.lost, TimeoutError)
        assert ends.edge.load == 0


# --- back-pressure ----------------------------------------------------------------------------------------------------


async def test_a_stalled_reader_stops_its_writer_and_no_other_stream() -> None:
    async with joined() as ends:
        stalled_near, stalled_far = await ends.stream()
        writer = own(stalled_near)
        own(stalled_far, reading=False)
        for _ in range(200):
            if writer.blocked:
                break
            stalled_near.write(bytes(16_384))
            await asyncio.sleep(0)
        assert writer.blocked == 1
        near, far = await ends.stream()
        reader = own(far)
        own(near)
        near.write(bytes(300_000))
        await until(lambda: len(reader.data) == 300_000)


async def test_a_reader_that_pauses_holds_no_more_than_the_window_and_gets_everything_in_the_end() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        reader = own(far, reading=False)
        writer = own(near)
        near.write(bytes(1_000_000))
        await until(lambda: ends.edge.buffered <= 1_000_000 - 65_535)
        held = 1_000_000 - ends.edge.buffered
        assert 65_535 <= held <= 65_536 + 16_384
        assert writer.blocked == 1
        far.resume_reading()
        await until(lambda: len(reader.data) == 1_000_000)
        assert writer.blocked == 0


async def test_a_slow_reader_is_credited_as_it_takes_and_not_for_all_of_its_window_at_once() -> None:
    async with joined(settings=Settings(max_window=65_536)) as ends:
        near, far = await ends.stream()
        own(near)
        reader = Sipping(far)
        near.write(bytes(1_000_000))
        await until(lambda: near.get_write_buffer_size() <= 1_000_000 - 65_535)
        before = near.get_write_buffer_size()
        while len(reader.data) <= 2 * FIRST_STEP - 16_384:
            await reader.sip()
        await until(lambda: near.get_write_buffer_size() < before)
        assert before - near.get_write_buffer_size() <= len(reader.data)


@pytest.mark.parametrize("ends_by", ["reading", "abort", "loss"])
async def test_what_waits_for_a_slow_reader_is_counted_until_it_is_read_or_gone(ends_by: str) -> None:
    budget = WindowBudget(limit=65_536)
    async with joined(budget=budget, settings=Settings(max_window=65_536)) as ends:  # windows that do not grow
        near, far = await ends.stream()
        other, _ = await ends.stream()
        assert budget.used == 0  # idle streams cost nothing
        reader = own(near, reading=False)
        own(far)
        far.write(bytes(200_000))
        await until(lambda: budget.used >= 65_536)
        assert budget.used == 65_536  # no more than the window
        if ends_by == "reading":
            near.resume_reading()
            await until(lambda: len(reader.data) == 200_000)
        elif ends_by == "abort":
            near.abort()
        else:
            cut(far)
        await until(lambda: budget.used == 0)
        other.abort()


class _GivesUp(asyncio.Protocol):
    """Pauses and cuts in one breath, as a layer that finds a mistake behind a full writer does."""

    def __init__(self, stream: LinkStream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.pause_reading()
        self.stream.abort()


async def test_nothing_is_counted_of_a_stream_that_pauses_and_is_cut_while_it_takes_a_chunk() -> None:
    budget = WindowBudget(limit=65_536)
    async with joined(budget=budget) as ends:
        near, far = await ends.stream()
        near.set_protocol(_GivesUp(near))
        near.resume_reading()
        gone = own(far)
        far.write(b"a chunk")
        await asyncio.wait_for(gone.lost, 5)
        assert budget.used == 0


async def test_what_waits_for_a_slow_link_is_counted_until_it_has_left() -> None:
    budget = WindowBudget(limit=65_536)
    async with joined(budget=budget) as ends:
        near, far = await ends.stream()
        writer = own(near)
        reader = own(far, reading=False)
        near.write(bytes(200_000))
        assert writer.blocked
        near.write(bytes(1_000))
        await until(lambda: budget.used >= 65_536)
        assert budget.used <= 201_000
        far.resume_reading()
        await until(lambda: len(reader.data) == 201_000)
        assert budget.used == 0


async def test_many_streams_that_send_at_once_all_arrive_whole() -> None:
    async with joined() as ends:
        pairs = [await ends.stream() for _ in range(20)]
        readers = [own(far) for _, far in pairs]
        for number, (near, _) in enumerate(pairs):
            own(near)
            near.write(bytes([number]) * 200_000)
            near.close()
        for number, reader in enumerate(readers):
            assert await reader.lost is None
            assert reader.data == bytes([number]) * 200_000


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_stream_refused_before_it_began_may_be_tried_elsewhere() -> None:
    async with joined() as ends:
        stream = ends.edge.open_stream(REQUEST)
        (await ends.agent_owner.requested.get()).refuse()
        with pytest.raises(StreamRefusedError):
            await stream.response()


async def test_a_stream_that_was_begun_cannot_be_refused_any_more() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        far.refuse()
        reader = own(near)
        own(far).lost.add_done_callback(lambda _: None)
        far.write(b"still there")
        await until(lambda: bytes(reader.data) == b"still there")


async def test_a_link_at_the_peers_limit_of_streams_refuses_the_next_and_takes_it_when_one_has_ended() -> None:
    async with joined(settings=Settings(max_concurrent_streams=2)) as ends:
        first, _ = await ends.stream()
        await ends.stream()
        assert not ends.edge.is_open
        with pytest.raises(StreamRefusedError):
            ends.edge.open_stream(REQUEST)
        first.abort()
        await until(lambda: ends.edge.is_open)


async def test_a_draining_link_opens_nothing_and_says_when_its_streams_are_done() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        kept, _ = await ends.stream()
        own(far)
        ends.edge.drain()
        with pytest.raises(StreamRefusedError):
            ends.edge.open_stream(REQUEST)
        waiting = asyncio.gather(ends.edge.drained(besides=kept))
        await asyncio.sleep(0)
        assert not waiting.done()
        near.close()
        await waiting


async def test_a_caller_that_stops_waiting_for_the_answer_resets_the_stream() -> None:
    async with joined() as ends:
        stream = ends.edge.open_stream(REQUEST)
        far = await ends.agent_owner.requested.get()
        recorder = own(far)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.response()
        assert isinstance(await recorder.lost, StreamLostError)


async def test_a_whole_answer_ends_the_stream_behind_its_body() -> None:
    async with joined() as ends:
        stream = ends.edge.open_stream(REQUEST)
        (await ends.agent_owner.requested.get()).respond([(b":status", b"502")], b"nothing there\n")
        assert await stream.response() == [(b":status", b"502")]
        pipe = ByteStream.over(stream)
        assert await pipe.read(100) == b"nothing there\n"
        assert await pipe.read(100) == b""


# --- the link's end ---------------------------------------------------------------------------------------------------


async def test_a_cut_link_loses_every_stream_and_every_answer_that_was_awaited() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        lost = [own(near).lost, own(far).lost]
        waiting = ends.edge.open_stream(REQUEST)
        ends.agent.abort()
        assert all(isinstance(exc, StreamLostError) for exc in await asyncio.gather(*lost))
        with pytest.raises(StreamLostError):
            await waiting.response()
        assert not ends.edge.is_open


async def test_an_answer_awaited_after_the_link_was_lost_does_not_hang() -> None:
    async with joined() as ends:
        stream = ends.edge.open_stream(REQUEST)
        ends.edge.abort()
        await ends.edge_owner.lost
        with pytest.raises(StreamLostError):
            await stream.response()


async def test_a_peer_that_answers_no_pings_is_given_up() -> None:
    near, silent = socket.socketpair()
    owner = Owner()
    link = Link(Role.EDGE, owner, limits=LinkLimits(ping_interval=0.05, ping_timeout=0.1))
    await asyncio.get_running_loop().create_connection(lambda: link, sock=near)
    try:
        async with asyncio.timeout(5):
            assert isinstance(await owner.lost, TimeoutError)
    finally:
        silent.close()


async def test_a_link_that_owes_an_answer_is_known_to_be_silent_before_it_is_given_up() -> None:
    async with joined(limits=LinkLimits(ping_interval=60.0, ping_timeout=60.0)) as ends:
        await asyncio.sleep(0.6)  # what was heard just now is sign enough
        ends.edge.probe()
        await until(lambda: ends.edge._pulse.silence(1e9) == 0)  # it answers
        lower = ends.agent._lower
        assert lower is not None
        lower.pause_reading()
        await asyncio.sleep(0.6)
        stream = ends.edge.open_stream(REQUEST)
        ends.edge.probe()
        await until(lambda: ends.edge.silence > 0.05)
        stream.give_up(StreamLostError("the link is silent"))
        with pytest.raises(StreamLostError, match="silent"):
            await stream.response()
        assert stream.is_closing()
        assert ends.edge.is_open


async def test_pings_keep_an_idle_link_that_answers_them() -> None:
    async with joined(limits=LinkLimits(ping_interval=0.02, ping_timeout=0.1)) as ends:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await asyncio.shield(ends.edge_owner.lost)
        assert ends.edge.is_open


async def test_a_peer_that_pings_for_long_floods_nobody_however_seldom_it_is_pinged_itself() -> None:
    near, peer = socket.socketpair()
    peer.setblocking(False)
    owner = Owner()
    loop = asyncio.get_running_loop()
    link = Link(Role.AGENT, owner, settings=Settings(max_pings=4), limits=LinkLimits(ping_interval=3600, flood_interval=0.01))
    await loop.create_connection(lambda: link, sock=near)
    await loop.sock_sendall(peer, PREFACE + frame(FrameType.SETTINGS, 0, 0))
    for number in range(12):
        mark = b"ping%04d" % number
        await loop.sock_sendall(peer, frame(FrameType.PING, 0, 0, mark))
        said = b""
        async with asyncio.timeout(5):
            while mark not in said:
                part = await loop.sock_recv(peer, 65_536)
                assert part, "the link was ended"
                said += part
        await asyncio.sleep(0.03)  # time itself is the matter
    link.abort()
    await owner.lost
    peer.close()


async def test_a_peer_that_breaks_the_protocol_is_told_so_and_harms_no_other_link() -> None:
    async with joined() as other:
        near, garbage = socket.socketpair()
        garbage.setblocking(False)
        owner = Owner()
        loop = asyncio.get_running_loop()
        link = Link(Role.AGENT, owner)
        await loop.create_connection(lambda: link, sock=near)
        await loop.sock_sendall(garbage, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert isinstance(await owner.lost, Exception)
        said = b""
        while part := await loop.sock_recv(garbage, 65_536):
            said += part
        garbage.close()
        assert b"does not speak HTTP/2" in said  # the GOAWAY's debug text
        stream, far = await other.stream()
        reader = own(far)
        own(stream)
        stream.write(b"unharmed")
        await until(lambda: bytes(reader.data) == b"unharmed")


async def test_a_protocol_that_raises_ends_its_stream_alone() -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with joined() as ends:
        near, far = await ends.stream()
        bystander, bystander_far = await ends.stream()

        class Clumsy(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                raise ZeroDivisionError

        far.set_protocol(Clumsy())
        far.resume_reading()
        lost = own(near).lost
        near.write(b"x")
        assert isinstance(await lost, StreamLostError)
        reader = own(bystander_far)
        own(bystander)
        bystander.write(b"fine")
        await until(lambda: bytes(reader.data) == b"fine")
    assert isinstance(failures[0]["exception"], ZeroDivisionError)


async def test_a_goodbye_is_a_clean_end_of_the_link() -> None:
    async with joined() as ends:
        await ends.stream()
        ends.edge.close()
        assert await ends.agent_owner.lost is None


async def test_a_stream_that_is_over_is_freed_without_the_collector() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        lost = own(near).lost
        own(far)
        gone = [weakref.ref(near), weakref.ref(far)]
        gc.disable()
        try:
            near.close()
            await lost
            del near, far
            await until(lambda: all(reference() is None for reference in gone))
        finally:
            gc.enable()


async def test_a_cut_of_the_streams_transport_reaches_the_other_side() -> None:
    async with joined() as ends:
        near, far = await ends.stream()
        lost = own(far).lost
        cut(near)
        assert isinstance(await lost, StreamLostError)
