"""What a person asks of `penstock up`, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.config.types import HostPort

if TYPE_CHECKING:
    from penstock.config.types import IPNetwork
    from penstock.stack.routes import Route

SAMPLE_ROUTE: Final = "echo"


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
