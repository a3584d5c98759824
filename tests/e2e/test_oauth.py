"""The published recipe for OAuth behind a tunnel: the authorization server as a second route, `/authorize` where browsers are.

A real authorization server (oidc-provider), the official MCP client with PKCE and dynamic registration, four processes, and a
browser that has nothing but its cookies: it never sees the tunnel. The proxy gets its routes by a reload.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import jwt
import pytest
import yaml
from mcp import types
from mcp.client.auth import OAuthClientProvider
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from tests.support.chain import Chain
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving
from tests.support.node import node

from penstock.client import TunnelTransport, mcp_session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(400)]

SERVER = Path(__file__).parents[1] / "support" / "authorization_server.mjs"
CALLBACK = "http://127.0.0.1:1/callback"  # nothing listens: the browser stops where it would be sent


# --- the authorization server -----------------------------------------------------------------------------------------


@asynccontextmanager
async def authorization_server(port: int, issuer: str) -> AsyncGenerator[None]:
    found = node()
    process = await asyncio.create_subprocess_exec(
        found.command,
        str(SERVER),
        found.script("oidc-provider", "lib/index.js"),
        str(port),
        issuer,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        await process.wait()


# --- who asks: an MCP client and its person's browser -----------------------------------------------------------------


class Storage:
    """What the SDK's client keeps."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info


@dataclass
class Browser:
    """Follows what the client opens, signs in, agrees, and stops at the callback; `visited` is every address it asked."""

    visited: list[httpx2.URL] = field(default_factory=list)
    _landed: str = ""

    async def open(self, address: str) -> None:
        async with httpx2.AsyncClient() as http:
            answer = await self._get(http, address)
            while not self._landed:
                form = re.search(r'action="([^"]+)"', answer.text)
                assert form is not None, answer.text
                prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
                assert prompt is not None, answer.text
                fields = {"prompt": prompt[1], "login": "someone", "password": "any"}
                answer = await self._follow(http, await http.post(answer.url.join(form[1]), data=fields))

    async def callback(self) -> AuthorizationCodeResult:
        query = httpx2.URL(self._landed).params
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    async def _get(self, http: httpx2.AsyncClient, address: str | httpx2.URL) -> httpx2.Response:
        self.visited.append(httpx2.URL(address))
        return await self._follow(http, await http.get(address))

    async def _follow(self, http: httpx2.AsyncClient, answer: httpx2.Response) -> httpx2.Response:
        if not answer.has_redirect_location:
            return answer
        to = answer.url.join(answer.headers["location"])
        if str(to).startswith(CALLBACK):
            self._landed = str(to)
            return answer
        return await self._get(http, to)


async def call_as_a_person(chain: Chain, route: str) -> tuple[str, Browser, Storage]:
    """Call `hello` on a route that wants a token: what it said, and how the token was come by."""
    browser, storage = Browser(), Storage()
    metadata = OAuthClientMetadata(client_name="test", redirect_uris=[CALLBACK], scope="mcp")  # type: ignore[list-item]
    auth = OAuthClientProvider(chain.url(route), metadata, storage, browser.open, browser.callback)
    async with mcp_session(chain.url(route), chain.access, auth=auth) as session:
        result = await session.call_tool("hello", {"name": "you"})
    [text] = [part.text for part in result.content if isinstance(part, types.TextContent)]
    return text, browser, storage


# --- the site ---------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    chain: Chain
    issuer: str
    own: Recorder
    """In front of a server that checks tokens itself."""
    bare: Recorder
    """In front of one that does not."""

    def requests(self, route: str) -> list[dict[str, Any]]:
        """What the proxy says went to a route."""
        lines = [json.loads(line) for line in self.chain.roles["proxy"].said().splitlines()]
        return [line for line in lines if line["event"] == "request started" and line["route"] == route]


class Verifier:
    """How a server on the SDK checks tokens."""

    def __init__(self, issuer: str, resource: str, keys: str) -> None:
        self._issuer, self._resource, self._keys = issuer, resource, keys

    async def verify_token(self, token: str) -> AccessToken | None:
        async with httpx2.AsyncClient() as http:
            keys = jwt.PyJWKSet.from_dict((await http.get(self._keys)).json())
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, audience=self._resource, issuer=self._issuer)
        except (jwt.PyJWTError, KeyError):
            return None
        return AccessToken(token=token, client_id=claims["client_id"], scopes=claims["scope"].split(), resource=self._resource)


def own_server(issuer: str, resource: str, keys: str) -> MCPServer:
    settings = AuthSettings(
        issuer_url=issuer,  # type: ignore[arg-type]
        resource_server_url=resource,  # type: ignore[arg-type]
        required_scopes=["mcp"],
        validate_token_resource=True,
    )
    server = MCPServer("own", log_level="ERROR", auth=settings, token_verifier=Verifier(issuer, resource, keys))

    @server.tool()
    async def hello(name: str) -> str:
        return f"Hello, {name}, from behind its own check!"

    return server


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("oauth")
    async with Chain(folder, {"auth": here}, {"reload_interval": "100ms"}) as chain:
        issuer = chain.url("auth", "")
        own = Recorder(own_server(issuer, chain.url("mcp"), f"{here}/jwks").streamable_http_app(host="0.0.0.0"))
        bare = Recorder(sdk_server(Stage()).streamable_http_app(host="0.0.0.0"))
        async with authorization_server(port, issuer), serving(own) as own_url, serving(bare) as bare_url:
            oauth = {
                "issuer": issuer,
                "audience": chain.url("wiki"),
                "scopes": ["mcp"],
                "jwks_url": f"{here}/jwks",
                "allowed_ips": ["127.0.0.1"],
            }
            routes = {"auth": here, "mcp": own_url, "wiki": {"url": bare_url, "require_oauth": oauth}}
            settings = yaml.safe_load((folder / "proxy.yaml").read_text())
            chain.write("proxy", {**settings, "routes": routes})
            async with asyncio.timeout(30):
                while "config reloaded" not in chain.roles["proxy"].said():
                    await asyncio.sleep(0.05)
            yield Site(chain, issuer, own, bare)


# --- what must be true ------------------------------------------------------------------------------------------------


async def test_the_code_flow_runs_through_the_tunnel_and_the_browser_stays_outside(site: Site) -> None:
    said, browser, storage = await call_as_a_person(site.chain, "mcp")
    assert said == "Hello, you, from behind its own check!"
    asked = {line["path"] for line in site.requests("auth")}
    assert {"/reg", "/token"} <= asked
    assert not any(path.startswith(("/auth", "/interaction")) for path in asked)
    assert {url.host for url in browser.visited} == {"127.0.0.1"}
    assert browser.visited[0].params["code_challenge_method"] == "S256"
    assert browser.visited[0].params["resource"] == site.chain.url("mcp")
    # What the server was sent, and said, is what its client got: the token is the one that the authorization server made.
    assert site.own.requests[-1].header("authorization") == f"Bearer {storage.tokens.access_token}"
    assert site.own.requests[0].status == 401
    assert any(request.path.startswith("/.well-known/oauth-protected-resource") for request in site.own.requests)


async def test_a_route_that_requires_oauth_does_the_same_for_a_server_that_knows_nothing_of_it(site: Site) -> None:
    said, browser, storage = await call_as_a_person(site.chain, "wiki")
    assert said == "Hello, you!"
    assert {url.host for url in browser.visited} == {"127.0.0.1"}
    assert storage.tokens.access_token
    assert site.bare.requests
    assert all(request.header("authorization") is None for request in site.bare.requests)
    assert not any(request.path.startswith("/.well-known/") for request in site.bare.requests)


async def test_a_token_for_one_route_is_none_for_another(site: Site) -> None:
    _, _, storage = await call_as_a_person(site.chain, "mcp")
    before = len(site.bare.requests)
    async with httpx2.AsyncClient(transport=TunnelTransport(site.chain.access)) as http:
        answer = await http.post(
            site.chain.url("wiki"), json={}, headers={"Authorization": f"Bearer {storage.tokens.access_token}"}
        )
    assert answer.status_code == 401
    assert "another audience" in answer.headers["www-authenticate"]
    assert len(site.bare.requests) == before


async def test_no_line_of_the_proxy_has_a_token_a_code_or_a_secret(site: Site) -> None:
    _, browser, storage = await call_as_a_person(site.chain, "wiki")
    said = site.chain.roles["proxy"].said()
    code = httpx2.URL(browser._landed).params["code"]
    for secret in (storage.tokens.access_token, storage.tokens.access_token.split(".")[2], code, storage.client.client_secret):
        assert secret is None or secret not in said
