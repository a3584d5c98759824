from __future__ import annotations

import pytest

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.proxy.headers import caller_response, refusal, upstream_request
from penstock.proxy.heads import Framing, parse_request, parse_response


def sent_upstream(*headers: str, line: str = "POST /a?b HTTP/1.1", host: bytes | None = None) -> list[bytes]:
    head = "".join(f"{text}\r\n" for text in (line, "Host: echo.example.com", *headers, ""))
    lines = upstream_request(parse_request(head.encode(), headers_most=50), host).split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    return lines[:-2]


OURS = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: echo.example.com"]


def test_end_to_end_headers_pass_with_their_spelling_and_order() -> None:
    passed = [
        "Authorization: Bearer x",
        "mcp-SESSION-id: 1",
        "Mcp-Param-X: =?base64?YQ==?=",
        "Accept: a",
        "Accept: b",
        "Origin: null",
        "Cookie: \xff",
        "Expect: 100-continue",
    ]
    head = "".join(f"{text}\r\n" for text in ("POST /a?b HTTP/1.1", "Host: echo.example.com", *passed, ""))
    lines = upstream_request(parse_request(head.encode("latin-1"), headers_most=50), None).split(b"\r\n")[:-2]
    assert lines == [b"POST /a?b HTTP/1.1", b"Host: echo.example.com", *(text.encode("latin-1") for text in passed), *OURS]


def test_hop_by_hop_headers_and_claims_end_here() -> None:
    dropped = [
        "Connection: X-Private, close",
        "X-Private: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "Proxy-Authorization: Basic x",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "X-Forwarded-For: 10.0.0.1",
        "x-forwarded-proto: http",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Anything: 1",
        "Forwarded: for=10.0.0.1",
        "X-Real-IP: 10.0.0.1",
        "X_Forwarded_For: 10.0.0.1",
        "X-Forwarded_Proto: http",
        "x_real_ip: 10.0.0.1",
        "Content_Length: 7",
        "Transfer_Encoding: chunked",
    ]
    assert sent_upstream(*dropped) == [b"POST /a?b HTTP/1.1", b"Host: echo.example.com", *OURS]


def test_connection_cannot_remove_what_is_ours() -> None:
    lines = sent_upstream("Connection: Host, X-Forwarded-Proto, X-Forwarded-Host, Content-Length", "Content-Length: 5")
    assert lines == [b"POST /a?b HTTP/1.1", b"Host: echo.example.com", b"Content-Length: 5", *OURS]


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("Content-Length: 005", b"Content-Length: 5"),
        ("Content-Length: 0", b"Content-Length: 0"),
        ("transfer-encoding: CHUNKED", b"Transfer-Encoding: chunked"),
    ],
)
def test_the_framing_is_written_anew(header: str, sent: bytes) -> None:
    assert sent_upstream(header) == [b"POST /a?b HTTP/1.1", b"Host: echo.example.com", sent, *OURS]


def test_the_host_may_be_replaced_and_the_callers_is_told() -> None:
    assert sent_upstream(host=b"127.0.0.1:9000")[1:] == [b"Host: 127.0.0.1:9000", *OURS]


def test_http_1_0_goes_upstream_as_1_1() -> None:
    assert sent_upstream(line="GET / HTTP/1.0")[0] == b"GET / HTTP/1.1"


def answered(head: bytes, framing: Framing, *, closes: bool = False, is_head_request: bool = False) -> list[bytes]:
    ours = parse_response(head, headers_most=50, is_head_request=is_head_request)
    lines = caller_response(ours, framing, closes=closes).split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    return lines[:-2]


def test_a_response_passes_without_what_was_for_this_hop() -> None:
    head = (
        b"HTTP/1.1 401 Go Away\r\nWWW-Authenticate: Bearer resource_metadata=x\r\n"
        b"Connection: X-P\r\nX-P: 1\r\nKeep-Alive: 1\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nPenstock-Error: no_route\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert answered(head, Framing.CHUNKED) == [
        b"HTTP/1.1 401 Go Away",
        b"WWW-Authenticate: Bearer resource_metadata=x",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"Transfer-Encoding: chunked",
    ]


def test_the_length_of_what_head_and_304_did_not_send_passes() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert answered(head, Framing.NONE, is_head_request=True) == [b"HTTP/1.1 200 OK", b"Content-Length: 5"]
    head = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    assert answered(head, Framing.NONE) == [b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"]


def test_204_has_no_length() -> None:
    assert answered(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing.NONE) == [b"HTTP/1.1 204 No Content"]


def test_closing_is_announced() -> None:
    assert answered(b"HTTP/1.1 200 OK\r\n\r\n", Framing.CHUNKED, closes=True)[-1] == b"Connection: close"


def test_a_refusal_is_text_with_a_code_and_only_what_is_public() -> None:
    error = TunnelError(TunnelErrorCode.ADDRESS_REFUSED, "No.", detail="10.0.0.1", hint="10.0.0.2", retry_after=3)
    sent = refusal(error, closes=True, is_head_request=False)
    assert sent == (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nPenstock-Error: address_refused\r\n"
        b"Retry-After: 3\r\nContent-Length: 4\r\nConnection: close\r\n\r\nNo.\n"
    )
    assert refusal(error, closes=False, is_head_request=True).endswith(b"Content-Length: 4\r\n\r\n")
