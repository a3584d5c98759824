"""The recorded exchange of a stock agent, replayed; our two ends against each other; and hostile messages."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.protocol import rpc
from penstock.protocol.capnp import Struct, words
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError
from penstock.protocol.registration import (
    MAX_OPEN_QUESTIONS,
    Aborted,
    Refused,
    Register,
    Registered,
    Registration,
    RegistrationClient,
    RegistrationServer,
    ServerEvent,
    Unregister,
    Unregistered,
    UpdateLocalConfiguration,
)

VECTOR = Path(__file__).parents[1] / "vectors" / "cloudflared_control_stream.txt"
UUID = bytes.fromhex("51f5359c8f81434ea0eaf7f00ec990c5")
REGISTRATION = Registration(
    connection_index=2,
    account="acct",
    secret=b"s" * 32,
    tunnel_id=b"t" * 16,
    client_id=b"c" * 16,
    replace_existing=True,
    previous_attempts=3,
    features=("one", "two"),
    version="0.1",
    arch="linux_amd64",
    origin_ip=b"\x7f\0\0\1",
)


def recorded(direction: str) -> list[bytes]:
    lines = (line.split() for line in VECTOR.read_text().splitlines())
    return [bytes.fromhex(text) for who, text in lines if who == direction]


def answer(server: RegistrationServer, events: list[ServerEvent]) -> None:
    for event in events:
        match event:
            case Register():
                server.accept(event, location="LOCAL", tunnel_uuid=UUID)
            case Unregister() | UpdateLocalConfiguration():
                server.acknowledge(event)
            case Aborted():
                pass


def test_a_stock_agents_messages_are_understood() -> None:
    server = RegistrationServer()
    events: list[ServerEvent] = []
    for message in recorded("C->E"):
        new = server.receive_data(message)
        events += new
        answer(server, new)
    register, update, unregister, aborted = events
    assert isinstance(register, Register)
    assert (register.connection_index, register.account, register.secret) == (0, "acct0123", b"s" * 32)
    assert register.tunnel_id == bytes(14) + b"\x12\x34"
    assert register.client_id.hex() == "f29b7ff5d9f44e188ab63c2c887989db"
    assert register.features == (
        "allow_remote_config",
        "serialized_headers",
        "support_datagram_v2",
        "support_quic_eof",
        "management_logs",
    )
    assert (register.version, register.arch, register.origin_ip) == (
        "2026.8.2",
        "linux_amd64",
        bytes(10) + bytes.fromhex("ffff7f000001"),
    )
    assert (register.replace_existing, register.previous_attempts) == (False, 0)
    assert isinstance(update, UpdateLocalConfiguration)
    assert update.configuration.startswith(b'{"__configuration_flags"')
    assert isinstance(unregister, Unregister)
    assert aborted == Aborted(reason="rpc: shutdown")


def test_our_answers_to_a_stock_agent_are_the_recorded_ones_to_the_byte() -> None:
    server = RegistrationServer()
    ours: list[bytes] = []
    for message in recorded("C->E"):
        answer(server, server.receive_data(message))
        if out := server.data_to_send():
            ours.append(out)
    assert ours == recorded("E->C")


def test_any_split_of_the_exchange_means_the_same() -> None:
    server = RegistrationServer()
    events: list[ServerEvent] = []
    for byte in b"".join(recorded("C->E")):
        new = server.receive_data(bytes([byte]))
        events += new
        answer(server, new)
    assert [type(event) for event in events] == [Register, UpdateLocalConfiguration, Unregister, Aborted]
    assert server.data_to_send() == b"".join(recorded("E->C"))


def test_an_agent_registers_and_unregisters() -> None:
    client, server = RegistrationClient(), RegistrationServer()
    client.start(REGISTRATION)
    (register,) = server.receive_data(client.data_to_send())
    assert isinstance(register, Register)
    for name in Registration.__dataclass_fields__:
        assert getattr(register, name) == getattr(REGISTRATION, name)
    server.accept(register, location="here", tunnel_uuid=UUID, remotely_managed=True)
    assert client.receive_data(server.data_to_send()) == [Registered(location="here", uuid=UUID, remotely_managed=True)]
    client.unregister()
    (unregister,) = server.receive_data(client.data_to_send())
    assert isinstance(unregister, Unregister)
    server.acknowledge(unregister)
    assert client.receive_data(server.data_to_send()) == [Unregistered()]


@pytest.mark.parametrize("should_retry", [True, False])
def test_a_refusal_says_why_and_whether_to_come_again(should_retry: bool) -> None:
    client, server = RegistrationClient(), RegistrationServer()
    client.start(REGISTRATION)
    (register,) = server.receive_data(client.data_to_send())
    assert isinstance(register, Register)
    server.refuse(register, "Unauthorized: unknown tunnel", retry_after_s=1.5, should_retry=should_retry)
    (refused,) = client.receive_data(server.data_to_send())
    assert refused == Refused(cause="Unauthorized: unknown tunnel", should_retry=should_retry, retry_after_s=1.5)
    with pytest.raises(LocalProtocolError):
        server.refuse(register, "again", should_retry=True)


def test_our_agent_understands_the_recorded_answers() -> None:
    client = RegistrationClient()
    client.start(REGISTRATION)
    events = client.receive_data(b"".join(recorded("E->C")[:2]))
    assert events == [Registered(location="LOCAL", uuid=UUID, remotely_managed=False)]


def test_the_secret_is_in_no_representation() -> None:
    assert "ssss" not in repr(REGISTRATION)
    (register,) = RegistrationServer().receive_data(b"".join(recorded("C->E")[:3]))
    assert "ssss" not in repr(register)


def test_an_unknown_method_is_answered_as_unimplemented() -> None:
    server = RegistrationServer()
    call = rpc.call(7, rpc.Method.REGISTER_CONNECTION, Struct(), capability=0)
    assert server.receive_data(call.replace(words(rpc.INTERFACE), words(rpc.INTERFACE - 1))) == []
    assert b"method not implemented" in server.data_to_send()


def test_ids_of_the_wrong_length_and_unoffered_objects_are_refused() -> None:
    method = rpc.Method.REGISTER_CONNECTION
    short = Struct(words(0), (None, b"short", None))
    for call in (
        rpc.call(1, method, short, capability=0),
        rpc.call(1, rpc.Method.UNREGISTER_CONNECTION, Struct(), capability=5),
    ):
        with pytest.raises(RemoteProtocolError):
            RegistrationServer().receive_data(call)


def test_open_questions_are_bounded() -> None:
    server = RegistrationServer()
    calls = [rpc.call(n, rpc.Method.UNREGISTER_CONNECTION, Struct(), capability=0) for n in range(MAX_OPEN_QUESTIONS + 1)]
    assert len(server.receive_data(b"".join(calls[:-1]))) == MAX_OPEN_QUESTIONS
    with pytest.raises(RemoteProtocolError):
        server.receive_data(calls[-1])


@settings(max_examples=500, deadline=None)
@given(data=st.data(), direction=st.sampled_from(["C->E", "E->C"]))
def test_no_damaged_message_crashes_either_end(data: st.DataObject, direction: str) -> None:
    message = bytearray(data.draw(st.sampled_from(recorded(direction))))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(8, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    end: RegistrationServer | RegistrationClient
    if direction == "C->E":
        end = RegistrationServer()
    else:
        end = RegistrationClient()
        end.start(REGISTRATION)
    with contextlib.suppress(RemoteProtocolError):
        end.receive_data(bytes(message))
