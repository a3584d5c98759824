"""Callers on an edge: one mutual-TLS connection, one upgrade head, one decision, then bytes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from http.client import SWITCHING_PROTOCOLS
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from penstock.edge.admission import Admission, admit_caller, known_caller
from penstock.edge.answers import refusal_of
from penstock.edge.asking import Asked, by_caller, by_edge, by_worker, edge_serial, presented
from penstock.edge.directory import Directory, closed_tunnels, evicted_edges, revoked_callers
from penstock.edge.events import Events
from penstock.edge.live import ARCHIVED, DRAINED, REVOKED, Live, LiveStreams, Way
from penstock.edge.opening import RETRY_AFTER, LinkLostError, NoLinkError, Opening, unavailable
from penstock.edge.peers import read_told
from penstock.edge.quotas import Quotas, Seat
from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.closing import close_gently
from penstock.net.sockets import peer_of
from penstock.net.transports import cut
from penstock.net.upgrade import UpgradeListener, UpgradeRequest
from penstock.protocol import events
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.events import Event
from penstock.protocol.metadata import EDGE, EVENT, LINK, REPLICA

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence

    from cryptography import x509
    from structlog.typing import FilteringBoundLogger

    from penstock.edge.config import EdgeLimits
    from penstock.edge.feed import Feed
    from penstock.edge.metrics import EdgeMetrics
    from penstock.edge.peers import PassedOn, Peers
    from penstock.edge.sessions import Sessions
    from penstock.edge.sources import Sources
    from penstock.net.arrivals import Arrivals
    from penstock.net.link.stream import Headers
    from penstock.net.tasks import Tasks
    from penstock.tls.names import CallerIdentity

    _Who: TypeAlias = Callable[[UpgradeRequest], Awaitable[Asked]]
    _Serve: TypeAlias = Callable[[UpgradeRequest], Coroutine[None, None, None]]

_MAY_LOSE: Final = 2  # links that one head may be lost with


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
        sources: Sources | None,
        arrivals: Arrivals,
    ) -> None:
        self._feed = feed
        self._peers = peers
        self._callers_ca = callers_ca
        """The CAs of callers that others pass on; of those that dial, the handshake verified it."""
        self._sources = sources
        """Where callers may dial from; None for anywhere."""
        self._arrivals = arrivals
        self._sessions = sessions
        self._opening = Opening(sessions, limits)
        self._quotas = Quotas(organization=limits.organization, tunnel=limits.tunnel)
        self._limits = limits
        self._metrics = metrics
        self._tasks = tasks
        self._log = log
        self.waiting = 0
        """Callers that wait for an answer: for a stream, or for events."""
        self._stopping = False
        self.streams = LiveStreams(metrics, log)
        self.events = Events(limits.callers)

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
            arrivals=self._arrivals,
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
            self._refuse(request, TunnelError(TunnelErrorCode.RATE_LIMITED, "the edge is full", retry_after=RETRY_AFTER))
            return
        if self._stopping:
            self._refuse(request, unavailable("this edge is stopping"))
            return
        task = self._tasks.spawn(serve(request), "caller")
        request.on_gone = lambda: _cancel(task)

    async def _serve(self, request: UpgradeRequest, who: _Who) -> None:
        with self._deciding(request):
            asked = await who(request)
            admission = await self._admit(asked.identity, request.host)
            seat: Seat | None = self._quotas.take(admission.tunnel)
            try:
                if await self._carry(asked, admission, request, seat):
                    seat = None  # the stream's, from now on
            finally:
                if seat is not None:
                    seat.release()

    @contextlib.contextmanager
    def _deciding(self, request: UpgradeRequest) -> Generator[None]:
        """It counts as waiting until it is answered, and answered it is: also where a fault that nobody foresaw ends this."""
        self.waiting += 1
        self._metrics.callers.set(self.waiting)
        try:
            yield
        except TunnelError as exc:
            self._refuse(request, exc)
        except Exception:
            if not request.is_decided:
                self._refuse(request, unavailable("this edge failed"))
            raise
        except BaseException:  # cancelled: the caller is gone, or the edge ends before it has decided
            if not request.is_decided:
                cut(request.transport)
            raise
        finally:
            self.waiting -= 1
            self._metrics.callers.set(self.waiting)
            request.on_gone = None

    async def _carry(self, asked: Asked, admission: Admission, request: UpgradeRequest, seat: Seat) -> bool:
        """Whether the stream is being relayed; else whoever stands behind refused it. Raises TunnelError.

        Where no link is, here or at another edge, but one was here a moment ago, the caller waits for the next. Not one that
        was passed on: who did that asks others first, and lets it wait there.
        """
        returning = self._sessions.returning
        tunnel_id = UUID(admission.tunnel.wire_id)
        try:
            return await self._try(asked, admission, request, seat)
        except NoLinkError:
            if asked.hop is not None or self._stopping or not returning.may_wait(tunnel_id):
                raise
        outcome = "gone"
        self._metrics.waiting.inc()
        try:
            carried = await self._hold(asked, request, seat, tunnel_id)
            outcome = "opened" if carried else "refused"
            return carried
        except TunnelError:
            outcome = "refused"
            raise
        finally:
            self._metrics.waiting.dec()
            self._metrics.held.labels(outcome).inc()

    async def _hold(self, asked: Asked, request: UpgradeRequest, seat: Seat, tunnel_id: UUID) -> bool:
        """As `_carry`, when there is a link again, here or elsewhere, or the time is over."""
        returning = self._sessions.returning
        again = False
        while True:
            await returning.wait(tunnel_id, again=again)
            if self._stopping:
                raise unavailable("this edge is stopping")
            try:
                return await self._try(asked, await self._admit(asked.identity, request.host), request, seat)
            except NoLinkError:
                if not returning.may_wait(tunnel_id):
                    raise
            again = True

    async def _try(self, asked: Asked, admission: Admission, request: UpgradeRequest, seat: Seat) -> bool:
        """As `_carry`, with what is there now. NoLinkError where nobody has a link that takes the stream."""
        if not self._opening.has_replica(admission, request):
            passed = await self._peers.open(
                request, asked, UUID(admission.tunnel.wire_id), self._feed.directory, replica_only=True
            )
            if passed is not None:
                return self._passed_on(asked, request, seat, passed)
            if asked.replica_only:
                raise unavailable("no link of the replica asked for is here")
        try:
            opened = await self._opening.open(admission, request, may_lose=_MAY_LOSE if asked.hop is None else 1)
        except NoLinkError as none:
            return await self._pass_on(asked, admission, request, seat, none)
        if not opened.answer.is_upgrade:
            self._answer(request, await opened.refusal(self._limits.open_seconds))
            return False
        session = opened.session
        headers = [*opened.answer.headers, (REPLICA, session.connector_id.encode()), (LINK, session.id.encode())]
        way = Way(session.connector_id, session.id, passed_by=_text(asked.hop))
        self._join(asked, request, opened.stream, headers, way, seat)
        return True

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
        with self._deciding(request):
            identity = (await self._asked_over_tls(request)).identity
            await self._in_feed(lambda directory: identity.serial in directory.callers)
            with self._perhaps_newer(identity.serial):
                caller = known_caller(self._feed.directory, identity, datetime.now(UTC))
            self.events.accept(request, caller.serial)
            if self._stopping:
                self.events.tell(Event(events.DRAINING), (identity.serial,))

    async def _asked_over_tls(self, request: UpgradeRequest) -> Asked:
        der = presented(request)
        serial = edge_serial(der)
        if serial is None:
            self._check_source(request)
            return by_caller(der)
        await self._in_feed(lambda directory: serial in directory.edges)
        with self._perhaps_newer(serial):
            return by_edge(request, serial, self._feed.directory, self._callers_ca())

    def _check_source(self, request: UpgradeRequest) -> None:
        peer = peer_of(request.transport)
        if self._sources is not None and (peer is None or peer[0] not in self._sources):
            raise TunnelError(
                TunnelErrorCode.CALLER_FORBIDDEN, "callers may not dial from this address", detail=f"peer: {peer}"
            )

    async def _asked_by_worker(self, request: UpgradeRequest) -> Asked:
        return by_worker(request, self._callers_ca())

    async def _admit(self, identity: CallerIdentity, host: str) -> Admission:
        feed = self._feed
        await self._in_feed(lambda directory: identity.serial in directory.callers)
        if feed.is_stale:
            raise TunnelError(
                TunnelErrorCode.AGENT_UNAVAILABLE,
                "this edge has had no word from its control plane for too long",
                retry_after=RETRY_AFTER,
            )
        with self._perhaps_newer(identity.serial):
            return admit_caller(feed.directory, identity, host, datetime.now(UTC))

    async def _in_feed(self, holds: Callable[[Directory], bool]) -> None:
        """Give the feed a moment to bring what control issued a moment ago."""
        await self._feed.wait_until(holds, 0.0 if self._feed.is_interrupted else self._limits.feed_wait_seconds)

    @contextlib.contextmanager
    def _perhaps_newer(self, serial: str) -> Generator[None]:
        """No record is a reason to refuse for good only while control is heard: otherwise the record may be on its way.

        A foreign tunnel is answered as an unknown one then too, or the answer would tell the two apart.
        """
        try:
            yield
        except TunnelError as exc:
            is_known = exc.code is TunnelErrorCode.CALLER_FORBIDDEN and self._feed.directory.knows(serial)
            if is_known or not self._feed.is_interrupted:
                raise
            raise unavailable(
                "this edge cannot reach its control plane, and what it knows does not allow this; it may be too new",
                detail=exc.code.value,
            ) from exc

    async def _pass_on(
        self, asked: Asked, admission: Admission, request: UpgradeRequest, seat: Seat, none: NoLinkError
    ) -> bool:
        """To another worker or edge that holds the tunnel; what `_carry` returns. Raises `none` when nobody takes it."""
        passed = await self._peers.open(request, asked, UUID(admission.tunnel.wire_id), self._feed.directory)
        if passed is None:
            raise none
        return self._passed_on(asked, request, seat, passed)

    def _passed_on(self, asked: Asked, request: UpgradeRequest, seat: Seat, passed: PassedOn) -> bool:
        answer = passed.response
        if answer.status != SWITCHING_PROTOCOLS:
            self._answer(request, refusal_of(answer.status, answer.headers, answer.body))
            return False
        headers = answer.headers if answer.header(EDGE) else [*answer.headers, (EDGE, passed.by.encode())]
        replica, link = (_text(answer.header(name)) or "" for name in (REPLICA, LINK))
        way = Way(replica, link, passed_by=_text(asked.hop), passed_to=passed.by)
        self._join(asked, request, passed.transport, headers, way, seat, first=answer.rest)
        return True

    def _join(
        self,
        asked: Asked,
        request: UpgradeRequest,
        stream: asyncio.Transport,
        headers: Headers,
        way: Way,
        seat: Seat,
        *,
        first: bytes = b"",
    ) -> None:
        """Relay, if the caller may by now: what was revoked while the stream was being opened is in no list of live ones."""
        try:
            admission = admit_caller(self._feed.directory, asked.identity, request.host, datetime.now(UTC))
        except TunnelError:
            cut(stream)
            raise
        early = request.accept(headers)
        self._metrics.opened.labels("accepted" if way.passed_to is None else "passed_on").inc()
        self.streams.join(
            Live(admission, way, request.transport, stream, seat, asked.hop_serial), to_caller=first, to_agent=early
        )

    def _answer(self, request: UpgradeRequest, response: bytes) -> None:
        """What somebody behind this edge refused with, whole; and the end."""
        self._metrics.opened.labels("refused_behind").inc()
        request.on_gone = None
        request.transport.write(response)
        close_gently(request.transport)

    def _refuse(self, request: UpgradeRequest, error: TunnelError) -> None:
        self._count(error)
        request.refuse(error, [(LINK, error.link.encode())] if isinstance(error, LinkLostError) else ())

    def _count(self, error: TunnelError) -> None:
        self._metrics.opened.labels(error.code.value).inc()
        self._log.info("caller refused", code=error.code.value, reason=error.public, detail=error.detail)

    # --- the feed ---------------------------------------------------------------------------------------------------

    def follow(self, old: Directory, new: Directory) -> None:
        """Streams of revoked callers, evicted edges and archived tunnels end within the feed's delay, whatever they do."""
        revoked = revoked_callers(old, new)
        evicted = evicted_edges(old, new)
        archived = {str(tunnel_id) for tunnel_id in closed_tunnels(old, new)}
        if revoked:
            self.streams.cut(REVOKED, lambda live: live.serial in revoked)
        if evicted:
            self.streams.cut(REVOKED, lambda live: live.hop_serial in evicted)
        if archived:
            self.streams.cut(ARCHIVED, lambda live: live.admission.tunnel.wire_id in archived)
        if revoked:
            self.events.revoke(revoked)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii", "replace")


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
