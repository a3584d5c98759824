"""Callers on an edge: one mutual-TLS connection, one upgrade head, one decision, then bytes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from http.client import SWITCHING_PROTOCOLS
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from penstock.edge.admission import Admission, admit_caller, known_caller
from penstock.edge.answers import BODY_LIMIT, Answer, answer_of, refusal, refusal_of, stream_request
from penstock.edge.asking import Asked, by_caller, by_edge, by_worker, edge_serial, presented
from penstock.edge.directory import Directory, closed_tunnels, revoked_callers
from penstock.edge.events import Events
from penstock.edge.live import ARCHIVED, DRAINED, REVOKED, Live, LiveStreams, Way
from penstock.edge.peers import read_told
from penstock.edge.routing import choose
from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.closing import close_gently
from penstock.net.link import LinkStream, StreamLostError, StreamRefusedError
from penstock.net.streams import ByteStream
from penstock.net.upgrade import UpgradeListener, UpgradeRequest
from penstock.protocol import events
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError
from penstock.protocol.events import Event
from penstock.protocol.metadata import EDGE, EVENT, LINK, REPLICA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from cryptography import x509
    from structlog.typing import FilteringBoundLogger

    from penstock.edge.config import EdgeLimits
    from penstock.edge.feed import Feed
    from penstock.edge.metrics import EdgeMetrics
    from penstock.edge.peers import Peers
    from penstock.edge.sessions import AgentSession, Sessions
    from penstock.net.link.stream import Headers
    from penstock.net.tasks import Tasks
    from penstock.tls.names import CallerIdentity

    _Who: TypeAlias = Callable[[UpgradeRequest], Awaitable[Asked]]
    _Serve: TypeAlias = Callable[[UpgradeRequest], Coroutine[None, None, None]]

_TRIES: Final = 2  # links that one head may be lost with
_RETRY_AFTER: Final = 1  # seconds: an agent's link is back within about that


class Ingress:
    """All callers of one edge."""

    def __init__(
        self,
        *,
        feed: Feed,
        sessions: Sessions,
        limits: EdgeLimits,
        metrics: EdgeMetrics,
        tasks: Tasks,
        log: FilteringBoundLogger,
        peers: Peers,
        callers_ca: Callable[[], Sequence[x509.Certificate]],
    ) -> None:
        self._feed = feed
        self._peers = peers
        self._callers_ca = callers_ca
        """The CAs of callers that others pass on; of those that dial, the handshake verified it."""
        self._sessions = sessions
        self._limits = limits
        self._metrics = metrics
        self._tasks = tasks
        self._log = log
        self.waiting = 0
        """Callers whose stream is being decided on and opened."""
        self._stopping = False
        self.streams = LiveStreams(metrics, log)
        self.events = Events(limits.callers)
        feed.listen(self._cut_revoked)

    def accept(self) -> asyncio.Protocol:
        """The protocol of one connection on the callers' port."""
        return self._listener(self._asked_over_tls, self._subscribe)

    def accept_worker(self) -> asyncio.Protocol:
        """The protocol of one connection on the socket for this edge's other workers."""
        return self._listener(self._asked_by_worker, self._told_by_worker)

    def _listener(self, who: _Who, plain: _Serve) -> UpgradeListener:
        def serve(request: UpgradeRequest) -> Coroutine[None, None, None]:
            return plain(request) if request.is_plain else self._serve(request, who)

        return UpgradeListener(
            lambda request: self._requested(request, serve),
            on_refused=self._count,
            head_limit=self._limits.head_bytes,
            head_timeout=self._limits.head_seconds,
            plain_paths=(events.PATH,),
        )

    @property
    def live(self) -> int:
        """Streams being relayed."""
        return len(self.streams)

    @property
    def buffered(self) -> int:
        """Bytes on their way to callers."""
        return self.streams.buffered

    def link_leaves(self, link: str) -> None:
        """An agent unregistered it: callers with a stream on it are told to go elsewhere, whichever worker they listen to."""
        event, serials = Event(events.UNREGISTERED, link), self.streams.callers_on(link)
        self.events.tell(event, serials)
        if serials:
            self._tasks.spawn(self._peers.tell_workers(event, serials), "tell workers")

    async def drain(self, seconds: float) -> None:
        """Take nothing new, tell callers, let streams finish, and cut the rest after `seconds`."""
        self._stopping = True
        self.events.tell(Event(events.DRAINING))
        if not await self.streams.ended(seconds):
            self._log.warning("streams cut at the end of the drain", streams=self.streams.cut(DRAINED))
        self.events.end_all()

    # --- one caller -------------------------------------------------------------------------------------------------

    def _requested(self, request: UpgradeRequest, serve: _Serve) -> None:
        if self.waiting + len(self.streams) >= self._limits.callers:
            self._refuse(request, TunnelError(TunnelErrorCode.RATE_LIMITED, "the edge is full", retry_after=_RETRY_AFTER))
            return
        if self._stopping:
            self._refuse(request, _unavailable("this edge is stopping"))
            return
        task = self._tasks.spawn(serve(request), "caller")
        request.on_gone = lambda: _cancel(task)

    async def _serve(self, request: UpgradeRequest, who: _Who) -> None:
        self.waiting += 1
        self._metrics.callers.set(self.waiting)
        try:
            asked = await who(request)
            admission = await self._admit(asked.identity, request.host)
            try:
                session, stream, answer = await self._open(admission, request, tries=_TRIES if asked.hop is None else 1)
            except _NoLinkError:
                await self._pass_on(asked, admission, request)
                return
            if answer.is_upgrade:
                headers = [*answer.headers, (REPLICA, session.connector_id.encode()), (LINK, session.id.encode())]
                way = Way(session.connector_id, session.id, passed_by=_text(asked.hop))
                self._join(admission, request, stream, headers, way)
            else:
                await self._relay_refusal(request, session, stream, answer)
        except TunnelError as exc:
            self._refuse(request, exc)
        finally:
            self.waiting -= 1
            self._metrics.callers.set(self.waiting)
            request.on_gone = None

    async def _told_by_worker(self, request: UpgradeRequest) -> None:
        """Another worker has an event for callers that listen here."""
        try:
            self.events.tell(*read_told(request.header(EVENT) or b""))
        except RemoteProtocolError as exc:
            self._refuse(request, TunnelError(TunnelErrorCode.BAD_REQUEST, exc.public))
            return
        request.stream(events.CONTENT_TYPE)
        request.transport.close()

    async def _subscribe(self, request: UpgradeRequest) -> None:
        """A caller asks for events."""
        try:
            identity = (await self._asked_over_tls(request)).identity
            await self._feed.wait_until(lambda directory: identity.serial in directory.callers, self._limits.feed_wait_seconds)
            self.events.accept(request, known_caller(self._feed.directory, identity, datetime.now(UTC)).serial)
            if self._stopping:
                self.events.tell(Event(events.DRAINING), (identity.serial,))
        except TunnelError as exc:
            self._refuse(request, exc)
        finally:
            request.on_gone = None

    async def _asked_over_tls(self, request: UpgradeRequest) -> Asked:
        der = presented(request)
        serial = edge_serial(der)
        if serial is None:
            return by_caller(der)
        await self._feed.wait_until(lambda directory: serial in directory.edges, self._limits.feed_wait_seconds)
        return by_edge(request, serial, self._feed.directory, self._callers_ca())

    async def _asked_by_worker(self, request: UpgradeRequest) -> Asked:
        return by_worker(request, self._callers_ca())

    async def _admit(self, identity: CallerIdentity, host: str) -> Admission:
        feed = self._feed
        await feed.wait_until(lambda directory: identity.serial in directory.callers, self._limits.feed_wait_seconds)
        if feed.is_stale:
            raise TunnelError(
                TunnelErrorCode.AGENT_UNAVAILABLE,
                "this edge has had no word from its control plane for too long",
                retry_after=_RETRY_AFTER,
            )
        return admit_caller(feed.directory, identity, host, datetime.now(UTC))

    async def _open(
        self, admission: Admission, request: UpgradeRequest, *, tries: int
    ) -> tuple[AgentSession, LinkStream, Answer]:
        """A stream on the best link; on the next best while links refuse it, and once more where one is lost unanswered.

        Nothing but the upgrade's head has been sent then, so trying again repeats no byte of the caller's. But if it was this
        head that ended the link, each try would cut all streams of another: `tries` is how many links it may cost.
        """
        head = stream_request(admission.host, request.path, request.headers)
        asked = request.header(REPLICA)
        replica = asked.decode("ascii", "replace") if asked is not None else None
        tunnel_id = UUID(admission.tunnel.wire_id)
        tried: list[AgentSession] = []
        while (session := choose(self._sessions.links_of(tunnel_id), replica=replica, tried=tried)) is not None:
            tried.append(session)
            try:
                stream = session.open_stream(head)
                async with asyncio.timeout(self._limits.open_seconds):
                    return session, stream, _read_answer(stream, await stream.response())
            except StreamRefusedError:
                continue
            except StreamLostError as exc:
                if exc.code is not None:
                    raise _unavailable("the agent gave the stream up", detail=f"code {exc.code}") from exc
                tries -= 1
                if not tries:
                    raise _LinkLostError(session.id, str(exc.__cause__ or exc)) from exc
            except LocalProtocolError as exc:
                raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, exc.public, detail=exc.detail) from exc
            except TimeoutError as exc:
                raise _unavailable("the agent did not answer in time") from exc
        if self._sessions.budget.is_spent:
            raise TunnelError(TunnelErrorCode.RATE_LIMITED, "the edge is full", retry_after=_RETRY_AFTER)
        raise _NoLinkError(len(tried))

    async def _pass_on(self, asked: Asked, admission: Admission, request: UpgradeRequest) -> None:
        """To another worker or edge that holds the tunnel. Raises TunnelError when none takes it."""
        tunnel_id = UUID(admission.tunnel.wire_id)
        passed = await self._peers.open(request, asked, tunnel_id, self._feed.directory)
        if passed is None:
            raise _NoLinkError(0)
        answer = passed.response
        if answer.status == SWITCHING_PROTOCOLS:
            headers = answer.headers if answer.header(EDGE) else [*answer.headers, (EDGE, passed.by.encode())]
            replica, link = (_text(answer.header(name)) or "" for name in (REPLICA, LINK))
            way = Way(replica, link, passed_by=_text(asked.hop), passed_to=passed.by)
            self._join(admission, request, passed.transport, headers, way, first=answer.rest)
            return
        self._metrics.opened.labels("refused_behind").inc()
        request.on_gone = None
        request.transport.write(refusal_of(answer.status, answer.headers, answer.body))
        close_gently(request.transport)

    def _join(
        self,
        admission: Admission,
        request: UpgradeRequest,
        stream: asyncio.Transport,
        headers: Headers,
        way: Way,
        *,
        first: bytes = b"",
    ) -> None:
        early = request.accept(headers)
        self._metrics.opened.labels("accepted" if way.passed_to is None else "passed_on").inc()
        self.streams.join(Live(admission, way, request.transport, stream), to_caller=first, to_agent=early)

    async def _relay_refusal(self, request: UpgradeRequest, session: AgentSession, stream: LinkStream, answer: Answer) -> None:
        """The agent's or the proxy's own refusal, with as much of its text as fits a page."""
        pipe = ByteStream.over(stream)
        body = b""
        try:
            async with asyncio.timeout(self._limits.open_seconds):
                while len(body) < BODY_LIMIT and (data := await pipe.read(BODY_LIMIT - len(body))):
                    body += data
        except (TimeoutError, ConnectionError):
            pass  # the status is what counts
        finally:
            stream.abort()
        self._metrics.opened.labels("refused_behind").inc()
        request.on_gone = None
        request.transport.write(refusal(answer, body, session.connector_id))
        close_gently(request.transport)

    def _refuse(self, request: UpgradeRequest, error: TunnelError) -> None:
        self._count(error)
        request.refuse(error, [(LINK, error.link.encode())] if isinstance(error, _LinkLostError) else ())

    def _count(self, error: TunnelError) -> None:
        self._metrics.opened.labels(error.code.value).inc()
        self._log.info("caller refused", code=error.code.value, reason=error.public, detail=error.detail)

    # --- the feed ---------------------------------------------------------------------------------------------------

    def _cut_revoked(self, old: Directory, new: Directory) -> None:
        """Streams of revoked callers and archived tunnels end within the feed's delay, whatever they are doing."""
        revoked = revoked_callers(old, new, datetime.now(UTC))
        archived = {str(tunnel_id) for tunnel_id in closed_tunnels(old, new)}
        if revoked:
            self.events.revoke(revoked)
            self.streams.cut(REVOKED, lambda live: live.serial in revoked)
        if archived:
            self.streams.cut(ARCHIVED, lambda live: live.admission.tunnel.wire_id in archived)


class _NoLinkError(TunnelError):
    """No link here takes the stream; another process may have one that does."""

    def __init__(self, tried: int) -> None:
        super().__init__(
            TunnelErrorCode.AGENT_UNAVAILABLE,
            "no agent of this tunnel takes streams now",
            detail=f"links tried: {tried}",
            retry_after=_RETRY_AFTER,
        )


class _LinkLostError(TunnelError):
    """A link was lost with this head, whose fault it may be: nobody tries it on another. The answer names the link."""

    def __init__(self, link: str, detail: str) -> None:
        super().__init__(
            TunnelErrorCode.AGENT_UNAVAILABLE, "the agent's link was lost", detail=detail, retry_after=_RETRY_AFTER
        )
        self.link = link


def _read_answer(stream: LinkStream, head: Headers) -> Answer:
    try:
        return answer_of(head)
    except TunnelError:
        stream.abort()
        raise


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii", "replace")


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _unavailable(public: str, *, detail: str | None = None) -> TunnelError:
    return TunnelError(TunnelErrorCode.AGENT_UNAVAILABLE, public, detail=detail, retry_after=_RETRY_AFTER)
