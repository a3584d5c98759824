"""Who we are on a connection, what we allow, and what the peer allowed (RFC 9113 6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.frames import (
    HEADER_SIZE,
    SETTING,
    ErrorCode,
    SettingId,
)

DEFAULT_WINDOW: Final = 65_535
"""RFC 9113 6.9.2: what either side may send before it has seen SETTINGS or WINDOW_UPDATE."""
MAX_WINDOW: Final = 2**31 - 1
MIN_MAX_FRAME: Final = 16_384
MAX_MAX_FRAME: Final = 2**24 - 1
UNLIMITED: Final = 2**32 - 1


class Role(Enum):
    """Which end of the reversed link this is."""

    EDGE = "edge"
    """The HTTP/2 client, on an accepted socket: opens streams."""
    AGENT = "agent"
    """The HTTP/2 server, on a dialled socket: answers them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Our limits. "An interval" is the time between two `Connection.begin_interval` calls: the driver is the clock."""

    initial_window: int = 65_536
    """Bytes a stream may send us unread at first: a small answer whole, and 4,096 streams that stall hold 256 MiB at most."""
    max_window: int = 1024 * 1024
    """Where a stream's window stops growing: 1 MiB carries 40 MB/s at 25 ms."""
    connection_window: int = 16 * 1024 * 1024
    """Bytes in flight on the whole connection. Credited on receipt, so stalled readers cannot exhaust it."""
    max_concurrent_streams: int = 4096
    """Streams alive at once, whoever opens them; also holds us back where the peer names no limit (stock agents: 2^32-1)."""
    max_frame_size: int = MIN_MAX_FRAME
    """Largest frame we accept. A partial frame is the only thing the parser buffers."""
    max_header_list: int = 1024 * 1024
    """Decoded bytes of one head, 32 more a field (RFC 9113 6.5.2): a stock agent packs the origin's whole head into one."""
    max_header_block: int = 256 * 1024
    """Encoded bytes of one head."""
    max_header_fields: int = 512
    """Fields of one head, received or sent; more cost their stream. Together with `max_header_block` it bounds the time hpack
    can take, to some 20 ms, and a head that would take longer costs the connection."""
    max_continuations: int = 64
    """CONTINUATION frames of one head (CVE-2024-27316: they need not carry anything)."""
    max_resets: int = 5000
    """Streams an interval that the peer opens and resets unanswered, or makes us reset or refuse (CVE-2023-44487,
    CVE-2025-8671). A lawful edge may cancel all its 4,096 waiting streams at once."""
    max_pings: int = 1000
    """PING frames an interval (CVE-2019-9512)."""
    max_settings: int = 100
    """SETTINGS frames an interval (CVE-2019-9515); each may touch every stream."""
    max_empty_frames: int = 1000
    """DATA frames an interval that carry nothing (CVE-2019-9518), and stray frames on forgotten streams."""
    max_queued_control: int = 10_000
    """Frames we queue on the peer's account while it does not read."""
    max_forgotten: int = 4096
    """Closed streams remembered, so that what was in flight on them is told from a violation (RFC 9113 5.1)."""
    stream_credit: int = 64 * 1024
    """Bytes an edge leaves uncredited on one stream towards an agent whose connection window is small: a stock one has 1 MiB
    for all its streams, and one origin that stops reading must not hold it."""
    small_connection_window: int = 4 * 1024 * 1024
    """Below this an agent's connection window counts as small; 0 turns `stream_credit` off."""
    turn: int = MIN_MAX_FRAME - HEADER_SIZE
    """DATA bytes a stream may send before the next one's turn: a frame fills a TLS record, and none is torn between two."""

    def __post_init__(self) -> None:
        # A peer may lawfully use the RFC's defaults until it has seen our SETTINGS, so ours are never below them.
        if not DEFAULT_WINDOW <= self.initial_window <= self.max_window <= MAX_WINDOW:
            raise ValueError("windows must rise: 65,535 <= initial_window <= max_window < 2^31")
        if not DEFAULT_WINDOW <= self.connection_window <= MAX_WINDOW:
            raise ValueError("connection_window is 65,535 to 2^31-1")
        if not MIN_MAX_FRAME <= self.max_frame_size <= MAX_MAX_FRAME:
            raise ValueError("max_frame_size is 16,384 to 2^24-1")

    def payload(self, role: Role) -> bytes:
        """The SETTINGS payload that announces these limits."""
        values: list[tuple[int, int]] = [
            (SettingId.INITIAL_WINDOW_SIZE, self.initial_window),
            (SettingId.MAX_FRAME_SIZE, self.max_frame_size),
            (SettingId.MAX_HEADER_LIST_SIZE, self.max_header_list),
        ]
        if role is Role.EDGE:
            values.append((SettingId.ENABLE_PUSH, 0))
            values.append((SettingId.MAX_CONCURRENT_STREAMS, 0))  # of pushed streams
        else:
            values.append((SettingId.MAX_CONCURRENT_STREAMS, self.max_concurrent_streams))
        return b"".join(SETTING.pack(name, value) for name, value in values)


@dataclass(slots=True)
class PeerSettings:
    """What the peer allows us; the RFC's initial values until its SETTINGS arrive."""

    header_table_size: int = 4096
    max_concurrent_streams: int = UNLIMITED
    initial_window: int = DEFAULT_WINDOW
    max_frame_size: int = MIN_MAX_FRAME
    max_header_list: int = UNLIMITED

    def apply(self, payload: bytes, role: Role) -> None:
        """Take a SETTINGS payload; every value is checked, the last of a kind counts (only the end state is visible)."""
        for name, value in SETTING.iter_unpack(payload):
            match name:
                case SettingId.HEADER_TABLE_SIZE:
                    self.header_table_size = value
                case SettingId.ENABLE_PUSH:
                    # RFC 9113 6.5.2: 0 or 1, and a server may only say 0.
                    if value > (0 if role is Role.EDGE else 1):
                        raise RemoteProtocolError("SETTINGS_ENABLE_PUSH has a forbidden value")
                case SettingId.MAX_CONCURRENT_STREAMS:
                    self.max_concurrent_streams = value
                case SettingId.INITIAL_WINDOW_SIZE:
                    if value > MAX_WINDOW:
                        raise RemoteProtocolError("SETTINGS_INITIAL_WINDOW_SIZE is too large", ErrorCode.FLOW_CONTROL_ERROR)
                    self.initial_window = value
                case SettingId.MAX_FRAME_SIZE:
                    if not MIN_MAX_FRAME <= value <= MAX_MAX_FRAME:
                        raise RemoteProtocolError("SETTINGS_MAX_FRAME_SIZE is out of range")
                    self.max_frame_size = value
                case SettingId.MAX_HEADER_LIST_SIZE:
                    self.max_header_list = value
                case _:
                    pass  # RFC 9113 6.5.2: unknown settings are ignored (a stock agent sends NO_RFC7540_PRIORITIES)
