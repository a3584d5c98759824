"""Opening a caller's stream: on the best of its tunnel's links, and on the next best while no byte of the caller's was sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from penstock.edge.answers import BODY_LIMIT, Answer, answer_of, refusal, stream_request
from penstock.edge.routing import choose
from penstock.errors import PenstockError, TunnelError, TunnelErrorCode
from penstock.net.link import LinkStream, StreamLostError, StreamRefusedError
from penstock.net.streams import ByteStream
from penstock.protocol.errors import LocalProtocolError
from penstock.protocol.metadata import REPLICA

if TYPE_CHECKING:
    from penstock.edge.admission import Admission
    from penstock.edge.config import EdgeLimits
    from penstock.edge.session import AgentSession
    from penstock.edge.sessions import Sessions
    from penstock.net.link.stream import Headers
    from penstock.net.upgrade import UpgradeRequest

RETRY_AFTER: Final = 1  # seconds: an agent's link is back within about that


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that an agent answered on."""

    session: AgentSession
    stream: LinkStream
    answer: Answer

    async def refusal(self, seconds: float) -> bytes:
        """The agent's or the proxy's own refusal, with as much of its text as fits a page and comes in time. Ends it."""
        pipe = ByteStream.over(self.stream)
        body = b""
        try:
            async with asyncio.timeout(seconds):
                while len(body) < BODY_LIMIT and (data := await pipe.read(BODY_LIMIT - len(body))):
                    body += data
        except (PenstockError, OSError):
            pass  # the status is what counts
        finally:
            self.stream.abort()
        return refusal(self.answer, body, self.session.connector_id)


class NoLinkError(TunnelError):
    """No link here takes the stream; another process may have one that does."""


class LinkLostError(TunnelError):
    """A link was lost with this head, whose fault it may be: nobody tries it on another. The answer names the link."""

    def __init__(self, link: str, detail: str) -> None:
        super().__init__(TunnelErrorCode.AGENT_UNAVAILABLE, "the agent's link was lost", detail=detail, retry_after=RETRY_AFTER)
        self.link = link


class Opening:
    """Opens streams for one edge."""

    def __init__(self, sessions: Sessions, limits: EdgeLimits) -> None:
        self._sessions = sessions
        self._limits = limits

    def has_replica(self, admission: Admission, request: UpgradeRequest) -> bool:
        """Whether the stream may begin on a link here: the replica asked for has one that is open, or none is asked for."""
        if (replica := _replica(request)) is None:
            return True
        links = self._sessions.links_of(UUID(admission.tunnel.wire_id))
        return any(session.is_open and session.connector_id == replica for session in links)

    async def open(self, admission: Admission, request: UpgradeRequest, *, may_lose: int) -> Opened:
        """A stream that an agent answered on, whatever it answered. NoLinkError, or TunnelError where an agent failed.

        Nothing but the upgrade's head has been sent to an agent then, so trying another link repeats no byte of the caller's.
        But if it was this head that ended a link, each try would cut all streams of another: it may cost `may_lose` links.
        """
        head = stream_request(admission.host, request.path, request.headers)
        replica = _replica(request)
        tunnel_id = UUID(admission.tunnel.wire_id)
        tried: list[AgentSession] = []
        while (session := choose(self._sessions.links_of(tunnel_id), replica=replica, tried=tried)) is not None:
            tried.append(session)
            try:
                return await self._try(session, head)
            except (StreamRefusedError, _SilentError):
                continue
            except LinkLostError:
                may_lose -= 1
                if not may_lose:
                    raise
        raise self._none(tried, is_full=any(session.is_full for session in self._sessions.links_of(tunnel_id)))

    async def _try(self, session: AgentSession, head: Headers) -> Opened:
        try:
            stream = session.open_stream(head)
            patience = _Patience(session, stream, self._limits.silent_seconds)
            try:
                async with asyncio.timeout(self._limits.open_seconds):
                    return Opened(session, stream, _answer(stream, await stream.response()))
            finally:
                patience.end()
        except _SilentError:
            raise
        except StreamLostError as exc:
            if exc.code is None:
                raise LinkLostError(session.id, str(exc.__cause__ or exc)) from exc
            raise unavailable("the agent gave the stream up", detail=f"code {exc.code}") from exc
        except LocalProtocolError as exc:
            raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, exc.public, detail=exc.detail) from exc
        except TimeoutError as exc:
            raise unavailable("the agent did not answer in time") from exc

    def _none(self, tried: list[AgentSession], *, is_full: bool) -> NoLinkError:
        detail = f"links tried: {len(tried)}"
        if self._sessions.budget.is_spent:
            return NoLinkError(TunnelErrorCode.RATE_LIMITED, "the edge is full", detail=detail, retry_after=RETRY_AFTER)
        if is_full:
            public = "this tunnel's links carry as many streams as they can"
            return NoLinkError(TunnelErrorCode.RATE_LIMITED, public, detail=detail, retry_after=RETRY_AFTER)
        public = "no agent of this tunnel takes streams now"
        return NoLinkError(TunnelErrorCode.AGENT_UNAVAILABLE, public, detail=detail, retry_after=RETRY_AFTER)


def _replica(request: UpgradeRequest) -> str | None:
    asked = request.header(REPLICA)
    return asked.decode("ascii", "replace") if asked is not None else None


def unavailable(public: str, *, detail: str | None = None) -> TunnelError:
    """The error for what another try may find in order."""
    return TunnelError(TunnelErrorCode.AGENT_UNAVAILABLE, public, detail=detail, retry_after=RETRY_AFTER)


def _answer(stream: LinkStream, head: Headers) -> Answer:
    try:
        return answer_of(head)
    except TunnelError:
        stream.abort()
        raise


class _SilentError(StreamLostError):
    """The link owes a sign of life: the stream was given up for another's."""


class _Patience:
    """With a link that answers pings: its agent may still answer. One that does not has probably died."""

    __slots__ = ("_seconds", "_session", "_stream", "_timer")

    def __init__(self, session: AgentSession, stream: LinkStream, seconds: float) -> None:
        self._session = session
        self._stream = stream
        self._seconds = seconds
        self._ask()

    def end(self) -> None:
        """There is an answer, or nobody waits."""
        self._timer.cancel()

    def _ask(self) -> None:
        self._session.link.probe()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        if self._session.is_silent:
            self._stream.give_up(_SilentError("the link has fallen silent"))
        else:
            self._ask()
