"""What a process that follows changes holds is what one that reads everything holds, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.people import admin, ok
from tests.support.store import database, run_sql

from penstock.control.service.bootstrap import create_api_key, open_core, revoke_api_key
from penstock.control.service.feed import Feed
from penstock.control.storage.database import advance_feed
from penstock.schema.edges import Snapshot
from penstock.tls import certs

if TYPE_CHECKING:
    from tests.support.control import Api


__all__ = ["database"]

pytestmark = pytest.mark.anyio


async def told(feed: Feed) -> tuple[int, str, list[str], list[str]]:
    """What it tells: version and mark, and all records."""
    page = await feed.newer_than(-1, 0)
    assert page is not None
    snapshot = Snapshot.model_validate_json(page.body)
    tunnels = sorted(record.model_dump_json() for record in snapshot.tunnels)
    return snapshot.version, snapshot.mark, tunnels, sorted(record.model_dump_json() for record in snapshot.callers)


async def issued(api: Api, key: str | None = None) -> str:
    """The serial of a new caller certificate."""
    body = {"csr_pem": certs.make_csr(certs.make_ec_key(), "x")}
    headers = api.bearing(key) if key else {}
    answer = (await api.http.post("/penstock/v1/callers/certificates", json=body, headers=headers)).json()
    return certs.serial_hex(certs.load_certificate(answer["certificate_pem"]))


async def test_every_change_leads_to_what_is_there_one_by_one_or_many_at_once(api: Api) -> None:
    async with open_core(api.config) as core:  # another process than the one that changes
        one_by_one, seldom = Feed(core), Feed(core)
        await told(one_by_one)
        await told(seldom)

        async def same() -> None:
            held = await told(one_by_one)
            assert held == await told(Feed(core))

        first, second = await api.tunnel(), await api.tunnel()
        await same()
        certificate = (await api.register(first["id"])).json()["id"]
        await same()
        await api.http.post(f"/v1/tunnels/{first['id']}/rotate_token", json={})
        await same()
        await api.http.post(f"/v1/tunnels/{first['id']}/certificates/{certificate}/archive")
        await same()
        await api.http.post(f"/v1/tunnels/{second['id']}/archive")
        await same()
        key = await create_api_key(api.config, api.initial.workspace_id)
        serials = [await issued(api), await issued(api, key.secret.reveal()), await issued(api)]
        await same()
        ok(await (await admin(api)).send("DELETE", f"/penstock/v1/callers/certificates/{serials[0]}"))
        await same()
        await revoke_api_key(api.config, key.id)  # not said what it is about
        await same()
        await api.enrol()
        await same()
        await api.tunnel()
        assert await told(seldom) == await told(one_by_one) == await told(Feed(core))


async def test_a_change_that_says_what_it_is_about_is_read_alone_and_after_any_other_everything(api: Api) -> None:
    first = await api.tunnel()
    async with open_core(api.config) as core:
        feed = Feed(core)

        async def domains() -> int:
            return sum("unheard-of" in record for record in (await told(feed))[2])

        await told(feed)
        run_sql(api.config, f"UPDATE tunnels SET domain = 'unheard-of.example.com' WHERE id = '{first['id']}'")
        await issued(api)
        await api.tunnel()
        assert await domains() == 0  # nobody said that this one changed
        await api.enrol()
        assert await domains() == 1


async def test_who_was_away_for_longer_than_is_written_down_reads_everything(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.control.storage.database.FEED_CHANGES_KEPT", 3)
    async with open_core(api.config) as core:
        away = Feed(core)
        await told(away)
        for _ in range(5):
            await api.tunnel()
        assert await told(away) == await told(Feed(core))
        assert int(run_sql(api.config, "SELECT count(*) FROM feed_changes")[0][0]) <= 3


async def test_once_an_hour_everything_is_read(api: Api) -> None:
    first = await api.tunnel()
    async with open_core(api.config) as core:
        feed = Feed(core)
        await told(feed)
        run_sql(api.config, f"UPDATE tunnels SET domain = 'unheard-of.example.com' WHERE id = '{first['id']}'")
        feed._whole_due = core.now()
        await issued(api)
        assert "unheard-of" in str(await told(feed))


async def test_those_who_wait_are_woken_by_what_edges_have_to_hear_of_and_by_no_other_write(api: Api) -> None:
    async with open_core(api.config) as core:
        waiting = core.database.changes.watch()
        async with core.database.write() as connection:
            await advance_feed(connection)
        assert waiting.is_set()
        waiting = core.database.changes.watch()
        async with core.database.write():
            pass
        assert not waiting.is_set()
        async with core.database.write() as connection:
            await advance_feed(connection)
        assert waiting.is_set()
