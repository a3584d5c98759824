"""Structured logs: fixed event names, fields beside them; JSON unless a person is looking.

`configure` is for programs (the CLI); roles only ask for a logger and are silent about where it goes.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, cast

import structlog

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

try:
    import orjson
except ImportError:
    orjson = None

Level = Literal["debug", "info", "warn", "error"]
_LEVELS: Final[dict[str, int]] = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_LEVEL_NAMES: Final = {"warn": "warning", "exception": "error"}


def configure(level: Level = "info", *, json: bool | None = None) -> None:
    """Logs go to stderr from now on. json: None means JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    structlog.configure(
        processors=list(_JSON) if as_json else _for_people(),
        wrapper_class=_wrapper(_LEVELS[level], as_json=as_json),
        logger_factory=_Lines(sys.stderr.buffer) if as_json else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # tests and `up` configure after modules are imported
    )
    # hpack shows header values at DEBUG, and a header may be a bearer token.
    logging.getLogger("hpack").setLevel(logging.WARNING)


class _Lines:
    """The logger under structlog's, and its factory: lines of one turn of the loop leave in one write.

    Under load a proxy writes dozens of lines a turn. Outside a loop a line leaves at once; what waits when the process ends
    is flushed by the interpreter.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._due: asyncio.AbstractEventLoop | None = None  # the loop whose next turn flushes

    def __call__(self, *_: object) -> _Lines:
        return self

    def msg(self, line: bytes) -> None:
        self._stream.write(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
            return
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self._flush)

    log = debug = info = warning = error = critical = exception = msg

    def _flush(self) -> None:
        self._due = None
        self._stream.flush()


def _wrapper(level: int, *, as_json: bool) -> type[FilteringBoundLogger]:
    """Structlog's bound logger; for JSON at info a quicker one, because a proxy writes two such lines a request."""
    filtering = structlog.make_filtering_bound_logger(level)
    if not as_json or level > logging.INFO:
        return filtering
    slow = filtering.info

    def info(self: Any, event: str, *args: Any, **fields: Any) -> Any:
        if args or self._processors != _JSON:  # a test captures
            return slow(self, event, *args, **fields)
        return self._logger.msg(_line(self._logger, "info", {**self._context, **fields, "event": event}))

    return type("QuickLogger", (filtering,), {"info": info})


def _for_people() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]


def _line(logger: object, method: str, event: EventDict) -> bytes:
    """One line of JSON and its end. It does alone what a chain of processors would: a proxy writes two lines a request."""
    event["level"] = _LEVEL_NAMES.get(method, method)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(cast("Any", logger), method, event)
    if orjson is not None:
        event["timestamp"] = datetime.now(UTC)
        return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return jsonlib.dumps(event, default=repr).encode() + b"\n"


_JSON: Final[list[Processor]] = [_line]


def parse_level(text: str) -> Level:
    """A level from a flag. Raises ConfigError."""
    if text not in _LEVELS:
        raise ConfigError(f"log level {text!r} is not one of {', '.join(_LEVELS)}")
    return cast("Level", text)


def get_logger(role: str, **fields: object) -> FilteringBoundLogger:
    """A logger whose lines carry `role` and `fields`, as configured now: programs configure before they make roles."""
    # bind() resolves structlog's lazy proxy, which would otherwise assemble a logger anew for every line.
    return cast("FilteringBoundLogger", structlog.get_logger().bind(role=role, **fields))
