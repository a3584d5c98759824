"""One agent's link on an edge, from TLS to the end: it registers, carries streams, hears news, and leaves in order."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from penstock.edge.admission import AgentRefused, admit_agent
from penstock.errors import PenstockError
from penstock.net.link import Link, LinkLimits, LinkStream, StreamRefusedError
from penstock.net.streams import ByteStream
from penstock.protocol import metadata
from penstock.protocol.http2 import Role
from penstock.protocol.notice import FEATURE, Notice
from penstock.protocol.registration import Aborted, Register, RegistrationServer, Unregister, UpdateLocalConfiguration
from penstock.schema.edges import LinkReport, LinkUsage

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from penstock.edge.config import EdgeLimits
    from penstock.edge.feed import Feed
    from penstock.edge.metrics import EdgeMetrics
    from penstock.net.link.stream import Headers
    from penstock.net.tasks import Tasks
    from penstock.protocol.http2 import Settings, WindowBudget
    from penstock.schema.edges import TunnelRecord

_CONTROL_REQUEST: Final = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", metadata.EDGE_SERVER_NAME.encode()),
    (b":path", b"/"),
    (metadata.UPGRADE, metadata.CONTROL_STREAM),
]
_NO_NEWS: Final = Notice()
_NOTICE_SECONDS: Final = 5.0  # an agent answers a notice at once
_REFUSED_SECONDS: Final = 2.0
_VERSION: Final = 200  # characters kept of what an agent says it is
_READ: Final = 16 * 1024  # registration messages are a few hundred bytes each


class Home(Protocol):
    """What a session shares with all others of its edge, and reports to: `sessions.Sessions`."""

    name: str
    feed: Feed
    limits: EdgeLimits
    metrics: EdgeMetrics
    tasks: Tasks
    log: FilteringBoundLogger
    settings: Settings
    budget: WindowBudget
    worker: tuple[int, int] | None
    on_leaving: Callable[[str], None]

    def opened(self, session: AgentSession) -> bool:
        """TLS is up; False when the edge has begun to stop meanwhile."""
        ...

    def registered_as(self, session: AgentSession, tunnel_id: UUID) -> None:
        """It carries this tunnel's streams from now on."""

    def unregistered(self, session: AgentSession) -> None:
        """It takes no new streams."""

    def closed(self, session: AgentSession) -> None:
        """It is gone."""


class AgentSession:
    """One accepted link."""

    def __init__(self, sessions: Home) -> None:
        self._sessions = sessions
        limits = sessions.limits
        self.link = Link(
            Role.EDGE,
            self,
            settings=sessions.settings,
            limits=LinkLimits(ping_interval=limits.ping_interval, ping_timeout=limits.ping_timeout),
            budget=sessions.budget,
        )
        self.connector_id = ""
        self.id = str(uuid4())
        """Names it to callers, in access records and to the control plane."""
        self._version = ""
        self._since = datetime.now(UTC)
        self.tunnel_id: UUID | None = None
        self.control: LinkStream | None = None
        self._takes_notices = False
        self._leaving = asyncio.Event()  # it unregistered, was refused, or is gone
        self.carried = 0
        self._task: asyncio.Task[None] | None = None

    # --- routing.Candidate ------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Streams open now, the control stream too: it is one on every link."""
        return self.link.load

    @property
    def is_open(self) -> bool:
        """Whether a stream may be opened."""
        return self.link.is_open

    @property
    def is_full(self) -> bool:
        """Whether only streams that end make room for another."""
        return self.link.is_full

    @property
    def is_silent(self) -> bool:
        """Whether its agent owes a sign of life."""
        return self.link.silence >= self._sessions.limits.silent_seconds

    def report(self) -> LinkReport:
        """What the control plane is told of it."""
        return LinkReport(
            id=self.id,
            wire_id=str(self.tunnel_id),
            connector_id=self.connector_id,
            version=self._version,
            since=self._since,
        )

    def usage(self) -> LinkUsage:
        """What it carries, as the control plane is told."""
        streams = max(0, self.load - 1)  # the control stream is nobody's
        return LinkUsage(id=self.id, streams=streams, to_agent_bytes=self.link.sent, from_agent_bytes=self.link.received)

    # --- notices ----------------------------------------------------------------------------------------------------

    def tell(self, notice: Notice) -> None:
        """Tell an agent of ours; a stock one is never told anything."""
        if not self._takes_notices or not self.link.is_open or notice == _NO_NEWS:
            return
        try:
            stream = self.link.open_stream(notice.request())
        except PenstockError as exc:  # it asked for notices and takes none: no agent of ours
            self._sessions.log.info("link closed: its agent takes no notice", reason=exc.public, detail=exc.detail)
            self.link.abort()
        else:
            self._sessions.tasks.spawn(self._told(stream), "notice")

    async def _told(self, stream: LinkStream) -> None:
        try:
            async with asyncio.timeout(_NOTICE_SECONDS):
                await stream.response()
            stream.close()
        except (TimeoutError, PenstockError, OSError):
            stream.abort()

    async def let_go(self) -> None:
        """Close the link once its own streams are over, and an agent of ours had the time to go elsewhere first."""
        if self._takes_notices:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sessions.limits.handover_seconds):
                    await self._leaving.wait()
        await self.link.drained(besides=self.control)
        self.link.close()

    def open_stream(self, headers: Headers) -> LinkStream:
        """A caller's stream. Raises what `Link.open_stream` does; StreamRefusedError, too, while too much waits."""
        if self._sessions.budget.is_spent:
            raise StreamRefusedError("the edge is full")
        stream = self.link.open_stream(headers)
        self.carried += 1
        return stream

    # --- link.LinkOwner ---------------------------------------------------------------------------------------------

    def link_made(self) -> None:
        """TLS is up: the edge opens the control stream, the agent registers on it."""
        if self._sessions.opened(self):
            self._task = self._sessions.tasks.spawn(self._serve(), "agent session")
        else:
            self.link.close()

    def stream_requested(self, stream: LinkStream) -> None:
        """Never called: on this wire only edges open streams."""

    def link_lost(self, exc: Exception | None) -> None:
        """Gone, with every stream."""
        self._leaving.set()
        self._sessions.closed(self)
        if self.tunnel_id is not None:
            self._sessions.log.info("Unregistered tunnel connection", connector=self.connector_id, reason=_reason(exc))
        elif exc is not None:
            self._sessions.log.info("link lost before it was registered", reason=_reason(exc))
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # --- the control stream -----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        log, link = self._sessions.log, self.link
        try:
            async with asyncio.timeout(self._sessions.limits.registration_seconds) as deadline:
                self.control = link.open_stream(_CONTROL_REQUEST)
                await self.control.response()
                pipe = ByteStream.over(self.control)
                await self._converse(pipe, deadline)
            if self.tunnel_id is None:
                await _until_ended(pipe)
            await self._finish(link)
        except TimeoutError:
            log.info("link closed: no registration in time")
        except PenstockError as exc:
            log.info("link closed: its control stream failed", reason=exc.public, detail=exc.detail)
        except OSError as exc:
            log.info("link closed: its control stream was lost", reason=str(exc))
        finally:
            link.close()

    async def _converse(self, pipe: ByteStream, deadline: asyncio.Timeout) -> None:
        """Registration RPC until the agent unregisters, is refused, or ends the stream."""
        rpc = RegistrationServer()
        goes_on = True
        while goes_on and (data := await pipe.read(_READ)):
            for message in rpc.receive_data(data):
                match message:
                    case Register():
                        goes_on = await self._register(rpc, message)
                        if goes_on:
                            deadline.reschedule(None)
                    case Unregister():
                        self._sessions.unregistered(self)
                        self._sessions.on_leaving(self.id)
                        rpc.acknowledge(message)
                        goes_on = False
                    case UpdateLocalConfiguration():
                        rpc.acknowledge(message)
                    case Aborted():
                        goes_on = False
            if answer := rpc.data_to_send():
                await pipe.write(answer)

    async def _register(self, rpc: RegistrationServer, request: Register) -> bool:
        """Answer a registration; False when it is refused. The edge then closes: agents wait for that."""
        sessions = self._sessions
        decision = await self._decide(request)
        if isinstance(decision, AgentRefused):
            sessions.metrics.registrations.labels("refused").inc()
            sessions.log.info("registration refused", tunnel=str(UUID(bytes=request.tunnel_id)), cause=decision.cause)
            rpc.refuse(request, decision.cause, retry_after_s=decision.retry_after_s, should_retry=decision.should_retry)
            return False
        self.connector_id = str(UUID(bytes=request.client_id))
        self.tunnel_id = UUID(decision.wire_id)
        self._version = request.version[:_VERSION]
        self._since = datetime.now(UTC)
        rpc.accept(request, location=sessions.name, tunnel_uuid=uuid4().bytes)
        sessions.registered_as(self, self.tunnel_id)
        sessions.metrics.registrations.labels("accepted").inc()
        sessions.log.info(
            "Registered tunnel connection",
            tunnel=decision.id,
            connector=self.connector_id,
            connIndex=request.connection_index,
            version=request.version,
        )
        self._takes_notices = FEATURE in request.features
        self._sessions.tasks.spawn(self._welcome(), "welcome")
        return True

    async def _welcome(self) -> None:
        """What there is to tell at first, once the answer to the registration is on its way."""
        self.tell(replace(self._sessions.feed.directory.news, worker=self._sessions.worker))

    async def _decide(self, request: Register) -> TunnelRecord | AgentRefused:
        """From what is held, or else from what the feed brings shortly: control may have made the tunnel a moment ago."""
        feed = self._sessions.feed
        tunnel_id = UUID(bytes=request.tunnel_id)

        def decide() -> TunnelRecord | AgentRefused:
            return admit_agent(
                feed.directory,
                account=request.account,
                tunnel_id=tunnel_id,
                secret=request.secret,
                now=datetime.now(UTC),
            )

        decision = decide()
        if isinstance(decision, AgentRefused):
            await feed.wait_until(lambda _: not isinstance(decide(), AgentRefused), self._sessions.limits.feed_wait_seconds)
            decision = decide()
        return decision

    async def _finish(self, link: Link) -> None:
        """Unregistered or refused: no new streams, those that are open finish, then the edge closes."""
        link.drain()
        self._leaving.set()
        self._sessions.unregistered(self)
        try:
            async with asyncio.timeout(self._sessions.limits.drain_seconds):
                await link.drained(besides=self.control)
        except TimeoutError:
            self._sessions.log.warning("streams cut at the end of the drain", connector=self.connector_id)


async def _until_ended(pipe: ByteStream) -> None:
    """A refused agent ends its control stream once it has read why. Closed sooner, a stock one may see the close first, take
    it for an edge that died, and end its process.
    """
    with contextlib.suppress(TimeoutError, OSError, PenstockError):
        async with asyncio.timeout(_REFUSED_SECONDS):
            while await pipe.read(_READ):
                pass


def _reason(exc: Exception | None) -> str:
    return "closed" if exc is None else (str(exc) or type(exc).__name__)[:200]
