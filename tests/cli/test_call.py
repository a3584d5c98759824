from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent
from tests.support import ca
from tests.support.mcp_servers import serving
from tests.support.running_up import tunnel_to

from penstock.telemetry.log import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Ended

TEXT = "a\ttab, [red]markup[/], :smile: and\na line\x07"


def odd_server() -> MCPServer:
    """Answers what terminals and printers trip over."""
    server = MCPServer("odd", log_level="WARNING")

    @server.tool(description="Say it back.\nIn more lines.")
    def say(value: object) -> str:
        return json.dumps(value)

    @server.tool()
    def name(text: str, times: int = 1) -> str:
        return text * times

    @server.tool()
    def odd() -> CallToolResult:
        image = ImageContent(type="image", data="AAAA", mime_type="image/png")
        return CallToolResult(content=[TextContent(type="text", text=TEXT), image])

    @server.tool()
    def fails() -> str:
        msg = "it cannot be done"
        raise ToolError(msg)

    return server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A tunnel in a thread of its own, for the command has a loop of its own: the URL, and the profile to it."""
    folder = tmp_path_factory.mktemp("up")
    ready, stop = threading.Event(), asyncio.Event()
    found: list[str] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(odd_server().streamable_http_app()) as upstream, tunnel_to(folder, odd=upstream) as tunnel:
            found.append(tunnel.url("odd"))
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    settings = structlog.get_config()
    configure("error")  # its roles write beside the command, in one process
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    yield found[0], str(folder / "profile.json")
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(30)
    structlog.configure(**settings)


@pytest.fixture
def call(command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    return lambda *arguments: command("call", url[0], *arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("value=you", "you"),
        ("value=3", 3),
        ("value=[1, 2]", [1, 2]),
        ('value="3"', "3"),
        ("value=true", True),
        ("value=", ""),
        ("value=a=b", "a=b"),
        ("value={not json", "{not json"),
        ("value=ü", "ü"),
    ],
)
def test_a_value_is_json_where_it_parses_and_text_where_not(call: Callable[..., Ended], argument: str, value: object) -> None:
    ended = call("say", argument)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == value


@pytest.mark.parametrize("text", ["1", "true", "[1]", "null"])
def test_what_the_tool_takes_as_text_only_is_text_whatever_it_looks_like(call: Callable[..., Ended], text: str) -> None:
    ended = call("name", f"text={text}", "times=2")
    assert (ended.code, ended.out, ended.err) == (0, f"{text * 2}\n", "")


def test_a_wrong_path_is_named_with_the_usual_one(
    command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    other = url[0].removesuffix("/mcp") + "/other"
    for arguments in (("call", other, "say", "value=1"), ("tools", f"{other}?secret=1")):
        ended = command(*arguments)
        assert ended.code == 1
        told = f"penstock: the MCP server answered 404 at {other}\n  hint: is the path right? most servers serve /mcp\n"
        assert ended.err == told


def test_a_tools_text_is_printed_as_it_is(call: Callable[..., Ended]) -> None:
    assert call("odd").out == f"{TEXT}\n[image]\n"


def test_json_is_the_servers_whole_answer(call: Callable[..., Ended]) -> None:
    answer = json.loads(call("odd", "--json").out)
    assert [part["type"] for part in answer["content"]] == ["text", "image"]
    assert answer["content"][0]["text"] == TEXT


def test_a_tool_that_fails_exits_1_and_says_why(call: Callable[..., Ended]) -> None:
    ended = call("fails")
    assert ended.code == 1
    assert "it cannot be done" in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_an_unknown_tool_exits_1(call: Callable[..., Ended]) -> None:
    assert call("no-such").code == 1


def test_the_next_call_uses_the_same_certificate_and_one_that_is_refused_is_replaced(
    call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".local" / "state" / "penstock" / "callers"
    assert call("say", "value=1").code == 0
    (file,) = folder.iterdir()
    first = file.read_text()
    assert call("say", "value=2").code == 0
    assert file.read_text() == first
    stranger = ca.caller(ca.ca())  # what a platform that was made anew, or one that revoked it, makes of the old one
    file.write_text(stranger.key_pem.reveal() + stranger.certificate_pem)
    ended = call("say", "value=3")
    assert (ended.code, ended.err) == (0, "")
    assert file.read_text() not in (first, stranger.key_pem.reveal() + stranger.certificate_pem)
    file.unlink()
    monkeypatch.setenv("PENSTOCK_CALLERS", "off")
    assert call("say", "value=4").code == 0
    assert not list(folder.iterdir())


def test_the_platform_and_the_key_can_be_given_as_to_every_command(
    command: Callable[..., Ended], url: tuple[str, str], tmp_path: Path
) -> None:
    profile = json.loads(Path(url[1]).read_text())
    (tmp_path / "key").write_text(profile["api_key"] + "\n")
    given = ("--api-url", profile["api_url"], "--api-key-file", "key")
    assert command("call", url[0], "say", "value=1", *given).code == 0
    assert "say" in command("tools", url[0], *given).out
    (tmp_path / "key").write_text("pst-key-wrong\n")
    refused = command("tools", url[0], *given)
    assert refused.code == 1
    assert refused.err.startswith("penstock: the key in key is not accepted: ")


@pytest.mark.parametrize("argument", ["you", "=you"])
def test_an_argument_that_is_no_pair_is_a_usage_error(call: Callable[..., Ended], argument: str) -> None:
    ended = call("say", argument)
    assert ended.code == 2
    assert "is not NAME=VALUE" in ended.err
    assert "hint: " in ended.err


def test_tools_prints_a_name_a_tab_and_one_line_each(
    command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    ended = command("tools", url[0])
    assert (ended.code, ended.err) == (0, "")
    assert "say\tSay it back.\n" in ended.out
    listed = json.loads(command("tools", url[0], "--json").out)
    assert [tool["name"] for tool in listed] == ["say", "name", "odd", "fails"]


def test_a_tunnel_that_does_not_exist_is_one_line_with_a_hint(
    command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    ended = command("call", "https://odd.zzzzzzzz.tunnel.penstock.internal/mcp", "say")
    assert ended.code == 1
    assert ended.err.count("penstock: ") == 1
    assert "hint: " in ended.err


def test_what_the_proxy_refuses_is_its_code_and_a_hint(
    command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    ended = command("tools", url[0].replace("//odd.", "//nope."))
    assert ended.code == 1
    assert ended.err.startswith("penstock: No route configured for host (no_route)\n")
    assert "hint: " in ended.err
    assert "MCP server did not" not in ended.err


@pytest.mark.parametrize(
    "bad", ["http://odd.example/mcp", "odd.example", "https://", "https://127.0.0.1/mcp", "ftp://x/", "my"]
)
def test_a_url_that_no_tunnel_has_is_one_line(
    command: Callable[..., Ended], url: tuple[str, str], monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", url[1])
    ended = command("call", bad, "say")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("penstock: ")
    assert "internal error" not in ended.err
    assert "TaskGroup" not in ended.err
