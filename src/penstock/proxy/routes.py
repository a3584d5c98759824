"""Which upstream a host name means, and whether three names mean the same one. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.errors import PenstockError, TunnelError, TunnelErrorCode
from penstock.protocol.hosts import normalize_host
from penstock.proxy.route_settings import RouteConfig, parse_upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.config.types import IPNetwork
    from penstock.proxy.oauth_settings import OAuthConfig


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream, and what may be done on the way to it: two that are equal may share connections.

    host_header is None where the caller's own Host is sent, allowed where the proxy's permission holds, sse_keepalive 0
    where event streams pass as they are, oauth where a token is asked for.
    """

    name: str
    host: str
    port: int
    is_tls: bool
    host_header: bytes | None
    allowed: tuple[IPNetwork, ...] | None = None
    sse_keepalive: float = 0.0
    oauth: OAuthConfig | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for twice a request, and the generated one would go through all of it, networks included.
        said = (self.name, self.host, self.port, self.is_tls, self.host_header, self.allowed, self.sse_keepalive, self.oauth)
        object.__setattr__(self, "_hash", hash(said))

    def __hash__(self) -> int:
        return self._hash

    @property
    def strips_token(self) -> bool:
        """Whether bearer tokens end here."""
        return self.oauth is not None and self.oauth.token == "strip"  # noqa: S105 - what is done with one

    @property
    def url(self) -> str:
        """The upstream as it was configured."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


class RouteTable:
    """Routes by normalized host name: exactly, then with the tunnel domain stripped."""

    __slots__ = ("_by_host", "_suffix")

    def __init__(self, routes: Mapping[str, RouteConfig], domain: str) -> None:
        self._by_host = {name: _route(name, config) for name, config in routes.items()}
        self._suffix = f".{domain}" if domain else ""

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_host.values())

    def find(self, host: str) -> Route | None:
        """The route of a normalized host."""
        route = self._by_host.get(host)
        if route is None and self._suffix and host.endswith(self._suffix):
            return self._by_host.get(host.removesuffix(self._suffix))
        return route

    def is_same(self, one: str, other: str) -> bool:
        """Whether two normalized hosts are one name, or two names of one route."""
        if one == other:
            return True
        route = self.find(one)
        return route is not None and route is self.find(other)

    def choose(self, raw: bytes, *, upgrade: str, server_name: str | None) -> Route | TunnelError:
        """Where a request with this Host goes on a stream opened for `upgrade` with SNI `server_name`, or why nowhere."""
        host = normalize(raw.decode("ascii"))
        if host is None:
            return TunnelError(TunnelErrorCode.BAD_REQUEST, "the request's Host is not a host name")
        if not self.is_addressed(host, upgrade=upgrade, server_name=server_name):
            return TunnelError(
                TunnelErrorCode.MISDIRECTED,
                "the request's Host is not the one this stream was opened for",
                detail=f"upgrade {upgrade!r}, SNI {server_name!r}, Host {host!r}",
            )
        return self.find(host) or TunnelError(TunnelErrorCode.NO_ROUTE, "No route configured for host")

    def is_addressed(self, host: str, *, upgrade: str, server_name: str | None) -> bool:
        """Whether a request for `host` may come on a stream that was opened for `upgrade` with SNI `server_name`.

        The edge gave its permission for the upgrade's Host alone, and the caller checked the certificate for the SNI alone:
        a request for anything else would borrow both. A stock caller's outer Host may be only the domain above the
        route; then the SNI must say which.
        """
        if server_name is not None and not self.is_same(server_name, host):
            return False
        if self.find(upgrade) is None and host.endswith(f".{upgrade}"):
            return server_name is not None
        return self.is_same(upgrade, host)


class StreamNames:
    """What one stream was opened for: the upgrade's Host, normalized, and the SNI once TLS is up."""

    __slots__ = ("_known", "_upgrade", "server_name")

    def __init__(self, upgrade: str) -> None:
        self._upgrade = upgrade
        self.server_name: str | None = None
        # Keep-alive requests say the same Host each time, and find the same route until a reload brings another table.
        self._known: tuple[bytes, RouteTable, Route | TunnelError] | None = None

    def route(self, raw: bytes, routes: RouteTable) -> Route | TunnelError:
        """Where a request with this Host goes, or why nowhere."""
        known = self._known
        if known is not None and known[0] == raw and known[1] is routes:
            return known[2]
        to = routes.choose(raw, upgrade=self._upgrade, server_name=self.server_name)
        self._known = (raw, routes, to)
        return to


def _route(name: str, config: RouteConfig) -> Route:
    scheme, host, port = parse_upstream(config.url)
    header: bytes | None
    if config.host_header == "preserve":
        header = None
    elif config.host_header == "upstream":
        # RFC 9110 4.2: the default port is left out, as every client does; servers compare the text.
        authority = config.url.partition("://")[2].lower()
        default = ":443" if scheme == "https" else ":80"
        header = authority.removesuffix(default).encode()
    else:
        header = config.host_header.encode()
    return Route(name, host, port, scheme == "https", header, config.allowed_ips, config.sse_keepalive, config.require_oauth)


def normalize(host: str) -> str | None:
    """A Host or SNI as routes know it, or None for what is no host name."""
    try:
        return normalize_host(host)
    except (ValueError, PenstockError):
        return None
