"""The settings that `up` gives each role, and nothing that the role would not also take from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.config.load import validate
from penstock.control.config import ControlConfig
from penstock.edge.config import EdgeConfig
from penstock.stack import private_side
from penstock.stack.routes import loopback_networks

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.agent.config import AgentConfig
    from penstock.proxy.config import ProxyConfig
    from penstock.up.options import Options
    from penstock.up.stack import Stack


_START_SECONDS: Final = 15.0  # control is in this process and was just started: an edge alone gives it a minute


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
            "start_timeout": _START_SECONDS,
        },
        source="up",
    )


def proxy(options: Options, stack: Stack, routes: dict[str, str]) -> ProxyConfig:
    """The proxy; under `up` any name may lead to a server on this machine, which is what a newcomer has."""
    return private_side.proxy(
        stack.folder,
        stack.domain,
        routes,
        allowed=(*loopback_networks(routes.values()), *map(str, options.allowed)),
        workspace_id=stack.workspace_id,
        ports=options.ports,
    )


def agent(options: Options, stack: Stack) -> AgentConfig:
    """The agent."""
    return private_side.agent(stack.folder, ports=options.ports)
