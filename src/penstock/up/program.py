"""Starts every role in order, proves that a call gets through, stays up, and stops them in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import uvicorn

from penstock.client.access import Access, write_profile
from penstock.client.control import ControlClient
from penstock.config.files import private_folder, read_file, write_file
from penstock.config.types import HostPort
from penstock.control.auth import scopes
from penstock.control.server import Control
from penstock.control.service.bootstrap import InitializedError, create_enrolment_token, first_key, initialize
from penstock.edge.server import Edge
from penstock.errors import ConfigError, UnavailableError
from penstock.net.tasks import Tasks
from penstock.secret import Secret
from penstock.stack import private_side, proof
from penstock.stack.lock import only_one
from penstock.stack.ports import check_loopback
from penstock.stack.routes import check_reachable, is_loopback
from penstock.up import roles, stack
from penstock.up.options import SAMPLE_ROUTE
from penstock.up.ports import check_free
from penstock.up.sample import make_config

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from penstock.control.config import ControlConfig
    from penstock.up.options import Options
    from penstock.up.screen import Screen

_STORE: Final = "control.db"
_POLL_SECONDS: Final = 0.02


@contextlib.asynccontextmanager
async def running(options: Options, screen: Screen) -> AsyncGenerator[Up]:
    """Every role up and joined; all stopped, in the opposite order, at the end. Raises PenstockError."""
    private_folder(options.folder, hint="choose a folder you can write with --dir")
    with only_one(options.folder, "up"):
        check_free(options.ports)
        check_loopback()
        for route in options.routes:
            await check_reachable(route, options.allowed)
        async with contextlib.AsyncExitStack() as started:
            yield await _start(options, screen, started)


class Up:
    """What runs: the tunnel's routes, and the access that callers use."""

    def __init__(self, options: Options, access: Access, manager: Access, domain: str) -> None:
        self.options = options
        self.access = access
        self.manager = manager
        self.domain = domain

    def urls(self) -> dict[str, str]:
        """Route name to the URL that callers use."""
        paths = {route.name: route.path for route in self.options.routes} or {SAMPLE_ROUTE: "/mcp"}
        return {name: f"https://{name}.{self.domain}{path}" for name, path in paths.items()}

    async def prove(self, screen: Screen) -> None:
        """One real call a route. Raises PenstockError for the first that fails."""
        ask = proof.call_sample if self.options.has_sample else proof.list_tools
        await proof.prove(self.urls(), self.access, ask, screen.proof)


async def _start(options: Options, screen: Screen, started: contextlib.AsyncExitStack) -> Up:
    config = roles.control(options)
    access, manager = await _access(options)
    control = Control(config)
    await control.start()
    started.push_async_callback(control.stop)
    screen.step(f"control   {access.api_url}  (SQLite in {config.data_dir})")

    edge = Edge(roles.edge(options, access.api_url, options.folder / "enrolment-token"))
    await edge.start()
    started.push_async_callback(edge.stop)
    screen.step(f"edge      callers on {options.ports.callers}, agents on {options.ports.agents}")

    client = ControlClient(manager.api_url, manager.api_key)
    started.push_async_callback(client.aclose)
    (options.folder / "stack").mkdir(mode=0o700, exist_ok=True)
    made = await stack.prepare(options.folder / "stack", client)

    upstreams = {route.name: route.upstream for route in options.routes} or {SAMPLE_ROUTE: await _sample(started)}
    await private_side.start(roles.proxy(options, made, upstreams), roles.agent(options, made), upstreams, screen, started)
    if any(is_loopback(upstream) for upstream in upstreams.values()):
        screen.note("loopback upstreams are allowed because this is `up`; a proxy on its own refuses them")
    return Up(options, access, manager, made.domain)


async def _access(options: Options) -> tuple[Access, Access]:
    """The first run's keys, or those that an earlier run wrote down: one to call with, one to manage tunnels with."""
    config = roles.control(options)
    api_url, folder = f"http://{options.ports.control}", options.folder
    enrolment = folder / "enrolment-token"
    key, tunnels_key = read_file(folder / "api-key"), read_file(folder / "tunnels-key")
    if key is None or not enrolment.exists():
        made = await _first_secrets(config)
        key, tunnels_key = made[0].reveal(), made[1].reveal()
        for name, secret in zip(("api-key", "tunnels-key", "enrolment-token"), made, strict=True):
            write_file(folder / name, secret.reveal() + "\n")
    elif not (config.data_dir / _STORE).exists():
        raise ConfigError(
            f"{folder} is not whole: {config.data_dir / _STORE} is gone",
            hint="move the folder away and start again, or name another one with --dir",
        )
    elif tunnels_key is None:  # a folder of the time when one key did both
        tunnels_key = (await first_key(config, scopes.MANAGE_TUNNELS)).reveal()
        write_file(folder / "tunnels-key", tunnels_key + "\n")
    access = Access(api_url, Secret(key.strip()))
    write_profile(folder / "profile.json", access)
    return access, Access(api_url, Secret(tunnels_key.strip()))


async def _first_secrets(config: ControlConfig) -> tuple[Secret, Secret, Secret]:
    """A key to call with, one to manage tunnels with, and an enrolment token."""
    try:
        initial = await initialize(config)
    except InitializedError:  # by a run that was killed before it wrote them down; they are shown once, so others are made
        return (
            await first_key(config, scopes.DEVELOPER),
            await first_key(config, scopes.MANAGE_TUNNELS),
            await create_enrolment_token(config),
        )
    return initial.api_key, initial.tunnels_key, initial.enrolment_token


async def _sample(started: contextlib.AsyncExitStack) -> str:
    server = _Embedded(make_config("127.0.0.1", 0))
    started.push_async_callback(server.stop)
    return f"http://{await server.start()}"


class _Embedded(uvicorn.Server):
    """uvicorn inside a program that has its own signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._tasks = Tasks()
        self._serving: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def start(self) -> HostPort:
        """Serving when it returns; the bound address."""
        self._serving = self._tasks.spawn(self.serve(), "sample server")
        while not self.started:
            if self._serving.done():
                raise UnavailableError("the sample server did not start")
            await asyncio.sleep(_POLL_SECONDS)
        return HostPort(*self.servers[0].sockets[0].getsockname()[:2])

    async def stop(self) -> None:
        """Standing streams end, the rest gets uvicorn's own grace."""
        self.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving})
        await self._tasks.aclose()
