"""Serialised headers, and what callers may not say."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.metadata import (
    META_AGENT,
    META_ORIGIN,
    is_control_header,
    is_from_agent,
    parse_headers,
    serialize_headers,
)


def test_the_published_serialisation() -> None:
    headers = [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Empty", b"")]
    assert serialize_headers(headers) == b"U2V0LUNvb2tpZQ:YT0x;U2V0LUNvb2tpZQ:Yj0y;WC1FbXB0eQ:"
    assert parse_headers(serialize_headers(headers)) == headers
    assert parse_headers(b"") == []


@pytest.mark.parametrize(
    "data",
    [b";", b"YQ", b"YQ:Yg;", b"YQ==:Yg==", b":Yg", b"Y!Q:Yg", b"Y:Yg", b"YQ:YQ0KYg", b"YSBi:Yg", b"YQ:\nYg", b"YQ:Y-_g"],
)
def test_malformed_or_dangerous_headers_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_headers(data)


def test_number_and_length_are_limited() -> None:
    assert len(parse_headers(b";".join([b"YQ:Yg"] * 10), max_headers=10)) == 10
    with pytest.raises(RemoteProtocolError):
        parse_headers(b";".join([b"YQ:Yg"] * 11), max_headers=10)
    with pytest.raises(RemoteProtocolError):
        parse_headers(b"YQ:Yg", max_bytes=4)


@given(st.binary(max_size=100))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        parse_headers(data)


@pytest.mark.parametrize(
    "name", [b"cf-cloudflared-proxy-src", b"Cf-Cloudflared-Proxy-Connection-Upgrade", b"CF-INT-x", b"cf-proxy-x", b"cf-ray"]
)
def test_control_headers_are_recognised_in_any_case(name: bytes) -> None:
    assert is_control_header(name)


@pytest.mark.parametrize("name", [b"host", b"x-cf-ray", b"cfx", b"sec-websocket-key", b""])
def test_other_headers_are_not(name: bytes) -> None:
    assert not is_control_header(name)


def test_who_answered() -> None:
    assert is_from_agent(META_AGENT)
    assert is_from_agent(b'{"src": "cloudflared", "flow_rate_limited": true}')
    assert not is_from_agent(META_ORIGIN)
