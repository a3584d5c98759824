"""Wire-taps: what a TLS session carried in clear, what a TCP connection carried at all, and ways to read between its lines."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from penstock.net.transports import cut
from penstock.protocol.http2.frames import HEADER_SIZE, PREFACE, FrameType
from penstock.protocol.websocket import Close, Role, WebSocketCodec
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Generator

    from penstock.config.types import HostPort
    from penstock.tls.contexts import TLSContext

ALERT, APPLICATION_DATA = 21, 23  # RFC 8446 5.1


@dataclass
class Conversation:
    """One connection: what its owner read and what it wrote."""

    read: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)


@dataclass
class Tape:
    """What one hop sees of all its connections."""

    conversations: list[Conversation] = field(default_factory=list)

    def on(self, context: TLSContext) -> TLSContext:
        """Sessions of `context` are recorded from now on: the bytes inside TLS, as the hop has them."""
        tape = self

        class Recorded(context.sslobject_class):  # type: ignore[misc, name-defined]
            _said: Conversation | None = None

            def read(self, *arguments: Any) -> bytes:
                data: bytes = super().read(*arguments)
                self._conversation().read.extend(data)
                return data

            def write(self, data: Any) -> int:
                written: int = super().write(data)
                self._conversation().written.extend(memoryview(data)[:written])
                return written

            def _conversation(self) -> Conversation:
                if self._said is None:
                    self._said = tape.begin()
                return self._said

        context.sslobject_class = Recorded
        return context

    def begin(self) -> Conversation:
        self.conversations.append(Conversation())
        return self.conversations[-1]

    # --- reading it -------------------------------------------------------------------------------------------------

    def flows(self) -> list[bytes]:
        """Every direction of every connection."""
        return [bytes(flow) for said in self.conversations for flow in (said.read, said.written)]

    @property
    def everything(self) -> bytes:
        return b"".join(self.flows())

    def payloads(self) -> list[bytes]:
        """What an eavesdropper with patience makes of it: HTTP/2 streams put together, WebSocket masks taken off."""
        found: list[bytes] = []
        for flow in self.flows():
            streams = _streams(flow) if _is_link(flow) else [_after_head(flow)]
            for stream in streams:
                found += [_unmasked(stream, role) for role in Role]
        return found

    def hears(self, marker: str) -> bool:
        """Whether `marker` is on the tape: plain, in another encoding, under a mask or cut up into frames."""
        views = [*self.flows(), *self.payloads()]
        return any(form in view for form in disguises(marker) for view in views)


class Recorders:
    """One tape a hop; `installed` records the contexts that roles build meanwhile."""

    def __init__(self) -> None:
        self.edge = Tape()
        self.agent = Tape()
        self.proxy = Tape()

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        tapes = {
            "edge_callers": self.edge,
            "edge_agents": self.edge,
            "agent_outer": self.agent,
            "proxy_inner": self.proxy,
        }
        with contextlib.ExitStack() as stack:
            for name, tape in tapes.items():
                stack.enter_context(mock.patch.object(contexts, name, _recording(getattr(contexts, name), tape)))
            yield


def _recording(build: Any, tape: Tape) -> Any:
    return lambda *arguments, **named: tape.on(build(*arguments, **named))


def disguises(marker: str) -> set[bytes]:
    """The ways a text shows in bytes that are not encrypted."""
    plain = marker.encode()
    forms = {plain, plain[::-1], plain.hex().encode(), plain.hex().upper().encode(), marker.encode("utf-16-le")}
    forms |= {marker.encode("utf-16-be"), marker.swapcase().encode()}
    for shift in range(3):  # base64 of a text depends on where it begins; the characters at its rims on its neighbours
        encoded = base64.b64encode(bytes(shift) + plain)[2 * (shift > 0) + (shift > 1) :]
        forms.add(encoded.rstrip(b"=")[:-1])
        forms.add(encoded.rstrip(b"=")[:-1].translate(bytes.maketrans(b"+/", b"-_")))
    return forms


def compressibility(data: bytes) -> float:
    """Size after compression over size before; what is encrypted stays at one."""
    return len(zlib.compress(data)) / max(1, len(data))


# --- TCP --------------------------------------------------------------------------------------------------------------


class Tap:
    """A relay on a port of its own that records what passes to `target` (`read`) and back (`written`)."""

    def __init__(self, target: HostPort) -> None:
        self.tape = Tape()
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()
        self._transports: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in list(self._transports):
            transport.abort()
        if self._open:
            await asyncio.wait(self._open, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        there, back = await asyncio.open_connection(self._target.host, self._target.port)
        said = self.tape.begin()
        ends = {writer.transport, back.transport}
        self._transports |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back, said.read))
                group.create_task(_pump(there, writer, said.written))
        except* OSError:
            for transport in ends:
                cut(transport)
        finally:
            for transport in ends:
                transport.close()
            self._transports -= ends
            self._open.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
    while data := await reader.read(65_536):
        record.extend(data)
        writer.write(data)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


# --- taking frames off ------------------------------------------------------------------------------------------------


def closes(flow: bytes) -> list[Close]:
    """The WebSocket Close frames in one direction of one connection."""
    found: list[Close] = []
    for role in Role:
        found += [event for event in WebSocketCodec(role, bytes).receive_data(_after_head(flow)) if isinstance(event, Close)]
    return found


def record_types(flow: bytes) -> list[int]:
    """The content types of the TLS records that travelled inside the WebSocket, in order (RFC 8446 5.1)."""
    found: list[int] = []
    for role in Role:
        inner = _unmasked(_after_head(flow), role)
        at = 0
        while at + 5 <= len(inner):
            found.append(inner[at])
            at += 5 + int.from_bytes(inner[at + 3 : at + 5], "big")
    return found


def _after_head(flow: bytes) -> bytes:
    return flow.partition(b"\r\n\r\n")[2]


def _unmasked(frames: bytes, role: Role) -> bytes:
    events = WebSocketCodec(role, bytes).receive_data(frames)
    return b"".join(event for event in events if isinstance(event, bytes))


def _is_link(flow: bytes) -> bool:
    return flow.startswith(PREFACE) or (len(flow) > HEADER_SIZE and flow[3] == FrameType.SETTINGS and not any(flow[5:9]))


def _streams(flow: bytes) -> list[bytes]:
    """The DATA of each stream of an HTTP/2 connection (RFC 9113 4.1; none of ours is padded)."""
    at = len(PREFACE) if flow.startswith(PREFACE) else 0
    streams: dict[bytes, bytearray] = {}
    while at + HEADER_SIZE <= len(flow):
        size, kind, number = int.from_bytes(flow[at : at + 3], "big"), flow[at + 3], flow[at + 5 : at + 9]
        at += HEADER_SIZE
        if kind == FrameType.DATA:
            streams.setdefault(number, bytearray()).extend(flow[at : at + size])
        at += size
    return [bytes(data) for data in streams.values()]
