"""Fetching from a URL that an organization's admin chose, without becoming their way into this platform's network.

A name is resolved once, every answer must be public, and what is dialled is an address that was checked. Redirects are not
followed, proxies of the environment not used, answers bounded. Hosts on the operator's list need only https.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, final
from weakref import WeakValueDictionary

from penstock.control.federation.urls import HTTPS
from penstock.errors import PenstockError, UnavailableError
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    import httpx2

    from penstock.control.config import Federation
    from penstock.control.federation.urls import Url

_RESOLVE_SECONDS: Final = 5.0
_AT_ONCE: Final = 8
_AT_ONCE_EACH: Final = 2  # of one organization: its issuers that hang keep nobody else's waiting
_PATIENCE: Final = 3  # times what one fetch may take, to wait for a place and fetch
_UNICAST: Final = IPv6Network("2000::/3")  # all that the internet routes; the rest is local in one way or another
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")


@final
class Fetch:
    """One for a control process."""

    def __init__(self, settings: Federation) -> None:
        self._settings = settings
        self._allowed = frozenset(host.lower() for host in settings.allowed_hosts)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def check(self, url: Url) -> None:
        """Raises ValueError, for a person, when this URL could never be fetched. A name without an answer may get one."""
        self._check_shape(url)
        if not self._is_allowed(url):
            try:
                await self._addresses(url)
            except UnavailableError:
                return

    async def get(
        self,
        url: Url,
        ca_pem: str | None,
        *,
        whose: str = "",
        form: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The document; with a `form`, the answer to it. Raises UnavailableError that says what went wrong.

        `whose` is the organization that pointed here.
        """
        place = self._places.setdefault(whose, asyncio.Semaphore(_AT_ONCE_EACH))
        seconds = self._settings.fetch_seconds
        try:
            async with asyncio.timeout(_PATIENCE * seconds), place, self._slots, asyncio.timeout(seconds):
                self._check_shape(url)
                address = (await self._addresses(url))[0]
                return await self._send(url, address, ca_pem, form, headers or {})
        except TimeoutError:
            raise UnavailableError(f"{url.host} took over {seconds:g} s") from None
        except (ValueError, PenstockError) as exc:
            raise UnavailableError(f"{url.host}: {_words(exc)}") from exc

    async def _send(self, url: Url, address: str, ca_pem: str | None, form: bytes | None, more: Mapping[str, str]) -> bytes:
        import httpx2  # noqa: PLC0415 - 30 ms that a platform without issuers never needs

        context = await asyncio.to_thread(contexts.issuer_client, ca_pem)
        literal = f"[{address}]" if ":" in address else address
        name = f"[{url.host}]" if url.is_address and ":" in url.host else url.host
        headers = {
            "host": name if url.port == HTTPS else f"{name}:{url.port}",
            "accept": "application/json, application/jwk-set+json",  # Kubernetes has its keys as the second alone
            "accept-encoding": "identity",  # or a small answer could become a large one
            **more,
        }
        try:
            # The URL holds the checked address; the certificate has to be the name's.
            async with (
                httpx2.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=None) as client,
                client.stream(
                    "GET" if form is None else "POST",
                    f"https://{literal}:{url.port}{url.path}",
                    content=form,
                    headers=headers,
                    extensions={"sni_hostname": url.host},
                ) as response,
            ):
                return await self._read(response)
        except httpx2.HTTPError as exc:
            raise ValueError(_words(exc)) from exc

    async def _read(self, response: httpx2.Response) -> bytes:
        if response.status_code != HTTPStatus.OK:
            raise ValueError(f"answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("answered compressed although it was asked not to")
        document = b""
        async for chunk in response.aiter_raw():
            document += chunk
            if len(document) > self._settings.document:
                raise ValueError(f"answered with more than {self._settings.document} bytes")
        return document

    def _check_shape(self, url: Url) -> None:
        if self._is_allowed(url):
            return
        if url.is_address:
            raise ValueError("url must use a DNS name, not an address")
        if url.port != HTTPS:
            raise ValueError("url must use port 443")
        if "." not in url.host:
            raise ValueError("url must use a public DNS name")

    def _is_allowed(self, url: Url) -> bool:
        names = {f"{url.host}:{url.port}"} | ({url.host} if url.port == HTTPS else set[str]())
        return not self._allowed.isdisjoint(names)

    async def _addresses(self, url: Url) -> list[str]:
        """The checked addresses. Raises ValueError for a private one, UnavailableError where there is no answer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as exc:
            raise UnavailableError(f"{url.host} does not resolve") from exc
        addresses = [str(entry[4][0]) for entry in found]
        if not self._is_allowed(url) and not all(is_public(ip_address(text.partition("%")[0])) for text in addresses):
            raise ValueError("url must resolve to public addresses")
        return addresses


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet's, in whatever way it is wrapped."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64 or address in _6TO4:
            inner = inner or ip_address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast


def _words(exc: Exception) -> str:
    if isinstance(exc, PenstockError):
        return exc.public
    return " ".join(str(exc).split())[:300] or type(exc).__name__
