"""Nothing between caller and proxy sees what a tool is called, told or answers.

Every byte that edge and agent hold in clear (inside their outer TLS, and on the agent's local connection) is recorded and
searched: as it is, put together from frames, with masks taken off, in other encodings. The controls show that the same
recorders hear: at the proxy, and at edge and agent too when a caller is careless enough to send before inner TLS.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from mcp.server.mcpserver import MCPServer
from tests.support.mcp_servers import serving
from tests.support.site import until
from tests.support.tape import APPLICATION_DATA, Recorders, Tape, compressibility, record_types
from tests.support.world import Side, world

from penstock.client.mcp import mcp_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.applications import Starlette

pytestmark = pytest.mark.anyio

TOOL = "toolname_Kx81aPq"
ARGUMENT = "argname_Zt27bLm"
VALUE = "argvalue_Hn54cRw"
RESULT = "resultvalue_Vy93dSe"
BEARER = "bearer_Qj66eTf"
SECRETS = [TOOL, ARGUMENT, VALUE, RESULT, BEARER, "tools/call", "jsonrpc", "POST /mcp"]

# 80 KB that compress to nothing: a disguise that is not encryption would show by that alone.
REPEATS = 4000


def _app() -> Starlette:
    server = MCPServer("blind-relay", log_level="WARNING")

    @server.tool(name=TOOL, structured_output=False)
    def answer(argname_Zt27bLm: str) -> str:  # noqa: N803 - its name is one of the secrets
        assert argname_Zt27bLm == VALUE
        return RESULT * REPEATS

    return server.streamable_http_app()


@pytest.fixture
def recorders() -> Recorders:
    return Recorders()


@pytest.fixture
async def side(recorders: Recorders, tmp_path: Path) -> AsyncIterator[Side]:
    """A world a test, so that the tapes hold all of it from the first byte."""
    with recorders.installed():
        async with serving(_app()) as url, world(tmp_path) as platform:
            yield await platform.add_side({"echo": url}, tapped=True)


def between(recorders: Recorders, side: Side) -> list[Tape]:
    """All that passes the edge, the agent, and from the agent to the proxy."""
    assert side.tap is not None
    return [recorders.edge, recorders.agent, side.tap.tape]


@pytest.mark.parametrize("era", [{}, {"mode": "legacy"}], ids=["stateless era", "session era"])
async def test_no_byte_that_edge_or_agent_sees_tells_a_tool_its_arguments_or_its_result(
    recorders: Recorders, side: Side, era: dict[str, Any]
) -> None:
    headers = {"authorization": f"Bearer {BEARER}"}
    async with mcp_session(side.url("/mcp"), side.world.access, headers=headers, **era) as session:
        result = await session.call_tool(TOOL, {ARGUMENT: VALUE})
    assert result.content[0].text == RESULT * REPEATS

    for secret in SECRETS:
        assert recorders.proxy.hears(secret), f"the recorders do not work: the proxy has not heard {secret}"
        for tape in between(recorders, side):
            assert not tape.hears(secret)
    for tape in between(recorders, side):  # and all of it did pass there
        assert len(tape.everything) > len(RESULT) * REPEATS


async def test_what_passes_edge_and_agent_is_encrypted_and_not_disguised(recorders: Recorders, side: Side) -> None:
    async with mcp_session(side.url("/mcp"), side.world.access) as session:
        await session.call_tool(TOOL, {ARGUMENT: VALUE})

    for tape in between(recorders, side):
        largest = max(tape.payloads(), key=len)
        assert len(largest) > len(RESULT) * REPEATS
        assert compressibility(largest) > 0.99
    assert compressibility(max(recorders.proxy.flows(), key=len)) < 0.1


async def test_inside_the_stream_everything_behind_the_handshake_is_tls(recorders: Recorders, side: Side) -> None:
    async with mcp_session(side.url("/mcp"), side.world.access) as session:
        await session.call_tool(TOOL, {ARGUMENT: VALUE})

    assert side.tap is not None
    said = max(side.tap.tape.conversations, key=lambda conversation: len(conversation.written))
    for flow in (bytes(said.read), bytes(said.written)):
        kinds = record_types(flow)
        handshake = kinds.index(APPLICATION_DATA)
        assert set(kinds[handshake:]) == {APPLICATION_DATA}
        assert handshake <= 2  # a hello, and a change_cipher_spec that means nothing (RFC 8446 D.4)


async def test_edge_and_agent_do_learn_the_route(recorders: Recorders, side: Side) -> None:
    async with mcp_session(side.url("/mcp"), side.world.access):
        pass

    assert recorders.edge.hears(side.host())
    assert side.tap is not None
    assert side.tap.tape.hears(side.host())


async def test_a_caller_that_sends_before_inner_tls_is_heard_by_every_recorder(recorders: Recorders, side: Side) -> None:
    careless = f"{TOOL} {VALUE}".encode() * 10
    async with side.world.streams() as streams:
        stream = await streams.open(side.host())
        stream.websocket.write(careless)  # masked, in frames, in HTTP/2's frames, in TLS
        tapes = between(recorders, side)
        await until(lambda: all(tape.hears(TOOL) and tape.hears(VALUE) for tape in tapes))
        stream.websocket.abort()
    assert all(min(map(compressibility, filter(None, tape.payloads()))) < 0.9 for tape in tapes)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("disguise", ["hex", "base64", "utf-16-le", "utf-16-be"])
def test_the_search_sees_through_encodings(secret: str, disguise: str) -> None:
    said = f"..{secret}..{secret}...{secret}"
    tape = Tape()
    match disguise:
        case "hex":
            tape.begin().read.extend(said.encode().hex().encode())
        case "base64":
            tape.begin().read.extend(base64.b64encode(said.encode()))
        case encoding:
            tape.begin().read.extend(said.encode(encoding))
    assert tape.hears(secret)
    assert not tape.hears("something else")
