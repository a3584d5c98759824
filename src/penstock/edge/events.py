"""Event streams: what this edge tells callers beside their streams, so that they leave before they are cut.

One a process of a caller's: it is known by its certificate. Nothing is queued for one that does not read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.transports import cut
from penstock.protocol import events
from penstock.protocol.events import Event

if TYPE_CHECKING:
    from collections.abc import Collection

    from penstock.net.upgrade import UpgradeRequest

_EACH: Final = 2  # streams a certificate may have: one, and the one before it that has not ended yet
_UNREAD: Final = 16 * 1024  # bytes: hundreds of events that nobody reads
_KEEP_ALIVE: Final = 25.0  # seconds: home routers and balancers forget a silent connection after 60 or more
_RETRY_AFTER: Final = 5


class Events:
    """All event streams of one edge process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, list[_Subscriber]] = {}

    @property
    def open(self) -> int:
        """Event streams that stand."""
        return sum(map(len, self._open.values()))

    def accept(self, request: UpgradeRequest, serial: str) -> None:
        """Answer a request for events from the caller with this certificate. TunnelError when there are too many."""
        own = self._open.get(serial, [])
        if len(own) >= _EACH:
            own[0].cut()
        elif self.open >= self._limit:
            raise TunnelError(TunnelErrorCode.RATE_LIMITED, "the edge is full", retry_after=_RETRY_AFTER)
        request.stream(events.CONTENT_TYPE)
        subscriber = _Subscriber(self, serial, request.transport)
        self._open.setdefault(serial, []).append(subscriber)
        request.transport.set_protocol(subscriber)
        subscriber.tell(Event(events.HELLO).encode())
        request.transport.resume_reading()

    def tell(self, event: Event, serials: Collection[str] | None = None) -> None:
        """Tell the callers with these certificates; all of them where None."""
        text = event.encode()
        for serial in list(self._open) if serials is None else serials:
            for subscriber in list(self._open.get(serial, ())):
                subscriber.tell(text)

    def revoke(self, serials: Collection[str]) -> None:
        """These certificates are accepted no more: say so, and end."""
        self.tell(Event(events.REVOKED), serials)
        for serial in serials:
            for subscriber in list(self._open.get(serial, ())):
                subscriber.end()

    def end_all(self) -> None:
        """End every event stream."""
        for own in list(self._open.values()):
            for subscriber in list(own):
                subscriber.end()

    async def keep_alive(self) -> None:
        """Show all that the edge lives, for ever."""
        while True:
            await asyncio.sleep(_KEEP_ALIVE)
            for own in list(self._open.values()):
                for subscriber in list(own):
                    subscriber.tell(events.KEEP_ALIVE)

    def forget(self, subscriber: _Subscriber) -> None:
        """It is gone."""
        own = self._open.get(subscriber.serial, [])
        if subscriber in own:
            own.remove(subscriber)
        if not own:
            self._open.pop(subscriber.serial, None)


class _Subscriber(asyncio.Protocol):
    """One event stream's end at the edge. The caller has nothing to say on it."""

    __slots__ = ("_events", "_transport", "serial")

    def __init__(self, owner: Events, serial: str, transport: asyncio.Transport) -> None:
        self._events: Events | None = owner
        self._transport: asyncio.Transport = transport
        self.serial = serial

    def tell(self, text: bytes) -> None:
        if self._transport.get_write_buffer_size() > _UNREAD:
            self.cut()
        elif not self._transport.is_closing():
            self._transport.write(text)

    def end(self) -> None:
        self._gone()
        self._transport.close()

    def cut(self) -> None:
        self._gone()
        cut(self._transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is
        self.cut()

    def eof_received(self) -> None:
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a caller may leave as it likes
        self._gone()

    def _gone(self) -> None:
        owner, self._events = self._events, None
        if owner is not None:
            owner.forget(self)
