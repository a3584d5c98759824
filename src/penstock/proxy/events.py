"""Event streams as they pass: where one event ends and the next begins, and how long they may say nothing. Pure.

Nothing is parsed or held. A stream may be ended, or a comment put into it, only where an event has just ended: anywhere
else it would make half an event whole, or break one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from penstock.proxy.heads import Framing, values

if TYPE_CHECKING:
    from penstock.proxy.heads import ResponseHead

KEEPALIVE: Final = b":\n\n"  # a comment, and an empty line that dispatches nothing
_CONTENT_TYPE: Final = re.compile(rb"text/event-stream[\t ]*(?:;.*)?", re.IGNORECASE)
_EVENT_END: Final = re.compile(rb"\n\r?\n")  # nobody ends lines in a lone CR, though the standard would take it
_TAIL: Final = 3  # bytes of the longest event end


class EventStream:
    """What was said last on one event stream."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    @property
    def is_at_boundary(self) -> bool:
        """Whether an event has just ended, or none has begun."""
        return not self._tail or self._tail.endswith((b"\n\n", b"\n\r\n"))

    def feed(self, data: bytes) -> None:
        """More of the stream has passed."""
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]

    def rest_of_event(self, data: bytes) -> int | None:
        """How many bytes of `data`, which comes next, the event under way still has; None where its end is not among them."""
        before = self._tail[-2:]
        match = _EVENT_END.search(before + data)
        return max(match.end() - len(before), 0) if match is not None else None


def is_event_stream(head: ResponseHead) -> bool:
    """Whether comments may be put into this response, and an end where it has none: events, unpacked, of no given length."""
    if head.framing is Framing.LENGTH or head.framing is Framing.NONE:
        return False
    types = values(head.fields, b"content-type")
    is_events = len(types) == 1 and _CONTENT_TYPE.fullmatch(types[0]) is not None
    return is_events and not values(head.fields, b"content-encoding")


def is_standing(method: bytes, fields: bytes) -> bool:
    """Whether an event stream that answers this request has no end of its own: a server's own stream, or a subscription.

    MCP 2026-07-28 says the method in a header, so that nobody on the way has to read a body; before it such streams are GETs.
    """
    return method == b"GET" or b"subscriptions/listen" in values(fields, b"mcp-method")
