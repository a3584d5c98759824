"""Every frame, judged: what RFC 9113 6 says of its type, and what it does to the connection.

A broken rule of the connection raises RemoteProtocolError; a broken rule of one stream resets that stream and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    PingAcknowledged,
    SettingsChanged,
    StreamReset,
)
from penstock.protocol.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    ID_MASK,
    PADDED,
    PRIORITY,
    PRIORITY_SIZE,
    SETTING,
    WORD,
    ErrorCode,
    FrameType,
    frame,
)
from penstock.protocol.http2.headers import HeaderBlock, Headers, Kind, is_interim, malformed
from penstock.protocol.http2.settings import Role
from penstock.protocol.http2.streams import Closure

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.protocol.http2.ledger import Ledger

_GOAWAY_SIZE: Final = 8


def judge(ledger: Ledger, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    """Take one whole frame."""
    if not ledger.settled and (kind != FrameType.SETTINGS or flags & ACK):
        raise RemoteProtocolError("the first frame is not SETTINGS")
    block = ledger.block
    if block is not None and (kind != FrameType.CONTINUATION or stream_id != block.stream_id):
        raise RemoteProtocolError("a header block was interrupted")
    if kind >= len(_RULES):
        return  # RFC 9113 4.1: frames of unknown types are ignored
    rule = _RULES[kind]
    if rule.on_stream is not None and rule.on_stream is (stream_id == 0):
        raise RemoteProtocolError(f"{FrameType(kind).name} is on the wrong kind of stream")
    if rule.size is not None and len(payload) != rule.size:
        raise RemoteProtocolError(f"{FrameType(kind).name} has a wrong size", ErrorCode.FRAME_SIZE_ERROR)
    rule.take(ledger, flags, stream_id, payload, events)


def _unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise RemoteProtocolError("the padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _data(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    data = _unpadded(payload, flags)
    size = len(payload)
    ledger.uncredited += size  # whatever becomes of the stream: both sides must agree on the connection's window
    if ledger.uncredited * 2 >= ledger.settings.connection_window:
        ledger.credit_connection()
    stream = ledger.streams.get(stream_id)
    if stream is None:
        ledger.late(stream_id)
        return
    if not stream.can_receive:
        ledger.fail(stream, ErrorCode.STREAM_CLOSED, events)
    elif not stream.head_received:
        ledger.fail(stream, ErrorCode.PROTOCOL_ERROR, events)
    elif stream.window.credit < size:
        ledger.fail(stream, ErrorCode.FLOW_CONTROL_ERROR, events)
    else:
        ends = bool(flags & END_STREAM)
        stream.window.credit -= size
        if data or ends:
            events.append(DataReceived(stream_id, data, len(data), ends))
        else:
            ledger.allowances.count_empty()
        if ends:
            ledger.received_end(stream)
        elif size > len(data):
            stream.window.read += size - len(data)  # padding is read by nobody else
            if stream.window.read >= stream.window.step:
                ledger.credit(stream)


def _headers(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    fragment = _unpadded(payload, flags)
    if flags & PRIORITY:
        if len(fragment) < PRIORITY_SIZE:
            raise RemoteProtocolError("HEADERS has a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        fragment = fragment[PRIORITY_SIZE:]
    block = HeaderBlock(stream_id, end_stream=bool(flags & END_STREAM), settings=ledger.settings)
    _fragment(ledger, block, flags, fragment, events)


def _continuation(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    if ledger.block is None:
        raise RemoteProtocolError("CONTINUATION continues nothing")
    _fragment(ledger, ledger.block, flags, payload, events)


def _fragment(ledger: Ledger, block: HeaderBlock, flags: int, fragment: bytes, events: list[Event]) -> None:
    block.add(fragment)
    if not flags & END_HEADERS:
        ledger.block = block
        return
    ledger.block = None
    headers = ledger.codec.decode(block.join())  # also for streams that are gone: HPACK's table is the connection's
    stream_id, ends = block.stream_id, block.end_stream
    if stream_id in ledger.streams:
        _next_head(ledger, stream_id, headers, events, ends=ends)
    elif ledger.role is Role.AGENT and stream_id > ledger.last_id and stream_id % 2:
        _first_head(ledger, stream_id, headers, events, ends=ends)
    else:
        ledger.late(stream_id)


def _first_head(ledger: Ledger, stream_id: int, headers: Headers, events: list[Event], *, ends: bool) -> None:
    """The edge opens a stream."""
    ledger.last_id = stream_id
    if malformed(headers, Kind.REQUEST, ledger.settings.max_header_fields) is not None:
        ledger.refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
        return
    # The first is the link's own, which carries nothing in bulk: without it there would be no link.
    has_no_memory = bool(ledger.streams) and ledger.budget.is_spent
    if ledger.goaway_sent or len(ledger.streams) >= ledger.stream_limit or has_no_memory:
        ledger.refuse(stream_id, ErrorCode.REFUSED_STREAM)
        return
    stream = ledger.create(stream_id)
    stream.head_complete()
    events.append(HeadersReceived(stream_id, headers, ends))
    if ends:
        ledger.received_end(stream)


def _next_head(ledger: Ledger, stream_id: int, headers: Headers, events: list[Event], *, ends: bool) -> None:
    """A response (EDGE), or trailers."""
    stream = ledger.streams[stream_id]
    if not stream.can_receive:
        ledger.fail(stream, ErrorCode.STREAM_CLOSED, events)
        return
    kind = Kind.TRAILERS if stream.head_received else Kind.RESPONSE
    broken = malformed(headers, kind, ledger.settings.max_header_fields) is not None
    interim = kind is Kind.RESPONSE and not broken and is_interim(headers)
    # RFC 9113 8.1: trailers end their stream, interim heads do not.
    if broken or (kind is Kind.TRAILERS and not ends) or (interim and ends):
        ledger.fail(stream, ErrorCode.PROTOCOL_ERROR, events)
        return
    if interim:
        ledger.allowances.count_empty()
    else:
        stream.head_complete()
    events.append(HeadersReceived(stream_id, headers, ends))
    if ends:
        ledger.received_end(stream)


def _priority(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
    """RFC 9113 5.3.2: deprecated, and ignored."""


def _rst_stream(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    stream = ledger.streams.get(stream_id)
    if stream is None:
        if ledger.is_idle(stream_id):
            raise RemoteProtocolError("RST_STREAM is on a stream that was never opened")
        return
    if not stream.head_sent:
        ledger.allowances.count_reset()  # opened and reset before any answer: CVE-2023-44487
    (code,) = WORD.unpack(payload)
    ledger.reset(stream, code, Closure.RESET_BY_PEER)
    events.append(StreamReset(stream_id, code))


def _settings(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    if flags & ACK:
        if payload:
            raise RemoteProtocolError("an acknowledgement of SETTINGS has content", ErrorCode.FRAME_SIZE_ERROR)
        return
    if len(payload) % SETTING.size:
        raise RemoteProtocolError("SETTINGS has a wrong size", ErrorCode.FRAME_SIZE_ERROR)
    ledger.allowances.count_settings()
    ledger.peer.apply(payload, ledger.role)
    ledger.settled = True
    ledger.settings_changed()
    ledger.out.reply(frame(FrameType.SETTINGS, ACK, 0))
    events.append(SettingsChanged(ledger.peer.max_concurrent_streams))


def _push_promise(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    raise RemoteProtocolError("PUSH_PROMISE was not allowed")  # RFC 9113 8.4: we said ENABLE_PUSH 0, and no client pushes


def _ping(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    if flags & ACK:
        events.append(PingAcknowledged(payload))
        return
    ledger.allowances.count_ping()
    ledger.out.reply(frame(FrameType.PING, ACK, 0, payload))


def _goaway(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    if len(payload) < _GOAWAY_SIZE:
        raise RemoteProtocolError("GOAWAY has a wrong size", ErrorCode.FRAME_SIZE_ERROR)
    ledger.allowances.count_settings()  # each one looks at every stream
    last_id = WORD.unpack_from(payload)[0] & ID_MASK
    (code,) = WORD.unpack_from(payload, WORD.size)
    ledger.goaway_received = True
    if ledger.role is Role.EDGE:
        for unseen in [stream for stream in ledger.streams.values() if stream.id > last_id]:
            ledger.reset(unseen, ErrorCode.REFUSED_STREAM, Closure.REFUSED)
            events.append(StreamReset(unseen.id, ErrorCode.REFUSED_STREAM))
    events.append(GoawayReceived(last_id, code, payload[_GOAWAY_SIZE:]))


def _window_update(ledger: Ledger, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:  # noqa: ARG001
    increment = WORD.unpack(payload)[0] & ID_MASK
    if stream_id == 0:
        if increment == 0:
            raise RemoteProtocolError("WINDOW_UPDATE adds nothing")
        if not ledger.out.adjust_connection(increment):
            raise RemoteProtocolError("the connection's window is too large", ErrorCode.FLOW_CONTROL_ERROR)
        return
    stream = ledger.streams.get(stream_id)
    if stream is None:
        if ledger.is_idle(stream_id):
            raise RemoteProtocolError("WINDOW_UPDATE is on a stream that was never opened")
    elif increment == 0:
        ledger.fail(stream, ErrorCode.PROTOCOL_ERROR, events)
    elif not ledger.out.adjust(stream, increment):
        ledger.fail(stream, ErrorCode.FLOW_CONTROL_ERROR, events)


class _Rule(NamedTuple):
    """`on_stream`: whether the frame belongs on a stream, on the connection, or (None) on either; `size`: its only one."""

    take: Callable[[Ledger, int, int, bytes, list[Event]], None]
    on_stream: bool | None
    size: int | None


_RULES: Final = (
    _Rule(_data, on_stream=True, size=None),
    _Rule(_headers, on_stream=True, size=None),
    _Rule(_priority, on_stream=True, size=PRIORITY_SIZE),
    _Rule(_rst_stream, on_stream=True, size=4),
    _Rule(_settings, on_stream=False, size=None),
    _Rule(_push_promise, on_stream=None, size=None),
    _Rule(_ping, on_stream=False, size=8),
    _Rule(_goaway, on_stream=False, size=None),
    _Rule(_window_update, on_stream=None, size=4),
    _Rule(_continuation, on_stream=True, size=None),
)
"""By frame type, 0 to 9."""
