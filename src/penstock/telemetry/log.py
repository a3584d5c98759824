"""Structured logs: fixed event names, fields beside them; JSON unless a person is looking.

`configure` is for programs (the CLI); roles only ask for a logger and are silent about where it goes.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

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
        processors=[_line] if as_json else _for_people(),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer) if as_json else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # tests and `up` configure after modules are imported
    )
    # hpack shows header values at DEBUG, and a header may be a bearer token.
    logging.getLogger("hpack").setLevel(logging.WARNING)


def _for_people() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]


def _line(logger: object, method: str, event: EventDict) -> bytes:
    """One line of JSON. It does alone what a chain of processors would: a proxy writes two lines a request."""
    event["level"] = _LEVEL_NAMES.get(method, method)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(cast("Any", logger), method, event)
    if orjson is not None:
        event["timestamp"] = datetime.now(UTC)
        return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z)
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return jsonlib.dumps(event, default=repr).encode()


def parse_level(text: str) -> Level:
    """A level from a flag. Raises ConfigError."""
    if text not in _LEVELS:
        raise ConfigError(f"log level {text!r} is not one of {', '.join(_LEVELS)}")
    return cast("Level", text)


def get_logger(role: str, **fields: object) -> FilteringBoundLogger:
    """A logger whose lines carry `role` and `fields`, as configured now: programs configure before they make roles."""
    # bind() resolves structlog's lazy proxy, which would otherwise assemble a logger anew for every line.
    return cast("FilteringBoundLogger", structlog.get_logger().bind(role=role, **fields))
