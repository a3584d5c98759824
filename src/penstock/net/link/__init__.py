"""One link: an agent's connection to an edge, and the byte pipes inside it.

`protocol.http2` decides what the bytes mean; here they meet a transport, a clock and the programs at both ends. Each
stream is a transport under the contract of `net.transports`, with buffers of its own: a reader that stalls holds up its
stream, never the link, and a stream that fails takes nothing with it.
"""

from __future__ import annotations

from penstock.net.link.limits import LinkLimits, LinkOwner
from penstock.net.link.link import Link
from penstock.net.link.stream import LinkStream, StreamLostError, StreamRefusedError

__all__ = ["Link", "LinkLimits", "LinkOwner", "LinkStream", "StreamLostError", "StreamRefusedError"]
