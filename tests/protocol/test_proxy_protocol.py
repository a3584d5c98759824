from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.proxy_protocol import MOST, SIGNATURE, Announced, parse

HELLO = b"\x16\x03\x01"


def header(command: int = 0x21, family: int = 0x11, body: bytes = b"") -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def tcp(source: str, port: int) -> bytes:
    address = ipaddress.ip_address(source)
    body = address.packed + bytes(len(address.packed)) + port.to_bytes(2, "big") + b"\x20\xfb"
    return header(family=0x11 if address.version == 4 else 0x21, body=body)


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_it_says_who_dialled_and_where_the_connection_begins(source: str) -> None:
    said = tcp(source, 40_000)
    assert parse(said + HELLO) == Announced((source, 40_000), len(said))


def test_what_follows_the_addresses_is_passed_over() -> None:
    extensions = b"\x05\x00\x03abc"
    body = tcp("192.0.2.7", 1)[16:] + extensions
    assert parse(header(body=body) + HELLO) == Announced(("192.0.2.7", 1), 16 + len(body))


@pytest.mark.parametrize("said", [header(command=0x20), header(command=0x20, family=0), header(family=0, body=b"xyz")])
def test_a_health_check_and_an_unknown_source_name_nobody(said: bytes) -> None:
    assert parse(said + HELLO) == Announced(None, len(said))


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_a_header_in_pieces_is_waited_for(source: str) -> None:
    said = tcp(source, 40_000)
    assert [parse(said[:cut]) for cut in range(len(said))] == [None] * len(said)


@pytest.mark.parametrize(
    "said",
    [
        HELLO,
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\r",
        header(command=0x11),
        header(command=0x22),
        header(family=0x12, body=bytes(12)),
        header(family=0x31, body=bytes(216)),
        header(family=0x11, body=bytes(11)),
        header(family=0x21, body=bytes(35)),
        header(body=bytes(MOST + 1))[:16],
    ],
    ids=["tls", "version 1", "almost", "version", "command", "udp", "unix", "short v4", "short v6", "too large"],
)
def test_anything_else_is_refused_as_soon_as_it_is_seen(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(said)


@given(st.binary(max_size=300) | st.builds(lambda tail: SIGNATURE + tail, st.binary(max_size=300)))
def test_no_input_crashes_it_and_what_it_takes_is_there(data: bytes) -> None:
    try:
        announced = parse(data)
    except RemoteProtocolError:
        return
    assert announced is None or 16 <= announced.end <= len(data)
