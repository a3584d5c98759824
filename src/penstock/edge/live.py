"""Streams being relayed: what is known of each, who may end it and why, and one access record at its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from penstock.net import relay
from penstock.net.transports import cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from penstock.edge.admission import Admission
    from penstock.edge.metrics import EdgeMetrics
    from penstock.edge.quotas import Seat
    from penstock.net.relay import RelayResult

REVOKED: Final = "revoked"
ARCHIVED: Final = "archived"
DRAINED: Final = "drained"
"""Reasons why this edge cut a stream. Otherwise one is `closed`, by either side, or `lost`."""
_TEXT: Final = 200  # characters of an error that a record keeps


@dataclass(frozen=True, slots=True)
class Way:
    """How a stream goes on from here. `link` and `replica`: as the caller is told them."""

    replica: str
    link: str
    passed_by: str | None = None
    """What passed it on to this process: `edge` or `worker`; None for a caller's own."""
    passed_to: str | None = None
    """The name of the edge that this process passed it on to, its own for another worker; None where the link is here."""


@dataclass(slots=True, eq=False)
class Live:
    """One stream being relayed."""

    admission: Admission
    way: Way
    caller: asyncio.Transport
    stream: asyncio.Transport
    seat: Seat
    hop_serial: str | None = None
    """Of the certificate of the edge that passed it on."""
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    reason: str | None = None

    @property
    def serial(self) -> str:
        """Of the caller's certificate."""
        return self.admission.caller.serial

    def cut(self, reason: str) -> None:
        """End it now; what is queued is dropped."""
        self.reason = self.reason or reason
        cut(self.stream)
        cut(self.caller)

    def record(self, result: RelayResult) -> dict[str, object]:
        """The fields of its access record."""
        admission, way = self.admission, self.way
        fields: dict[str, object] = {
            "caller": admission.caller.caller_id,
            "tunnel": admission.tunnel.id,
            "route": admission.host.removesuffix(admission.tunnel.domain).rstrip("."),
            "replica": way.replica,
            "link": way.link,
            "to_agent_bytes": result.a_to_b,
            "to_caller_bytes": result.b_to_a,
            "seconds": round(asyncio.get_running_loop().time() - self.since, 3),
            "reason": self.reason or ("closed" if result.error is None else "lost"),
        }
        if way.passed_by is not None:
            fields["passed_by"] = way.passed_by
        if way.passed_to is not None:
            fields["passed_to"] = way.passed_to
        if self.reason is None and result.error is not None:
            fields["detail"] = (str(result.error) or type(result.error).__name__)[:_TEXT]
        return fields


class LiveStreams:
    """All streams that this process relays."""

    def __init__(self, metrics: EdgeMetrics, log: FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._log = log
        self._live: set[Live] = set()
        self._none: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._live)

    @property
    def buffered(self) -> int:
        """Bytes on their way to callers."""
        return sum(live.caller.get_write_buffer_size() for live in self._live)

    def join(self, live: Live, *, to_caller: bytes = b"", to_agent: bytes = b"") -> None:
        """Relay until one side ends; what was already read for either goes first."""
        self._live.add(live)
        self._metrics.streams.set(len(self._live))

        def done(result: RelayResult) -> None:
            self._ended(live, result)

        relay.join(live.caller, live.stream, to_a=to_caller, to_b=to_agent, on_done=done, meter=live.seat.meter)

    def callers_on(self, link: str) -> set[str]:
        """The certificates (serials) of callers with a stream on this link."""
        return {live.serial for live in self._live if live.way.link == link}

    def cut(self, reason: str, which: Callable[[Live], bool] = lambda _: True) -> int:
        """End at once those that `which` says; how many."""
        chosen = [live for live in self._live if which(live)]
        for live in chosen:
            live.cut(reason)
        if chosen:
            self._metrics.cut.labels(reason).inc(len(chosen))
        return len(chosen)

    async def ended(self, seconds: float) -> bool:
        """Whether all end by themselves within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self._live:
                    if self._none is None:
                        self._none = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._none)
        except TimeoutError:
            return False
        return True

    def _ended(self, live: Live, result: RelayResult) -> None:
        self._live.discard(live)
        live.seat.release()
        self._metrics.streams.set(len(self._live))
        self._metrics.relayed.labels("to_agent").inc(result.a_to_b)
        self._metrics.relayed.labels("to_caller").inc(result.b_to_a)
        self._log.info("access", **live.record(result))
        if not self._live and self._none is not None:
            self._none.set_result(None)
            self._none = None
