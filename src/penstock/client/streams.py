"""Opens streams to the routes of tunnels: outer TLS to an edge, the upgrade, and inside it TLS to the proxy.

The order is the security argument. Nothing of a request leaves before the proxy's certificate has passed every rule
against the tunnel's own CA; the edge learns the route's host name and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.client.control import ControlClient
from penstock.client.events import EdgeEvents
from penstock.client.identity import CallerCredentials
from penstock.client.kept import KeptPair
from penstock.client.pins import Pins
from penstock.client.refusals import refusal_of
from penstock.client.whereabouts import Whereabouts
from penstock.errors import CertificateError, ConfigError, PenstockError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.net.dial import dial_tls
from penstock.net.streams import ByteStream
from penstock.net.tls import start_tls
from penstock.net.transports import Parked
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import WebSocketTransport, open_websocket
from penstock.protocol import events
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.hosts import normalize_host
from penstock.tls import contexts, rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.client.access import Access
    from penstock.protocol.events import Event
    from penstock.schema.callers import EdgeAddress, Resolution
    from penstock.tls.contexts import TLSContext
    from penstock.tls.rules import CaCertificate

CONNECT_SECONDS: Final = 10.0  # for each edge tried, the upgrade included; a continent away takes one
RESOLUTION_SECONDS: Final = 60.0  # how old a tunnel's edges and trust anchors may be
KNOWN_SECONDS: Final = 24 * 3600.0  # how long they serve while control is away: as long as an edge's own `stale_limit`
_AGAIN: Final = (0.25, 0.5, 1.0)
"""Seconds before each new round over the edges, for a tunnel that worked a moment ago: its agent is on its way to another."""
_LINK: Final = b"penstock-link"
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1: the Close code of a refused certificate
# Another edge may hold the link that this one lacks.
_TRY_ANOTHER_EDGE: Final = {TunnelErrorCode.AGENT_UNAVAILABLE, TunnelErrorCode.RATE_LIMITED}


@dataclass(slots=True)
class _Known:
    """What control said of one host, until when it is believed unasked, and when it last worked."""

    resolution: Resolution
    until: float
    told_at: float
    worked_at: float | None = None


class TunnelStreams:
    """Opens streams for one caller. All streams to one tunnel stay on one replica while it lives."""

    def __init__(self, access: Access, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.connect_seconds = connect_seconds
        self.on_retired: Callable[[], None] = lambda: None
        """Called when streams are to end soon: those that carry nothing now are to be closed at once."""
        self._control = ControlClient(
            access.api_url,
            access.api_key,
            ca_file=access.ca_file,
            credential=access.source,
            refused_hint="run `penstock login` as somebody who may call" if access.is_session else None,
        )
        self._credentials = CallerCredentials(self._control, kept=KeptPair.of(access))
        self.pins = Pins(access.pins, access.ca_pins)
        self._known: dict[str, _Known] = {}
        self._whereabouts = Whereabouts()
        self._open: weakref.WeakSet[TunnelStream] = weakref.WeakSet()
        self.events = EdgeEvents(self._credentials, self._heard, self._is_used)

    async def aclose(self) -> None:
        """Forget the platform; streams already open live on."""
        await self.events.aclose()
        await self._control.aclose()

    async def open(self, host: str) -> TunnelStream:
        """A stream to the proxy behind `host`, not yet secured: `start_tls` is next, before any byte of a request.

        Raises TunnelError (a hop refused), CertificateError (the edge is not who it should be), UnavailableError
        (control or no edge answers), IdentityError (the API key), ConfigError (no such host name).
        """
        name = _checked(host)
        for wait in _AGAIN:
            try:
                return await self._try_edges(name)
            except (UnavailableError, TunnelError) as exc:
                if not self._is_on_its_way(name, exc):
                    raise
            await asyncio.sleep(wait)
        return await self._try_edges(name)

    async def _try_edges(self, name: str) -> TunnelStream:
        resolution = await self._resolve(name)
        failure: PenstockError = UnavailableError(
            "the control plane knows no edge", hint="start an edge, or look at why it did not enrol"
        )
        now = asyncio.get_running_loop().time()
        for edge in self._whereabouts.ordered(resolution, now):
            try:
                stream = await self._open_through(edge, name, resolution)
            except (UnavailableError, CertificateError) as exc:
                failure = exc  # one edge that is not who it should be says nothing of the others
            except TunnelError as exc:
                failure = exc
                if exc.code not in _TRY_ANOTHER_EDGE:
                    break
            else:
                if name in self._known:
                    self._known[name].worked_at = now
                return stream
        self.look_again(name)
        raise failure

    def look_again(self, name: str) -> None:
        """Whatever was known led to a failure: control is asked anew, and may be away."""
        if name in self._known:
            self._known[name].until = 0.0

    def _is_on_its_way(self, name: str, exc: PenstockError) -> bool:
        """Whether the tunnel worked lately and may again in a moment. Nothing of a request has been sent."""
        known = self._known.get(name)
        if known is None or known.worked_at is None:
            return False
        lately = asyncio.get_running_loop().time() - known.worked_at < RESOLUTION_SECONDS
        return lately and (not isinstance(exc, TunnelError) or exc.code is TunnelErrorCode.AGENT_UNAVAILABLE)

    async def _resolve(self, host: str) -> Resolution:
        now = asyncio.get_running_loop().time()
        known = self._known.get(host)
        if known is not None and known.until >= now:
            return known.resolution
        try:
            resolution = await self._control.resolve(host)
        except UnavailableError:
            if known is None or known.told_at + KNOWN_SECONDS < now:
                raise
            return known.resolution
        except PenstockError:
            self._known.pop(host, None)
            raise
        worked_at = known.worked_at if known is not None else None
        self._known[host] = _Known(resolution, now + RESOLUTION_SECONDS, now, worked_at)
        return resolution

    # --- what edges say ---------------------------------------------------------------------------------------------

    def _heard(self, server_name: str, event: Event) -> None:
        if event.kind == events.DRAINING:
            self._whereabouts.drains(server_name, asyncio.get_running_loop().time())
            self._retire(lambda stream: server_name in stream.edges)
        elif event.kind == events.UNREGISTERED:
            self._retire(lambda stream: stream.link == event.link)
        elif event.kind == events.REVOKED:
            self._credentials.forget()

    def _retire(self, which: Callable[[TunnelStream], bool]) -> None:
        for stream in [stream for stream in self._open if which(stream)]:
            stream.is_retiring = True
        self.on_retired()

    def _is_used(self, server_name: str) -> bool:
        return any(server_name in stream.edges and not stream.websocket.is_closing() for stream in self._open)

    async def _open_through(self, edge: EdgeAddress, host: str, resolution: Resolution) -> TunnelStream:
        """With a certificate of this run in place of another's that is refused: nothing of a request has been sent."""
        try:
            return await self._open_now(edge, host, resolution)
        except (UnavailableError, TunnelError) as exc:
            if not self._credentials.is_of_another_run or not _may_be_refused_certificate(exc):
                raise
            self._credentials.forget()
        return await self._open_now(edge, host, resolution)

    async def _open_now(self, edge: EdgeAddress, host: str, resolution: Resolution) -> TunnelStream:
        context = await self._credentials.outer(resolution.edge_ca_pem)
        try:
            async with asyncio.timeout(self.connect_seconds):
                transport = await dial_tls(
                    edge.host, edge.port, context=context, server_hostname=edge.server_name, timeout=self.connect_seconds
                )
                headers = self._whereabouts.headers(resolution)
                response = await request_upgrade(transport, host=host, headers=headers, timeout=self.connect_seconds)
        except ssl.SSLCertVerificationError as exc:
            raise rules.explain_verification(exc, rules.Peer.EDGE) from exc
        except (UnavailableError, TimeoutError, ConnectionError, ssl.SSLError, RemoteProtocolError) as exc:
            raise _edge_failed(edge, exc) from exc
        if response.status != 101:
            raise refusal_of(response)
        edges = self._whereabouts.served(resolution, edge, response)
        websocket = open_websocket(transport, Parked(), client_side=True, initial=response.rest)
        websocket.pause_reading()
        link = (response.header(_LINK) or b"").decode("ascii", "replace")
        stream = TunnelStream(host, resolution, websocket, self._credentials, self, edges, link)
        self._open.add(stream)
        for used in resolution.edges:
            if used.server_name in edges:
                self.events.follow(used, resolution.edge_ca_pem)
        return stream


@dataclass(slots=True, eq=False, weakref_slot=True)
class TunnelStream:
    """An open WebSocket to a proxy. Whoever is at its other end has proved nothing yet.

    edges: server names of those it goes through. link: as the edge names it. is_retiring: what is under way may finish, and
    nothing new is to begin.
    """

    host: str
    resolution: Resolution
    websocket: WebSocketTransport
    credentials: CallerCredentials
    streams: TunnelStreams
    edges: frozenset[str]
    link: str
    is_retiring: bool = False

    async def start_tls(self) -> ByteStream:
        """Inner TLS with the proxy, under the tunnel's own CA.

        Raises CertificateError naming the rule its certificate broke, before anything of ours was sent; the rule's id
        also travels to the proxy as the WebSocket's close reason. UnavailableError for any other end of the handshake.
        """
        anchors: tuple[CaCertificate, ...] = ()
        try:
            now = datetime.now(UTC)
            anchors = self.streams.pins.believed(self.host, rules.usable_anchors(self.resolution.trust_anchors, now), now)
            context = await self.credentials.inner([anchor.pem for anchor in anchors])
            stream = await self._handshake(context, self._check(anchors))
            self.streams.pins.remember(self.host, anchors, now)
            return stream
        except CertificateError as exc:
            self.websocket.refuse(_POLICY_VIOLATION, exc.rule)
            raise
        except PenstockError:
            self.streams.look_again(self.host)
            self.websocket.close()
            raise
        except ssl.SSLCertVerificationError as exc:
            self.streams.look_again(self.host)
            raise await self._named(exc, anchors) from exc
        except (TimeoutError, ConnectionError, ssl.SSLError) as exc:
            if self.credentials.is_of_another_run:
                self.credentials.forget()
            raise UnavailableError(
                f"the proxy behind {self.host} ended the TLS handshake",
                detail=f"{type(exc).__name__}: {exc}",
                hint="its log says why, at `tls handshake failed`",
            ) from exc

    async def inspect(self, judge: Callable[[bytes], CertificateError]) -> CertificateError | None:
        """What `judge` says of the certificate (DER) at the other end; None where none came.

        Nothing is believed and nothing sent but that verdict, as the close reason.
        """
        verdict: CertificateError | None = None

        def look(session: ssl.SSLObject) -> None:
            nonlocal verdict
            verdict = judge(session.getpeercert(binary_form=True) or b"")
            raise verdict

        with contextlib.suppress(CertificateError, ConnectionError, TimeoutError, ssl.SSLError):
            await self._handshake(contexts.caller_inspection(), look)
        return verdict

    def _check(self, anchors: tuple[CaCertificate, ...]) -> Callable[[ssl.SSLObject], None]:
        def check(session: ssl.SSLObject) -> None:
            leaf = session.getpeercert(binary_form=True) or b""
            rules.check_server_certificate(leaf, anchors, self.host, datetime.now(UTC))

        return check

    async def _handshake(self, context: TLSContext, check: Callable[[ssl.SSLObject], None]) -> ByteStream:
        stream = ByteStream()
        tls = start_tls(
            self.websocket,
            stream,
            context,
            server_side=False,
            server_hostname=self.host,
            check_peer=check,
            on_failed=self._failing(stream),
        )
        try:
            await stream.opened()
            return stream
        except asyncio.CancelledError:
            tls.abort()
            raise
        finally:
            del stream, tls  # a failure's traceback holds this frame, and they hold the failure

    def _failing(self, stream: ByteStream) -> Callable[[Exception], None]:
        def failed(exc: Exception) -> None:
            refusal = _refusal(exc)
            if refusal is not None:
                self.websocket.refuse(_POLICY_VIOLATION, refusal.rule)
            stream.fail(exc)

        return failed

    async def _named(self, exc: ssl.SSLCertVerificationError, anchors: tuple[CaCertificate, ...]) -> CertificateError:
        """The one rule that was broken. OpenSSL tells two apart only given a second look (`rules.diagnose`)."""
        explained = rules.explain_verification(exc)
        if explained.rule != rules.Rule.SERVER_REGISTERED_CA.value:
            return explained
        try:
            again = await self.streams.open(self.host)
            verdict = await again.inspect(lambda leaf: rules.diagnose(exc, leaf, anchors, self.host, datetime.now(UTC)))
        except PenstockError:
            return explained
        return verdict or explained


def _refusal(exc: Exception) -> CertificateError | None:
    if isinstance(exc, CertificateError):
        return exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        return rules.explain_verification(exc)
    return None


def _checked(host: str) -> str:
    try:
        return normalize_host(host)
    except ValueError as exc:
        raise ConfigError(
            f"{host!r} is not a tunnel's host name", hint="one looks like echo.ab12cd34.tunnel.example.com"
        ) from exc


def _may_be_refused_certificate(exc: PenstockError) -> bool:
    """In TLS 1.3 a client hears of it after its handshake, as an alert or a cut where the answer should be."""
    if isinstance(exc, TunnelError):
        return exc.code is TunnelErrorCode.CALLER_FORBIDDEN
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLError | ConnectionResetError | BrokenPipeError | RemoteProtocolError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _edge_failed(edge: EdgeAddress, exc: Exception) -> UnavailableError:
    detail = exc.detail if isinstance(exc, PenstockError) else None
    return UnavailableError(
        f"the edge at {edge.host}:{edge.port} did not answer as an edge",
        detail=detail or f"{type(exc).__name__}: {exc}",
        hint="is the edge running, and does a firewall let this machine reach it?",
    )
