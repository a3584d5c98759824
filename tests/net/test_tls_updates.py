"""Key updates (RFC 8446 4.6.3), which Python's `ssl` cannot send: here they are made by hand out of a logged secret."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from tests.conformance.stacks import tls_contexts
from tests.net.tlswire import Wire
from tests.support.recording import settle

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

HANDSHAKE, DATA = 22, 23
UPDATE_REQUESTED = b"\x18\0\0\1\1"


class Sender:
    """The client's writing half of TLS_AES_256_GCM_SHA384."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.sent = 0

    def _derive(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(SHA384(), size, info).derive(self.secret)

    def record(self, kind: int, content: bytes) -> bytes:
        inner = content + bytes([kind])
        head = b"\x17\3\3" + (len(inner) + 16).to_bytes(2, "big")
        nonce = int.from_bytes(self._derive(b"iv", 12), "big") ^ self.sent
        self.sent += 1
        return head + AESGCM(self._derive(b"key", 32)).encrypt(nonce.to_bytes(12, "big"), inner, head)

    def update(self) -> bytes:
        """Change our keys, and ask the peer to change its own."""
        record = self.record(HANDSHAKE, UPDATE_REQUESTED)
        self.secret, self.sent = self._derive(b"traffic upd", 48), 0
        return record


async def joined(folder: Path) -> tuple[Wire, Sender]:
    client, server = tls_contexts()
    client.keylog_filename = str(folder / "keys")
    wire = await Wire(client=client, server=server).opened()
    assert wire.c.get_extra_info("cipher")[0] == "TLS_AES_256_GCM_SHA384"
    words = [line.split() for line in (folder / "keys").read_text().splitlines()]
    (secret,) = [bytes.fromhex(line[2]) for line in words if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
    return wire, Sender(secret)


async def test_a_peer_may_update_its_keys_now_and_then(tmp_path: Path) -> None:
    wire, sender = await joined(tmp_path)
    for number in range(100):
        wire.below_client.write(sender.update() + sender.record(DATA, bytes([number])))
    await wire.server.until_received(100)
    assert wire.server.received == bytes(range(100))
    wire.s.write(b"in new keys")
    await wire.client.until_received(11)


@pytest.mark.parametrize("with_data", [True, False])
async def test_a_peer_that_updates_its_keys_without_end_and_reads_nothing_is_cut_before_answers_pile_up(
    tmp_path: Path, with_data: bool
) -> None:
    wire, sender = await joined(tmp_path)
    wire.below_server.stall()  # the client takes nothing
    wire.s.write(bytes(200_000))
    full = wire.s.get_write_buffer_size()
    for _ in range(300):
        wire.below_client.write(sender.update() + (sender.record(DATA, b"x") if with_data else b""))
        await settle(5)
        if wire.server.loss:
            break
    exc = await wire.server.until_lost()
    assert isinstance(exc, ssl.SSLError)
    assert "updates its keys too often" in str(exc)
    assert wire.below_server.most_queued <= full + 8192
