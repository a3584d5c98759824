from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.transports import Parked, cut
from penstock.net.upgrade import UpgradeListener, UpgradeRequest, request_upgrade
from penstock.net.upgrade.head import accept_for
from penstock.protocol.errors import RemoteProtocolError

pytestmark = pytest.mark.anyio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HOST = b"echo.ab12cd34.tunnel.example.com"


def head(
    start: bytes = b"GET /any/path?q=1 HTTP/1.1", *, without: bytes = b"", extra: tuple[bytes, ...] = (), host: bytes = HOST
) -> bytes:
    lines = [
        b"Host: " + host,
        b"Upgrade: websocket",
        b"Connection: keep-alive, Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + KEY,
    ]
    kept = [line for line in lines if not without or not line.lower().startswith(without.lower() + b":")]
    return b"\r\n".join([start, *kept, *extra]) + b"\r\n\r\n"


class Door:
    """A listener on a memory pair; `caller` is what the other side sees."""

    def __init__(self, **limits: Any) -> None:
        self.requests: list[UpgradeRequest] = []
        self.refused: list[TunnelError] = []
        self.caller = Recorder()
        listener = UpgradeListener(self.requests.append, on_refused=self.refused.append, **limits)
        self.wire, self.inside = memory_pair(self.caller, listener)

    def send(self, data: bytes) -> None:
        self.wire.write(data)

    async def request(self) -> UpgradeRequest:
        await settle()
        assert len(self.requests) == 1
        return self.requests[0]

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        assert await self.caller.until_lost() is None
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(bytes(self.caller.received))
        parser.receive_data(b"")
        response = parser.next_event()
        assert isinstance(response, h11.Response)
        body = b""
        while isinstance(event := parser.next_event(), h11.Data):
            body += event.data
        return response.status_code, {bytes(k): bytes(v) for k, v in response.headers}, body


# --- the server's end: accepted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [1, 7, 10_000])
async def test_a_request_is_understood_however_it_is_split_and_early_bytes_are_kept(split: int) -> None:
    door = Door()
    door.wire.split = split
    door.send(head(host=b"ECHO.ab12cd34.Tunnel.example.com.:443", extra=(b"Authorization: x",)))
    request = await wait_for_request(door)
    assert request.host == HOST.decode()
    assert request.raw_host == b"ECHO.ab12cd34.Tunnel.example.com.:443"
    assert request.path == "/any/path?q=1"
    assert request.header(b"authorization") == b"x"
    assert request.header(b"cookie") is None
    assert not request.transport.is_reading()
    assert "Authorization" not in repr(request)


async def wait_for_request(door: Door) -> UpgradeRequest:
    async with asyncio.timeout(5):
        while not door.requests:
            await asyncio.sleep(0)
    return door.requests[0]


async def test_accepting_answers_the_key_and_hands_over_transport_and_early_bytes() -> None:
    door = Door()
    door.send(head() + b"early")
    request = await door.request()
    assert request.accept([(b"Penstock-Replica", b"r1")]) == b"early"
    heir = Recorder()
    heir.transport = request.transport
    request.transport.set_protocol(heir)
    door.send(b" and late")
    await settle()
    assert heir.received == b""
    request.transport.resume_reading()
    await heir.until_received(9)
    answer = bytes(door.caller.received)
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455 1.3
    assert b"Penstock-Replica: r1\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_hundred_fields_are_taken() -> None:
    door = Door()
    door.send(head(extra=(b"x: y",) * 95))
    assert len((await door.request()).headers) == 100


async def test_an_accept_that_an_upstream_computed_is_relayed_once() -> None:
    door = Door()
    door.send(head())
    request = await door.request()
    request.accept([(b"sec-websocket-accept", b"theirs"), (b"connection", b"Upgrade"), (b"upgrade", b"websocket")])
    await settle()
    answer = bytes(door.caller.received).lower()
    assert answer.count(b"sec-websocket-accept") == 1
    assert b"sec-websocket-accept: theirs" in answer
    assert answer.count(b"upgrade: websocket") == 1


async def test_a_request_is_decided_once() -> None:
    door = Door()
    door.send(head())
    request = await door.request()
    request.accept()
    with pytest.raises(RuntimeError):
        request.accept()
    with pytest.raises(RuntimeError):
        request.refuse(TunnelError(TunnelErrorCode.NO_ROUTE, "x"))


async def test_a_header_cannot_smuggle_another() -> None:
    door = Door()
    door.send(head())
    request = await door.request()
    with pytest.raises(ValueError, match="line end"):
        request.accept([(b"X", b"y\r\nSet-Cookie: z")])


# --- the server's end: refused ----------------------------------------------------------------------------------------


async def test_a_refusal_is_text_with_its_code_and_nothing_internal() -> None:
    door = Door()
    door.send(head())
    request = await door.request()
    error = TunnelError(TunnelErrorCode.AGENT_UNAVAILABLE, "no agent holds a link", detail="10.0.0.7", retry_after=3)
    request.refuse(error)
    status, headers, body = await door.answer()
    assert status == 502
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"penstock-error"] == b"agent_unavailable"
    assert headers[b"retry-after"] == b"3"
    assert headers[b"connection"] == b"close"
    assert body == b"no agent holds a link\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request", id="a TLS hello"),
        pytest.param(b"\x00\x01\x02", 400, "bad_request", id="garbage"),
        pytest.param(b"GARBAGE\r\n\r\n", 400, "bad_request", id="no request line"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 426, "upgrade_required", id="HTTP/2"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n", 426, "upgrade_required", id="a plain request"),
        pytest.param(head(b"POST / HTTP/1.1"), 426, "upgrade_required", id="another method"),
        pytest.param(head(b"GET / HTTP/1.0"), 426, "upgrade_required", id="HTTP/1.0"),
        pytest.param(head(without=b"connection"), 426, "upgrade_required", id="no Connection"),
        pytest.param(head(without=b"sec-websocket-version"), 426, "upgrade_required", id="no version"),
        pytest.param(head(without=b"sec-websocket-key"), 400, "bad_request", id="no key"),
        pytest.param(head(extra=(b"Sec-WebSocket-Key: " + KEY,)), 400, "bad_request", id="two keys"),
        pytest.param(
            head(without=b"sec-websocket-key", extra=(b"Sec-WebSocket-Key: abc",)), 400, "bad_request", id="a bad key"
        ),
        pytest.param(head(without=b"host"), 400, "bad_request", id="no Host"),
        pytest.param(head(extra=(b"Host: other.example.com",)), 400, "bad_request", id="two Hosts"),
        pytest.param(head(host=b"10.0.0.1"), 400, "bad_request", id="an address for a Host"),
        pytest.param(head(host=b"\xe4.example.com"), 400, "bad_request", id="a Host that is not ASCII"),
        pytest.param(head(b"GET http://echo.example.com/ HTTP/1.1"), 400, "bad_request", id="absolute-form"),
        pytest.param(head(extra=(b"Content-Length: 5",)), 400, "bad_request", id="a body"),
        pytest.param(head(extra=(b"Transfer-Encoding: chunked",)), 400, "bad_request", id="a chunked body"),
        pytest.param(head(extra=(b"X: a\nY: b",)), 400, "bad_request", id="a bare line feed"),
        pytest.param(head(extra=(b"X : a",)), 400, "bad_request", id="a space before the colon"),
        pytest.param(head(extra=(b"X: " + b"a" * 20_000,)), 431, "head_too_large", id="a head too large"),
        pytest.param(head(extra=(b"x: y",) * 96), 431, "head_too_large", id="more than a hundred fields"),
        pytest.param(b"GET /" + b"a" * 20_000, 431, "head_too_large", id="a request line without end"),
    ],
)
async def test_what_is_no_upgrade_is_answered_in_clear_text(sent: bytes, status: int, code: str) -> None:
    door = Door()
    door.send(sent)
    got, headers, body = await door.answer()
    assert (got, headers[b"penstock-error"].decode()) == (status, code)
    assert body
    assert door.requests == []
    assert [error.code.value for error in door.refused] == [code]
    if status == 426:
        assert headers[b"upgrade"] == b"websocket"
        assert headers[b"sec-websocket-version"] == b"13"


async def test_a_slow_loris_is_answered_and_let_go() -> None:
    door = Door(head_timeout=0.05)
    sending = asyncio.get_running_loop().call_soon
    door.send(b"GET / HTTP/1.1\r\n")
    sending(door.send, b"Host: x\r\n")
    status, _, body = await door.answer()
    assert status == 400
    assert b"in time" in body


async def test_a_caller_that_leaves_before_its_head_is_complete_is_forgotten() -> None:
    door = Door(head_timeout=0.02)
    door.send(b"GET /")
    await settle()
    door.wire.close()
    await door.caller.until_lost()
    await asyncio.sleep(0.04)  # past the timer
    assert door.refused == []


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_input_crashes_the_listener(pieces: list[bytes]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        crashed: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: crashed.append(context))
        door = Door()
        for piece in pieces:
            door.send(piece)
        await settle()
        door.wire.abort()
        await settle()
        assert crashed == []

    asyncio.run(run())


# --- the server's end: waiting ----------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_before_the_decision_is_reported() -> None:
    door = Door()
    door.send(head())
    request = await door.request()
    gone: list[bool] = []
    request.on_gone = lambda: gone.append(True)
    door.wire.abort()
    await settle()
    assert gone == [True]
    assert request.accept() == b""
    assert request.transport.is_closing()


async def test_a_caller_on_a_socket_that_resets_while_it_waits_is_reported() -> None:
    loop = asyncio.get_running_loop()
    requests: list[UpgradeRequest] = []
    server = await loop.create_server(lambda: UpgradeListener(requests.append), "127.0.0.1", 0)
    caller, _ = await loop.create_connection(Recorder, "127.0.0.1", server.sockets[0].getsockname()[1])
    caller.write(head())
    gone = asyncio.Event()
    async with asyncio.timeout(5):
        while not requests:
            await asyncio.sleep(0.001)
        requests[0].on_gone = gone.set
        cut(caller)
        await gone.wait()
    server.close()


# --- the client's end -------------------------------------------------------------------------------------------------


class Far:
    """The far end of a request, by hand."""

    def __init__(self) -> None:
        self.far = Recorder()
        self.near, self.wire = memory_pair(Parked(), self.far)

    async def heard(self) -> bytes:
        await self.far.until(lambda: b"\r\n\r\n" in self.far.received)
        return bytes(self.far.received)


def accept(heard: bytes) -> bytes:
    key = next(line.split(b": ")[1] for line in heard.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    return b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nX-Seen: 1\r\n" + (
        b"Sec-WebSocket-Accept: " + accept_for(key) + b"\r\n\r\n"
    )


async def test_an_upgrade_that_is_accepted_leaves_the_transport_paused_for_its_heir() -> None:
    far = Far()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(request_upgrade(far.near, host="echo.example.com", path="/x?y", headers=[(b"A", b"b")]))
        heard = await far.heard()
        far.wire.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + accept(heard) + b"first bytes")
    response = asking.result()
    assert heard.startswith(b"GET /x?y HTTP/1.1\r\nHost: echo.example.com\r\n")
    assert b"A: b\r\n" in heard
    assert (response.status, response.rest, response.header(b"x-seen")) == (101, b"first bytes", b"1")
    far.wire.write(b"more")
    await settle()
    heir = Recorder()
    heir.transport = far.near
    far.near.set_protocol(heir)
    far.near.resume_reading()
    await heir.until_received(4)


async def test_a_key_that_is_given_is_replayed() -> None:
    far = Far()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            request_upgrade(far.near, host="h.example.com", headers=[(b"sec-websocket-key", KEY), (b"upgrade", b"h2c")])
        )
        heard = await far.heard()
        far.wire.write(accept(heard))
    assert heard.lower().count(b"sec-websocket-key") == 1
    assert KEY in heard
    assert b"h2c" not in heard


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\nno route\n", b"Connection: close\r\n\r\nno route\n"])
async def test_a_refusal_is_read_to_its_end_and_the_transport_ended(framing: bytes) -> None:
    far = Far()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(request_upgrade(far.near, host="h.example.com"))
        await far.heard()
        far.wire.write(b"HTTP/1.1 502 Bad Gateway\r\nPenstock-Error: no_route\r\n" + framing)
        far.wire.close()
    response = asking.result()
    assert (response.status, response.header(b"penstock-error"), response.body) == (502, b"no_route", b"no route\n")
    assert far.near.is_closing()


async def test_a_refusal_without_end_is_cut_short() -> None:
    far = Far()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(request_upgrade(far.near, host="h.example.com"))
        await far.heard()
        far.wire.write(b"HTTP/1.1 500 x\r\n\r\n" + b"a" * 100_000)
    assert asking.result().body == b"a" * 8192


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", RemoteProtocolError),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            RemoteProtocolError,
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000, RemoteProtocolError),
        (b"", ConnectionError),
        (b"HTTP/1.1 1", ConnectionError),
    ],
)
async def test_an_answer_that_is_none_is_an_error(answer: bytes, error: type[Exception]) -> None:
    far = Far()
    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            group.create_task(request_upgrade(far.near, host="h.example.com"))
            await far.heard()
            far.wire.write(answer)
            far.wire.close()
    assert isinstance(raised.value.exceptions[0], error)
    assert far.near.is_closing()


async def test_no_answer_is_a_timeout_and_cuts_the_transport() -> None:
    far = Far()
    with pytest.raises(TimeoutError):
        await request_upgrade(far.near, host="h.example.com", timeout=0.02)
    assert isinstance(await far.far.until_lost(), ConnectionResetError)


async def test_a_transport_that_is_gone_is_an_error() -> None:
    far = Far()
    far.near.abort()
    with pytest.raises(ConnectionError):
        await request_upgrade(far.near, host="h.example.com")


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_answer_crashes_the_client(pieces: list[bytes]) -> None:
    async def run() -> None:
        far = Far()
        loop = asyncio.get_running_loop()
        crashed: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: crashed.append(context))

        def answer() -> None:
            for piece in pieces:
                far.wire.write(piece)
            far.wire.close()

        loop.call_soon(answer)
        with contextlib.suppress(RemoteProtocolError, ConnectionError):
            await request_upgrade(far.near, host="h.example.com", timeout=1)
        assert crashed == []

    asyncio.run(run())


async def test_the_listener_and_the_client_agree_over_a_real_socket() -> None:
    loop = asyncio.get_running_loop()
    requests: list[UpgradeRequest] = []

    def decide(request: UpgradeRequest) -> None:
        requests.append(request)
        request.accept()

    server = await loop.create_server(lambda: UpgradeListener(decide), "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Parked, "127.0.0.1", server.sockets[0].getsockname()[1])
    response = await request_upgrade(transport, host="echo.example.com")
    assert response.status == 101
    assert transport.get_extra_info("socket").family == socket.AF_INET
    for end in (transport, requests[0].transport):
        end.abort()
    server.close()
