"""A route with `require_oauth`, from the caller's side: who gets through, and what everybody else is told."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.oauth.issuer import AUDIENCE, Issuer, Key, issuing
from tests.proxy.rig import PATIENCE, Response, get, post
from tests.proxy.site import Site, Stream, site
from tests.support.ca import HOST

from penstock.proxy.oauth import keys as rooms

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def guarded(folder: Path, **changes: Any) -> AsyncGenerator[tuple[Site, Stream, Issuer]]:
    """A site whose route `echo` asks for tokens of the issuer."""
    async with issuing() as issuer:
        settings = issuer.settings(folder, **changes)

        def with_oauth(url: str) -> dict[str, Any]:
            return {"echo": {"url": url, "require_oauth": settings}, "wiki": url}

        async with site(folder, routes=with_oauth) as s, s.caller() as stream:
            yield s, stream, issuer


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


def challenge(answer: Response) -> dict[str, str]:
    value = answer.headers[b"www-authenticate"].decode()
    assert value.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', value))


# --- who gets through -------------------------------------------------------------------------------------------------


async def test_a_token_that_counts_passes_and_is_taken_out(tmp_path: Path) -> None:
    async with guarded(tmp_path, scopes=["read"]) as (s, stream, issuer):
        for _ in range(3):
            answer = await stream.fetch(post(b"hello", headers=bearer(issuer.token())))
            assert answer.status == 200
            assert answer.body.endswith(b"hello")
            assert b"uthorization" not in answer.body
        assert issuer.asked.count("/keys") == 1
        assert len(s.upstream.links) == 1


async def test_a_token_may_be_passed_on(tmp_path: Path) -> None:
    async with guarded(tmp_path, token="pass") as (_, stream, issuer):
        token = issuer.token()
        answer = await stream.fetch(get(headers=bearer(token)))
        assert f"Authorization: Bearer {token}\r\n".encode() in answer.body


async def test_a_body_waits_with_its_request_for_the_keys(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (_, stream, issuer):
        issuer.release.clear()
        body = b"x" * 500_000
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.send(post(body, headers=bearer(issuer.token()))))
            await _asked(issuer)
            issuer.release.set()
            answer = await stream.response("POST")
        assert answer.body.endswith(body)


async def _asked(issuer: Issuer) -> None:
    async with asyncio.timeout(PATIENCE):
        while not issuer.asked:
            await asyncio.sleep(0)


async def test_a_caller_that_leaves_while_keys_are_fetched_leaves_nothing_behind(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (s, stream, issuer):
        issuer.release.clear()
        await stream.send(get(headers=bearer(issuer.token())))
        await _asked(issuer)
        stream.cut()
        await s.until(lambda: s.events("request ended"))
        assert s.events("request ended")[0]["outcome"] == "caller_gone"
        issuer.release.set()
        async with s.caller() as again:
            assert (await again.fetch(get(headers=bearer(issuer.token())))).status == 200
        assert len(s.upstream.links) == 1


async def test_a_key_that_is_new_is_fetched_and_a_flood_of_unknown_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarded(tmp_path) as (_, stream, issuer):
        assert (await stream.fetch(get(headers=bearer(issuer.token())))).status == 200
        new = Key(kid="new")
        issuer.keys = [new]
        for _ in range(5):
            answer = await stream.fetch(get(headers=bearer(issuer.token(new))))
            assert challenge(answer)["error"] == "invalid_token"
        assert issuer.asked.count("/keys") == 1
        monkeypatch.setattr(rooms, "_PAUSE", 0.0)
        assert (await stream.fetch(get(headers=bearer(issuer.token(new))))).status == 200


async def test_a_route_without_it_passes_tokens_and_challenges_untouched(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (s, _, issuer), s.caller(host=HOST.replace("echo", "wiki")) as stream:
        answer = await stream.fetch(get(headers=bearer("anything"), host=HOST.replace("echo", "wiki")))
        assert b"Authorization: Bearer anything\r\n" in answer.body
        assert not issuer.asked


# --- who does not -----------------------------------------------------------------------------------------------------


async def test_without_a_token_the_way_to_one_is_told(tmp_path: Path) -> None:
    async with guarded(tmp_path, scopes=["read", "write"]) as (s, stream, issuer):
        answer = await stream.fetch(post(b"{}", path="/mcp?session=1"))
        assert (answer.status, answer.error) == (401, b"unauthorized")
        assert answer.headers[b"content-type"].startswith(b"text/plain")
        told = challenge(answer)
        assert told == {
            "resource_metadata": f"https://{HOST}/.well-known/oauth-protected-resource/mcp",
            "scope": "read write",
        }
        document = await stream.fetch(get(told["resource_metadata"].removeprefix(f"https://{HOST}")))
        assert document.headers[b"content-type"] == b"application/json"
        assert json.loads(document.body) == {
            "resource": AUDIENCE,
            "authorization_servers": [issuer.url],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["read", "write"],
        }
        assert not s.upstream.links
        assert not issuer.asked
        assert [line["error"] for line in s.events("token asked for")] == ["no token"]


async def test_the_metadata_is_of_what_its_address_says(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (s, stream, _):
        document = await stream.fetch(get("/.well-known/oauth-protected-resource"))
        assert json.loads(document.body)["resource"] == f"https://{HOST}"
        head = await stream.fetch(get("/.well-known/oauth-protected-resource", method="HEAD"), "HEAD")
        assert (head.status, head.headers[b"content-length"]) == (200, b"%d" % len(document.body))
        for path, method in (
            ("/.well-known/oauth-protected-resources", "GET"),
            ("/.well-known/oauth-protected-resource", "PUT"),
        ):
            assert (await stream.fetch(get(path, method=method), method)).status == 401
        assert (await stream.fetch(get("/"))).headers[b"www-authenticate"].endswith(b'/oauth-protected-resource"')
        assert not s.upstream.links


async def test_a_path_cannot_end_the_quote_it_is_told_in(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (_, stream, __):
        answer = await stream.fetch(get('/a",x="\\'))
        assert answer.headers[b"www-authenticate"].endswith(b'/oauth-protected-resource/a%22,x=%22%5C"')
        long = await stream.fetch(get("/" + "a" * 9000))
        assert challenge(long)["resource_metadata"].endswith("/oauth-protected-resource")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ("Authorization: Basic YTpi\r\n", "bearer token is needed"),
        ("Authorization: Bearer a b\r\n", "bearer token is needed"),
        ("Authorization: Bearer\r\n", "bearer token is needed"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer a\r\n", "bearer token is needed"),
        (bearer("rubbish"), "not a signed JWT"),
    ],
)
async def test_what_is_no_bearer_token_is_told_so(tmp_path: Path, headers: str, why: str) -> None:
    async with guarded(tmp_path) as (s, stream, issuer):
        answer = await stream.fetch(get(headers=headers))
        assert answer.status == 401
        told = challenge(answer)
        assert told["error"] == "invalid_token"
        assert why in told["error_description"]
        assert not s.upstream.links
        assert not issuer.asked


async def test_a_token_that_does_not_count_is_told_why_and_nothing_of_it_is_logged(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (s, stream, issuer):
        for token, why in (
            (issuer.token(exp=1), "expired"),
            (issuer.token(aud="https://elsewhere"), "another audience"),
            (Key().sign({"iss": issuer.url}), "signature"),
        ):
            answer = await stream.fetch(post(b"{}", headers=bearer(token)))
            assert (answer.status, challenge(answer)["error"]) == (401, "invalid_token")
            assert why in challenge(answer)["error_description"]
            assert not any(part in str(s.log) for part in token.split("."))
        assert not s.upstream.links


async def test_a_token_without_the_scope_is_forbidden_and_told_which(tmp_path: Path) -> None:
    async with guarded(tmp_path, scopes=["admin"]) as (s, stream, issuer):
        answer = await stream.fetch(get(headers=bearer(issuer.token())))
        assert (answer.status, answer.error) == (403, b"insufficient_scope")
        told = challenge(answer)
        assert (told["error"], told["scope"]) == ("insufficient_scope", "admin")
        assert not s.upstream.links


async def test_an_issuer_that_cannot_be_reached_is_a_503_and_no_reason_to_let_anybody_in(tmp_path: Path) -> None:
    async with guarded(tmp_path, allowed_ips=["10.0.0.0/8"]) as (s, stream, issuer):
        for _ in range(2):
            answer = await stream.fetch(get(headers=bearer(issuer.token())))
            assert (answer.status, answer.error) == (503, b"keys_unavailable")
            assert b"127.0.0.1" not in answer.body
        assert len(s.events("keys not fetched")) == 1
        assert "IP validation failed" in s.events("keys not fetched")[0]["error"]
        assert not issuer.asked
        assert not s.upstream.links
