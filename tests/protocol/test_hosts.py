"""Every spelling of a name decides alike, and nothing else is a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.hosts import InvalidHostError, normalize_host, split_route


@pytest.mark.parametrize(
    "text", ["Echo.AB12.Example", "echo.ab12.example.", "echo.ab12.example:443", "echo.ab12.EXAMPLE.:8443"]
)
def test_spellings_of_one_name_are_one(text: str) -> None:
    assert normalize_host(text) == "echo.ab12.example"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a/b",
            "a@b",
            "a_b",
            "-a",
            "a-",
            "a:",
            "a:b",
            "a:123456",
            "a:80:80",
            "a\n",
            "a%2e",
        ),
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "10.0.0.0x1",
            "[::1]",
            "[::1]:80",
            "::1",
            "a.0x",
            "1.2.3.4.",
        ),
        *("a" * 64, ".".join(["a" * 50] * 6), "\uff45cho.example", "echo\u3002example", "kelvin\u212a.example"),
    ],
)
def test_addresses_and_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidHostError) as caught:
        normalize_host(text)
    assert isinstance(caught.value, RemoteProtocolError)
    assert isinstance(caught.value, ValueError)


@given(st.text(alphabet="aB0-._:[]x ", max_size=20))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    try:
        once = normalize_host(text)
    except InvalidHostError:
        return
    assert normalize_host(once) == once


@pytest.mark.parametrize(
    ("host", "route"),
    [
        ("echo.ab12.example", "echo"),
        ("ab12.example", None),
        ("deep.echo.ab12.example", None),
        ("echo.other.example", None),
        ("echoab12.example", None),
        ("echo.ab12.example.evil", None),
    ],
)
def test_the_route_is_the_one_label_before_the_domain(host: str, route: str | None) -> None:
    assert split_route(host, "ab12.example") == route
