"""HTTP/1.1 for an ASGI application, on our own listeners: uvicorn's protocol without its server.

Its server takes the process's signals, binds by itself and ends the process when it cannot; a role does none of that. h11
and not the faster parser, for it bounds a request's head. What neither has is a clock on the head, a clock on whoever does not
read what they asked for, and a bound on how many connections one address holds, so they are here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from penstock.config.types import HostPort
from penstock.net.arrivals import Arrivals
from penstock.net.listen import Listener, listen_tcp, listen_tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from penstock.tls.contexts import TLSContext

HEAD_LIMIT: Final = 16 << 10  # bytes; SDKs send about one KiB
HEAD_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0  # in which a reader takes 48 KiB of what waits for it, or loses the connection
KEEP_ALIVE_SECONDS: Final = 75  # longer than the pools of clients (httpx2: 5) and of most proxies (60), so they close first


class HttpServer:
    """Serves `app` until stopped. `whose` names the holder of a connection by its other end; None for whom nobody counts."""

    def __init__(
        self,
        app: ASGIApp,
        connections: int = 4096,
        connections_each: int = 1024,
        whose: Callable[[str], str | None] = lambda address: address,
    ) -> None:
        self._most = connections
        self._places = _Places(connections_each, whose)
        self._config = Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what it has to say about strangers' garbage is not a log of ours
            access_log=False,
            proxy_headers=False,  # the frontier knows whom to believe
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=HEAD_LIMIT,
        )
        self._config.load()
        self._state = ServerState()
        self._listener: Listener | None = None
        self._gone = asyncio.Event()

    @property
    def address(self) -> HostPort:
        """What is bound; after `start`."""
        if self._listener is None:
            msg = "the server was not started"
            raise RuntimeError(msg)
        return HostPort(*self._listener.addresses[0])

    async def start(
        self, address: HostPort, context: Callable[[], TLSContext] | None, has_room: Callable[[], bool] | None = None
    ) -> None:
        """Listening when it returns; `context` and `has_room` as in `listen_tls`. Raises ConfigError."""
        if context is None:
            self._listener = await listen_tcp(address.host, address.port, self._connection)
        else:
            # Before its handshake is over a connection is nobody's yet: as many again may be on their way, the latest ones.
            self._listener = await listen_tls(
                address.host,
                address.port,
                self._connection,
                context=context,
                has_room=has_room,
                arrivals=Arrivals(self._most),
            )

    async def stop(self, timeout: float) -> None:
        """Accept nothing more, let requests in flight finish, cut what is left after `timeout` seconds."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(timeout):
                while self._state.connections:
                    self._gone.clear()
                    await self._gone.wait()
                if self._state.tasks:  # of connections that left without waiting for their answer
                    await asyncio.wait(self._state.tasks)
        except TimeoutError:
            for connection in list(self._state.connections):
                _abort(connection.transport)
        if tasks := set(self._state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _connection(self) -> asyncio.Protocol:
        if len(self._state.connections) >= self._most:
            return _TurnedAway()
        return _Connection(self._config, self._state, self._gone, self._places)


def _abort(transport: asyncio.BaseTransport) -> None:
    cast("asyncio.Transport", transport).abort()  # uvloop's transports do not inherit from asyncio's


class _TurnedAway(asyncio.Protocol):
    """A connection over the limit: ended at once, for even a refusal would be a wait on its sender."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _abort(transport)


class _Places:
    """How many connections each address holds."""

    def __init__(self, each: int, whose: Callable[[str], str | None]) -> None:
        self._each = each
        self._whose = whose
        self._held: Counter[str] = Counter()

    def take(self, transport: asyncio.BaseTransport) -> str | None:
        """Whose connection this is; raises LookupError when they hold too many."""
        peer = transport.get_extra_info("peername")
        name = self._whose(peer[0]) if peer else None
        if name is not None:
            if self._held[name] >= self._each:
                raise LookupError(name)
            self._held[name] += 1
        return name

    def leave(self, name: str | None) -> None:
        """One connection less."""
        if name is not None:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]


class _Connection(H11Protocol):
    """One connection, with a clock on each request's head and on its reader, and a word when it is gone."""

    def __init__(self, config: Config, state: ServerState, gone: asyncio.Event, places: _Places) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._gone = gone
        self._places = places
        self._holder: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._is_new = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self._holder = self._places.take(transport)
        except LookupError:
            _abort(transport)
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]  # asyncio's own signature is the wider one
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._is_new = self._is_new and self.conn.their_state is h11.IDLE
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
        self._places.leave(self._holder)
        super().connection_lost(exc)
        self._gone.set()

    def _watch_head(self) -> None:
        # A head is waited for on a new connection, and once its first bytes are there; between requests the keep-alive
        # timer is what ends a connection.
        waits = self.conn.their_state is h11.IDLE and (self._is_new or bool(self.conn.trailing_data[0]))
        if not waits and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif waits and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
