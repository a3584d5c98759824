"""Structured logs: fixed event names, fields beside them; JSON unless a person is looking.

`configure` is for programs (the CLI); roles only ask for a logger and are silent about where it goes.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import structlog

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger, Processor

try:
    import orjson
except ImportError:
    orjson = None

Level = Literal["debug", "info", "warn", "error"]
_LEVELS: Final[dict[str, int]] = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def configure(level: Level = "info", *, json: bool | None = None) -> None:
    """Logs go to stderr from now on. json: None means JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(_encode) if as_json else _console()],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer) if as_json else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # tests and `up` configure after modules are imported
    )
    # hpack shows header values at DEBUG, and a header may be a bearer token.
    logging.getLogger("hpack").setLevel(logging.WARNING)


def _console() -> Processor:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _encode(event: object, default: Callable[[Any], Any], **_: object) -> bytes:
    """One line of JSON. orjson takes a tenth of the time, and a proxy writes two lines a request."""
    if orjson is not None:
        return orjson.dumps(event, default=default)
    return jsonlib.dumps(event, default=default).encode()


def parse_level(text: str) -> Level:
    """A level from a flag. Raises ConfigError."""
    if text not in _LEVELS:
        raise ConfigError(f"log level {text!r} is not one of {', '.join(_LEVELS)}")
    return cast("Level", text)


def get_logger(role: str, **fields: object) -> FilteringBoundLogger:
    """A logger whose lines carry `role` and `fields`, as configured now: programs configure before they make roles."""
    # bind() resolves structlog's lazy proxy, which would otherwise assemble a logger anew for every line.
    return cast("FilteringBoundLogger", structlog.get_logger().bind(role=role, **fields))
