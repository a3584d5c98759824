"""`penstock edge --workers N`: N processes on the same ports, a core each. This one starts them, watches them and stops them.

The kernel deals connections out among them, and a stream whose link is at another worker is handed over on a Unix socket. Each
is an edge with a lease of its own; what they share is the identity and the last snapshot on disk, which the first keeps fresh.

Each reads from a pipe of which this process alone holds the other end: however this one ends, killed too, they stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from asyncio.subprocess import Process, create_subprocess_exec
from typing import TYPE_CHECKING, Final, NoReturn

from penstock.config.types import HostPort
from penstock.edge.control import ControlPlane
from penstock.edge.enrol import Enrolment
from penstock.edge.server import Edge
from penstock.edge.state import EdgeState
from penstock.errors import PenstockError, UnavailableError
from penstock.net.backoff import Backoff
from penstock.net.dial import dial_unix
from penstock.net.tasks import Tasks
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.edge.config import EdgeConfig

_LOOK_SECONDS: Final = 0.1
_START_SECONDS: Final = 60.0  # importing on a busy machine takes seconds; the control plane was asked before
_LASTING: Final = 60.0  # a worker that ran so long fell for another reason than the one before it
_KILL_AFTER: Final = 15.0  # seconds beyond `stop_seconds`: saying goodbye to agents and control


class WorkerFailedError(PenstockError):
    """A worker ended before it served; what it printed says why."""


class OrphanedError(PenstockError):
    """The process that started this worker is gone."""


class Worker(Edge):
    """One of them, as the process that it is."""

    async def until_failed(self) -> NoReturn:
        """Raises OrphanedError once the first process is gone: nobody would ever stop this one, and it holds the ports."""
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        if stat.S_ISFIFO(os.fstat(0).st_mode):  # else it was started by hand
            with os.fdopen(os.dup(0), "rb", buffering=0) as pipe:
                transport, _ = await loop.connect_read_pipe(lambda: _Alive(gone), pipe)
                try:
                    await gone
                finally:
                    transport.close()
        else:
            await gone
        raise OrphanedError("the process that started this worker is gone", hint="start the edge again")


class _Alive(asyncio.Protocol):
    """Nothing is ever written to it: all it can tell is its end."""

    def __init__(self, gone: asyncio.Future[None]) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        if not self._gone.done():
            self._gone.set_result(None)


class Workers:
    """All workers of one edge. `command` starts one; which, and of how many, it reads from its environment."""

    def __init__(self, config: EdgeConfig, command: Sequence[str]) -> None:
        self._config = config
        self._command = command
        self._log = get_logger("edge")
        self._tasks = Tasks()
        self._running: dict[int, Process] = {}
        self._stopping = False
        self._alive: tuple[int, int] | None = None  # a pipe: what workers read from, and what ends with this process

    async def start(self) -> None:
        """Enrol if need be, once for all of them, and start them; returns when all serve."""
        config = self._config
        control = ControlPlane(config)
        try:
            await Enrolment(config, EdgeState(config.state_dir), control, self._log).identify()
        finally:
            await control.aclose()
        self._alive = os.pipe()
        for number in range(config.workers):
            await self._launch(number)
        for number in range(config.workers):
            await self._until_serving(number)
            self._tasks.spawn(self._keep(number), f"worker {number}")
        self._log.info("workers serve", workers=config.workers)

    async def stop(self) -> None:
        """Let every worker stop in order, and end those that do not."""
        self._stopping = True
        await self._tasks.aclose()
        running = [process for process in self._running.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._config.limits.stop_seconds + _KILL_AFTER):
                for process in running:
                    await process.wait()
        except TimeoutError:
            self._log.warning("workers killed that did not stop in time")
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        ends, self._alive = self._alive, None
        for end in ends or ():
            os.close(end)

    async def _launch(self, number: int) -> None:
        admin = self._config.admin_addr
        variables = {"PENSTOCK_EDGE_WORKERS": str(self._config.workers), "PENSTOCK_EDGE_WORKER": str(number)}
        if admin is not None:
            variables["PENSTOCK_EDGE_ADMIN_ADDR"] = f'"{HostPort(admin.host, admin.port + number)}"'
        self._running[number] = await create_subprocess_exec(
            *self._command, env={**os.environ, **variables}, stdin=self._alive[0] if self._alive is not None else None
        )

    async def _until_serving(self, number: int) -> None:
        """Its socket comes last, when its ports are bound."""
        process = self._running[number]
        socket = self._config.worker_socket_of(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while process.returncode is None:
                    with contextlib.suppress(UnavailableError):
                        (await dial_unix(socket)).abort()
                        return
                    await asyncio.sleep(_LOOK_SECONDS)
        raise WorkerFailedError(
            f"worker {number} of the edge did not start",
            detail=None if process.returncode is None else f"it ended with {process.returncode}",
            hint="its own message is above",
        )

    async def _keep(self, number: int) -> None:
        """Start it again whenever it ends; the others serve meanwhile."""
        waits = Backoff(_half, base=0.5, cap=30.0)
        while not self._stopping:
            began = asyncio.get_running_loop().time()
            code = await self._running[number].wait()
            if asyncio.get_running_loop().time() - began > _LASTING:
                waits.reset()
            wait = waits.next()
            self._log.error("worker ended: it is started again", worker=number, code=code, retry_in=round(wait, 1))
            await asyncio.sleep(wait)
            try:
                await self._launch(number)
            except OSError as exc:  # no memory, process or file left for it now: the one that ended is looked at again
                self._log.error("worker not started", worker=number, error=str(exc))


def _half() -> float:
    """One process waits for another on its own machine: there is no crowd to spread."""
    return 0.5
