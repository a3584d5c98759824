from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.events import DRAINING, HELLO, KEEP_ALIVE, MAX_EVENT, UNREGISTERED, Event, EventReader

SAID = [Event(HELLO), Event(UNREGISTERED, "9a1b0c4e-0000-4000-8000-000000000001"), Event(DRAINING)]


@given(st.lists(st.integers(0, 300), max_size=8))
def test_events_come_out_as_they_went_in_however_the_bytes_are_split(cuts: list[int]) -> None:
    data = b"".join(event.encode() + KEEP_ALIVE for event in SAID)
    reader, read, at = EventReader(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        read += reader.receive_data(data[at:cut])
        at = max(at, min(cut, len(data)))
    assert read == SAID


def test_what_is_not_known_is_skipped_and_a_kind_not_known_is_the_users_to_skip() -> None:
    read = EventReader().receive_data(b'event: later\nid: 7\ndata: {"link":7,"more":[]}\n\n: comment\n\n')
    assert read == [Event("later")]


@pytest.mark.parametrize("data", [b"event: x\ndata: {\n\n", b"event: x\ndata: []\n\n", b"\xff\xfe\n\n", b"x" * (MAX_EVENT + 1)])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        EventReader().receive_data(data)
