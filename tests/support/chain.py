"""The four roles as four processes, each from a config file, as an operator runs them; for end-to-end tests and the bench."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
import yaml

from penstock.client.access import Access
from penstock.client.control import ControlClient
from penstock.secret import Secret
from penstock.up import stack as private_side
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.up.options import Ports

_READY_SECONDS = 90.0  # on a machine that does much else besides


@dataclass
class Role:
    """One running process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Everything it wrote to stderr and stdout."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Chain:
    """control, edge, proxy and agent, joined. `async with Chain(folder, routes) as chain`."""

    folder: Path
    routes: dict[str, Any]
    proxy_settings: dict[str, Any] = field(default_factory=dict)
    edge_settings: dict[str, Any] = field(default_factory=dict)
    control_settings: dict[str, Any] = field(default_factory=dict)
    ports: Ports = field(default_factory=choose_free)
    roles: dict[str, Role] = field(default_factory=dict)
    access: Access = field(init=False)
    manager: Access = field(init=False)
    stack: private_side.Stack = field(init=False)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def url(self, route: str, path: str = "/mcp") -> str:
        """The tunnel URL of a route."""
        return f"https://{route}.{self.stack.domain}{path}"

    async def _start(self) -> None:
        control = self.write(
            "control",
            {
                "data_dir": str(self.folder / "control"),
                "listen_addr": str(self.ports.control),
                "admin_addr": str(self.ports.control_admin),
                **self.control_settings,
            },
        )
        keys = json.loads(subprocess.check_output([*_penstock(), "control", "init", "--config", str(control)], text=True))
        (self.folder / "enrolment-token").write_text(keys["enrolment_token"])
        self.access = Access(f"http://{self.ports.control}", Secret(keys["api_key"]))
        self.manager = Access(self.access.api_url, Secret(keys["tunnels_key"]))
        self.run("control", ["--config", str(control)])
        await self.until_ready("control", f"http://{self.ports.control_admin}/readyz")

        edge = self.write(
            "edge",
            {
                "name": "edge-1",
                "control_url": self.access.api_url,
                "enrolment_token_file": str(self.folder / "enrolment-token"),
                "state_dir": str(self.folder / "edge"),
                "callers_addr": str(self.ports.callers),
                "agents_addr": str(self.ports.agents),
                "admin_addr": str(self.ports.edge_admin),
                **self.edge_settings,
            },
        )
        self.run("edge", ["--config", str(edge)])
        await self.until_ready("edge", f"http://{self.ports.edge_admin}/readyz")
        await self._start_private_side()

    async def _start_private_side(self) -> None:
        self.stack = await self.add_tunnel("stack")
        self.run_proxy("proxy", self.stack, self.ports)
        agent = self.write("agent", {"url": f"http://{self.ports.proxy}", "metrics": str(self.ports.agent_metrics)})
        self.run("agent", ["--config", str(agent)], TUNNEL_TOKEN=self.stack.token_file.read_text().strip())
        await self.until_ready("proxy", f"http://{self.ports.proxy_admin}/readyz")
        await self.until_ready("agent", f"http://{self.ports.agent_metrics}/ready", links=4)

    async def add_tunnel(self, name: str) -> private_side.Stack:
        """A tunnel, and the folder of its private side."""
        (self.folder / name).mkdir()
        async with ControlClient(self.manager.api_url, self.manager.api_key) as client:
            return await private_side.prepare(self.folder / name, client)

    def run_proxy(self, name: str, stack: private_side.Stack, ports: Ports) -> None:
        """Start the proxy of a tunnel."""
        file = self.write(
            name,
            {
                "listen_addr": str(ports.proxy),
                "admin_addr": str(ports.proxy_admin),
                "tunnel_domain": stack.domain,
                "tls": {"cert_file": str(stack.certificate_file), "key_file": str(stack.key_file)},
                "routes": self.routes,
                "upstream": {"allowed_ips": ["127.0.0.0/8"]},
                "callers": {"mode": "require", "ca_file": str(stack.callers_ca_file)},
                **self.proxy_settings,
            },
        )
        self.run("proxy", ["-config", str(file)], name=name)

    def write(self, role: str, settings: dict[str, Any]) -> Path:
        """A config file."""
        file = self.folder / f"{role}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    def run(self, role: str, arguments: list[str], *, name: str | None = None, **environment: str) -> None:
        """Start one process; `name` tells it from another of its role."""
        name = name or role
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*_penstock(), role, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
            )
        self.roles[name] = Role(name, process, log)

    async def until_ready(self, role: str, url: str, *, links: int | None = None) -> None:
        """Wait for a probe; fail with the role's log when it ends or takes too long."""
        running = self.roles[role]
        try:
            async with asyncio.timeout(_READY_SECONDS), httpx2.AsyncClient() as client:
                while running.process.poll() is None:
                    with contextlib.suppress(httpx2.TransportError):
                        answer = await client.get(url)
                        if answer.status_code == 200 and (links is None or answer.json()["readyConnections"] == links):
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        raise AssertionError(f"{role} did not become ready:\n{running.said()}")

    def stop(self) -> dict[str, int]:
        """Stop every role as an operator would, private side first; their exit codes."""
        codes: dict[str, int] = {}
        later = ["edge", "control"]
        for name in [*reversed([name for name in self.roles if name not in later]), *later]:
            if name in self.roles:
                codes[name] = stop_process(self.roles[name].process)
        return codes


def stop_process(process: subprocess.Popen[bytes], seconds: float = 20.0) -> int:
    """SIGTERM, then SIGKILL when that does not help; the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def _penstock() -> list[str]:
    return [sys.executable, "-m", "penstock"]
