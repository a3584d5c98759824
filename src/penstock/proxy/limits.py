"""What a proxy takes on, and how long it waits: every limit a setting, its default argued beside it."""

from __future__ import annotations

from pydantic import Field

from penstock.config.load import Section
from penstock.config.types import ByteSize, Duration  # noqa: TC001 - pydantic reads annotations at run time


class ProxyLimits(Section):
    """What a proxy takes on, and how long it waits. 0 turns a time off where that is said."""

    streams: int = Field(default=10_000, ge=1)
    """Callers' streams at once; an idle one costs about 56 KiB. Each is a connection of its own from the agent, and carries
    one request at a time. Fewer where this process may not open two files a stream."""

    head_bytes: ByteSize = Field(default=32 * 1024, ge=1024, le=1 << 20)
    """A request's or response's head. Bearer tokens and `Mcp-Param-*` reach some KiB; nginx takes 32 KiB in all."""

    headers: int = Field(default=100, ge=1, le=10_000)
    """Header lines a head; browsers send 20, Apache takes 100."""

    body_bytes: ByteSize = 0
    """A request's body; 0 is any size: bodies stream, they are never held."""

    handshake_timeout: Duration = Field(default=10.0, gt=0)
    """The upgrade's head, and then inner TLS: three round trips each at most, even through a satellite."""

    head_timeout: Duration = Field(default=10.0, gt=0)
    """From a head's first byte to its last; it fits one packet, longer is a slow-loris."""

    body_timeout: Duration = Field(default=60.0, gt=0)
    """Between two pieces of a request's body that the upstream is waiting for."""

    idle_timeout: Duration = Field(default=300.0, gt=0)
    """A stream without a request: as long as callers' pools usefully keep one; a new one costs them six round trips."""

    connect_timeout: Duration = Field(default=10.0, gt=0)
    """Name look-up, TCP and TLS to an upstream: a private network answers in milliseconds or not at all."""

    first_byte_timeout: Duration = 0.0
    """From a request's end to the response's head; 0 is for ever. Off because a tool may think for minutes before it
    answers, the caller knows how long it wants to wait, and its going away ends the request."""

    total_timeout: Duration = 0.0
    """From a request's head to its response's last byte; 0 is for ever. Off because event streams last for hours."""

    stall_timeout: Duration = 300.0
    """How long either side may take nothing of what waits for it, holding the other's connection; 0 is for ever. As long as an
    MCP client waits for a response: who has not read for longer is not going to."""

    upstream_idle: Duration = Field(default=4.0, ge=0)
    """How long a kept connection is reused. Shorter than the 5 s after which uvicorn and Node close theirs: a POST sent into
    a closing connection fails, and may not be repeated."""

    upstream_idle_connections: int = Field(default=64, ge=0)
    """Kept connections a route: enough for a burst, few enough for a small server."""

    lookups: int = Field(default=16, ge=1)
    """Name look-ups at once; the rest wait within `connect_timeout`."""
