"""Who tells whom what about one request: the pipeline is its caller's side, the upstream connection the other.

Every call may end the exchange, and whoever calls must look before the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.errors import TunnelError
    from penstock.proxy.heads import Header, ResponseHead
    from penstock.tls.names import CallerIdentity


class Caller(Protocol):
    """The caller's side of an exchange: the pipeline. `identity` is what its certificate says, where it has one."""

    identity: CallerIdentity | None

    def inform(self, head: ResponseHead) -> None:
        """Pass a 1xx on."""
        ...

    def respond(self, head: ResponseHead) -> None:
        """Send the response's head."""
        ...

    def respond_data(self, data: bytes) -> None:
        """Send some of the response's body."""
        ...

    def respond_end(self, trailers: Sequence[Header] = ()) -> None:
        """The response is whole: the exchange is over."""
        ...

    def refuse(self, error: TunnelError) -> None:
        """Answer with the tunnel's own error: the exchange is over."""
        ...

    def cut(self) -> None:
        """The response cannot be finished, and the caller must see that: the exchange is over."""
        ...

    def flush(self) -> None:
        """Write what was sent since the last flush, in one piece."""
        ...

    def update_reading(self) -> None:
        """`Exchange.holds_request` has changed."""
        ...

    def request_passed(self) -> None:
        """The whole request is on its way: the response's time runs."""
        ...


class Answered(Protocol):
    """Who sent the request on a connection."""

    def informed(self, head: ResponseHead) -> None:
        """A 1xx came."""
        ...

    def response_started(self, head: ResponseHead) -> None:
        """The head came."""
        ...

    def response_data(self, data: bytes) -> None:
        """Some of the body came."""
        ...

    def response_ended(self, trailers: Sequence[Header]) -> bool:
        """All of it came; whether the request was sent in full too."""
        ...

    def flush(self) -> None:
        """All that was read at once has been told."""
        ...

    def upstream_failed(self, reason: str, *, is_stale: bool) -> None:
        """The connection is gone. is_stale: it was a kept one and answered nothing at all."""
        ...

    def pause_request(self) -> None:
        """The upstream reads slower than the caller writes."""
        ...

    def resume_request(self) -> None:
        """It has caught up."""
        ...
