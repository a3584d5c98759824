"""The settings that `up` gives each role, and nothing that the role would not also take from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.agent.config import AgentConfig
from penstock.config.load import validate
from penstock.control.config import ControlConfig
from penstock.edge.config import EdgeConfig
from penstock.proxy.config import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from penstock.up.options import Options
    from penstock.up.stack import Stack

_PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")  # the proxy's own default, which a list replaces
LOOPBACK: Final = "127.0.0.0/8"  # under `up` only: a server on this machine is what a newcomer has


def control(options: Options) -> ControlConfig:
    """The control plane: SQLite in the folder."""
    return validate(
        ControlConfig,
        {
            "data_dir": options.folder / "control",
            "listen_addr": options.ports.control,
            "admin_addr": options.ports.control_admin,
        },
        source="up",
    )


def edge(options: Options, control_url: str, enrolment_token_file: Path) -> EdgeConfig:
    """The edge."""
    return validate(
        EdgeConfig,
        {
            "name": "up",
            "control_url": control_url,
            "enrolment_token_file": enrolment_token_file,
            "state_dir": options.folder / "edge",
            "callers_addr": options.ports.callers,
            "agents_addr": options.ports.agents,
            "admin_addr": options.ports.edge_admin,
        },
        source="up",
    )


def proxy(options: Options, stack: Stack, routes: dict[str, str]) -> ProxyConfig:
    """The proxy. A loopback upstream gets the Host it knows: SDK servers answer 421 to a foreign one."""
    return validate(
        ProxyConfig,
        {
            "listen_addr": str(options.ports.proxy),
            "admin_addr": options.ports.proxy_admin,
            "tunnel_domain": stack.domain,
            "tls": {"cert_file": stack.certificate_file, "key_file": stack.key_file},
            "routes": {name: _route(upstream) for name, upstream in routes.items()},
            "upstream": {
                "allowed_ips": [*_PRIVATE, *_loopback(routes.values()), *map(str, options.allowed)],
                "tls": {"include_system_cas": True},
            },
            "callers": {"mode": "require", "ca_file": stack.callers_ca_file, "allow": [stack.workspace_id]},
        },
        source="up",
    )


def agent(options: Options, stack: Stack) -> AgentConfig:
    """The agent."""
    return validate(
        AgentConfig,
        {
            "token_file": stack.token_file,
            "url": f"http://{options.ports.proxy}",
            "metrics": options.ports.agent_metrics,
            "grace_period": 5,
        },
        source="up",
    )


def _loopback(upstreams: Iterable[str]) -> tuple[str, ...]:
    """IPv6's only where an upstream is there: with it, all addresses of a name are looked at, and one refused is enough."""
    return (LOOPBACK, "::1/128") if any(_host(upstream) in {"localhost", "::1"} for upstream in upstreams) else (LOOPBACK,)


def _route(upstream: str) -> dict[str, Any]:
    return {"url": upstream, "host_header": "upstream" if is_loopback(upstream) else "preserve"}


def is_loopback(upstream: str) -> bool:
    """Whether an upstream is named as one of this machine."""
    host = _host(upstream)
    return host in {"localhost", "::1"} or host.startswith("127.")


def _host(upstream: str) -> str:
    return upstream.partition("://")[2].rpartition(":")[0].strip("[]")
