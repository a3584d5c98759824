"""URLs that an organization's admin gives us to fetch. Shape alone; whether one may be dialled is `fetch`'s to say."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from penstock.protocol.hosts import normalize_host

_LONGEST: Final = 2000
HTTPS: Final = 443


@dataclass(frozen=True, slots=True)
class Url:
    """An https URL, taken apart."""

    host: str
    """Lower case, without brackets or port."""
    port: int
    path: str
    is_address: bool

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError with what a person can mend."""
        if len(text) > _LONGEST or not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
            raise ValueError("not a URL")
        try:
            parts = urlsplit(text)
            port = parts.port or HTTPS
        except ValueError:
            raise ValueError("not a URL") from None
        if parts.scheme != "https":
            raise ValueError("url must use https scheme")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not hold a user name or a password")
        if parts.fragment or not parts.hostname:
            raise ValueError("url must name a host, and no fragment")
        path = parts.path or "/"
        host, is_address = _host(parts.hostname)
        return cls(host, port, f"{path}?{parts.query}" if parts.query else path, is_address)

    def below(self, path: str) -> Url:
        """The same place with `path` behind it."""
        return Url(self.host, self.port, self.path.partition("?")[0].rstrip("/") + path, self.is_address)


def _host(text: str) -> tuple[str, bool]:
    try:
        return str(ip_address(text)), True
    except ValueError:
        pass
    if "." in text and text.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError("not a URL")  # 127.1, 0x7f.1: what some resolvers take for an address
    try:
        return normalize_host(text), False
    except ValueError:
        raise ValueError("url must name a DNS host") from None
