"""Structured logs: fixed event names, fields beside them; JSON unless a person is looking.

`configure` is for programs (the CLI); roles only ask for a logger and are silent about where it goes.
"""

from __future__ import annotations

import asyncio
import atexit
import json as jsonlib
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from penstock import omit
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

    from penstock.config.types import Level

# For tracebacks, which are plain here, it would import rich and with that pygments and attrs: 60 ms of every role's start.
with omit.absent("rich"):
    import structlog

try:
    import orjson
except ImportError:
    orjson = None

_LEVELS: Final[dict[str, int]] = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_LEVEL_NAMES: Final = {"warn": "warning", "exception": "error"}
_WAITING_MOST: Final = 256  # lines; a turn of the loop rarely writes more


def configure(level: Level = "info", *, json: bool | None = None) -> None:
    """Logs go to stderr from now on. json: None means JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    before = structlog.get_config()["logger_factory"]
    if isinstance(before, _Lines):
        before.close()
    structlog.configure(
        processors=list(_JSON) if as_json else _for_people(),
        wrapper_class=_wrapper(_LEVELS[level], as_json=as_json),
        logger_factory=_Lines(sys.stderr.buffer) if as_json else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # tests and `up` configure after modules are imported
    )
    # hpack shows header values at DEBUG, and a header may be a bearer token.
    logging.getLogger("hpack").setLevel(logging.WARNING)


class _Lines:
    """The logger under structlog's, and its factory: lines of one turn of the loop are made and leave together.

    Under load a proxy writes dozens of lines a turn, and making them in one go costs less than between everything else.
    Outside a loop a line leaves at once; what waits when the process ends leaves then.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: list[bytes | tuple[datetime, dict[str, Any], dict[str, Any]]] = []
        self._due: asyncio.AbstractEventLoop | None = None  # the loop whose next turn flushes
        atexit.register(self._flush)

    def __call__(self, *_: object) -> _Lines:
        return self

    def close(self) -> None:
        """Another one takes its place: what waits leaves. Loggers made before go on saying what they say, a turn at a time."""
        atexit.unregister(self._flush)
        self._flush()

    def msg(self, line: bytes) -> None:
        self._waiting.append(line)
        self._schedule()

    log = debug = info = warning = error = critical = exception = msg

    def info_later(self, context: dict[str, Any], fields: dict[str, Any]) -> None:
        """A line at info, of now; nobody changes a bound logger's `context` before it is made."""
        self._waiting.append((datetime.now(UTC), context, fields))
        self._schedule()

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
            return
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self._flush)
        elif len(self._waiting) >= _WAITING_MOST:
            self._flush()

    def _flush(self) -> None:
        self._due = None
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        lines = [
            line if isinstance(line, bytes) else _bytes({**line[1], **line[2], "level": "info", "timestamp": line[0]})
            for line in waiting
        ]
        self._stream.write(b"".join(lines))
        self._stream.flush()


def _wrapper(level: int, *, as_json: bool) -> type[FilteringBoundLogger]:
    """Structlog's bound logger; for JSON at info a quicker one, because a proxy writes two such lines a request."""
    filtering = structlog.make_filtering_bound_logger(level)
    if not as_json or level > logging.INFO:
        return filtering
    slow = filtering.info

    def info(self: Any, event: str, *args: Any, **fields: Any) -> Any:
        if args or "exc_info" in fields or self._processors != _JSON:  # the last: a test captures
            return slow(self, event, *args, **fields)
        fields["event"] = event
        return self._logger.info_later(self._context, fields)

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
    event["timestamp"] = datetime.now(UTC)
    return _bytes(event)


def _bytes(event: EventDict) -> bytes:
    if orjson is not None:
        try:
            return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            pass  # half a surrogate, out of a file's name: the library below writes it escaped
    event["timestamp"] = event["timestamp"].isoformat().replace("+00:00", "Z")
    try:
        return jsonlib.dumps(event, default=repr).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a value that holds itself
        said = {name: event.get(name) for name in ("event", "level", "timestamp", "role")}
        return jsonlib.dumps({**said, "fields": repr(event)}, default=repr).encode() + b"\n"


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
