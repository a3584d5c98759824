from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol import metadata
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.notice import MAX_NOTICE, Notice, parse_notice

CA = b"\x30\x03\x02\x01\x00"


def value_of(members: Any) -> bytes:
    return base64.b64encode(json.dumps(members).encode())


@pytest.mark.parametrize(
    "notice",
    [
        Notice(),
        Notice(draining=True),
        Notice(worker=(1, 2)),
        Notice(("edge-1.example.com:7844", "[::1]:7844"), (CA, CA), draining=False),
    ],
)
def test_a_notice_arrives_as_it_was_sent(notice: Notice) -> None:
    head = dict(notice.request())
    assert head[metadata.UPGRADE] == metadata.NOTICE
    assert parse_notice(head[metadata.NOTICE_BODY]) == notice


def test_members_that_are_not_known_are_ignored() -> None:
    assert parse_notice(value_of({"edge": ["e:1"], "later": 1})) == Notice(("e:1",))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"!",
        base64.b64encode(b"{"),
        value_of([]),
        value_of({"edge": "e:1"}),
        value_of({"edge": ["no port"]}),
        value_of({"edge": ["e:1"] * 33}),
        value_of({"ca": ["!"]}),
        value_of({"worker": [2, 2]}),
        value_of({"worker": [0, 65]}),
        value_of({"worker": "0/2"}),
        value_of({"ca": [base64.b64encode(b"no DER").decode()]}),
        b"A" * (MAX_NOTICE + 4),
    ],
)
def test_what_is_no_notice_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_notice(value)


@given(st.binary(max_size=200))
def test_no_value_crashes_the_parser(value: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        parse_notice(value)
