"""An issuer's signing keys: fetched when they are needed, kept for a while, fetched again when an unknown one is named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from penstock.errors import UnavailableError
from penstock.net.tasks import Tasks
from penstock.proxy.guard import Guard, Resolver
from penstock.proxy.oauth.fetch import fetch_json
from penstock.proxy.oauth.tokens import KeySet
from penstock.proxy.oauth_settings import Url
from penstock.proxy.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.proxy.guard import LookUp
    from penstock.proxy.limits import ProxyLimits
    from penstock.proxy.oauth_settings import OAuthConfig
    from penstock.tls.contexts import TLSContext

_PAUSE: Final = 15.0  # between two fetches, whatever tokens name: an issuer that rotates publishes its next key long before
_STALE_MOST: Final = 3600.0  # an issuer that is down for an hour has not withdrawn a key meanwhile; longer is not believed
_NEVER: Final = float("-inf")


class Keys:
    """The keys of one issuer."""

    def __init__(self, config: OAuthConfig, *, trust: TLSContext, limits: ProxyLimits, lookup: LookUp) -> None:
        self._config = config
        self._pool = Pool(Resolver(Guard(config.allowed_ips), lookup=lookup), limits, trust)
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._fetching: asyncio.Task[None] | None = None
        self._set = KeySet(None)
        self._fetched_at = _NEVER
        self._tried_at = _NEVER
        self._why_not = "not fetched yet"

    @property
    def are_fresh(self) -> bool:
        """Whether no fetch is due."""
        return self._loop.time() - self._fetched_at < self._config.keys_max_age

    @property
    def current(self) -> KeySet:
        """What there is. UnavailableError when it is nothing, or too old."""
        if self._loop.time() - self._fetched_at > max(_STALE_MOST, self._config.keys_max_age):
            raise UnavailableError("the issuer's keys cannot be had", detail=self._why_not)
        return self._set

    @property
    def may_fetch(self) -> bool:
        """Whether a fetch is under way, or the last one long enough ago."""
        return self._fetching is not None or self._loop.time() - self._tried_at >= _PAUSE

    async def fetch(self) -> str | None:
        """One fetch for all who wait; why it failed, told to the one who began it."""
        if self._fetching is not None:
            await asyncio.wait({self._fetching})
            return None
        self._tried_at = self._loop.time()
        self._fetching = self._tasks.spawn(self._fetch(), "fetch keys")
        await asyncio.wait({self._fetching})
        return None if self._tried_at <= self._fetched_at else self._why_not

    async def aclose(self) -> None:
        """Cut what is under way."""
        await self._tasks.aclose()
        await self._pool.aclose()

    async def _fetch(self) -> None:
        try:
            url = Url.parse(self._config.jwks_url) if self._config.jwks_url is not None else await self._discover()
            keys = KeySet(await fetch_json(self._pool, url))
            if not len(keys):
                raise UnavailableError("the issuer has no keys", detail=f"{url.host}{url.path}: no signing key in it")
        except UnavailableError as exc:
            self._why_not = exc.detail or exc.public
        else:
            self._set = keys
            self._fetched_at = self._loop.time()
        finally:
            self._fetching = None

    async def _discover(self) -> Url:
        why = ""
        for url in _metadata_urls(self._config.issuer):
            try:
                document = await fetch_json(self._pool, url)
            except UnavailableError as exc:
                why = exc.detail or exc.public
                continue
            return self._keys_url(document)
        raise UnavailableError("the issuer's metadata cannot be had", detail=why)

    def _keys_url(self, document: object) -> Url:
        said = cast("dict[str, object]", document) if isinstance(document, dict) else {}
        if said.get("issuer") != self._config.issuer:  # RFC 8414 3.3: else one issuer could stand in for another
            raise UnavailableError("the issuer's metadata is another's", detail=f"issuer in it: {said.get('issuer')!r}"[:200])
        try:
            url = Url.parse(str(said.get("jwks_uri")))
        except ValueError:
            raise UnavailableError("the issuer's metadata has no jwks_uri", detail="no jwks_uri in the metadata") from None
        if not url.is_tls:
            raise UnavailableError("the issuer's jwks_uri is not https", detail="the metadata's jwks_uri is not https")
        return url


def _metadata_urls(issuer: str) -> Iterator[Url]:
    """RFC 8414 3.1 puts the well-known name before the issuer's path, OpenID Connect Discovery behind it."""
    url = Url.parse(issuer)
    path = url.path.rstrip("/")
    yield url._replace(path=f"/.well-known/oauth-authorization-server{path}")
    yield url._replace(path=f"{path}/.well-known/openid-configuration")
