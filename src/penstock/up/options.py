"""What a person asks of `penstock up`, checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock.config.types import HostPort, parse_network
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.config.types import IPNetwork

SAMPLE_ROUTE: Final = "echo"
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DEFAULT_PATH: Final = "/mcp"  # where the SDKs mount an MCP server


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


@dataclass(frozen=True, slots=True)
class Ports:
    """Every address `up` listens on; all loopback."""

    control: HostPort = field(default=HostPort("127.0.0.1", 8700))
    control_admin: HostPort = field(default=HostPort("127.0.0.1", 8701))
    callers: HostPort = field(default=HostPort("127.0.0.1", 8443))
    agents: HostPort = field(default=HostPort("127.0.0.1", 7844))
    edge_admin: HostPort = field(default=HostPort("127.0.0.1", 8444))
    agent_metrics: HostPort = field(default=HostPort("127.0.0.1", 20241))
    proxy: HostPort = field(default=HostPort("127.0.0.1", 8080))
    proxy_admin: HostPort = field(default=HostPort("127.0.0.1", 8081))


@dataclass(frozen=True, slots=True)
class Options:
    """One run of `penstock up`."""

    folder: Path = Path(".penstock")
    routes: tuple[Route, ...] = ()
    """Empty: the sample server is started and exposed."""
    allowed: tuple[IPNetwork, ...] = ()
    """What upstreams may resolve to beside private networks and, under `up` only, loopback."""
    once: bool = False
    ports: Ports = field(default_factory=Ports)

    @property
    def has_sample(self) -> bool:
        """Whether the sample server is what is exposed."""
        return not self.routes


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
