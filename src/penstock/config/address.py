"""A TCP address. Apart from the other types of settings, for it needs no pydantic: `penstock health` starts without."""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address; an empty host means every interface."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """From `host:port`, `:port` or `[IPv6]:port`; ValueError for anything else."""
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
            msg = f"{text!r} is not host:port"
            raise ValueError(msg)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            ipaddress.IPv6Address(host)
        elif ":" in host:
            msg = f"{text!r}: an IPv6 address needs brackets, as in [::1]:8080"
            raise ValueError(msg)
        return cls(host, int(port))

    @classmethod
    def of(cls, value: object) -> HostPort:
        """From what a setting may be; ValueError for anything else."""
        if isinstance(value, HostPort):
            return value
        if not isinstance(value, str):
            msg = "must be text like 127.0.0.1:8080"
            raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a message with the field's path
        return cls.parse(value)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415 - only pydantic asks, and has imported it

        return core_schema.no_info_plain_validator_function(
            cls.of, serialization=core_schema.to_string_ser_schema(), json_schema_input_schema=core_schema.str_schema()
        )


def unbindable(place: object, exc: OSError) -> ConfigError:
    """Why nothing can listen there."""
    match exc.errno:
        case errno.EADDRINUSE:
            reason, hint = "the port is busy", "stop what listens there, or set another port"
        case errno.EACCES:
            reason, hint = "this user may not bind it", "use a port above 1023, or grant CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL | None:  # from 3.12 on asyncio says it in words alone
            reason, hint = "the address is not on this machine", "use 127.0.0.1, 0.0.0.0 or an address of this machine"
        case _:
            reason, hint = exc.strerror or str(exc), "check the listening address"
    return ConfigError(f"cannot listen on {place}: {reason}", detail=str(exc), hint=hint)


def is_loopback(host: str) -> bool:
    """Whether a host, as it is named, is this machine: `localhost` or an address of loopback, IPv4's within IPv6 too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    # Before 3.13 Python asks no mapped address what it is.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
