from __future__ import annotations

import asyncio
import hashlib
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.store import database, run_sql, without_triggers

from penstock.control.errors import ApiError
from penstock.control.server import Control
from penstock.control.service import audit, audit_log
from penstock.control.service.audit_file import verify_file
from penstock.control.service.audit_log import Filters
from penstock.control.service.bootstrap import open_core

if TYPE_CHECKING:
    from tests.support.control import Api

    from penstock.control.config import ControlConfig

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def verdict(config: ControlConfig, expected: tuple[int, str] | None = None) -> audit_log.Verdict:
    async with open_core(config) as core:
        return await audit_log.verify(core, expected=expected)


async def test_an_untouched_log_is_whole(api: Api) -> None:
    await api.tunnel()
    found = await verdict(api.config)
    assert found.findings == []
    assert found.records == found.position > 4


async def test_the_database_itself_refuses_to_change_or_remove_a_record(api: Api) -> None:
    for statement in ("UPDATE audit SET body = 'x'", "DELETE FROM audit"):
        with pytest.raises(Exception, match=r"returned non-zero|only grows"):
            run_sql(api.config, statement)
    assert (await verdict(api.config)).findings == []


TAMPERED: dict[str, tuple[str, ...]] = {
    "edited": ("UPDATE audit SET body = replace(body, 'local', 'other') WHERE position = 3",),
    "refiled": ("UPDATE audit SET actor_id = 'somebody' WHERE position = 3",),
    "redated": ("UPDATE audit SET created_at = '2020-01-01 00:00:00.000000' WHERE position = 3",),
    "removed": ("DELETE FROM audit WHERE position = 3",),
    "the first removed": ("DELETE FROM audit WHERE position = 1",),
    "the last removed": ("DELETE FROM audit WHERE position = (SELECT max(position) FROM audit)",),
    "all removed": ("DELETE FROM audit",),
    "two exchanged": (
        "UPDATE audit SET position = 1000 WHERE position = 2",
        "UPDATE audit SET position = 2 WHERE position = 3",
        "UPDATE audit SET position = 3 WHERE position = 1000",
    ),
    "removed and the rest moved up": (
        "DELETE FROM audit WHERE position = 2",
        "UPDATE audit SET position = -position WHERE position > 2",
        "UPDATE audit SET position = -position - 1 WHERE position < 0",
    ),
    "the head removed": ("DELETE FROM audit_head",),
    "the end cut and the head with it": (
        "DELETE FROM audit WHERE position = (SELECT max(position) FROM audit)",
        (
            "UPDATE audit_head SET position = (SELECT max(position) FROM audit), "
            "hash = (SELECT hash FROM audit ORDER BY position DESC LIMIT 1)"
        ),
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_every_tampering_is_found(api: Api, how: str) -> None:
    await api.tunnel()
    run_sql(api.config, *without_triggers(api.config), *TAMPERED[how])
    assert (await verdict(api.config)).findings


async def test_a_history_written_anew_with_fitting_hashes_is_found_by_its_seal(api: Api) -> None:
    rows = run_sql(api.config, "SELECT position, body FROM audit ORDER BY position")
    previous, statements = "0" * 64, list(without_triggers(api.config))
    for position, text in rows:
        body: dict[str, Any] = {**json.loads(text), "previous_hash": previous}
        body["actor"]["id"] = "somebody"
        text = audit.canonical(body)
        previous = hashlib.sha256(text.encode()).hexdigest()
        statements.append(
            f"UPDATE audit SET body = '{text}', hash = '{previous}', actor_id = 'somebody' WHERE position = {position}"
        )
    run_sql(api.config, *statements, f"UPDATE audit_head SET hash = '{previous}'")
    (finding,) = (await verdict(api.config)).findings
    assert "seal" in finding


async def test_a_store_set_back_whole_is_found_by_what_was_noted(api: Api) -> None:
    before = await verdict(api.config)
    await api.tunnel()
    after = await verdict(api.config, (before.position, before.hash))
    assert after.findings == []
    assert (await verdict(api.config, (before.position, "f" * 64))).findings
    assert (await verdict(api.config, (after.position + 1, "f" * 64))).findings


async def test_pages_meet_and_are_newest_first(api: Api) -> None:
    for _ in range(4):
        await api.tunnel()
    async with open_core(api.config) as core:
        seen, cursor = [], None
        while True:
            page = await audit_log.list_page(core, Filters(), limit=3, cursor=cursor)
            seen += [activity.position for activity in page.data]
            cursor = page.next_page
            if cursor is None:
                break
    assert seen == list(range(len(seen), 0, -1))


async def test_filters_find_by_type_actor_subject_organization_and_time(api: Api) -> None:
    tunnel, _ = await api.tunnel(), await api.tunnel()
    middle = datetime.now(UTC)
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")

    async def found(**wanted: Any) -> list[str]:
        async with open_core(api.config) as core:
            page = await audit_log.list_page(core, Filters(**wanted), limit=100, cursor=None)
            return [activity.type for activity in page.data]

    everything = await found()
    assert await found(types=("tunnel_created",)) == ["tunnel_created"] * 2
    assert await found(subject_id=tunnel["id"]) == ["tunnel_archived", "tunnel_created"]
    assert await found(after=middle) == ["tunnel_archived"]
    assert await found(before=middle) == everything[1:]
    assert set(await found(actor_id="local")).isdisjoint({"tunnel_created", "tunnel_archived"})
    assert "enrolment_token_created" not in await found(organization_id=api.initial.organization_id)
    assert await found(organization_id="00000000-0000-4000-8000-000000000000") == []


async def test_an_unknown_activity_and_a_foreign_cursor_are_refused(api: Api) -> None:
    async with open_core(api.config) as core:
        with pytest.raises(ApiError, match="no activity nonsense"):
            await audit_log.list_page(core, Filters(types=("nonsense",)), limit=1, cursor=None)
        for cursor in ("x", "page_eA==", "page_" + "9" * 400):
            with pytest.raises(ApiError, match="page"):
                await audit_log.list_page(core, Filters(), limit=1, cursor=cursor)


async def test_each_exported_line_can_be_checked_by_itself(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_BATCH", 2)  # so that batches meet
    await api.tunnel(display_name="Ünïcode «echo»")
    async with open_core(api.config) as core:
        lines = [line async for line in audit_log.export(core, Filters())]
    previous = "0" * 64
    for line in lines:
        record = json.loads(line)
        digest = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == digest
        assert record["previous_hash"] == previous
        previous = digest
    assert len(lines) == (await verdict(api.config)).records


async def test_a_tampered_export_is_found_without_the_store(api: Api) -> None:
    await api.tunnel(display_name="Ünïcode «echo»")
    async with open_core(api.config) as core:
        whole = [line.encode() + b"\n" async for line in audit_log.export(core, Filters())]
        part = [
            line.encode() + b"\n" async for line in audit_log.export(core, Filters(types=("api_key_created", "tunnel_created")))
        ]

    def findings(lines: list[bytes], **more: Any) -> list[str]:
        return verify_file(io.BytesIO(b"".join(lines)), **more).findings

    end = json.loads(whole[-1])
    assert findings(whole) == findings(whole, expected=(end["position"], end["hash"])) == findings(part, is_part=True) == []
    edited = whole[2].replace(b'"request_id":null', b'"request_id":"req_1"')
    for tampered, text in (
        ([*whole[:2], edited, *whole[3:]], "record 3 was edited"),
        ([*whole[:2], *whole[3:]], "records 3 to 3 are missing"),
        (whole[1:], "records 1 to 1 are missing"),
        ([*whole[:2], whole[3], whole[2], *whole[4:]], "record 3 stands after record 4"),
        ([*whole[:3], *whole[2:]], "record 3 stands after record 3"),
        ([*whole[:2], whole[2][:-20] + b"\n", *whole[3:]], "line 3 is no record"),
        ([*whole[:2], whole[2].replace(b"{", b'{"type":"x",', 1), *whole[3:]], "line 3 is no record"),
        ([*whole[:2], b"[1]\n", *whole[3:]], "line 3 is no record"),
    ):
        assert any(text in finding for finding in findings(tampered)), (text, findings(tampered))
    assert findings(part)  # of a whole log there would be more
    assert findings(whole[:-1], expected=(end["position"], end["hash"]))  # a cut end shows by what was noted
    assert findings([part[1], part[0]], is_part=True)


async def test_two_control_planes_on_one_store_write_one_chain(api: Api) -> None:

    second = Control(api.config)
    await second.start()
    try:
        urls = [api.control.url, second.url] * 15
        made = await asyncio.gather(*(api.http.post(f"{url}/v1/tunnels", json={}, timeout=30) for url in urls))
        assert sum(response.status_code == 200 for response in made) == 10
        assert (await verdict(api.config)).findings == []
    finally:
        await second.stop()


async def test_a_cell_moved_to_another_row_does_not_open_and_is_written_down(api: Api) -> None:
    first, second = await api.tunnel(), await api.tunnel()
    run_sql(
        api.config,
        f"UPDATE tunnels SET sealed_secret = (SELECT sealed_secret FROM tunnels WHERE id = '{first['id']}') "
        f"WHERE id = '{second['id']}'",
    )
    assert (await api.http.post(f"/v1/tunnels/{second['id']}/reveal_token")).status_code == 500
    assert (await api.http.post(f"/v1/tunnels/{first['id']}/reveal_token")).status_code == 200
    async with open_core(api.config) as core:
        page = await audit_log.list_page(core, Filters(types=("secret_unreadable",)), limit=9, cursor=None)
    (activity,) = page.data
    assert second["id"] in str(activity.model_extra)
