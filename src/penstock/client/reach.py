"""A platform's URL, and why it was not reached: one sentence for each way of not being there."""

from __future__ import annotations

import socket
import ssl

import httpx2

from penstock.config import address
from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError


def check_url(base_url: str) -> None:
    """Whether it could be an API's. Raises ConfigError."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as exc:
        raise ConfigError(f"{base_url!r} is not a URL", hint="it looks like https://penstock.example.com") from exc
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(f"{base_url!r} is not the URL of an API", hint="it looks like https://penstock.example.com")


def is_loopback(base_url: str) -> bool:
    """Whether the platform is this machine: a company's proxy has no business with it."""
    return address.is_loopback(httpx2.URL(base_url).host)


def no_answer(base_url: str, exc: httpx2.HTTPError) -> PenstockError:
    """The error for a request that was not answered. The cause is below `exc`: the library keeps only its text."""
    detail = f"{type(exc).__name__}: {exc}"
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return IdentityError(
                f"the certificate of {base_url} is not trusted: {cause.verify_message}",
                detail=detail,
                hint="name its CA file, or check that the URL is the control plane's",
            )
        if isinstance(cause, ssl.SSLError):
            return UnavailableError(f"TLS with {base_url} failed", detail=detail, hint="is it https there, or http?")
        if isinstance(cause, socket.gaierror):
            return UnavailableError(f"the host of {base_url} has no address", detail=detail, hint="check the URL and DNS")
        if isinstance(cause, ConnectionRefusedError):
            return UnavailableError(
                f"nothing listens at {base_url}", detail=detail, hint="is the control plane running, and is this its port?"
            )
    if isinstance(exc, httpx2.TimeoutException):
        return UnavailableError(f"{base_url} does not answer in time", detail=detail, hint="is a firewall in between?")
    return UnavailableError(f"no answer from {base_url}", detail=detail, hint="is the control plane running?")


def _causes(exc: BaseException) -> list[BaseException]:
    """The exception and everything below it, each once; groups (several addresses tried) are opened."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [exc]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or cause in found:
            continue
        found.append(cause)
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # any kind will do
        waiting.extend((cause.__cause__, cause.__context__))
    return found
