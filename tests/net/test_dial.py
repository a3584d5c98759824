from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

import pytest
from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.errors import UnavailableError
from penstock.net.dial import dial_tcp, dial_tls, dial_unix, handshake
from penstock.net.listen import listen_tcp, listen_tls
from penstock.net.streams import ByteStream
from penstock.net.transports import Parked

pytestmark = pytest.mark.anyio

LOOPBACK = "127.0.0.1"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Speaking:
    """A server that says something as soon as it is dialled, and ends."""

    def __init__(self, family: socket.AddressFamily, address: object, *, ends: bool) -> None:
        self._socket = socket.socket(family)
        self._socket.bind(address)  # pyright: ignore[reportArgumentType]  # the family's own
        self._socket.listen()
        self.address = self._socket.getsockname()
        self._ends = ends
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        taken, _ = self._socket.accept()
        with taken:
            taken.sendall(b"said at once")
            if self._ends:
                taken.shutdown(socket.SHUT_WR)
            taken.settimeout(10)
            self.heard = b"".join(iter(lambda: taken.recv(100), b""))


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_a_peer_says_before_anybody_listens_waits_for_the_owner(kind: str, ends: bool, tmp_path: Path) -> None:
    is_tcp = kind == "tcp"
    with Speaking(
        socket.AF_INET if is_tcp else socket.AF_UNIX, (LOOPBACK, 0) if is_tcp else str(tmp_path / "s"), ends=ends
    ) as peer:
        transport = await (dial_tcp(*peer.address) if is_tcp else dial_unix(Path(peer.address)))
        assert not transport.is_reading()
        await asyncio.sleep(0.1)  # whatever comes, comes now
        owner = Recorder()
        owner.transport = transport
        transport.set_protocol(owner)
        assert owner.calls == []
        transport.write(b"answer")
        transport.resume_reading()
        if ends:
            assert await owner.until_lost() is None
            assert owner.calls == ["data_received", "eof_received", "connection_lost"]
        else:
            await owner.until_received(12)
            transport.close()
            await owner.until_lost()
        assert owner.received == b"said at once"
    assert peer.heard == b"answer"


async def test_a_dialled_connection_is_paused_until_its_owner_resumes() -> None:
    far, near = Recorder(), Recorder()
    listener = await listen_tcp(LOOPBACK, 0, lambda: far)
    transport = await dial_tcp(LOOPBACK, listener.port)
    await far.until(lambda: far.transport)
    far.transport.write(b"waits")
    await settle(100)
    near.transport = transport
    transport.set_protocol(near)
    assert near.received == b""
    transport.resume_reading()
    await near.until_received(5)
    transport.abort()
    listener.close()


async def test_a_dialled_tls_connection_is_paused_and_verified() -> None:
    client, server = tls_contexts()
    far, seen = Recorder(), []
    listener = await listen_tls(LOOPBACK, 0, lambda: far, context=lambda: server)
    transport = await dial_tls(
        LOOPBACK, listener.port, context=client, server_hostname=ca.HOST, check_peer=lambda s: seen.append(s.version())
    )
    await far.until(lambda: far.transport)
    assert far.transport.get_extra_info("server_name") == ca.HOST
    far.transport.write(b"hello")
    stream = ByteStream.over(transport)
    async with asyncio.timeout(5):
        assert await stream.read(100) == b"hello"
    assert seen == ["TLSv1.3"]
    await stream.aclose()
    listener.close()


async def test_nothing_that_listens_is_unavailable_and_says_where() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        port = unused.getsockname()[1]
        with pytest.raises(UnavailableError) as raised:
            await dial_tcp(LOOPBACK, port)
    assert str(port) in (raised.value.detail or "")
    assert str(port) not in raised.value.public
    assert raised.value.hint


@pytest.mark.parametrize("name", ["nobody.invalid", "edge-2..example.com", f"{'a' * 64}.example.com", "a\0b"])
async def test_a_name_nobody_knows_or_that_none_can_have_is_unavailable(name: str) -> None:
    with pytest.raises(UnavailableError, match="name is not known"):
        await dial_tcp(name, 1)


async def test_a_peer_that_never_answers_the_handshake_is_unavailable() -> None:
    far = Recorder()
    listener = await listen_tcp(LOOPBACK, 0, lambda: far)
    with pytest.raises(UnavailableError, match="in time"):
        await dial_tls(LOOPBACK, listener.port, context=tls_contexts()[0], server_hostname=ca.HOST, timeout=0.1)
    await far.until_lost()
    listener.close()


async def test_a_peer_that_leaves_in_the_handshake_is_unavailable() -> None:
    far = Recorder(on_data=lambda data: far.transport.abort())
    listener = await listen_tcp(LOOPBACK, 0, lambda: far)
    with pytest.raises(UnavailableError):
        await dial_tls(LOOPBACK, listener.port, context=tls_contexts()[0], server_hostname=ca.HOST)
    listener.close()


async def test_a_peer_that_is_refused_is_an_error_of_its_own() -> None:
    client, server = tls_contexts()
    listener = await listen_tls(LOOPBACK, 0, Recorder, context=server)
    with pytest.raises(ssl.SSLCertVerificationError):
        await dial_tls(LOOPBACK, listener.port, context=client, server_hostname="other.example.com")

    def refuse(_: ssl.SSLObject) -> None:
        raise PermissionError("the rule")

    with pytest.raises(PermissionError, match="the rule"):
        await dial_tls(LOOPBACK, listener.port, context=client, server_hostname=ca.HOST, check_peer=refuse)
    listener.close()


async def test_a_cancelled_handshake_leaves_nothing_open() -> None:
    far = Recorder()
    near, _ = memory_pair(Parked(), far)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await handshake(near, context=tls_contexts()[0], server_hostname=ca.HOST)
    assert isinstance(await far.until_lost(), ConnectionResetError)
