"""The keys of issuers: inline, or fetched, kept in the store, fetched anew in time, and not asked for at a stranger's pace.

The store holds what was fetched, so that processes share it and a restart costs no exchange. Polling pauses after failures in a
row; what was fetched before stays good for `stale_limit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, final
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, TypeAdapter
from sqlalchemy import select, update

from penstock.control.errors import ApiError
from penstock.control.federation import jwks
from penstock.control.federation.denial import Denial
from penstock.control.federation.urls import Url
from penstock.control.service import liveness
from penstock.control.storage import identities
from penstock.errors import UnavailableError
from penstock.schema.federation import Jwks, JwksDiscovery, JwksInline
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from penstock.control.service.core import Core

_t = identities.federation_issuers
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_BACKOFF_MOST: Final = 3600.0
_TICK: Final = 5.0
_BATCH: Final = 16
_SOURCE: Final[TypeAdapter[Jwks]] = TypeAdapter(Jwks)
_ATTEMPTS_REMEMBERED: Final = 10_000
_SHARE: Final = 8  # of the requests served at a time, one in so many may wait for an organization's issuers


class _Discovery(BaseModel):
    """What is read of an OpenID discovery document. Which issuer it is for shows in the assertions."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    jwks_uri: str


def source_of(row: Mapping[Any, Any]) -> Jwks:
    """Where a row says the keys are."""
    return _SOURCE.validate_json(row["jwks"])


@final
class IssuerKeys:
    """One for a control process; `poll` runs as long as it serves."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settings = core.config.federation
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._attempts: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_most = max(1, core.config.limits.requests // _SHARE)
        self._log = get_logger("control")

    async def find(self, row: Mapping[str, Any], source: Jwks, kid: str) -> Mapping[str, Any]:
        """The key of this id. Raises Denial: not there, not fetched, or too old to be believed."""
        if isinstance(source, JwksInline):
            return _found(source.keys, kid)
        keys = self._fresh(row)
        if keys is not None and (key := jwks.find(keys, kid)) is not None:
            return key
        if row["polling_disabled_at"] is not None:
            reason = "jwks_unavailable" if keys is None else "key_not_found"
            raise Denial(reason, "polling of this issuer's keys is paused after repeated failures; an admin turns it on")
        with self._place_to_wait(row["organization_id"]):
            fetched = await self._refresh(row, source)
        if fetched is None:
            if keys is None:
                reason = "jwks_unavailable" if row["fetched_at"] is None else "jwks_stale"
                raise Denial(reason, "the issuer's keys could not be fetched")
            fetched = keys
        return _found(fetched, kid)

    @contextlib.contextmanager
    def _place_to_wait(self, organization_id: str) -> Generator[None]:
        # An issuer answers as slowly as it likes: exchanges that wait for one organization's leave places to all others.
        if self._waiting[organization_id] >= self._waiting_most:
            raise ApiError("overloaded_error", "too many exchanges wait for the issuer's keys; try again")
        self._waiting[organization_id] += 1
        try:
            yield
        finally:
            self._waiting[organization_id] -= 1
            if not self._waiting[organization_id]:
                del self._waiting[organization_id]

    async def poll(self) -> None:
        """Fetch what is due, for ever."""
        while True:
            with contextlib.suppress(ApiError):  # the database does not answer: at the next tick, perhaps
                due = await self._due()
                async with asyncio.TaskGroup() as group:  # at once, or one issuer that hangs holds up all
                    for row in due:
                        group.create_task(self._poll(row))
            await asyncio.sleep(_TICK)

    async def _poll(self, row: Mapping[str, Any]) -> None:
        with contextlib.suppress(ApiError):
            try:
                await self._refresh(row, source_of(row), is_polling=True)
            except ApiError:
                raise
            except Exception as exc:  # noqa: BLE001 - what one organization's issuer answers must not end everybody's polling
                self._log.error("issuer keys not fetched", issuer=row["id"], error=type(exc).__name__, exc_info=exc)
                await self._note_failure(row)

    async def _due(self) -> list[dict[str, Any]]:
        now = self._core.now()
        live = liveness.of_organization(_t.c.organization_id)
        query = select(_t).where(_t.c.archived_at.is_(None), _t.c.next_poll_at <= now, live).order_by(_t.c.next_poll_at)
        async with self._core.database.read() as connection:
            return [dict(row) for row in (await connection.execute(query.limit(_BATCH))).mappings()]

    async def _refresh(
        self, row: Mapping[str, Any], source: Jwks, *, is_polling: bool = False
    ) -> tuple[Mapping[str, Any], ...] | None:
        """The keys as they are now; None when they could not be had, or were asked for a moment ago."""
        issuer_id: str = row["id"]
        lock = self._locks.setdefault(issuer_id, asyncio.Lock())
        async with lock:
            stored = await self._stored(issuer_id)
            now = time.monotonic()
            since = now - self._attempts.get(_place(row), float("-inf"))
            if is_polling and not self._is_due(stored):
                return None  # an exchange, or another process, was quicker
            if not is_polling and (stored["fetched_at"] != row["fetched_at"] or since < self._settings.refresh_interval):
                return self._fresh(stored)  # whoever held the lock before has fetched them, or it is too soon
            if len(self._attempts) >= _ATTEMPTS_REMEMBERED:
                self._attempts.clear()
            self._attempts[_place(row)] = now
            try:
                keys = await self._fetch(row, source)
            except (UnavailableError, ValueError) as exc:
                self._log.warning("issuer keys not fetched", issuer=issuer_id, reason=str(exc))
                await self._note_failure(row)
                return None
            await self._note_success(row, keys)
            return keys

    async def _fetch(self, row: Mapping[str, Any], source: Jwks) -> tuple[dict[str, Any], ...]:
        assert not isinstance(source, JwksInline)  # noqa: S101 - inline keys are not fetched
        fetch, whose = self._core.fetch, row["organization_id"]
        if isinstance(source, JwksDiscovery):
            base = Url.parse(source.discovery_base or row["issuer_url"])
            document = await fetch.get(base.below(_WELL_KNOWN), source.ca_cert_pem, whose=whose)
            url = Url.parse(_Discovery.model_validate_json(document).jwks_uri)
        else:
            url = Url.parse(source.url)
        return jwks.parse(await fetch.get(url, source.ca_cert_pem, whose=whose))

    async def _note_success(self, row: Mapping[str, Any], keys: tuple[dict[str, Any], ...]) -> None:
        now = self._core.now()
        values = {
            "keys": json.dumps(keys),
            "fetched_at": now,
            "failures": 0,
            "next_poll_at": now + timedelta(seconds=self._settings.poll_interval),
        }
        async with self._core.database.write() as connection:
            await connection.execute(update(_t).where(*_unchanged(row)).values(values))

    async def _note_failure(self, row: Mapping[str, Any]) -> None:
        now = self._core.now()
        failures: int = row["failures"] + 1
        values: dict[str, Any] = {"failures": failures}
        if failures >= self._settings.pause_after:
            values |= {"polling_disabled_at": now, "next_poll_at": None}
        else:
            wait = min(self._settings.poll_interval * 2 ** (failures - 1), _BACKOFF_MOST)
            values["next_poll_at"] = now + timedelta(seconds=wait)
        async with self._core.database.write() as connection:
            await connection.execute(update(_t).where(*_unchanged(row), _t.c.failures == row["failures"]).values(values))

    async def _stored(self, issuer_id: str) -> Mapping[Any, Any]:
        async with self._core.database.read() as connection:
            return (await connection.execute(select(_t).where(_t.c.id == issuer_id))).mappings().one()

    def _is_due(self, row: Mapping[Any, Any]) -> bool:
        return row["next_poll_at"] is not None and row["next_poll_at"] <= self._core.now()

    def _fresh(self, row: Mapping[Any, Any]) -> tuple[Mapping[str, Any], ...] | None:
        if row["keys"] is None:
            return None
        age = (self._core.now() - row["fetched_at"]).total_seconds()
        return tuple(json.loads(row["keys"])) if age <= self._settings.stale_limit else None


def _found(keys: tuple[Mapping[str, Any], ...], kid: str) -> Mapping[str, Any]:
    key = jwks.find(keys, kid)
    if key is None:
        known = ", ".join(str(key.get("kid")) for key in keys)[:300]
        raise Denial("key_not_found", f"kid is {kid[:100]}; the issuer publishes {known}")
    return key


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['id']} {row['issuer_url']} {row['jwks']}"


def _unchanged(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # An admin may have pointed it elsewhere meanwhile: what was fetched from the old place is not for the new one.
    return _t.c.id == row["id"], _t.c.issuer_url == row["issuer_url"], _t.c.jwks == row["jwks"]
