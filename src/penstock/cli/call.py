"""`penstock call` and `penstock tools`: an MCP server behind a tunnel, from the command line."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from penstock.cli.output import data, missing_extra, say
from penstock.cli.resources.options import ApiKeyFile, ApiUrl, CaFile, Options
from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from mcp.client import Client

    from penstock.client.access import Access

_WHOM: Final = """The platform and the credential are found in this order: --api-key-file or PENSTOCK_API_KEY (with --api-url or
    PENSTOCK_API_URL), PENSTOCK_PROFILE, .penstock/profile.json here, the session of `penstock login`,
    ~/.config/penstock/profile.json, ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN with ANTHROPIC_BASE_URL."""
_TOOLS: Final = f"""List the tools of an MCP server behind a tunnel.

    \b
    penstock tools https://echo.ab12cd34.tunnel.example.com/mcp

    {_WHOM}
    """
_CALL: Final = f"""Call a tool. Values are JSON where they parse as such and the tool takes it.

    \b
    penstock call https://echo.ab12cd34.tunnel.example.com/mcp hello name=you
    penstock call URL add a=1 b=2 --json

    {_WHOM}
    """
Url = Annotated[str, typer.Argument(metavar="URL", help="https://<route>.<tunnel-domain>/mcp")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the server said as JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("tools", help=_TOOLS)(tools)
    app.command("call", help=_CALL)(call)


def tools(
    url: Url,
    as_json: AsJson = False,  # noqa: FBT002 - typer's way of a flag
    api_url: ApiUrl = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print the tools' names and descriptions."""

    async def ask(session: Client) -> None:
        result = await session.list_tools()
        if as_json:
            data().print_json(json.dumps([tool.model_dump(mode="json", exclude_none=True) for tool in result.tools]))
            return
        for tool in result.tools:
            say(f"{tool.name}\t{(tool.description or '').partition(chr(10))[0]}")

    _in_session(url, Options(api_url, api_key_file, ca_file), ask)


def call(
    url: Url,
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]…")] = None,
    as_json: AsJson = False,  # noqa: FBT002 - typer's way of a flag
    api_url: ApiUrl = None,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print what the tool answers; exit 1 if it reports an error."""
    texts = _texts(arguments or [])
    values = {name: _json_or_text(text) for name, text in texts.items()}

    async def ask(session: Client) -> None:
        if any(not isinstance(value, str) for value in values.values()):
            for name in await _text_only(session, tool):
                if name in values and not isinstance(values[name], str):
                    values[name] = texts[name]
        result = await session.call_tool(tool, values)
        if as_json:
            data().print_json(result.model_dump_json(exclude_none=True))
        else:
            for part in result.content:
                say(part.text if part.type == "text" else f"[{part.type}]")
        if result.is_error:
            raise typer.Exit(1)

    _in_session(url, Options(api_url, api_key_file, ca_file), ask)


def _texts(arguments: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator or not name:
            raise ConfigError(f"{argument!r} is not NAME=VALUE", hint="for example name=you or count=3")
        texts[name] = text
    return texts


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _text_only(session: Client, tool: str) -> list[str]:
    """The tool's arguments that take nothing but text: there `1` and `true` are text, and no number or truth."""
    listed = await session.list_tools()
    while not any(one.name == tool for one in listed.tools) and listed.next_cursor:
        listed = await session.list_tools(cursor=listed.next_cursor)
    schemas: list[dict[str, Any]] = [one.input_schema for one in listed.tools if one.name == tool]
    members: Any = schemas[0].get("properties") if schemas else None
    if not isinstance(members, dict):
        return []
    return [
        name
        for name, member in cast("dict[str, Any]", members).items()
        if isinstance(member, dict) and cast("dict[str, Any]", member).get("type") == "string"
    ]


def _access(options: Options) -> Access:
    """As every command finds it; and its certificate is left to the next call."""
    from penstock.cli.resources.credential import find  # noqa: PLC0415 - only when asked for
    from penstock.client import kept  # noqa: PLC0415

    return replace(find(options, os.environ), kept=kept.find_folder(os.environ))


def _in_session(url: str, options: Options, ask: Any) -> None:
    try:
        from penstock.client.mcp import first_of, mcp_session  # noqa: PLC0415 - the SDK takes half a second to import
    except ModuleNotFoundError as exc:
        missing_extra("mcp", exc)
    from penstock.net import loop  # noqa: PLC0415

    access = _access(options)

    async def main() -> None:
        async with mcp_session(url, access) as session:
            await ask(session)

    try:
        loop.run(main())
    except (PenstockError, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except Exception as exc:  # a stranger's server makes the SDK raise anything, groups too
        first = first_of(exc)
        if isinstance(first, typer.Exit):
            raise first from None
        raise PenstockError(f"the MCP server did not answer as one: {first}", detail=type(first).__name__) from exc
