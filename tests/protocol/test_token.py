"""Tokens: ours, stock ones, and everything that only looks like one."""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import IdentityError
from penstock.protocol.token import MAX_TOKEN, TunnelToken, parse_token
from penstock.secret import Secret

SECRET = base64.b64encode(b"s" * 32).decode()
TUNNEL = uuid.UUID("00000000-0000-1234-0000-000000000000")
STOCK = {"a": "acct0123", "t": str(TUNNEL), "s": SECRET}
CA = b"\x30\x82" + bytes(500)


def encoded(members: Any) -> str:
    return base64.b64encode(json.dumps(members).encode()).decode()


def test_a_token_survives_its_text() -> None:
    token = TunnelToken("acct", TUNNEL, Secret(SECRET), ("edge.example:7844", "[::1]:7844"), (CA, CA))
    assert parse_token(token.encode().reveal()) == token
    assert token.secret_bytes() == b"s" * 32


def test_a_stock_token_is_accepted_with_space_around_it_and_members_we_do_not_know() -> None:
    token = parse_token(f"  {encoded({**STOCK, 'e': 'us', 'x': 1})}\n")
    assert token == TunnelToken("acct0123", TUNNEL, Secret(SECRET))


def test_a_token_without_our_member_is_what_a_stock_agent_writes() -> None:
    text = parse_token(encoded(STOCK)).encode().reveal()
    assert json.loads(base64.b64decode(text, validate=True)) == STOCK


def test_the_secret_is_in_no_representation() -> None:
    assert SECRET not in repr(parse_token(encoded(STOCK)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        encoded(STOCK).rstrip("=") + "=====",
        encoded(STOCK)[:-5],
        encoded(STOCK).replace("e", "-", 1),
        encoded([1]),
        base64.b64encode(b"[" * 9000).decode(),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b'{"a":"x","a":"y"}').decode(),
        "A" * (MAX_TOKEN + 4),
        *(
            encoded({**STOCK, **broken})
            for broken in (
                {"a": ""},
                {"a": 1},
                {"a": "line\nfeed"},
                {"a": "\ud800"},
                {"t": "nonsense"},
                {"t": TUNNEL.hex},
                {"s": ""},
                {"s": "c3Nz c3Nz"},
                {"s": "c3N_"},
                {"s": "c3M"},
                {"s": "c3N="},
                {"s": base64.b64encode(bytes(257)).decode()},
                {"p": []},
                {"p": {"edge": "edge:7844"}},
                {"p": {"edge": ["edge"]}},
                {"p": {"edge": ["edge:0"]}},
                {"p": {"edge": ["edge:65536"]}},
                {"p": {"edge": ["http://edge:1"]}},
                {"p": {"edge": ["[1.2.3]:1"]}},
                {"p": {"edge": [1]}},
                {"p": {"edge": ["e:1"] * 33}},
                {"p": {"ca": [SECRET]}},
                {"p": {"ca": ["?"]}},
                {"p": {"ca": [base64.b64encode(CA).decode()] * 5}},
            )
        ),
    ],
)
def test_anything_else_is_refused_with_a_hint_and_without_showing_it(text: str) -> None:
    with pytest.raises(IdentityError) as caught:
        parse_token(text)
    assert caught.value.hint
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or caught.value.__suppress_context__


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode())))
def test_no_text_crashes_the_parser(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_token(text)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_member_of_ours_crashes_the_parser(member: Any) -> None:
    with contextlib.suppress(IdentityError):
        parse_token(encoded({**STOCK, "p": member}))
