"""Sets up what is missing, starts proxy and agent, proves that a call gets through, and keeps the certificate young."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.client.access import Access, find_access
from penstock.config.files import private_folder, read_file, write_file
from penstock.config.pem import read_authorities
from penstock.errors import ConfigError, IdentityError, PenstockError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.net.tasks import Tasks
from penstock.setup import material
from penstock.setup.credential import find_credential, has_credential, open_platform
from penstock.setup.directory import Directory
from penstock.setup.keys import KeyType
from penstock.setup.progress import Progress
from penstock.setup.provision import CERTIFICATE_LIFE, Wanted, provision
from penstock.setup.renewal import renew
from penstock.stack import private_side, proof
from penstock.stack.lock import only_one
from penstock.stack.ports import Ports, check_free, check_loopback
from penstock.stack.routes import check_reachable, is_loopback, loopback_networks
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from penstock.config.types import IPNetwork
    from penstock.stack.routes import Route
    from penstock.stack.screen import Screen

_WORKSPACE: Final = "workspace-id"
_NEEDED: Final = (material.DOMAIN, material.TOKEN, material.CERTIFICATE, material.KEY)
_RENEW_BEFORE: Final = CERTIFICATE_LIFE / 3
_LOOK_EVERY: Final = timedelta(hours=6).total_seconds()
_NEWS_SECONDS: Final = 15.0
"""How long edges may take to hear of a tunnel that was made a moment ago."""
_AGAIN_SECONDS: Final = 0.5
_NOT_YET: Final = {TunnelErrorCode.TUNNEL_NOT_FOUND, TunnelErrorCode.CERTIFICATE_MISSING, TunnelErrorCode.AGENT_UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class Options:
    """One run of `penstock stack`."""

    api_url: str
    routes: tuple[Route, ...]
    folder: Path = Path(".penstock-stack")
    allowed: tuple[IPNetwork, ...] = ()
    """What upstreams may resolve to beside private networks, and beside loopback where a route names it."""
    tunnel_id: str | None = None
    ca_file: Path | None = None
    key_type: KeyType = KeyType.ECDSA
    """P-256 unless asked for: a handshake with it costs the proxy a tenth."""
    ports: Ports = field(default_factory=Ports)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True, slots=True)
class Running:
    """What runs: the tunnel's routes."""

    options: Options
    domain: str

    def urls(self) -> dict[str, str]:
        """Route name to the URL that callers use."""
        return {route.name: f"https://{route.name}.{self.domain}{route.path}" for route in self.options.routes}

    def access(self) -> Access:
        """With what a call can be made from here. Raises ConfigError where there is nothing."""
        try:
            access = find_access(self.options.api_url, environment=self.options.environment)
        except (ConfigError, IdentityError) as exc:
            raise ConfigError(
                "no API key to prove a call with is known here",
                detail=exc.public,
                hint=f"set PENSTOCK_API_KEY, or run `penstock login --api-url {self.options.api_url}`",
            ) from exc
        return replace(access, ca_file=access.ca_file or _ca_file(self.options), pins=None, ca_pins=frozenset())

    async def prove(self, access: Access, screen: Screen) -> None:
        """One real call a route. Raises PenstockError for the first that fails."""
        give_up = asyncio.get_running_loop().time() + _NEWS_SECONDS
        while True:
            try:
                await proof.prove(self.urls(), access, proof.list_tools, screen.proof)
            except TunnelError as exc:
                if exc.code not in _NOT_YET or asyncio.get_running_loop().time() > give_up:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


@contextlib.asynccontextmanager
async def running(options: Options, screen: Screen) -> AsyncGenerator[Running]:
    """Proxy and agent up and linked; both stopped at the end. Raises PenstockError."""
    private_folder(options.folder, hint="choose a folder you can write with --dir")
    platform_ca = read_authorities(options.ca_file, "--api-ca-file") if options.ca_file else None
    with only_one(options.folder, "stack"):
        check_free(options.ports, "stack")
        check_loopback()
        for route in options.routes:
            await check_reachable(route)
        domain, workspace_id = await _set_up(options, screen, platform_ca)
        upstreams = {route.name: route.upstream for route in options.routes}
        here = [upstream for upstream in upstreams.values() if is_loopback(upstream)]
        allowed = (*(loopback_networks(here) if here else ()), *map(str, options.allowed))
        async with contextlib.AsyncExitStack() as started:
            await private_side.start(
                private_side.proxy(
                    options.folder, domain, upstreams, allowed=allowed, workspace_id=workspace_id, ports=options.ports
                ),
                private_side.agent(options.folder, ports=options.ports, **_through(options.environment)),
                upstreams,
                screen,
                started,
            )
            tasks = Tasks()
            started.push_async_callback(tasks.aclose)
            tasks.keep(lambda: _stay_young(options), "renewal")
            yield Running(options, domain)


async def _set_up(options: Options, screen: Screen, platform_ca: str | None) -> tuple[str, str | None]:
    """The tunnel's domain, and the workspace whose callers are served. Without a credential the folder must be complete."""
    output = Directory(options.folder)
    entries = await output.load()
    is_complete = all(name in entries for name in _NEEDED)
    if is_complete and not has_credential(options.environment):
        screen.step(f"setup     {output} is complete")
    else:
        try:
            await _provision(options, output, screen, platform_ca)
        except UnavailableError as exc:
            if not is_complete:
                raise
            screen.note(f"{exc.public}: going on with what is in {output}")
        entries = await output.load()
    workspace_id = read_file(options.folder / _WORKSPACE)
    return entries[material.DOMAIN].strip(), workspace_id.strip() if workspace_id else None


async def _provision(options: Options, output: Directory, screen: Screen, platform_ca: str | None) -> None:
    progress = Progress(lambda sentence: screen.step(f"setup     {sentence.lstrip(' ·')}"))
    ca_file = _ca_file(options)
    wanted = Wanted(
        tunnel_id=options.tunnel_id,
        display_name="penstock stack",
        key_type=options.key_type,
        platform_ca=platform_ca,
    )
    async with await open_platform(options.api_url, find_credential(options.environment), ca_file=ca_file) as platform:
        await provision(output, platform, wanted, progress)
        try:
            workspace_id = (await platform.me()).workspace_id
        except ConfigError:  # the published platform has no such question
            return
    write_file(options.folder / _WORKSPACE, f"{workspace_id}\n" if workspace_id else "")


async def _stay_young(options: Options) -> None:
    """Renew the server certificate when two thirds of its life are over; the proxy takes it up by itself."""
    log = get_logger("stack")
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        try:
            progress = Progress(lambda sentence: log.info("certificate", told=sentence.strip(" ·")))
            await renew(Directory(options.folder), progress, duration=CERTIFICATE_LIFE, renew_before=_RENEW_BEFORE)
        except PenstockError as exc:  # the old one holds for weeks; the next look tries again
            log.warning("certificate not renewed", error=exc.public, detail=exc.detail, hint=exc.hint)


def _ca_file(options: Options) -> Path | None:
    """What was named, or what an earlier run kept."""
    kept = options.folder / material.PLATFORM_CA
    return options.ca_file or (kept if kept.exists() else None)


def _through(environment: Mapping[str, str]) -> dict[str, str]:
    """The HTTP proxy that the agent dials through, as `penstock agent` takes it."""
    named = {name: environment.get(name.upper()) or environment.get(name) for name in ("https_proxy", "no_proxy")}
    return {name: value for name, value in named.items() if value}
