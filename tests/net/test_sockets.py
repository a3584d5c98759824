from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.conformance.stacks import Factory, sockets, tls_over, websocket_over
from tests.support.recording import Recorder

from penstock.net import relay
from penstock.net.sockets import READ_MOST

pytestmark = pytest.mark.anyio

BULK = 4_000_000
RECORD = 16_384
"""What a TLS session has in hand of a record begins in one read and ends in the next."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Turns:
    """Counts what is delivered in each turn of the loop."""

    def __init__(self) -> None:
        self.delivered: Counter[int] = Counter()
        self._turn = 0
        self._next()

    def note(self, data: bytes) -> None:
        self.delivered[self._turn] += len(data)

    def _next(self) -> None:
        self._turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


@pytest.mark.parametrize("stack", [tls_over(sockets), websocket_over(sockets)], ids=["tls", "websocket"])
async def test_no_download_takes_more_than_one_read_of_a_turn_of_the_loop(stack: Factory) -> None:
    turns = Turns()
    far, near = Recorder(), Recorder(on_data=turns.note)
    async with stack(far, near) as joined:
        joined.b.pause_reading()
        joined.a.write(bytes(BULK))
        joined.b.resume_reading()
        await near.until_received(BULK)
    turns.stop()
    assert 0 < max(turns.delivered.values()) <= READ_MOST + RECORD


async def test_a_relay_takes_no_more_than_one_read_of_a_turn_of_the_loop() -> None:
    turns = Turns()
    far, last = Recorder(), Recorder()
    async with sockets(far, Recorder()) as upper, sockets(Recorder(), last) as lower:
        upper.b.pause_reading()
        upper.a.write(bytes(BULK))
        relay.join(upper.b, lower.a, meter=turns_of(turns))  # pyright: ignore[reportArgumentType]  # it counts and holds nobody up
        await last.until_received(BULK)
    turns.stop()
    assert 0 < max(turns.delivered.values()) <= READ_MOST


def turns_of(turns: Turns) -> object:
    class Counting:
        def moved(self, amount: int, side: object) -> None:
            turns.note(bytes(amount))

    return Counting()
