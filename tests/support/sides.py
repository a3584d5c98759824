"""Both Compose deployments on the engine that `$DOCKER_HOST` names, a tunnel between them, and what callers see of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx2
from tests.support import ca, compose
from tests.support.command import run
from tests.support.control import PUBLISHED, Api
from tests.support.pebble import free_port

from penstock.client.access import Access
from penstock.client.transport import TunnelTransport
from penstock.control.service.bootstrap import Initial
from penstock.errors import PenstockError
from penstock.secret import Secret
from penstock.tls import contexts
from penstock.tls.certs import certificate_to_pem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HERE: Final = Path(__file__).parents[1] / "e2e/compose"
API_PORT: Final = str(free_port())
API: Final = f"https://localhost:{API_PORT}"
TRY_SECONDS: Final = 4.0  # of one call: what waits longer is tried again
_ASK: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def python_image() -> str:
    """A slim Python on the engine."""
    return os.environ["PENSTOCK_TEST_PYTHON_IMAGE"]


def tell(text: str) -> None:
    """A figure as measured, with how busy the machine was: `-rP` shows it."""
    print(f"{text}; load {os.getloadavg()[0]:.0f}")  # noqa: T201 - for a person


@dataclass
class Sides:
    """Platform and stack, with a tunnel between them."""

    platform: compose.Project
    stack: compose.Project
    image: str
    made: dict[str, str]
    """What `init` printed."""

    @property
    def domain(self) -> str:
        return (self.stack.folder / "data/tunnel-domain").read_text().strip()

    @property
    def token(self) -> str:
        return (self.stack.folder / "data/tunnel-token").read_text().strip()

    @property
    def ca_file(self) -> Path:
        return self.platform.folder / "tls/ca.crt"

    def call(self, name: str = "compose") -> str:
        """The sample's tool, called from outside both."""
        url = f"https://echo.{self.domain}/mcp"
        access = {
            "PENSTOCK_API_URL": API,
            "PENSTOCK_API_KEY": self.made["api_key"],
            "SSL_CERT_FILE": str(self.ca_file),
        }
        ended = run("call", url, "hello", f"name={name}", folder=self.platform.folder, **access)
        return ended.stdout if ended.returncode == 0 else f"failed: {ended.stderr}"

    def works(self) -> bool:
        return self.call("again").startswith("Hello, again!")

    def up(self, *services: str, stack: compose.Project | None = None) -> None:
        """As the guide says: with the token in the environment."""
        (stack or self.stack)("up", "--detach", "--wait", *services, TUNNEL_TOKEN=self.token)

    def setup(self, *arguments: str) -> None:
        self.stack("run", "--rm", "setup", *arguments, API_TOKEN=self.made["tunnels_key"])

    @contextlib.contextmanager
    def calling(self) -> Iterator[Calls]:
        """Callers that go on calling, on a loop of their own, while the test does something to the services."""
        calls, ready = Calls(), threading.Event()
        loop = asyncio.new_event_loop()
        with _trusting(self.ca_file):
            access = Access(API, Secret(self.made["api_key"]))
            url = f"https://echo.{self.domain}/mcp"
            thread = threading.Thread(target=lambda: loop.run_until_complete(calls.run(access, url, ready)))
            thread.start()
            try:
                assert ready.wait(60), "not one call passed"
                yield calls
            finally:
                loop.call_soon_threadsafe(calls.over.set)
                thread.join(30)
                loop.close()

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """The platform's API from this machine, with what `init` printed."""
        secrets = {name: Secret(value) if _is_secret(name) else value for name, value in self.made.items()}
        initial: Any = Initial(**secrets)  # type: ignore[arg-type]
        context = contexts.control_client(self.ca_file)
        nothing: Any = None
        async with httpx2.AsyncClient(base_url=API, headers=PUBLISHED, trust_env=False, verify=context) as http:
            yield Api(nothing, nothing, initial, http)


@dataclass
class Calls:
    """What came of the calls: one after the other, on one transport, as one program has it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    done: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    """When a call that failed began, and why."""
    passed: list[tuple[float, float]] = field(default_factory=list)
    """When a call that passed began and ended."""

    async def run(self, access: Access, url: str, ready: threading.Event) -> None:
        transport = TunnelTransport(access)
        events = transport._streams.events
        events.settle_seconds = 0.0  # who has just begun to call has not heard from the edges yet, and is told of no stop
        headers = {"accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient(transport=transport, timeout=TRY_SECONDS, headers=headers) as client:
            while not self.over.is_set():
                began = time.monotonic()
                try:
                    async with asyncio.timeout(TRY_SECONDS):
                        answer = await client.post(url, json=_ASK)
                    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
                    self.passed.append((began, time.monotonic()))
                    if events.standing:
                        ready.set()
                except (httpx2.HTTPError, PenstockError, AssertionError, TimeoutError) as exc:
                    self.failed.append((began, f"{type(exc).__name__}: {exc}"))
                self.done += 1
                await asyncio.sleep(0.02)

    def passes_after(self, moment: float, seconds: float = 120.0) -> float:
        """Seconds from `moment` until a call that began after it had passed."""
        ends: list[float] = []

        def is_there() -> bool:
            ends[:] = [end for began, end in list(self.passed) if began >= moment]
            return bool(ends)

        compose.until(is_there, "one call passed", seconds)
        return min(ends) - moment

    def failed_since(self, moment: float) -> list[str]:
        return [why for began, why in list(self.failed) if began >= moment]


@contextlib.contextmanager
def both(folder: Path) -> Iterator[Sides]:
    """Platform and stack, up; both are taken down with what they kept in the end."""
    image = compose.image(python_image(), version("penstock"))
    platform = compose.Project.copy("platform", folder / "platform", HERE / "platform.yaml")
    stack = compose.Project.copy("stack", folder / "stack", "compose.sample.yaml", HERE / "stack.yaml")
    try:
        sides = Sides(platform, stack, image, start_platform(platform, image))
        start_stack(sides)
        yield sides
    finally:
        for project in (stack, platform):
            project("down", "--volumes", "--timeout", "0", check=False)


def start_platform(platform: compose.Project, image: str) -> dict[str, str]:
    """What its `init` printed."""
    authority = ca.ca()
    pair = ca.server(authority, "control", "penstock.test", "localhost")
    tls, secrets = platform.folder / "tls", platform.folder / "secrets"
    tls.mkdir()
    secrets.mkdir()
    (tls / "ca.crt").write_text(certificate_to_pem(authority.certificate))
    (tls / "api.crt").write_text(pair.certificate_pem)
    (tls / "api.key").write_text(pair.key_pem.reveal())
    (secrets / "postgres-password").write_text("7cdf1e0a")
    (secrets / "database-url").write_text("postgresql://penstock:7cdf1e0a@postgres/penstock")
    (secrets / "enrolment-token").write_text("")
    postgres = compose.postgres_image(python_image())
    platform.environment({"PENSTOCK_IMAGE": image, "POSTGRES_IMAGE": postgres, "API_PORT": API_PORT})
    control = platform.folder / "control.yaml"
    control.write_text(control.read_text().replace("https://penstock.example.com", API))
    values: dict[str, str] = json.loads(platform("run", "--rm", "init"))
    (secrets / "enrolment-token").write_text(values["enrolment_token"])
    platform("up", "--detach", "--wait")
    return values


def start_stack(sides: Sides) -> None:
    """Provisioned by the platform, as the guide does it."""
    stack, data = sides.stack, sides.stack.folder / "data"
    data.mkdir()
    shutil.copy(sides.ca_file, data / "platform-ca.crt")
    os.chown(data, 65532, 65532)
    stack.environment({"PENSTOCK_IMAGE": sides.image, "PENSTOCK_API_URL": "https://penstock.test:8700"})
    sides.setup()
    config = stack.folder / "config/mcp-gateway.yaml"
    config.write_text(config.read_text().replace("ab12cd34.tunnel.example.com", sides.domain))
    sides.up()


def another_host(sides: Sides, folder: Path) -> compose.Project:
    """The stack's folder on one more host: a copy, `data/` and all."""
    shutil.copytree(sides.stack.folder, folder)
    for file in (sides.stack.folder / "data").iterdir():
        status = file.stat()
        os.chown(folder / "data" / file.name, status.st_uid, status.st_gid)
    os.chown(folder / "data", 65532, 65532)
    return replace(sides.stack, name="penstock-test-stack-2", folder=folder)


def _is_secret(name: str) -> bool:
    return name.endswith(("_key", "_token", "_password"))


@contextlib.contextmanager
def _trusting(ca_file: Path) -> Iterator[None]:
    """This process believes the platform's CA, as a caller with SSL_CERT_FILE does."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(ca_file)
    try:
        yield
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before
