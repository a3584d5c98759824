"""`penstock setup renew-cert` and `rotate-ca` beside a proxy that serves: not one call fails."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.chain import Chain
from tests.support.command import run
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving

from penstock.client import TunnelTransport
from penstock.client.control import ControlClient
from penstock.errors import PenstockError, UnavailableError
from penstock.setup.traffic import see_under
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Chain]:
    app = Recorder(sdk_server(Stage()).streamable_http_app())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # inherited, it would make every import slow
        async with (
            serving(app) as url,
            Chain(tmp_path_factory.mktemp("chain"), {"echo": url}, {"reload_interval": 0.1}) as started,
        ):
            yield started


@dataclass
class Load:
    """Calls without a pause: some on connections that are kept, some on a new one each; and what came of them."""

    chain: Chain
    calls: int = 0
    failed: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(is_kept=number % 2 == 0)) for number in range(4)]
            try:
                await self._until(8)
                yield
                await self._until(self.calls + 8)
            finally:
                for task in tasks:
                    task.cancel()

    async def _until(self, calls: int) -> None:
        async with asyncio.timeout(60):
            while self.calls < calls:
                await asyncio.sleep(0.05)

    async def _call(self, *, is_kept: bool) -> None:
        async with TunnelTransport(self.chain.access) as transport:
            while True:
                headers = {} if is_kept else {"connection": "close"}
                request = httpx2.Request("GET", self.chain.url("echo", "/nothing"), headers=headers)
                try:
                    response = await transport.handle_async_request(request)
                    await response.aread()
                except (httpx2.HTTPError, PenstockError) as exc:
                    self.failed.append(f"{type(exc).__name__}: {exc}")
                else:
                    if response.status_code != 404 or "penstock-error" in response.headers:
                        self.failed.append(f"{response.status_code} {response.headers}")
                self.calls += 1
                await asyncio.sleep(0.02)


async def _setup(chain: Chain, *arguments: str) -> str:
    variables = {"API_TOKEN": chain.manager.api_key.reveal(), "PENSTOCK_API_KEY": chain.access.api_key.reveal()}
    output = f"--output=dir:{chain.stack.folder}"
    command = partial(run, "setup", *arguments, output, folder=chain.folder, seconds=240, **variables)
    ended = await asyncio.to_thread(command)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


async def test_a_certificate_is_renewed_under_load_and_no_call_fails(chain: Chain) -> None:
    load = Load(chain)
    async with load.running():
        for number, key_type in enumerate(("ecdsa", "rsa", "ecdsa", "ecdsa"), start=1):
            before = (chain.stack.folder / "tls.crt").read_text()
            await _setup(chain, "renew-cert", f"--key-type={key_type}")
            assert (chain.stack.folder / "tls.crt").read_text() != before
            await _until_shown(chain, number)
            assert "nothing to do" in await _setup(chain, "renew-cert", "--renew-before=720h")
    assert load.failed == []
    assert "certificate not reloaded" not in chain.roles["proxy"].said()  # it never met a pair that did not match
    sys.stdout.write(f"{load.calls} calls, none failed\n")


async def _until_shown(chain: Chain, times: int) -> None:
    """The proxy has taken up what lies in its folder: it says so, once for each change."""
    async with asyncio.timeout(30):
        while chain.roles["proxy"].said().count("certificate reloaded") < times:
            await asyncio.sleep(0.1)


async def test_the_ca_is_rotated_under_load_and_no_call_fails(chain: Chain) -> None:
    old = (chain.stack.folder / "ca.crt").read_text()
    load = Load(chain)
    async with load.running():
        said = await _setup(chain, "rotate-ca", f"--api-url={chain.manager.api_url}")
    assert load.failed == []
    sys.stdout.write(f"{load.calls} calls, none failed\n")
    assert "calls pass under the new CA" in said
    new = (chain.stack.folder / "ca.crt").read_text()
    assert certs.is_issued_by(certs.load_certificate(new), [certs.load_certificate(old)])
    async with ControlClient(chain.manager.api_url, chain.manager.api_key) as platform:
        [registered] = await platform.certificates(chain.stack.tunnel_id)
    assert registered.fingerprint == certs.fingerprint(certs.load_certificate(new))
    with pytest.raises(UnavailableError, match="do not pass under the new CA yet"):  # nor would it be said of the old one
        await see_under(chain.access, chain.stack.domain, old, patience=0.0)
