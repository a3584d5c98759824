"""The server that the MCP conformance suite looks for: its tools, resources and prompts, on the official SDK."""

from __future__ import annotations

import base64
from typing import Any, Literal

from mcp import types
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel, Field

_PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
_WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data\0\0\0\0"


class Who(BaseModel):
    """What `test_elicitation` asks for."""

    username: str
    email: str


class Defaults(BaseModel):
    """Every kind of value with its default (SEP-1034)."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


def conformance_server() -> MCPServer:
    """The whole fixture."""
    server = MCPServer("conformance", log_level="ERROR")
    _content(server)
    _conversation(server)
    _resources(server)
    _prompts(server)
    return server


def _image() -> types.ImageContent:
    return types.ImageContent(type="image", data=base64.b64encode(_PNG).decode(), mime_type="image/png")


def _embedded(uri: str, text: str) -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
    return types.EmbeddedResource(type="resource", resource=contents)


def _content(server: MCPServer) -> None:
    @server.tool()
    async def test_simple_text() -> str:
        """Simple text."""
        return "This is a simple text response for testing."

    @server.tool()
    async def test_image_content() -> types.ImageContent:
        """Image content."""
        return _image()

    @server.tool()
    async def test_audio_content() -> types.AudioContent:
        """Audio content."""
        return types.AudioContent(type="audio", data=base64.b64encode(_WAV).decode(), mime_type="audio/wav")

    @server.tool()
    async def test_embedded_resource() -> types.EmbeddedResource:
        """Embedded resource."""
        return _embedded("test://embedded-resource", "This is an embedded resource content.")

    @server.tool()
    async def test_multiple_content_types() -> list[Any]:
        """Multiple content types."""
        text = types.TextContent(type="text", text="Multiple content types test:")
        return [text, _image(), _embedded("test://mixed-content-resource", '{"test":"data","value":123}')]

    @server.tool()
    async def test_error_handling() -> str:
        """Error handling."""
        msg = "This tool intentionally returns an error for testing"
        raise RuntimeError(msg)


def _conversation(server: MCPServer) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        """Tool with logging."""
        for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            params = types.LoggingMessageNotificationParams(level="info", data=text)
            await ctx.session.send_notification(
                types.LoggingMessageNotification(params=params), related_request_id=ctx.request_id
            )
        return "logged"

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Tool with progress."""
        for progress in (0, 50, 100):
            await ctx.report_progress(progress, 100)
        return "done"

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Sampling."""
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
        return f"LLM response: {answer.content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Elicitation."""
        answer = await ctx.session.elicit_form(message, Who.model_json_schema(), related_request_id=ctx.request_id)
        return f"User response: {answer.action} {answer.content}"

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Elicitation sep1034 defaults."""
        schema = Defaults.model_json_schema()
        answer = await ctx.session.elicit_form("Please review", schema, related_request_id=ctx.request_id)
        return f"Elicitation completed: {answer.action} {answer.content}"

    @server.tool()
    async def test_reconnection(ctx: Context) -> str:
        """Reconnection."""
        await ctx.close_sse_stream()
        return "Reconnection test completed successfully."


def _resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    async def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    async def static_binary() -> bytes:
        return _PNG

    @server.resource("test://template/{id}/data", mime_type="application/json")
    async def template(id: str) -> str:  # noqa: A002 - the template's own name for it
        return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'

    @server.resource("test://watched-resource", mime_type="text/plain")
    async def watched() -> str:
        return "Watched resource content"


def _prompts(server: MCPServer) -> None:
    @server.prompt()
    async def test_simple_prompt() -> str:
        """Simple prompt."""
        return "This is a simple prompt for testing."

    @server.prompt()
    async def test_prompt_with_arguments(
        arg1: str = Field(description="First test argument"), arg2: str = Field(description="Second test argument")
    ) -> str:
        """Prompt with arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Any]:  # noqa: N803 - the suite's name for it
        """Prompt with embedded resource."""
        return [{"role": "user", "content": _embedded(resourceUri, "Embedded resource content for testing.")}]

    @server.prompt()
    async def test_prompt_with_image() -> list[Any]:
        """Prompt with image."""
        return [{"role": "user", "content": _image()}]

    @server.completion()
    async def complete(ref: Any, argument: types.CompletionArgument, context: Any) -> types.Completion:
        return types.Completion(values=["paris", "park"], total=2, has_more=False)
