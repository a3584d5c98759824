"""The value types of settings: addresses, durations, sizes and networks, parsed once and printed as they were written."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from penstock.config.address import HostPort as HostPort  # noqa: PLC0414 - one of the types of settings, told here
from penstock.errors import unreadable
from penstock.secret import Secret

Level = Literal["debug", "info", "warn", "error"]
"""What is logged."""

FORMS: Final[dict[str, str]] = {}
"""Patterns of settings, and what to say where a text is not of that form: nobody should have to read the pattern."""


def form(pattern: str, words: str) -> str:
    """A pattern for a `Field`, and the words for it."""
    FORMS[pattern] = words
    return pattern


IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: object) -> float:
    """Seconds from a Go duration (`30s`, `1h30m`, `500ms`), or from a number of seconds; never negative, whole microseconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and value.strip() == "0":
        seconds = 0.0
    elif isinstance(value, str) and _is_duration(value.strip()):
        parts = _DURATION_PART.findall(value.strip())
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        msg = f"{value!r} is not a duration like 30s, 5m or 1h30m"
        raise ValueError(msg)
    if not 0 <= seconds <= _LONGEST:
        msg = "a duration is a number, zero or more, and less than 30 years"
        raise ValueError(msg)
    return max(round(seconds, 6), 1e-6) if seconds else 0.0  # 0 often means never: nothing but 0 becomes it


_LONGEST: Final = 30 * 365 * 86400.0  # floats tell microseconds apart up to here, and event loops take it


def _is_duration(text: str) -> bool:
    return re.fullmatch(f"(?:{_DURATION_PART.pattern})+", text) is not None


def format_duration(seconds: float) -> str:
    """The shortest of h, m, s, ms that says it exactly."""
    for unit, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    number, unit = (f"{seconds * 1000:.3f}", "ms") if 0 < seconds < 1 else (f"{seconds:.6f}", "s")
    return number.rstrip("0").rstrip(".") + unit


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": ["string", "number"]}),
]
"""Seconds as a float; written as a Go duration."""

_SIZE: Final = re.compile(r"(\d+)\s*(B|KB|KiB|MB|MiB|GB|GiB)?")
_BYTES: Final = {None: 1, "B": 1, "KB": 1000, "KiB": 1 << 10, "MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30}


def parse_size(value: object) -> int:
    """Bytes from `64KiB`, `1MiB`, `500MB` or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        msg = f"{value!r} is not a size like 64KiB or 1MiB"
        raise ValueError(msg)
    return int(match[1]) * _BYTES[match[2]]


ByteSize = Annotated[int, BeforeValidator(parse_size), WithJsonSchema({"type": ["string", "integer"]})]
"""Bytes."""


def parse_network(value: object) -> IPNetwork:
    """A network from a CIDR or a single address; host bits that are set are an error, they are a typing mistake."""
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str):
        msg = "must be text like 10.0.0.0/8 or 10.1.2.3"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a message with the field's path
    return ipaddress.ip_network(value.strip())


Network = Annotated[
    IPNetwork, BeforeValidator(parse_network), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
Networks = tuple[Network, ...]
"""CIDRs or single addresses."""


def parse_secret(value: object) -> Secret:
    """A secret from text, or from the file of `{file: PATH}`; blanks around it are the file's or the shell's."""
    if isinstance(value, Secret):
        return value
    if isinstance(value, dict):
        value = _text_of(cast("dict[object, object]", value))
    if not isinstance(value, str) or not value.strip():
        msg = "must be text, or {file: PATH}"
        raise ValueError(msg)
    return Secret(value.strip())


def _text_of(reference: dict[object, object]) -> str:
    path = reference.get("file")
    if len(reference) != 1 or not isinstance(path, str):
        msg = "must be text, or {file: PATH}"
        raise ValueError(msg)
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        error = unreadable(path, exc)
        msg = f"{error.public} ({error.hint})"
        raise ValueError(msg) from None


SecretText = Annotated[Secret, BeforeValidator(parse_secret), WithJsonSchema({"type": ["string", "object"]})]
"""Text that is never shown; `{file: PATH}` reads it from a file, as containers are given secrets."""
