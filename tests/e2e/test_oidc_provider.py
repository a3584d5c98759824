"""Against a real, certified OpenID provider: a workload's token is exchanged, and a person signs in through its pages."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx2
import pytest
from tests.support import ca
from tests.support.control import api, database, start_api
from tests.support.people import Person, admin, ok
from tests.support.workloads import AUDIENCE, workload

from penstock.client import browser
from penstock.client.sessions import SignIn
from penstock.net.tasks import Tasks
from penstock.tls import contexts
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(300)]

VERSION = "9.13.3"


@dataclass
class Provider:
    """The running provider."""

    url: str
    ca_file: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://")

    @property
    def http(self) -> httpx2.AsyncClient:
        """A browser: it keeps cookies and follows redirects."""
        return httpx2.AsyncClient(
            verify=contexts.control_client(self.ca_file), trust_env=False, follow_redirects=True, timeout=20
        )


@contextmanager
def running(folder: Path) -> Generator[Provider]:
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), f"oidc-provider@{VERSION}"]
    subprocess.run(npm, check=True, timeout=240)
    shutil.copy(Path(__file__).parent / "oidc_provider.mjs", folder / "idp.mjs")
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    for name, text in (("ca", authority.certificate_pem), ("cert", pair.certificate_pem), ("key", pair.key_pem.reveal())):
        (folder / f"{name}.pem").write_text(text)
    port = choose_free().callers.port
    process = subprocess.Popen(
        ["node", "idp.mjs", str(port), "cert.pem", "key.pem"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        while b"listening" not in (line := process.stdout.readline()):
            assert line, "the provider ended"
        yield Provider(f"https://localhost:{port}", folder / "ca.pem")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Generator[Provider]:
    with running(tmp_path_factory.mktemp("oidc-provider")) as made:
        yield made


async def test_a_workloads_token_of_the_provider_is_exchanged(provider: Provider, start_api: Callable[..., Any]) -> None:
    started: Api = await start_api(public_url=AUDIENCE, federation={"allowed_hosts": [provider.host]})
    one = await workload(
        started,
        jwks={"type": "discovery", "ca_cert_pem": provider.ca_file.read_text()},
        issuer={"issuer_url": provider.url},
        match={"subject_prefix": "ci", "condition": 'claims.client_id == "ci" && claims.scope == "exchange"'},
    )
    async with provider.http as http:
        form = {"grant_type": "client_credentials", "scope": "exchange", "resource": AUDIENCE}
        answer = await http.post(f"{provider.url}/token", data=form, auth=("ci", "ci-secret"))
    assertion = ok(answer)["access_token"]
    granted = ok(await one.exchange(assertion))
    assert granted["scope"] == "workspace:manage_tunnels"
    bearer = started.bearing(granted["access_token"])
    assert ok(await started.http.get("/penstock/v1/me", headers=bearer))["id"] == one.account["id"]
    await one.denied("jti_reused", assertion)


async def test_a_person_signs_in_through_the_providers_pages(provider: Provider, start_api: Callable[..., Any]) -> None:
    oidc = {"issuer_url": provider.url, "client_id": "penstock", "ca_file": str(provider.ca_file)}
    started: Api = await start_api(oidc=oidc)
    user = await (await admin(started)).post("/penstock/v1/users", {"email": "alice@example.com"})
    visits = Tasks()
    async with SignIn(started.control.url) as control:
        method = (await control.methods()).oidc
        assert method is not None
        code = await browser.ask(method, lambda url: visits.spawn(visit(provider, url), "browser"), patience=60)
        session = await control.with_code(code)
        # A code is good once.
        with pytest.raises(Exception, match="sign-in failed"):
            await control.with_code(code)
    await visits.aclose()
    assert session.user_id == user["id"]
    assert (await Person(started, session.model_dump()).get("/penstock/v1/me"))["id"] == user["id"]


async def visit(provider: Provider, url: str) -> None:
    """What a person does: log in, consent, and end at the loopback page."""
    async with provider.http as http:
        page = await http.get(url)
        async with asyncio.timeout(30):
            while page.url.host != "127.0.0.1":
                action = re.search(r'action="([^"]+)"', page.text)
                assert action is not None, page.text
                fields: dict[str, str] = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', page.text))
                if "login" in page.text.lower() and 'name="login"' in page.text:
                    fields |= {"login": "alice", "password": "any"}
                page = await http.post(urljoin(str(page.url), action[1]), data=fields)
        assert "signed in" in page.text
