from __future__ import annotations

import pytest

from penstock.edge.answers import answer_of, refusal, stream_request
from penstock.errors import TunnelError
from penstock.protocol import metadata


def head(status: bytes, *fields: tuple[bytes, bytes], meta: bytes = metadata.META_ORIGIN) -> list[tuple[bytes, bytes]]:
    return [
        (b":status", status),
        (b"content-type", b"text/plain"),  # guessed by Go, and to be ignored
        (metadata.RESPONSE_HEADERS, metadata.serialize_headers(list(fields))),
        (metadata.RESPONSE_META, meta),
    ]


def test_a_stream_is_asked_for_under_the_admitted_host_without_control_and_hop_headers() -> None:
    asked = stream_request(
        "echo.example.com",
        "/mcp?x=1",
        [
            (b"host", b"somewhere-else.example.com"),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-key", b"a2V5"),
            (b"sec-websocket-protocol", b"mcp"),
            (b"cf-cloudflared-proxy-connection-upgrade", b"update-configuration"),
            (b"cf-cloudflared-proxy-src", b"x"),
            (b"cf-warp-tag-id", b"x"),
            (b"penstock-replica", b"someone"),
            (b"x-request-id", b"7"),
        ],
    )
    assert asked == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"echo.example.com"),
        (b":path", b"/mcp?x=1"),
        (b"sec-websocket-key", b"a2V5"),
        (b"sec-websocket-protocol", b"mcp"),
        (b"x-request-id", b"7"),
        (metadata.UPGRADE, metadata.WEBSOCKET),
    ]


def test_a_200_that_accepts_the_websocket_is_the_upgrade_and_only_its_packed_headers_count() -> None:
    answer = answer_of(
        head(b"200", (b"Sec-WebSocket-Accept", b"yes"), (b"Connection", b"Upgrade"), (b"Penstock-Replica", b"forged"))
    )
    assert answer.is_upgrade
    assert answer.headers == [(b"sec-websocket-accept", b"yes")]


@pytest.mark.parametrize("status", [b"200", b"101", b"403", b"502"])
def test_anything_else_is_no_upgrade(status: bytes) -> None:
    assert not answer_of(head(status, (b"X-Other", b"y"))).is_upgrade


def test_headers_that_cannot_be_read_are_an_error_of_the_agents() -> None:
    with pytest.raises(TunnelError, match="cannot be read"):
        answer_of([(b":status", b"200"), (metadata.RESPONSE_HEADERS, b"no-colon")])


def test_a_refusal_passes_on_status_headers_and_text() -> None:
    answer = answer_of(
        head(b"503", (b"Penstock-Error", b"no_ingress"), (b"Content-Type", b"text/plain"), (b"Content-Length", b"999"))
    )
    assert refusal(answer, b"No ingress rules", "replica-1") == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"penstock-error: no_ingress\r\n"
        b"content-type: text/plain\r\n"
        b"penstock-replica: replica-1\r\n"
        b"content-length: 16\r\n"
        b"connection: close\r\n"
        b"\r\n"
        b"No ingress rules"
    )


def test_a_stock_agent_that_cannot_reach_its_target_is_given_our_code() -> None:
    assert b"penstock-error: proxy_unreachable\r\n" in refusal(answer_of(head(b"502", meta=metadata.META_AGENT)), b"", "r")


def test_a_success_that_opened_nothing_is_not_passed_on_as_one() -> None:
    assert refusal(answer_of(head(b"200")), b"hello", "r").startswith(b"HTTP/1.1 502 ")
