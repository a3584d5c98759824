"""A whole link of a stock agent, as recorded, replayed at our end of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.protocol import metadata
from penstock.protocol.http2 import Connection, DataReceived, HeadersReceived, Role, Settings, SettingsChanged
from penstock.protocol.registration import Register, RegistrationServer, Unregister, UpdateLocalConfiguration

if TYPE_CHECKING:
    from penstock.protocol.http2 import Event
    from penstock.protocol.registration import ServerEvent

VECTOR = Path(__file__).parents[1] / "vectors" / "cloudflared_link.txt"
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"echo.test"), (b":path", b"/")]
CONTROL, WEBSOCKET = 1, 3


def replay(piece: int) -> tuple[Connection, list[Event]]:
    """What the edge's end understands when the bytes come in pieces of at most `piece`."""
    connection = Connection(Role.EDGE, Settings())
    connection.start()
    events: list[Event] = []
    for line in VECTOR.read_text().splitlines():
        match line.split():
            case ["open", stream_id]:
                assert connection.open_stream(REQUEST) == int(stream_id)
            case ["C->E", text]:
                data = bytes.fromhex(text)
                for start in range(0, len(data), piece):
                    events += connection.receive_data(data[start : start + piece])
            case _:
                assert line.startswith("#")
        connection.data_to_send()
    return connection, events


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_stock_agents_link_is_understood_however_its_bytes_are_cut(piece: int) -> None:
    connection, events = replay(piece)
    assert isinstance(events[0], SettingsChanged)
    assert connection.peer_connection_window == 1 << 20  # which is why stalled uploads must give way
    heads = {event.stream_id: dict(event.headers) for event in events if isinstance(event, HeadersReceived)}
    assert heads[CONTROL][b":status"] == b"200"
    upgrade = heads[WEBSOCKET]
    assert upgrade[b":status"] == b"200"  # 101 arrives as 200
    assert upgrade[metadata.RESPONSE_META] == metadata.META_ORIGIN
    packed = dict(metadata.parse_headers(upgrade[metadata.RESPONSE_HEADERS]))
    assert set(map(bytes.lower, packed)) >= {b"sec-websocket-accept", b"upgrade"}
    echoed = b"".join(e.data for e in events if isinstance(e, DataReceived) and e.stream_id == WEBSOCKET)
    assert echoed == b"hello"


def test_on_its_control_stream_it_registers_tells_its_configuration_and_unregisters() -> None:
    _, events = replay(1 << 20)
    server = RegistrationServer()
    said: list[ServerEvent] = []
    for event in events:
        if isinstance(event, DataReceived) and event.stream_id == CONTROL:
            for message in server.receive_data(event.data):
                said.append(message)
                if isinstance(message, Register):
                    server.accept(message, location="edge-1", tunnel_uuid=bytes(16))
                elif isinstance(message, Unregister | UpdateLocalConfiguration):
                    server.acknowledge(message)
    register, update, unregister = said[:3]
    assert isinstance(register, Register)
    assert (register.version, register.connection_index) == ("2026.8.2", 0)
    assert isinstance(update, UpdateLocalConfiguration)
    assert isinstance(unregister, Unregister)
