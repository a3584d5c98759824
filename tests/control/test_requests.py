"""What holds for every request: credentials, published headers, the envelope, limits."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio

BETA = "mcp-tunnels-2026-06-22"


def _assert_envelope(response: httpx2.Response, status: int, type_: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == type_
    assert re.fullmatch(r"req_[0-9A-Za-z]{24}", body["request_id"])
    assert response.headers["request-id"] == body["request_id"]


async def test_every_answer_carries_a_request_id_of_its_own(api: Api) -> None:
    ids = [(await api.http.get("/v1/tunnels")).headers["request-id"] for _ in range(3)]
    assert len(set(ids)) == 3


async def test_no_browser_keeps_frames_or_runs_an_answer(start_api: Callable[..., Any]) -> None:
    plain: Api = await start_api("plain")
    public: Api = await start_api("public", public_url="https://platform.example.com")
    for response in (await plain.http.get("/v1/tunnels"), await plain.http.get("/nothing"), await plain.http.get("/healthz")):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "server" not in response.headers
        assert "strict-transport-security" not in response.headers
    assert (await public.http.get("/healthz")).headers["strict-transport-security"] == "max-age=31536000"


async def test_both_key_styles_are_accepted(api: Api) -> None:
    key = api.initial.tunnels_key.reveal()
    async with httpx2.AsyncClient(base_url=api.control.url, headers={"x-api-key": key}, trust_env=False) as plain:
        headers = {"anthropic-version": "2026-10-21", "anthropic-beta": BETA}
        assert (await plain.get("/v1/tunnels", headers=headers)).status_code == 200
        both = headers | {"authorization": f"bearer {key}"}
        assert (await plain.get("/v1/tunnels", headers=both)).status_code == 200
        two = headers | {"authorization": "Bearer pst-key-other"}
        _assert_envelope(await plain.get("/v1/tunnels", headers=two), 401, "authentication_error")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer pst-key-wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer pst-enrol-wrong"},
        {"x-api-key": ""},
    ],
)
async def test_whoever_has_no_valid_key_gets_401_before_anything_else(api: Api, headers: dict[str, str]) -> None:
    async with httpx2.AsyncClient(base_url=api.control.url, trust_env=False) as nobody:
        response = await nobody.get("/v1/tunnels/tnl_x", headers=headers)
        _assert_envelope(response, 401, "authentication_error")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_an_enrolment_token_opens_no_tunnel_and_an_api_key_enrols_no_edge(api: Api) -> None:
    headers = api.bearing(api.initial.enrolment_token)
    _assert_envelope(await api.http.get("/v1/tunnels", headers=headers), 401, "authentication_error")
    _assert_envelope(await api.enrol(token=api.initial.api_key), 401, "authentication_error")
    _assert_envelope(await api.snapshot(api.initial.api_key.reveal()), 401, "authentication_error")


@pytest.mark.parametrize(
    ("beta", "status"),
    [
        ("", 400),
        ("mcp-tunnels-2026-05-19", 400),
        ("made-up-2026-01-01", 400),
        (f"made-up-2026-01-01,{BETA}", 400),
        (BETA, 200),
        (f"oauth-2025-04-20, {BETA}", 200),
    ],
)
async def test_the_tunnels_beta_is_required_and_unknown_ones_are_refused(api: Api, beta: str, status: int) -> None:
    response = await api.http.get("/v1/tunnels", headers={"anthropic-beta": beta})
    assert response.status_code == status
    if status != 200:
        _assert_envelope(response, 400, "invalid_request_error")
        assert "anthropic-beta" in response.json()["error"]["message"]


async def test_a_beta_may_be_sent_in_a_header_line_of_its_own(api: Api) -> None:
    lines = [("anthropic-beta", "oauth-2025-04-20"), ("anthropic-beta", BETA)]
    del api.http.headers["anthropic-beta"]
    assert (await api.http.get("/v1/tunnels", headers=lines)).status_code == 200
    _assert_envelope(await api.http.get("/v1/tunnels"), 400, "invalid_request_error")


@pytest.mark.parametrize("version", ["", "2020-01-01"])
async def test_an_unknown_api_version_is_refused(api: Api, version: str) -> None:
    response = await api.http.get("/v1/tunnels", headers={"anthropic-version": version})
    _assert_envelope(response, 400, "invalid_request_error")


async def test_a_workspace_header_has_to_agree_with_the_key(api: Api) -> None:
    own = {"anthropic-workspace-id": api.initial.workspace_id}
    assert (await api.http.get("/v1/tunnels", headers=own)).status_code == 200
    other = {"anthropic-workspace-id": "wrkspc_other"}
    _assert_envelope(await api.http.get("/v1/tunnels", headers=other), 400, "invalid_request_error")


async def test_the_beta_query_of_older_sdks_is_ignored(api: Api) -> None:
    assert (await api.http.get("/v1/tunnels?beta=true")).status_code == 200


async def test_unknown_paths_and_methods_answer_with_the_envelope(api: Api) -> None:
    _assert_envelope(await api.http.get("/v1/nothing"), 404, "not_found_error")
    _assert_envelope(await api.http.get("/v1/tunnels/"), 404, "not_found_error")
    response = await api.http.delete("/v1/tunnels")
    _assert_envelope(response, 405, "invalid_request_error")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b'{"display_name": 5}', b'{"display_name": ""}', b"\xff\xfe"])
async def test_a_malformed_body_is_400_and_its_values_are_not_repeated(api: Api, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    _assert_envelope(await api.http.post("/v1/tunnels", content=content, headers=headers), 400, "invalid_request_error")


@pytest.mark.parametrize("name", ["\\ud800", "x" * 256])
async def test_a_name_that_cannot_be_kept_is_400(api: Api, name: str) -> None:
    response = await api.http.post(
        "/v1/tunnels", content=f'{{"display_name": "{name}"}}'.encode(), headers={"content-type": "application/json"}
    )
    _assert_envelope(response, 400, "invalid_request_error")
    assert "x" * 256 not in response.text


async def test_a_body_over_the_limit_is_413_declared_or_not(api: Api) -> None:
    _assert_envelope(await api.http.post("/v1/tunnels", content=b"x" * 70_000), 413, "request_too_large")

    async def endless() -> Any:
        for _ in range(20):
            yield b"x" * 8192

    _assert_envelope(await api.http.post("/v1/tunnels", content=endless()), 413, "request_too_large")


async def test_a_body_that_does_not_arrive_is_given_up(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"body_seconds": 0.1})
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(api.control.address.host, api.control.address.port)
        writer.write(b"POST /v1/tunnels HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"took too long" in answer


async def test_a_request_line_that_does_not_arrive_is_given_up(
    start_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.control.serving.HEAD_SECONDS", 0.1)
    api: Api = await start_api()
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(api.control.address.host, api.control.address.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_a_slow_second_head_on_a_kept_connection_is_given_up_too(
    start_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.control.serving.HEAD_SECONDS", 0.1)
    api: Api = await start_api()
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(api.control.address.host, api.control.address.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /healthz HT")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_more_requests_than_the_limit_are_told_to_come_back(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"requests": 1}, long_poll_limit=5)
    credential = (await api.enrol()).json()["credential"]
    version = (await api.snapshot(credential)).json()["version"]
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(api.snapshot(credential, after=version, wait=5))
        async with asyncio.timeout(4):
            while (response := await api.http.get("/healthz")).status_code == 200:
                pass
        _assert_envelope(response, 529, "overloaded_error")
        assert response.headers["retry-after"] == "1"
        waiting.cancel()


async def test_slow_senders_take_nobodys_place(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"requests": 1})
    address = (api.control.address.host, api.control.address.port)
    slow = [await asyncio.open_connection(*address) for _ in range(3)]
    for _, writer in slow:
        writer.write(b"POST /v1/oauth/token HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
    assert [(await api.http.get("/v1/tunnels")).status_code for _ in range(3)] == [200] * 3
    for _, writer in slow:
        writer.close()


async def test_a_failure_inside_is_an_envelope_that_tells_nothing(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    # A sealed secret moved into another tunnel's row must not open there.
    import sqlite3  # noqa: PLC0415 - the fault is made behind the program's back

    first, second = await api.tunnel(), await api.tunnel()
    with sqlite3.connect(api.config.database_file) as connection:
        sealed = connection.execute("SELECT sealed_secret FROM tunnels WHERE id = ?", [first["id"]]).fetchone()
        connection.execute("UPDATE tunnels SET sealed_secret = ? WHERE id = ?", [sealed[0], second["id"]])
    connection.close()
    response = await api.http.post(f"/v1/tunnels/{second['id']}/reveal_token")
    _assert_envelope(response, 500, "api_error")
    assert "sealed" not in response.text
    printed = capsys.readouterr()
    assert response.json()["request_id"] in printed.out + printed.err
    assert (await api.http.post(f"/v1/tunnels/{first['id']}/reveal_token")).status_code == 200


async def test_the_log_has_a_line_a_request_and_never_a_secret(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    tunnel = await api.tunnel()
    token = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()["tunnel_token"]
    enrolment = (await api.enrol()).json()
    await api.http.get("/v1/tunnels", headers=api.bearing("pst-key-guessed"))
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert f"/v1/tunnels/{tunnel['id']}/reveal_token" in text
    for secret in (
        token,
        enrolment["credential"],
        api.initial.api_key.reveal(),
        api.initial.enrolment_token.reveal(),
        "guessed",
    ):
        assert secret not in text
