"""Two of our own ends against each other: what a link relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.http2 import (
    Connection,
    DataReceived,
    ErrorCode,
    Event,
    GoawayReceived,
    HeadersReceived,
    Holder,
    LocalProtocolError,
    PingAcknowledged,
    Role,
    Settings,
    SettingsChanged,
    StreamLimitError,
    StreamReset,
    WindowBudget,
)
from penstock.protocol.http2.frames import FrameType, frame, rst_stream
from penstock.protocol.http2.streams import Stream

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"echo.ab12.example"), (b":path", b"/")]
RESPONSE = [(b":status", b"200")]


class Pair:
    """An edge and an agent, joined by hand."""

    def __init__(
        self, edge: Settings | None = None, agent: Settings | None = None, agent_budget: WindowBudget | None = None
    ) -> None:
        self.edge = Connection(Role.EDGE, edge or Settings())
        self.agent = Connection(Role.AGENT, agent or Settings(), budget=agent_budget)
        self.edge.start()
        self.agent.start()
        self.exchange()

    def to_agent(self, limit: int | None = None) -> list[Event]:
        return self.agent.receive_data(self.edge.data_to_send(limit))

    def to_edge(self) -> list[Event]:
        return self.edge.receive_data(self.agent.data_to_send())

    def exchange(self) -> tuple[list[Event], list[Event]]:
        """Until both are silent; what the edge saw, and the agent."""
        edge_events: list[Event] = []
        agent_events: list[Event] = []
        while self.edge.has_data_to_send or self.agent.has_data_to_send:
            agent_events += self.to_agent()
            edge_events += self.to_edge()
        return edge_events, agent_events

    def open(self) -> int:
        stream_id = self.edge.open_stream(REQUEST)
        self.to_agent()
        self.agent.send_headers(stream_id, RESPONSE)
        self.to_edge()
        return stream_id


def data(events: list[Event], stream_id: int) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived) and event.stream_id == stream_id)


def test_a_stream_carries_bytes_both_ways_and_ends_on_both_sides() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.edge.send_data(stream_id, b"ping")
    assert pair.to_agent() == [DataReceived(stream_id, b"ping", 4, False)]
    pair.agent.send_data(stream_id, b"po")
    pair.agent.send_data(stream_id, b"ng")
    pair.agent.end_stream(stream_id)
    assert pair.to_edge() == [DataReceived(stream_id, b"pong", 4, True)]
    assert pair.edge.open_streams == 1
    pair.edge.end_stream(stream_id)
    assert pair.to_agent() == [DataReceived(stream_id, b"", 0, True)]
    assert pair.edge.open_streams == pair.agent.open_streams == 0


def test_the_first_settings_and_their_acknowledgement_are_exchanged() -> None:
    edge, agent = Connection(Role.EDGE), Connection(Role.AGENT)
    edge.start()
    agent.start()
    assert agent.receive_data(edge.data_to_send()) == [SettingsChanged(0)]
    assert edge.receive_data(agent.data_to_send()) == [SettingsChanged(4096)]
    with pytest.raises(LocalProtocolError):
        edge.start()


def test_a_head_of_sixty_kilobytes_arrives_and_is_cut_into_frames_the_peer_takes() -> None:
    pair = Pair()
    stream_id = pair.edge.open_stream(REQUEST)
    pair.to_agent()
    head = [*RESPONSE, (b"cf-cloudflared-response-headers", b"x" * 60_000)]
    pair.agent.send_headers(stream_id, head)
    assert pair.to_edge() == [HeadersReceived(stream_id, head, False)]


def test_trailers_wait_behind_queued_data() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.agent.send_data(stream_id, b"x" * 100_000)
    pair.agent.send_headers(stream_id, [(b"grpc-status", b"0")], end_stream=True)
    first = pair.to_edge()
    assert len(data(first, stream_id)) == 65_536
    assert not any(isinstance(event, HeadersReceived) for event in first)
    pair.edge.consumed(stream_id, 65_536)
    rest, _ = pair.exchange()
    assert len(data(rest, stream_id)) == 100_000 - 65_536
    assert rest[-1] == HeadersReceived(stream_id, [(b"grpc-status", b"0")], True)


def test_an_interim_response_comes_before_the_final_one() -> None:
    pair = Pair()
    stream_id = pair.edge.open_stream(REQUEST)
    pair.to_agent()
    pair.agent.send_headers(stream_id, [(b":status", b"103")])
    with pytest.raises(LocalProtocolError):
        pair.agent.send_data(stream_id, b"too early")
    pair.agent.send_headers(stream_id, RESPONSE, end_stream=True)
    assert [event.headers for event in pair.to_edge() if isinstance(event, HeadersReceived)] == [
        [(b":status", b"103")],
        RESPONSE,
    ]


def test_a_bulk_stream_delays_another_streams_small_frame_by_one_turn_at_most() -> None:
    pair = Pair(agent=Settings(initial_window=1 << 20, max_window=1 << 20))
    bulk, small = pair.open(), pair.open()
    pair.edge.send_data(bulk, bytes(1 << 20))
    pair.edge.data_to_send(limit=16_384)
    pair.edge.send_data(small, b"now")
    wire = pair.edge.data_to_send()
    assert wire.index(frame(FrameType.DATA, 0, small, b"now")) <= 16_384 + 9


def test_turns_go_round_all_streams_with_bytes() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(5)]
    for stream_id in streams:
        pair.edge.send_data(stream_id, bytes(40_000))
    order = [event.stream_id for event in pair.to_agent() if isinstance(event, DataReceived)]
    assert order == streams * 3


def test_control_frames_overtake_data() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.edge.send_data(stream_id, bytes(50_000))
    pair.edge.ping(b"12345678")
    assert pair.edge.data_to_send().startswith(frame(FrameType.PING, 0, 0, b"12345678"))


def test_a_reset_overtakes_and_drops_queued_data() -> None:
    pair = Pair()
    stream_id, other = pair.open(), pair.open()
    pair.edge.send_data(stream_id, bytes(60_000))
    pair.edge.send_data(other, b"unharmed")
    pair.edge.reset_stream(stream_id, ErrorCode.CANCEL)
    assert pair.edge.queued(stream_id) == 0
    wire = pair.edge.data_to_send()
    assert wire == rst_stream(stream_id, ErrorCode.CANCEL) + frame(FrameType.DATA, 0, other, b"unharmed")
    assert pair.agent.receive_data(wire)[0] == StreamReset(stream_id, ErrorCode.CANCEL)
    pair.edge.reset_stream(stream_id, ErrorCode.CANCEL)
    assert not pair.edge.has_data_to_send


def test_a_frame_of_a_long_stream_fills_a_tls_record_with_its_head() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.edge.send_data(stream_id, bytes(4 * 16_375))
    for number in range(4):
        wire = pair.edge.data_to_send(1)
        assert len(wire) == 16_384, number
    assert not pair.edge.has_data_to_send


def test_a_watched_queue_is_told_of_once_when_it_is_short_enough_and_no_other_ever() -> None:
    pair = Pair()
    stream_id, other = pair.open(), pair.open()
    assert pair.edge.send_data(stream_id, bytes(50_000)) == 50_000
    pair.edge.send_data(other, bytes(50_000))
    pair.edge.watch(stream_id, 10_000)
    turns: list[tuple[list[int], int]] = []
    while pair.edge.has_data_to_send:
        pair.edge.data_to_send(1)
        turns.append((pair.edge.take_drained(), pair.edge.queued(stream_id)))
    assert len(turns) == 8
    assert [turn for turn in turns if turn[0]] == [([stream_id], 50_000 - 3 * 16_375)]


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), max_size=40))
def test_however_pieces_are_put_together_what_is_taken_is_what_was_put(turns: list[tuple[int, int]]) -> None:
    stream = Stream(1, receive_window=65_536, send_window=65_536)
    put, taken = b"", b""
    for number, (more, size) in enumerate(turns):
        if data := bytes([number]) * more:
            stream.put(data)
            put += data
        parts: list[bytes | bytearray | memoryview] = []
        stream.take(min(size, stream.queued), parts)
        taken += b"".join(parts)
        assert stream.queued == len(put) - len(taken)
    parts = []
    stream.take(stream.queued, parts)
    assert taken + b"".join(parts) == put


def test_data_stops_at_the_streams_window_and_goes_on_when_the_reader_reads() -> None:
    pair = Pair()
    stream_id, other = pair.open(), pair.open()
    pair.edge.send_data(stream_id, bytes(200_000))
    assert len(data(pair.to_agent(), stream_id)) == 65_536
    assert pair.edge.queued(stream_id) == 200_000 - 65_536
    assert not pair.edge.has_data_to_send
    assert pair.edge.holders() == [Holder(stream_id, 65_536, 0)]
    pair.edge.send_data(other, b"flows")
    assert data(pair.to_agent(), other) == b"flows"
    pair.agent.consumed(stream_id, 32_768)
    pair.to_edge()
    assert len(data(pair.to_agent(), stream_id)) == 32_768


def test_a_peer_that_leaves_little_uncredited_is_credited_however_large_the_window() -> None:
    pair = Pair(agent=Settings(initial_window=1 << 20, connection_window=1 << 20))
    stream_id = pair.open()
    pair.edge.send_data(stream_id, bytes(1_000_000))
    received = 0
    while arrived := len(data(pair.to_agent(), stream_id)):
        received += arrived
        pair.agent.consumed(stream_id, arrived)
        pair.to_edge()
    assert received == 1_000_000


def test_stalled_readers_do_not_use_up_the_connections_window() -> None:
    pair = Pair(agent=Settings(connection_window=100_000))
    for _ in range(10):
        stream_id = pair.open()
        pair.edge.send_data(stream_id, bytes(65_536))
        _, agent_events = pair.exchange()
        assert len(data(agent_events, stream_id)) == 65_536


@pytest.mark.parametrize(("read_at_once", "size"), [(1 << 20, 1 << 20), (4096, 65_536)])
def test_a_window_grows_while_its_reader_keeps_up_and_only_then(read_at_once: int, size: int) -> None:
    budget = WindowBudget()
    pair = Pair(agent_budget=budget)
    stream_id = pair.open()
    unread = 0
    for _ in range(1000):
        pair.edge.send_data(stream_id, bytes(8192))
        unread += len(data(pair.to_agent(), stream_id))
        amount = min(unread, read_at_once)
        pair.agent.consumed(stream_id, amount)
        unread -= amount
        pair.to_edge()
    assert budget.used == size - 65_536


def test_the_budget_counts_growth_and_what_is_held_and_both_are_returned() -> None:
    budget = WindowBudget(limit=8 * 65_536)
    pair = Pair(agent_budget=budget)
    stream_id = pair.open()
    assert budget.used == 0  # idle streams cost nothing, however many
    for _ in range(100):
        pair.edge.send_data(stream_id, bytes(65_536))
        _, events = pair.exchange()
        pair.agent.consumed(stream_id, len(data(events, stream_id)))
        pair.exchange()
    assert budget.used == 7 * 65_536  # it did not double once more
    budget.hold(65_536)
    refused = pair.edge.open_stream(REQUEST)
    edge_events, _ = pair.exchange()
    assert edge_events == [StreamReset(refused, ErrorCode.REFUSED_STREAM)]
    assert budget.is_spent
    pair.edge.reset_stream(stream_id)
    pair.exchange()
    assert budget.used == 65_536
    pair.open()
    pair.agent.terminate()
    budget.release(65_536)
    assert budget.used == 0


def test_no_more_streams_are_opened_than_the_peer_allows() -> None:
    pair = Pair(agent=Settings(max_concurrent_streams=2))
    first, _ = pair.open(), pair.open()
    assert not pair.edge.can_open
    with pytest.raises(StreamLimitError):
        pair.edge.open_stream(REQUEST)
    pair.edge.reset_stream(first)
    assert pair.edge.can_open
    assert pair.open() == 5


def test_after_goaway_streams_finish_and_none_is_opened() -> None:
    pair = Pair()
    stream_id = pair.open()
    unseen = pair.edge.open_stream(REQUEST)
    pair.agent.close()
    assert pair.to_edge() == [
        StreamReset(unseen, ErrorCode.REFUSED_STREAM),
        GoawayReceived(stream_id, ErrorCode.NO_ERROR, b""),
    ]
    with pytest.raises(StreamLimitError):
        pair.edge.open_stream(REQUEST)
    pair.to_agent()
    pair.agent.send_data(stream_id, b"still here")
    assert data(pair.to_edge(), stream_id) == b"still here"


def test_a_ping_is_answered() -> None:
    pair = Pair()
    pair.edge.ping(b"12345678")
    assert pair.exchange()[0] == [PingAcknowledged(b"12345678")]
    with pytest.raises(LocalProtocolError):
        pair.edge.ping(b"short")


def test_what_a_stream_cannot_do_is_refused_here_and_not_sent() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.agent.open_stream(REQUEST)
    with pytest.raises(LocalProtocolError):
        pair.edge.send_data(1, b"never opened")
    stream_id = pair.edge.open_stream(REQUEST)
    pair.to_agent()
    with pytest.raises(LocalProtocolError):
        pair.agent.send_data(stream_id, b"before the head")
    with pytest.raises(LocalProtocolError):
        pair.agent.end_stream(stream_id)
    pair.edge.end_stream(stream_id)
    for late in (lambda: pair.edge.end_stream(stream_id), lambda: pair.edge.send_data(stream_id, b"x")):
        with pytest.raises(LocalProtocolError):
            late()
    assert pair.to_agent() == [DataReceived(stream_id, b"", 0, True)]
    with pytest.raises(LocalProtocolError):
        pair.edge.send_headers(stream_id, [(b"x", b"y")], end_stream=True)


def test_a_limit_bounds_what_is_handed_over() -> None:
    pair = Pair()
    for stream_id in [pair.open() for _ in range(8)]:
        pair.edge.send_data(stream_id, bytes(60_000))
    wire = pair.edge.data_to_send(limit=50_000)
    assert 50_000 <= len(wire) < 50_000 + 16_384 + 9 * 5
    assert pair.edge.has_data_to_send


def test_event_data_keeps_no_larger_buffer_alive() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.edge.send_data(stream_id, b"small")
    (event,) = pair.agent.receive_data(pair.edge.data_to_send())
    assert isinstance(event, DataReceived)
    assert type(event.data) is bytes


def test_over_crediting_is_a_local_error() -> None:
    pair = Pair()
    stream_id = pair.open()
    with pytest.raises(LocalProtocolError):
        pair.agent.consumed(stream_id, 65_536)
