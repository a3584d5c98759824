"""Decides about requests on routes with `require_oauth`: pass, 401 with the way to a token, 403, or the metadata itself."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Final, Protocol

from penstock.errors import TunnelError, TunnelErrorCode, UnavailableError
from penstock.net.tasks import Tasks
from penstock.proxy.heads import Framing, ResponseHead, values
from penstock.proxy.oauth.keys import Keys
from penstock.proxy.oauth.tokens import TokenError, check, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from penstock.proxy.guard import LookUp
    from penstock.proxy.heads import RequestHead
    from penstock.proxy.limits import ProxyLimits
    from penstock.proxy.oauth_settings import OAuthConfig
    from penstock.proxy.routes import Route
    from penstock.tls.contexts import TLSContext

_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")  # RFC 6750 2.1
_METADATA: Final = "/.well-known/oauth-protected-resource"  # RFC 9728 3
_PATH_TOLD: Final = 512
_RETIRE_SECONDS: Final = 35.0  # metadata twice and keys once, each with its ten seconds


class Asking(Protocol):
    """A request at the gate; exactly one of the three is called, unless the wait is cancelled."""

    def admitted(self) -> None:
        """It may go on to the upstream."""
        ...

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Here is its answer; no upstream is asked."""
        ...

    def not_connected(self, error: TunnelError) -> None:
        """It may not."""
        ...


class Gates:
    """The gates of a proxy, by their settings: routes with the same ones share keys."""

    def __init__(self) -> None:
        self._gates: dict[OAuthConfig, Gate] = {}
        self._tasks = Tasks()

    def find(self, route: Route) -> Gate | None:
        """The gate before a route, if there is one."""
        return None if route.oauth is None else self._gates[route.oauth]

    def adopt(
        self, trusts: Mapping[OAuthConfig, TLSContext], *, limits: ProxyLimits, lookup: LookUp, log: FilteringBoundLogger
    ) -> None:
        """Have these, and no others. One that trusts as before keeps its keys."""
        before, self._gates = self._gates, {}
        for config, trust in trusts.items():
            old = before.get(config)
            if old is not None and old.trust is trust:
                self._gates[config] = before.pop(config)
                old.log = log
            else:
                self._gates[config] = Gate(config, trust=trust, limits=limits, lookup=lookup, log=log)
        for gate in before.values():
            self._tasks.spawn(_retire(gate), "retire gate")

    async def aclose(self) -> None:
        """Let nobody wait any more."""
        for gate in self._gates.values():
            await gate.aclose()
        await self._tasks.aclose()


async def _retire(gate: Gate) -> None:
    """Close it when every fetch that a request waits for is over: a reload ends nobody's request."""
    try:
        await asyncio.sleep(_RETIRE_SECONDS)
    finally:
        await gate.aclose()


class Gate:
    """One issuer, one audience, some scopes."""

    def __init__(
        self, config: OAuthConfig, *, trust: TLSContext, limits: ProxyLimits, lookup: LookUp, log: FilteringBoundLogger
    ) -> None:
        self.trust = trust
        self._config = config
        self.log = log
        self._keys = Keys(config, trust=trust, limits=limits, lookup=lookup)
        self._tasks = Tasks()

    def ask(self, head: RequestHead, asking: Asking) -> Callable[[], object] | None:
        """Decide, at once and inside this call where the keys are there; returns what cancels the wait, or None."""
        host, path = head.host.decode("ascii"), head.target.decode("ascii").partition("?")[0]
        if path.startswith(_METADATA) and path[len(_METADATA) :][:1] in {"", "/"} and head.method in {b"GET", b"HEAD"}:
            asking.answered(*self._metadata(host, path[len(_METADATA) :], is_head=head.method == b"HEAD"))
            return None
        challenge = self._challenge(host, path)
        try:
            token = _token(head)
            kid, algorithm = read_header(token) if token is not None else (None, "")
        except TokenError as exc:
            asking.not_connected(_refused(challenge, exc, self._config))
            return None
        if token is None:
            asking.not_connected(_unauthorized(challenge, "A bearer token is needed", detail="no token"))
            return None
        if self._keys.are_fresh and (self._keys.current.find(kid, algorithm) is not None or not self._keys.may_fetch):
            self._decide(token, kid, algorithm, challenge, asking)
            return None
        return self._tasks.spawn(self._fetch_and_decide(token, kid, algorithm, challenge, asking), "gate").cancel

    async def aclose(self) -> None:
        """Let nobody wait any more."""
        await self._keys.aclose()
        await self._tasks.aclose()

    async def _fetch_and_decide(self, token: str, kid: str | None, algorithm: str, challenge: str, asking: Asking) -> None:
        if self._keys.may_fetch:
            failed = await self._keys.fetch()
            if failed is not None:
                hint = "check the issuer's address against require_oauth.allowed_ips, and its certificate against ca_file"
                self.log.warning("keys not fetched", issuer=self._config.issuer, error=failed, hint=hint)
        self._decide(token, kid, algorithm, challenge, asking)

    def _decide(self, token: str, kid: str | None, algorithm: str, challenge: str, asking: Asking) -> None:
        try:
            key = self._keys.current.find(kid, algorithm)
            if key is None:
                raise TokenError("the token is signed with a key that the issuer does not have")
            check(token, key, algorithm, self._config)
        except UnavailableError as exc:
            asking.not_connected(
                TunnelError(
                    TunnelErrorCode.KEYS_UNAVAILABLE,
                    "tokens cannot be checked now",
                    detail=exc.detail,
                    hint="the proxy cannot reach the issuer of require_oauth",
                    retry_after=5,
                )
            )
        except TokenError as exc:
            asking.not_connected(_refused(challenge, exc, self._config))
        else:
            asking.admitted()

    def _challenge(self, host: str, path: str) -> str:
        """RFC 9728 5.1: where the metadata of what was asked for is. A path is its caller's text: none ends the quote."""
        suffix = "" if path == "/" or len(path) > _PATH_TOLD else path.replace('"', "%22").replace("\\", "%5C")
        scope = f', scope="{" ".join(self._config.scopes)}"' if self._config.scopes else ""
        return f'Bearer resource_metadata="https://{host}{_METADATA}{suffix}"{scope}'

    def _metadata(self, host: str, path: str, *, is_head: bool) -> tuple[ResponseHead, bytes]:
        """RFC 9728 3.2: `resource` is what the document's own address says, as clients check (3.3)."""
        document: dict[str, object] = {
            "resource": f"https://{host}{path}",
            "authorization_servers": [self._config.issuer],
            "bearer_methods_supported": ["header"],
        }
        if self._config.scopes:
            document["scopes_supported"] = list(self._config.scopes)
        body = json.dumps(document).encode()
        fields = b"\r\nContent-Type: application/json\r\nCache-Control: no-store"
        if is_head:
            fields += b"\r\nContent-Length: %d" % len(body)
            body = b""
        framing = Framing.NONE if is_head else Framing.LENGTH
        return ResponseHead(200, b"OK", fields, framing, len(body), True, frozenset(), ()), body  # noqa: FBT003 - keeps_alive


def _token(head: RequestHead) -> str | None:
    given = values(head.fields, b"authorization")
    if not given:
        return None
    match = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        raise TokenError("one Authorization header with a bearer token is needed")
    return match[1].decode("ascii")


def _refused(challenge: str, why: TokenError, config: OAuthConfig) -> TunnelError:
    if why.is_scope:
        return TunnelError(
            TunnelErrorCode.INSUFFICIENT_SCOPE,
            "the bearer token lacks a scope",
            detail=f"needed: {' '.join(config.scopes)}",
            challenge=f'{challenge}, error="insufficient_scope", error_description="{why}"',
        )
    return _unauthorized(
        f'{challenge}, error="invalid_token", error_description="{why}"', "the bearer token is not accepted", detail=str(why)
    )


def _unauthorized(challenge: str, public: str, *, detail: str) -> TunnelError:
    return TunnelError(TunnelErrorCode.UNAUTHORIZED, public, detail=detail, challenge=challenge)
