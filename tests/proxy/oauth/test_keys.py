"""An issuer's keys: found, kept, fetched again; and what cannot be fetched from where it may not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.oauth.issuer import Issuer, Key, issuing, rsa_key
from tests.proxy.rig import PATIENCE

from penstock.errors import UnavailableError
from penstock.proxy.guard import system_lookup
from penstock.proxy.limits import ProxyLimits
from penstock.proxy.oauth import keys as rooms
from penstock.proxy.oauth.keys import Keys
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def keys_of(issuer: Issuer, folder: Path, **changes: Any) -> AsyncGenerator[Keys]:
    config = issuer.config(folder, **changes)
    trust = contexts.upstream(config.ca_file, include_system_cas=config.include_system_cas)
    keys = Keys(config, trust=trust, limits=ProxyLimits(), lookup=system_lookup)
    try:
        yield keys
    finally:
        await keys.aclose()


async def test_the_metadata_of_openid_leads_to_them(tmp_path: Path) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path) as keys:
        assert not keys.are_fresh
        assert await keys.fetch() is None
        assert keys.are_fresh
        assert keys.current.find("k1", "ES256") is not None
        assert issuer.asked == ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/keys"]


async def test_the_metadata_of_oauth_stands_before_the_issuers_path(tmp_path: Path) -> None:
    async with issuing("/tenant/1") as issuer, keys_of(issuer, tmp_path) as keys:
        document = issuer.documents.pop("/tenant/1/.well-known/openid-configuration")
        issuer.documents["/.well-known/oauth-authorization-server/tenant/1"] = document
        assert await keys.fetch() is None
        assert issuer.asked == ["/.well-known/oauth-authorization-server/tenant/1", "/keys"]


async def test_an_address_of_their_own_needs_no_metadata(tmp_path: Path) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path, jwks_url=f"{issuer.url}/keys") as keys:
        assert await keys.fetch() is None
        assert issuer.asked == ["/keys"]


OPENID = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ({OPENID: None}, "status 404"),
        ({OPENID: {"issuer": "https://other.example.com", "jwks_uri": "https://localhost/keys"}}, "issuer in it"),
        ({OPENID: b"<html>"}, "not JSON"),
        ({OPENID: b"[" * 100_000}, "not JSON"),
        ({OPENID: b" " * 300_000}, "more than 262144 bytes"),
        ({OPENID: {"jwks_uri": "http://localhost/keys"}}, "not https"),
        ({OPENID: {"jwks_uri": None}}, "no jwks_uri"),
        ({"/keys": {"keys": []}}, "no signing key"),
        ({"/keys": b'{"keys": [{"kty": "oct", "k": "AA"}]}'}, "no signing key"),
    ],
)
async def test_what_cannot_be_believed_gives_no_keys(tmp_path: Path, documents: dict[str, Any], why: str) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path) as keys:
        for path, document in documents.items():
            own = {"issuer": issuer.url} if path == OPENID else {}
            issuer.documents[path] = {**own, **document} if isinstance(document, dict) else document
        assert why in (await keys.fetch() or "")
        with pytest.raises(UnavailableError):
            _ = keys.current


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"allowed_ips": None}, "IP validation failed: 127.0.0.1 is not a private address"),
        ({"ca_file": None}, "certificate"),
    ],
)
async def test_they_are_fetched_only_from_where_the_route_says(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path, **changes) as keys:
        assert why in (await keys.fetch() or "")
        assert not issuer.asked


async def test_a_crowd_fetches_once(tmp_path: Path) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path) as keys:
        issuer.release.clear()
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(keys.fetch()) for _ in range(20)]
            async with asyncio.timeout(PATIENCE):
                while not issuer.asked:
                    await asyncio.sleep(0)
            waiting[0].cancel()  # who began it may leave: the others get what they wait for
            issuer.release.set()
        assert issuer.asked.count("/keys") == 1
        assert keys.are_fresh


async def test_a_fetch_has_a_pause_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path) as keys:
        await keys.fetch()
        assert not keys.may_fetch
        monkeypatch.setattr(rooms, "_PAUSE", 0.0)
        assert keys.may_fetch


async def test_an_issuer_that_is_down_leaves_the_keys_there_are_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path, keys_max_age="1s") as keys:
        await keys.fetch()
        issuer.documents["/keys"] = b"down"
        assert await keys.fetch() is not None
        assert keys.current.find("k1", "ES256") is not None
        monkeypatch.setattr(rooms, "_STALE_MOST", 0.0)
        keys._fetched_at -= 2
        with pytest.raises(UnavailableError) as caught:
            _ = keys.current
        assert "not JSON" in (caught.value.detail or "")


async def test_a_rotated_key_takes_the_old_ones_place(tmp_path: Path) -> None:
    async with issuing() as issuer, keys_of(issuer, tmp_path) as keys:
        await keys.fetch()
        issuer.keys = [rsa_key(kid="k2"), Key(kid="k3")]
        await keys.fetch()
        assert keys.current.find("k1", "ES256") is None
        assert keys.current.find("k2", "RS256") is not None
        assert keys.current.find("k3", "ES256") is not None
