"""What a person exposes, checked before anything starts: routes, and networks that upstreams may be in."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock.config.types import HostPort, parse_network
from penstock.errors import ConfigError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.net.dial import dial_tcp
from penstock.proxy.guard import LISTS, Guard, Resolver

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.config.types import IPNetwork

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DEFAULT_PATH: Final = "/mcp"  # where the SDKs mount an MCP server
_REACH_SECONDS: Final = 3.0
LOOPBACK: Final = "127.0.0.0/8"
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""The proxy's own default, which a list of other networks would replace."""


@dataclass(frozen=True, slots=True)
class Route:
    """One MCP server to expose: `name` becomes the first label of its host name."""

    name: str
    upstream: str
    """`scheme://host:port`, what the proxy dials."""
    address: HostPort
    path: str = _DEFAULT_PATH
    """Where on the upstream the MCP endpoint is: part of the URL that callers use, not of the route."""

    @classmethod
    def parse(cls, text: str) -> Route:
        """From `NAME=URL`; ConfigError says what is wrong with it."""
        name, separator, url = text.partition("=")
        if not separator or not _LABEL.fullmatch(name):
            raise ConfigError(
                f"--route {text}: must be NAME=URL, with a NAME of lower-case letters, digits and hyphens",
                hint="for example --route echo=http://127.0.0.1:9000",
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            port, parts = None, urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ConfigError(f"--route {text}: {url!r} is not an http or https URL", hint="for example http://127.0.0.1:9000")
        if port is None:
            port = 443 if parts.scheme == "https" else 80
        address = HostPort(parts.hostname, port)
        path = parts.path if parts.path not in {"", "/"} else _DEFAULT_PATH
        return cls(name, f"{parts.scheme}://{address}", address, path)


def parse_routes(texts: Iterable[str]) -> tuple[Route, ...]:
    """All `--route` values; ConfigError for a name given twice."""
    routes = tuple(Route.parse(text) for text in texts)
    names = [route.name for route in routes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--route {name} is given twice", hint="every route needs a name of its own")
    return routes


def parse_networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """All `--allow-ip` values."""
    networks: list[IPNetwork] = []
    for text in texts:
        try:
            networks.append(parse_network(text))
        except ValueError as exc:
            raise ConfigError(f"--allow-ip {text}: {exc}", hint="give a network like 10.0.0.0/8 or one address") from None
    return tuple(networks)


async def check_reachable(route: Route, allowed: Iterable[IPNetwork] | None = None) -> None:
    """ConfigError when nothing answers where the route leads, or when its proxy would not dial it: private networks, loopback
    and `allowed` are dialled.
    """
    if allowed is not None:
        networks = [*map(parse_network, (*PRIVATE, *loopback_networks([route.upstream]))), *allowed]
        try:
            await asyncio.wait_for(Resolver(Guard(networks)).resolve(route.address.host), _REACH_SECONDS)
        except TunnelError as exc:
            is_refused = exc.code is TunnelErrorCode.ADDRESS_REFUSED
            hint = (exc.hint or "").replace(LISTS, "add --allow-ip with its network")
            raise ConfigError(
                f"--route {route.name}: " + ("the proxy may not dial its address" if is_refused else "its host has no address"),
                detail=exc.detail,
                hint=hint,
            ) from exc
        except TimeoutError:
            pass  # a slow name server: what is dialled next says it
    try:
        transport = await dial_tcp(route.address.host, route.address.port, timeout=_REACH_SECONDS)
    except UnavailableError as exc:
        raise ConfigError(
            f"--route {route.name}: nothing answers at {route.upstream}",
            detail=exc.detail or exc.public,
            hint="start your MCP server first, or correct the URL",
        ) from exc
    transport.abort()


def is_loopback(upstream: str) -> bool:
    """Whether an upstream is named as one of this machine."""
    host = _host(upstream)
    return host in {"localhost", "::1"} or host.startswith("127.")


def loopback_networks(upstreams: Iterable[str]) -> tuple[str, ...]:
    """IPv6's only where an upstream is there: with it, all addresses of a name are looked at, and one refused is enough."""
    return (LOOPBACK, "::1/128") if any(_host(upstream) in {"localhost", "::1"} for upstream in upstreams) else (LOOPBACK,)


def _host(upstream: str) -> str:
    return upstream.partition("://")[2].rpartition(":")[0].strip("[]")
