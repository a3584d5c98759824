"""Out through a company's HTTP proxy: CONNECT, and who is reached without it.

`HTTPS_PROXY` and `NO_PROXY` mean what they mean to curl and Go programs. The proxy sees the edge's name, port and byte counts;
everything else is inside TLS that ends at the edge.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import h11

from penstock.config.address import is_loopback
from penstock.errors import ConfigError, UnavailableError
from penstock.net.dial import TIMEOUT, dial_tcp, handshake
from penstock.net.streams import ByteStream
from penstock.net.transports import Parked, cut
from penstock.secret import Secret

if TYPE_CHECKING:
    from penstock.tls.contexts import TLSContext

_HEAD: Final = 16 * 1024  # an answer to CONNECT has a line or two
_READ: Final = 4096


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy, and the credentials that it alone is shown."""

    host: str
    port: int
    is_tls: bool = False
    authorization: Secret | None = None
    """The value of Proxy-Authorization."""

    @classmethod
    def parse(cls, url: Secret) -> HttpProxy:
        """From `http://user:password@host:port` (https, and no scheme at all, too). ConfigError, which shows none of it."""
        text = url.reveal().strip()
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError:
            raise _malformed("it cannot be read") from None
        if parts.scheme not in {"http", "https"}:
            raise _malformed("only http:// and https:// proxies can be used")
        if not parts.hostname:
            raise _malformed("it names no host")
        secret = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            secret = Secret(f"Basic {base64.b64encode(pair).decode()}")
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, secret)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether `host:port` is reached without the proxy: this machine always, and what a `NO_PROXY` list names.

    Entries: `*`, a name (its subdomains too, with or without a leading dot), an address, a network; each may end in `:port`.
    """
    host = host.strip("[]").rstrip(".").lower()
    address = _address(host)
    if is_loopback(host):
        return True
    return any(_matches(entry.strip().lower(), host, address, port) for entry in no_proxy.split(","))


async def dial_through(
    proxy: HttpProxy, host: str, port: int, *, context: TLSContext | None = None, timeout: float = TIMEOUT
) -> asyncio.Transport:
    """An open transport to `host:port` by way of `proxy`, paused as that of `dial_tcp`. The proxy looks the name up.

    context: for a proxy that is itself reached over TLS. Raises UnavailableError, which names the proxy.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    try:
        transport = await dial_tcp(proxy.host, proxy.port, timeout=timeout)
    except UnavailableError as exc:
        raise _failed(proxy, exc.public, detail=exc.detail) from exc
    if proxy.is_tls and context is not None:
        transport = await _secure(proxy, transport, context, max(0.001, end - loop.time()))
    try:
        async with asyncio.timeout(max(0.001, end - loop.time())):
            await _connect(proxy, transport, host, port)
    except TimeoutError as exc:
        cut(transport)
        raise _failed(proxy, "it does not answer in time") from exc
    except OSError as exc:
        cut(transport)
        raise _failed(proxy, "it ended the connection", detail=str(exc)) from exc
    except BaseException:
        cut(transport)
        raise
    return transport


async def _secure(proxy: HttpProxy, lower: asyncio.Transport, context: TLSContext, timeout: float) -> asyncio.Transport:
    place = str(proxy)
    try:
        return await handshake(lower, context=context, server_hostname=proxy.host, timeout=timeout, place=place)
    except ssl.SSLError as exc:
        raise _failed(proxy, "its certificate is not trusted, or it speaks no TLS", detail=str(exc)) from exc
    except UnavailableError as exc:
        raise _failed(proxy, exc.public, detail=exc.detail) from exc


async def _connect(proxy: HttpProxy, transport: asyncio.Transport, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", target)]
    if proxy.authorization is not None:
        headers.append(("Proxy-Authorization", proxy.authorization.reveal()))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
    try:
        head = http.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b""
    except (UnicodeError, h11.LocalProtocolError) as exc:
        raise UnavailableError(
            "the name is not known", detail=f"CONNECT to {host!a}: {exc}", hint="check the host's name"
        ) from exc
    pipe = ByteStream.over(transport)
    await pipe.write(head)
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as exc:
            raise _failed(proxy, "what it answers is no HTTP", detail=str(exc)) from exc
        if event is h11.NEED_DATA:
            http.receive_data(await pipe.read(_READ))
        elif isinstance(event, h11.Response):
            break
    if not HTTPStatus.OK <= event.status_code < HTTPStatus.MULTIPLE_CHOICES:
        raise _refused(proxy, event.status_code, target)
    transport.pause_reading()
    transport.set_protocol(Parked())
    if pipe.is_readable or http.trailing_data[0]:
        raise _failed(proxy, "it sent something before the edge could")  # a TLS server never speaks first


def _refused(proxy: HttpProxy, status: int, target: str) -> UnavailableError:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _failed(proxy, "it wants other credentials (407)", hint="put user and password into HTTPS_PROXY")
    return _failed(proxy, f"it refuses to connect to {target} ({status})", hint=f"allow CONNECT to {target} there")


def _failed(proxy: HttpProxy, what: str, *, detail: str | None = None, hint: str | None = None) -> UnavailableError:
    return UnavailableError(
        f"The HTTP proxy {proxy} failed: {what}",
        detail=detail,
        hint=hint or "check HTTPS_PROXY; NO_PROXY lists what is reached without it",
    )


def _malformed(why: str) -> ConfigError:
    return ConfigError(f"HTTPS_PROXY: {why}", hint="set it to something like http://proxy.example.com:3128")


def _matches(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and (":" not in name or name.endswith("]")):
        if int(wanted) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".").rstrip(".")
    if not entry:
        return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    return host == entry or host.endswith(f".{entry}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
