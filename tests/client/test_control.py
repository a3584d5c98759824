from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.answering import answering
from tests.support.control import api, database, start_api

from penstock.client.control import ControlClient, NotAPlatformError
from penstock.control.service.bootstrap import create_api_key, revoke_api_key
from penstock.errors import ConfigError, IdentityError, PenstockError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.protocol.token import parse_token
from penstock.secret import Secret
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]

pytestmark = pytest.mark.anyio

KEY = Secret("pst-key-of-nobody")
_BODY = b'{"type":"error","error":{"type":"permission_error","message":"out of scope"}}'
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


async def test_a_tunnel_is_made_certified_revealed_found_and_archived(api: Api) -> None:
    async with (
        ControlClient(api.control.url + "/", api.initial.tunnels_key) as client,
        ControlClient(api.control.url, api.initial.api_key) as caller,
    ):
        tunnel = await client.create_tunnel("echo")
        authority = ca.ca()
        certificate = await client.register_certificate(tunnel.id, authority.certificate_pem)
        assert await client.certificates(tunnel.id) == (certificate,)
        assert parse_token((await client.reveal_token(tunnel.id)).value.reveal()).cas
        assert await client.tunnel(tunnel.id) == tunnel
        resolution = await caller.resolve(f"echo.{tunnel.domain}")
        assert resolution.trust_anchors == (authority.certificate_pem,)
        assert (await client.archive_tunnel(tunnel.id)).archived_at is not None
        assert [found async for found in client.tunnels()] == []
        assert [found.id async for found in client.tunnels(include_archived=True)] == [tunnel.id]


async def test_a_caller_certificate_comes_from_the_callers_ca(api: Api) -> None:
    async with ControlClient(api.control.url, api.initial.api_key) as client:
        answer = await client.caller_certificate(certs.make_csr(certs.make_ec_key(), "x"))
        certificate = certs.load_certificate(answer.certificate_pem)
        certificate.verify_directly_issued_by(certs.load_certificate(await client.caller_ca()))


async def test_the_key_is_in_no_error_and_no_repr(api: Api) -> None:
    key = Secret("pst-key-very-secret")
    client = ControlClient(api.control.url, key)
    error = await _refusal(client)
    await client.aclose()
    assert isinstance(error, IdentityError)
    for text in (str(error), str(error.detail), str(error.hint), repr(client), repr(error.__cause__)):
        assert "very-secret" not in text


async def test_a_revoked_key_is_an_identity_error(api: Api) -> None:
    key = await create_api_key(api.config, api.initial.workspace_id)
    async with ControlClient(api.control.url, key.secret) as client:
        await client.caller_ca()
        await revoke_api_key(api.config, key.id)
        error = await _refusal(client)
    assert isinstance(error, IdentityError)
    assert "not accepted" in error.public
    assert error.hint


async def test_an_unknown_tunnel_is_a_config_error_and_a_limit_says_its_number(api: Api) -> None:
    async with ControlClient(api.control.url, api.initial.tunnels_key) as client:
        with pytest.raises(ConfigError, match="tunnel not found"):
            await client.tunnel("tnl_unknown")
        for _ in range(10):
            await client.create_tunnel()
        with pytest.raises(ConfigError, match="maximum of 10"):
            await client.create_tunnel()


@pytest.mark.parametrize("tunnel_id", ["", "../v1", "tnl_a/archive", "tnl_a?x", "tnl_ä"])
async def test_what_is_no_id_is_never_sent(tunnel_id: str) -> None:
    async with ControlClient("http://127.0.0.1:1", KEY) as client:
        with pytest.raises(ConfigError, match="is not an id"):
            await client.tunnel(tunnel_id)


async def test_a_refused_ca_names_its_rule(api: Api) -> None:
    async with ControlClient(api.control.url, api.initial.tunnels_key) as client:
        tunnel = await client.create_tunnel()
        with pytest.raises(ConfigError, match="ca-critical"):
            await client.register_certificate(tunnel.id, ca.ca(critical=False).certificate_pem)


async def test_a_host_without_tunnel_or_certificate_is_the_tunnels_own_refusal(api: Api) -> None:
    async with (
        ControlClient(api.control.url, api.initial.tunnels_key) as manager,
        ControlClient(api.control.url, api.initial.api_key) as client,
    ):
        tunnel = await manager.create_tunnel()
        for host, code in (
            (f"echo.{tunnel.domain}", TunnelErrorCode.CERTIFICATE_MISSING),
            ("echo.zzzzzzzz.tunnel.penstock.internal", TunnelErrorCode.TUNNEL_NOT_FOUND),
        ):
            with pytest.raises(TunnelError) as caught:
                await client.resolve(host)
            assert caught.value.code is code
            assert caught.value.hint


# --- platforms that are not there or are something else ---------------------------------------------------------------


async def _refusal(client: ControlClient) -> PenstockError:
    async with asyncio.timeout(10):
        with pytest.raises(PenstockError) as caught:
            await client.create_tunnel()
    return caught.value


async def test_a_port_where_nothing_listens_is_named() -> None:
    with socket.socket() as taken:  # bound and not listening: refuses for sure
        taken.bind(("127.0.0.1", 0))
        async with ControlClient(f"http://127.0.0.1:{taken.getsockname()[1]}", KEY) as client:
            error = await _refusal(client)
    assert isinstance(error, UnavailableError)
    assert "nothing listens" in error.public
    assert error.hint


async def test_a_host_without_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    async with ControlClient("http://control.invalid", KEY) as client:
        error = await _refusal(client)
    assert isinstance(error, UnavailableError)
    assert "has no address" in error.public


async def test_a_platform_that_does_not_answer_is_given_up() -> None:
    async with answering(None) as url, ControlClient(url, KEY, timeout=0.2) as client:
        error = await _refusal(client)
    assert isinstance(error, UnavailableError)
    assert "in time" in error.public


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", UnavailableError),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\n<html>", NotAPlatformError),
        (b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", UnavailableError),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", UnavailableError),
        (b"SSH-2.0-OpenSSH\r\n", UnavailableError),
        (b"", UnavailableError),
        (FORBIDDEN, IdentityError),
    ],
    ids=["empty object", "html", "redirect", "bad gateway", "ssh", "nothing", "forbidden"],
)
async def test_whatever_else_answers_is_one_clear_error(answer: bytes, kind: type[PenstockError]) -> None:
    async with answering(answer) as url, ControlClient(url, KEY) as client:
        error = await _refusal(client)
    assert type(error) is kind
    assert error.hint


async def test_tls_where_plain_http_is_spoken_is_named(api: Api) -> None:
    async with ControlClient(api.control.url.replace("http:", "https:"), KEY) as client:
        error = await _refusal(client)
    assert isinstance(error, UnavailableError)
    assert "TLS" in error.public


async def test_an_untrusted_certificate_is_an_identity_error_and_its_ca_file_mends_it(
    start_api: Callable[..., Any], tmp_path: Path
) -> None:
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    (tmp_path / "pair.pem").write_text(f"{pair.certificate_pem}{pair.key_pem.reveal()}")
    (tmp_path / "ca.crt").write_text(authority.certificate_pem)
    files = {"cert_file": str(tmp_path / "pair.pem"), "key_file": str(tmp_path / "pair.pem")}
    served: Api = await start_api(tls=files)
    url = f"https://localhost:{served.control.address.port}"
    async with ControlClient(url, served.initial.tunnels_key) as client:
        error = await _refusal(client)
    assert isinstance(error, IdentityError)
    assert "not trusted" in error.public
    async with ControlClient(url, served.initial.tunnels_key, ca_file=tmp_path / "ca.crt") as client:
        await client.create_tunnel()


@pytest.mark.parametrize("url", ["", "localhost:8700", "ftp://x", "http://", "http://[::"])
def test_what_is_no_url_of_an_api_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="URL"):
        ControlClient(url, KEY)


@pytest.mark.parametrize("key", ["", "pst-key-a\r\nx: y", "pst-kéy"])
def test_a_key_that_no_header_could_carry_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        ControlClient("http://127.0.0.1", Secret(key))


async def test_a_companys_proxy_is_never_asked_for_this_machine(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with ControlClient(api.control.url, api.initial.tunnels_key) as client:
        await client.create_tunnel()
