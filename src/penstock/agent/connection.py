"""One of an agent's links, once: dial, register, serve, and the end."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.agent.diagnosis import explain
from penstock.config.address import is_loopback
from penstock.errors import IdentityError, PenstockError, UnavailableError
from penstock.net.dial import handshake
from penstock.net.link import Link, LinkLimits, LinkStream
from penstock.net.sockets import peer_of
from penstock.net.streams import ByteStream
from penstock.protocol import metadata
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2 import Role, Settings, WindowBudget
from penstock.protocol.notice import Notice, parse_notice
from penstock.protocol.registration import (
    Aborted,
    Refused,
    Registered,
    Registration,
    RegistrationClient,
    Unregistered,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.agent.config import AgentLimits
    from penstock.agent.reach import Reach
    from penstock.config.types import HostPort
    from penstock.net.tls import TLSTransport
    from penstock.tls.contexts import TLSContext

_READ: Final = 16 * 1024  # answers are a few hundred bytes each
# Large enough that its streams' windows together never meet it before memory does: a stalled stream stops itself alone.
_CONNECTION_WINDOW: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What all links of one agent that are dialled from now on have in common."""

    registration: Registration
    context: TLSContext
    limits: AgentLimits
    budget: WindowBudget
    serve: Callable[[LinkStream], None]
    reach: Reach


class RegistrationRefusedError(IdentityError):
    """The edge does not accept this agent. `retry_after`: seconds, zero when the edge said nothing."""

    def __init__(self, cause: str, retry_after: float) -> None:
        super().__init__(
            f"the edge refused the tunnel token: {cause}",
            hint="the token may have been rotated, or its tunnel archived; reveal the current one and restart the agent",
        )
        self.retry_after = retry_after


class EdgeConnection:
    """One link, from dialling to its end."""

    def __init__(self, plan: LinkPlan, index: int, edge: HostPort, *, attempts: int) -> None:
        self._plan = plan
        self._registration = replace(plan.registration, connection_index=index, previous_attempts=min(attempts, 255))
        self._edge = edge
        limits = plan.limits
        self._link = Link(
            Role.AGENT,
            self,
            settings=Settings(max_concurrent_streams=limits.streams_a_link, connection_window=_CONNECTION_WINDOW),
            limits=LinkLimits(ping_interval=limits.ping_interval, ping_timeout=limits.ping_timeout),
            budget=plan.budget,
        )
        loop = asyncio.get_running_loop()
        self._rpc = RegistrationClient()
        self._control: asyncio.Future[LinkStream] = loop.create_future()
        self._pipe: ByteStream | None = None
        self._has_unregistered = False
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the link is gone."""
        self.is_local = False
        """Whether the edge is on this machine, and needs no network."""
        self.reason = ""
        """Why it went, as far as it is known."""
        self.on_notice: Callable[[Notice], None] = _ignore
        """Called with what the edge tells."""

    @property
    def load(self) -> int:
        """Streams open now, the control stream too."""
        return self._link.load

    @property
    def buffered(self) -> int:
        """Bytes on their way to the edge that the operating system has not taken."""
        return self._link.buffered

    async def register(self) -> Registered:
        """Dial and register. UnavailableError or IdentityError when that fails; RegistrationRefusedError by the edge's word."""
        limits = self._plan.limits
        transport = await self._dial(limits.dial_seconds)
        peer = peer_of(transport)
        self.is_local = peer is not None and is_loopback(peer[0]) and self._plan.reach.is_direct(self._edge)
        transport.set_protocol(self._link)
        self._link.connection_made(transport)
        transport.resume_reading()
        try:
            async with asyncio.timeout(limits.registration_seconds):
                return await self._register()
        except TimeoutError:
            self._link.abort()
            raise UnavailableError("the edge did not answer the registration in time") from None
        except ConnectionError as exc:
            self._link.abort()
            raise UnavailableError("the link was lost before it was registered", detail=str(exc)) from exc
        except BaseException:
            self._link.abort()
            raise

    async def serve(self) -> None:
        """Returns when the link is gone."""
        pipe = self._pipe
        if pipe is None:
            return
        try:
            while not isinstance(await self._next(pipe), Unregistered | Aborted):
                pass
        except (PenstockError, OSError):
            pass  # the control stream's end is the edge's way of ending the link, or the link is gone
        await asyncio.shield(self.gone)

    async def unregister(self) -> None:
        """Tell the edge that we go; it sends nothing new, lets streams finish and closes."""
        if self._pipe is not None and not self.gone.done() and not self._has_unregistered:
            self._has_unregistered = True
            self._rpc.unregister()
            try:
                await self._pipe.write(self._rpc.data_to_send())
            except OSError:
                self._link.abort()

    def abort(self) -> None:
        """Cut it."""
        self._link.abort()

    # --- link.LinkOwner ---------------------------------------------------------------------------------------------

    def link_made(self) -> None:
        """The edge opens the control stream; nothing to do before."""

    def stream_requested(self, stream: LinkStream) -> None:
        """The first control stream is for the registration, a notice for the supervisor, everything else for the proxy."""
        headers = dict(stream.headers)
        match headers.get(metadata.UPGRADE):
            case metadata.CONTROL_STREAM if not self._control.done():
                stream.respond([(b":status", b"200")])
                self._control.set_result(stream)
            case metadata.CONTROL_STREAM:
                stream.abort()
            case metadata.NOTICE:
                self._noticed(stream, headers.get(metadata.NOTICE_BODY, b""))
            case _:
                self._plan.serve(stream)

    def link_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self.reason = said(exc)
        if not self.gone.done():
            self.gone.set_result(None)
        if not self._control.done():
            self._control.set_exception(ConnectionResetError(self.reason))
            self._control.exception()  # nobody may be waiting any more

    def _noticed(self, stream: LinkStream, value: bytes) -> None:
        try:
            notice = parse_notice(value)
        except RemoteProtocolError as exc:
            stream.respond([(b":status", b"400")], exc.public.encode())
            return
        stream.respond([(b":status", b"200")], b"")
        self.on_notice(notice)

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def _dial(self, seconds: float) -> TLSTransport:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        lower = await self._plan.reach.dial(self._edge, seconds)
        try:
            return await handshake(
                lower,
                context=self._plan.context,
                server_hostname=metadata.EDGE_SERVER_NAME,
                timeout=max(0.001, end - loop.time()),
                place=str(self._edge),
            )
        except ssl.SSLCertVerificationError as exc:
            raise explain(exc, datetime.now(UTC)) from exc
        except ssl.SSLError as exc:
            raise UnavailableError(
                "TLS with the edge failed", detail=str(exc), hint="the address may be that of another service"
            ) from exc

    # --- the control stream -----------------------------------------------------------------------------------------

    async def _register(self) -> Registered:
        self._pipe = ByteStream.over(await self._control)
        self._rpc.start(self._registration)
        await self._pipe.write(self._rpc.data_to_send())
        match await self._next(self._pipe):
            case Registered() as registered:
                return registered
            case Refused(cause=cause, retry_after_s=retry_after):
                raise RegistrationRefusedError(cause, retry_after)
            case Aborted(reason=reason):
                raise UnavailableError("the edge gave the registration up", detail=reason)
            case Unregistered():
                raise UnavailableError("the edge answered a question that was not asked")

    async def _next(self, pipe: ByteStream) -> Registered | Refused | Unregistered | Aborted:
        while data := await pipe.read(_READ):
            events = self._rpc.receive_data(data)
            if answer := self._rpc.data_to_send():
                await pipe.write(answer)
            if events:
                return events[0]
        raise ConnectionResetError("the edge ended the control stream")


def said(exc: Exception | None) -> str:
    """A link's end, for the log."""
    return "closed" if exc is None else (str(exc) or type(exc).__name__)[:200]


def _ignore(_: Notice) -> None:
    """Nobody listens yet."""
