"""An agent whose local target is dead says so before anybody calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.proxy.site import site as proxy_site
from tests.support.site import Echo, Origin, until

from penstock.agent.target import Target
from penstock.telemetry.log import get_logger
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site

pytestmark = pytest.mark.anyio


async def test_a_target_on_which_nothing_listens_is_said_once_with_what_to_do_and_again_when_it_is_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.agent.target._AGAIN", 0.05)
    monkeypatch.setattr("penstock.agent.target._EVERY", 0.05)
    place = choose_free().proxy
    connections = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    with capture_logs() as lines:

        def said() -> list[str]:
            return [line["event"] for line in lines if line["event"].startswith("local target")]

        async with site.edge() as edge, site.agent(edge, url=f"http://{place}", links=1) as agent:
            await until(lambda: said() == ["local target does not answer"])
            assert agent.is_ready  # as the published agent has it
            server = await asyncio.start_server(serve, place.host, place.port)
            await until(lambda: said()[1:] == ["local target answers"])
            seen = connections
            await until(lambda: connections >= seen + 3)  # nothing more is said of one that is there
            server.close()
            await until(lambda: said()[2:] == ["local target does not answer"])
            await server.wait_closed()
    warned = next(line for line in lines if line["event"] == "local target does not answer")
    assert (warned["log_level"], warned["target"]) == ("warning", str(place))
    assert "--url" in warned["hint"]


async def test_one_that_is_there_is_not_spoken_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.agent.target._EVERY", 0.02)
    with capture_logs() as lines:
        async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
            stream, _ = await site.open(edge)
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            await stream.aclose()
    assert not [line for line in lines if line["event"].startswith("local target")]


async def test_the_proxy_does_not_speak_of_being_looked_at(tmp_path: Path) -> None:
    async with proxy_site(tmp_path) as proxy:
        address = proxy.proxy.address
        looking = Target(address.host, address.port, get_logger("agent"))
        said = len(proxy.log)
        for _ in range(3):
            assert await looking._why_not() is None
        async with proxy.caller():
            pass
        assert [line["event"] for line in proxy.log[said:] if line["log_level"] != "debug"] == []
