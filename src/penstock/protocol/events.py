"""What an edge tells callers beside their streams: `GET /penstock/v1/edge/events`, in the form of server-sent events.

Bytes in, events out, and the reverse. A kind or a member that is not known is skipped: a newer edge may say more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, cast

from penstock.protocol.errors import RemoteProtocolError

PATH: Final = "/penstock/v1/edge/events"
"""Where an edge's callers' port gives them."""
CONTENT_TYPE: Final = "text/event-stream"

HELLO: Final = "hello"
"""The first: the stream stands, and nothing that comes after it is missed."""
DRAINING: Final = "draining"
"""The edge is about to go: open new streams elsewhere, finish calls, close."""
UNREGISTERED: Final = "unregistered"
"""The agent takes the link named in `link` down: as above, for the streams on it."""
REVOKED: Final = "revoked"
"""The caller's certificate is accepted no more; its streams are cut, and this one ends."""
KEEP_ALIVE: Final = b":\n\n"
"""A comment: it shows either side that the other lives."""

MAX_EVENT: Final = 16 * 1024
"""Bytes of one event; those of today have a hundred."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `link`: the value of `Penstock-Link` on the streams that are meant."""

    kind: str
    link: str = ""

    def encode(self) -> bytes:
        """As it travels."""
        members = {"link": self.link} if self.link else {}
        return f"event: {self.kind}\ndata: {json.dumps(members, separators=(',', ':'))}\n\n".encode()


class EventReader:
    """Events out of a response's body, split anywhere. RemoteProtocolError for one that cannot be read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[Event]:
        """The events that are whole by now."""
        self._buffer += data
        *whole, rest = bytes(self._buffer).split(b"\n\n")
        if len(rest) > MAX_EVENT:
            raise RemoteProtocolError("an event is too long")
        self._buffer = bytearray(rest)
        return [event for block in whole if (event := _read(block)) is not None]


def _read(block: bytes) -> Event | None:
    """None for a comment. Ours are made of the two fields in one spelling; this is no reader of others' event streams."""
    kind, data = "", ""
    try:
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            if name == "event":
                kind = value.strip()
            elif name == "data":
                data = value.strip()
        members: object = json.loads(data or "{}")
    except (ValueError, RecursionError):
        raise RemoteProtocolError("an event cannot be read") from None
    if not kind:
        return None
    if not isinstance(members, dict):
        raise RemoteProtocolError("an event is no object")
    link = cast("dict[str, object]", members).get("link", "")
    return Event(kind, link if isinstance(link, str) else "")
