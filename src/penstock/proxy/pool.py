"""Connections to upstreams: dialled at checked addresses, kept a short while, used again for the same route alone."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING, Final, Protocol

from penstock.errors import TunnelError, TunnelErrorCode, UnavailableError
from penstock.net.dial import dial_tcp, dial_tls
from penstock.net.tasks import Tasks
from penstock.proxy.upstream import PoolKey, UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.proxy.guard import IPAddress, Resolver
    from penstock.proxy.limits import ProxyLimits
    from penstock.proxy.routes import Route
    from penstock.tls.contexts import TLSContext

_NOT_TLS: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL says of a peer that answers a hello with plain text."""


class Waiting(Protocol):
    """Who asked for a connection; exactly one of the two is called, unless the request for it is cancelled."""

    def connected(self, connection: UpstreamConnection) -> None:
        """Here it is."""
        ...

    def not_connected(self, error: TunnelError) -> None:
        """There is none."""
        ...


class Pool:
    """The upstream connections of a proxy."""

    def __init__(self, resolver: Resolver, limits: ProxyLimits, trust: TLSContext) -> None:
        self._resolver = resolver
        self._limits = limits
        self._trust = trust
        self._tasks = Tasks()
        self._idle: dict[Route, list[UpstreamConnection]] = {}
        self._all: set[UpstreamConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._routes: frozenset[Route] | None = None  # None: any

    @property
    def idle(self) -> int:
        """Kept connections that wait for a request."""
        return sum(len(connections) for connections in self._idle.values())

    @property
    def open(self) -> int:
        """All connections."""
        return len(self._all)

    def request(self, route: Route, waiting: Waiting, *, is_fresh: bool = False) -> Callable[[], object] | None:
        """Get `waiting` a connection: at once and inside this call where one is kept (unless `is_fresh`), else later.

        Returns what cancels the wait, or None when there is none.
        """
        connection = None if is_fresh else self._take(route)
        if connection is not None:
            waiting.connected(connection)
            return None
        return self._tasks.spawn(self._connect(route, waiting), f"dial {route.name}").cancel

    def adopt(self, resolver: Resolver, limits: ProxyLimits, trust: TLSContext, routes: Iterable[Route]) -> None:
        """Dial so from now on. Kept connections that were dialled on other terms are closed, busy ones not used again."""
        self._resolver = resolver
        self._limits = limits
        self._trust = trust
        self._routes = frozenset(routes)
        for connection in self._all:
            connection.may_be_kept = self._is_current(connection.key)
        for kept in list(self._idle.values()):
            for connection in list(kept):
                if not connection.may_be_kept:
                    connection.abort()
        self._idle = {route: kept for route, kept in self._idle.items() if kept}

    async def aclose(self) -> None:
        """Cut everything."""
        await self._tasks.aclose()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.abort()

    # --- kept connections -------------------------------------------------------------------------------------------

    def _take(self, route: Route) -> UpstreamConnection | None:
        kept = self._idle.get(route)
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()  # the last one used: the least likely to be closed by the other side meanwhile
            if connection.is_open and now - connection.idle_since < self._limits.upstream_idle:
                return connection
            connection.abort()
        return None

    def _freed(self, connection: UpstreamConnection, is_reusable: bool) -> None:  # noqa: FBT001 - a callback
        route = connection.key.route
        kept = self._idle.get(route)
        if kept is None:
            kept = self._idle[route] = []
        if not is_reusable:
            self._all.discard(connection)
            if connection in kept:
                kept.remove(connection)
            return
        if not connection.may_be_kept:
            connection.abort()
            return
        if len(kept) >= self._limits.upstream_idle_connections or not self._limits.upstream_idle:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        kept.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._limits.upstream_idle, self._close_old)

    def _is_current(self, key: PoolKey) -> bool:
        if self._routes is not None and key.route not in self._routes:
            return False
        return key == self._key(key.route, key.address)

    def _key(self, route: Route, address: IPAddress) -> PoolKey:
        permission = self._resolver if route.allowed is None else None  # its own list is part of the route
        return PoolKey(route, address, permission, self._trust if route.is_tls else None)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        oldest = loop.time() - self._limits.upstream_idle
        for kept in self._idle.values():
            for connection in [connection for connection in kept if connection.idle_since <= oldest]:
                connection.abort()
        first = min((kept[0].idle_since for kept in self._idle.values() if kept), default=None)
        if first is not None:
            self._sweep = loop.call_at(first + self._limits.upstream_idle + 0.01, self._close_old)

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def _connect(self, route: Route, waiting: Waiting) -> None:
        resolver, trust = self._resolver, self._trust  # a reload on the way changes nothing for this one
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                addresses = await resolver.resolve(route.host, route.allowed)
                transport, address = await self._dial_any(route, addresses, trust)
        except TunnelError as exc:
            waiting.not_connected(exc)
            return
        except TimeoutError:
            waiting.not_connected(
                TunnelError(
                    TunnelErrorCode.UPSTREAM_TIMEOUT,
                    "the upstream of this route does not answer in time",
                    detail=f"dial tcp {route.host}:{route.port}: i/o timeout",
                )
            )
            return
        except Exception as exc:
            reason = f"dial tcp {route.host}:{route.port}: {type(exc).__name__}: {exc}"
            waiting.not_connected(
                TunnelError(TunnelErrorCode.UPSTREAM_UNREACHABLE, "the upstream of this route does not answer", detail=reason)
            )
            raise  # a fault of ours: the log has its traceback, and the request its answer
        key = PoolKey(route, address, resolver if route.allowed is None else None, trust if route.is_tls else None)
        connection = UpstreamConnection(
            transport, key, self._freed, head_bytes=self._limits.head_bytes, headers_most=self._limits.headers
        )
        connection.may_be_kept = self._is_current(key)  # a reload may have come on the way
        self._all.add(connection)
        waiting.connected(connection)

    async def _dial_any(
        self, route: Route, addresses: list[IPAddress], trust: TLSContext
    ) -> tuple[asyncio.Transport, IPAddress]:
        """The first address that answers; each gets its share of the time, so that a dead one leaves some for the next."""
        share = self._limits.connect_timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._dial(route, address, share, trust), address
            except TunnelError:
                continue
        return await self._dial(route, addresses[-1], share, trust), addresses[-1]

    async def _dial(self, route: Route, address: IPAddress, timeout: float, trust: TLSContext) -> asyncio.Transport:
        where = f"[{address}]:{route.port}" if address.version == 6 else f"{address}:{route.port}"
        try:
            if not route.is_tls:
                return await dial_tcp(str(address), route.port, timeout=timeout)
            return await dial_tls(str(address), route.port, context=trust, server_hostname=route.host, timeout=timeout)
        except ssl.SSLError as exc:
            if exc.reason in _NOT_TLS:
                raise TunnelError(
                    TunnelErrorCode.UPSTREAM_TLS,
                    "the upstream of this route does not speak TLS",
                    detail=f"tls: {where}: {exc.reason}",
                    hint="write http:// in the route's URL if it speaks plain HTTP",
                ) from exc
            raise TunnelError(
                TunnelErrorCode.UPSTREAM_TLS,
                "the upstream of this route has no certificate that the proxy trusts",
                detail=f"tls: {where}: {getattr(exc, 'verify_message', None) or exc.reason or exc}",
                hint="set upstream.tls.ca_file or upstream.tls.include_system_cas",
            ) from exc
        except UnavailableError as exc:
            raise _unreachable(where, exc) from exc


def _unreachable(where: str, exc: UnavailableError) -> TunnelError:
    cause = exc.__cause__
    if isinstance(cause, TimeoutError):
        return TunnelError(
            TunnelErrorCode.UPSTREAM_TIMEOUT,
            "the upstream of this route does not answer in time",
            detail=f"dial tcp {where}: i/o timeout",
        )
    number = cause.errno if isinstance(cause, OSError) else None
    # Go's words, which the published troubleshooting page tells people to look for.
    reason = f"connect: {os.strerror(number).lower()}" if number else exc.detail or exc.public
    return TunnelError(
        TunnelErrorCode.UPSTREAM_UNREACHABLE,
        "the upstream of this route does not answer",
        detail=f"dial tcp {where}: {reason}",
        hint="check that the upstream runs and listens on an address the proxy can reach",
    )
