from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.support.following import Control, fresh
from tests.support.forwarder import Forwarder
from tests.support.site import Echo, Origin, until

from penstock.config.types import HostPort
from penstock.edge import enrol, follow
from penstock.edge.server import Edge
from penstock.edge.state import StoredPage
from penstock.errors import ConfigError, IdentityError, UnavailableError
from penstock.schema.edges import DELTA_CONTEXT, Delta

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


TOKEN = "pst-enrol-test"


@pytest.fixture
def control(site: Site) -> Control:
    return Control(site)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "enrolment-token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def folder(site: Site) -> Path:
    return site.folder / "fresh"


async def test_a_first_start_enrols_with_the_token_and_keeps_the_identity_for_the_next(
    control: Control, folder: Path, token_file: Path
) -> None:
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file, advertise_callers="edge.example.com:443")
        await edge.start()
        await edge.stop()
        (enrolled,) = control.enrolments
        assert (enrolled.name, enrolled.caller_address) == ("fresh", "edge.example.com:443")
        assert control.requests[0] == ("/penstock/v1/edges/enrol", f"Bearer {TOKEN}")
        assert control.requests[1] == ("/penstock/v1/edge/snapshot", "Bearer pst-edge-test")
        token_file.unlink()
        again = fresh(control, folder, enrolment_token_file=token_file, advertise_callers="edge.example.com:443")
        await again.start()
        assert again.why_not_ready() is None
        await again.stop()
        assert len(control.enrolments) == 1


async def test_an_edge_that_moved_enrols_anew_under_its_new_addresses(control: Control, folder: Path, token_file: Path) -> None:
    async with control.running(), asyncio.timeout(10):
        for address in ("one.example.com:443", "two.example.com:443", "two.example.com:443"):
            edge = fresh(control, folder, enrolment_token_file=token_file, advertise_callers=address)
            await edge.start()
            assert edge.why_not_ready() is None
            await edge.stop()
        assert [enrolled.caller_address for enrolled in control.enrolments] == ["one.example.com:443", "two.example.com:443"]
        with pytest.raises(ConfigError, match="has moved") as raised:
            await fresh(control, folder, advertise_callers="three.example.com:443").start()
        assert "enrolment_token_file" in (raised.value.hint or "")


async def test_an_edge_that_is_named_anew_enrols_anew(control: Control, folder: Path, token_file: Path) -> None:
    async with control.running(), asyncio.timeout(10):
        for name in ("one", "two", "two"):
            edge = fresh(control, folder, enrolment_token_file=token_file, name=name)
            await edge.start()
            assert edge.sessions.name == name
            await edge.stop()
        assert [enrolled.name for enrolled in control.enrolments] == ["one", "two"]
        with pytest.raises(ConfigError, match="has moved") as raised:
            await fresh(control, folder, name="three").start()
        assert "was two, " in (raised.value.detail or "")


async def test_an_edge_that_nobody_named_is_called_as_its_machine_was_when_it_enrolled(
    control: Control, folder: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with control.running(), asyncio.timeout(10):
        for host in ("Web_1.example.com", "elsewhere"):
            monkeypatch.setattr(enrol, "gethostname", lambda host=host: host)
            edge = fresh(control, folder, enrolment_token_file=token_file, name=None)
            await edge.start()
            assert edge.sessions.name == "web-1"
            await edge.stop()
        assert [enrolled.name for enrolled in control.enrolments] == ["web-1"]


@pytest.mark.parametrize("host", ["", "...", "-", "münchen", "x" * 64])
def test_a_host_name_that_gives_no_name_is_told_so(host: str) -> None:
    with pytest.raises(ConfigError, match="gives no name") as raised:
        enrol.host_label(host)
    assert "set name" in (raised.value.hint or "")


async def test_what_control_publishes_is_in_force_at_once(control: Control, folder: Path, token_file: Path) -> None:
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        assert len(edge.feed.directory.tunnels) == 1
        control.site.tunnels = ()
        control.publish()
        await until(lambda: not edge.feed.directory.tunnels, seconds=1.0)
        await edge.stop()


async def test_without_control_an_edge_restarts_on_its_last_snapshot_and_catches_up_when_control_is_back(
    control: Control, folder: Path, token_file: Path
) -> None:
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        await edge.stop()
        port = control.port
    async with asyncio.timeout(10):
        alone = fresh(control, folder)
        await alone.start()
        assert len(alone.feed.directory.tunnels) == 1
        assert alone.why_not_ready() is None
        control.site.tunnels = ()
        async with control.running(port):
            await until(lambda: not alone.feed.directory.tunnels)
            await alone.stop()


@pytest.mark.parametrize("wrong", ["signature", "gap", "garbage", "size", "status"])
async def test_a_delta_that_cannot_be_taken_is_made_up_for_by_the_whole(
    control: Control, folder: Path, token_file: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "size":
        monkeypatch.setattr("penstock.edge.control._MAX_DELTA", 10)
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        held = edge.feed.directory
        body = Delta(
            after=held.version, after_mark="f" * 32 if wrong == "gap" else held.mark, version=held.version + 1, mark=""
        )
        text = b"{}" if wrong == "garbage" else body.model_dump_json().encode()
        signature = control.site.feed_key.sign(DELTA_CONTEXT + text)
        control.delta = StoredPage(text, bytes(64) if wrong == "signature" else signature, 0.0)
        control.no_deltas = wrong == "status"
        control.site.tunnels = ()
        with structlog.testing.capture_logs() as logs:
            control.publish()
            await until(lambda: not edge.feed.directory.tunnels)
        (said,) = [log for log in logs if log["event"] == "feed interrupted"]
        expected = {"size": "too large", "status": "does not give the feed"}.get(wrong, "delta")
        assert expected in said["reason"]
        assert edge.feed.version == held.version + 1
        assert ["delta" in asked for asked in control.asked[:3]] == [False, True, False]
        await edge.stop()


async def test_a_poll_on_a_connection_that_died_in_silence_is_given_up_and_the_feed_goes_on_when_control_is_back(
    control: Control, folder: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.edge.reports._REPORT", 0.2)
    monkeypatch.setattr("penstock.edge.control._ANSWER", 0.5)
    monkeypatch.setattr("penstock.edge.presence._EVERY", 0.1)
    async with control.running(), asyncio.timeout(30), Forwarder(HostPort("127.0.0.1", control.port)) as between:
        edge = fresh(control, folder, enrolment_token_file=token_file, control_url=f"http://{between.address}")
        await edge.start()
        await until(lambda: len(control.requests) >= 4)  # the long poll and a report are there
        assert not edge.feed.is_interrupted
        between.silence()
        await until(lambda: edge.feed.is_interrupted, seconds=10)  # far sooner than the poll ends
        control.site.tunnels = ()
        control.publish()
        between.heal()
        await until(lambda: not edge.feed.directory.tunnels and not edge.feed.is_interrupted, seconds=10)
        await edge.stop()


async def test_a_snapshot_that_was_changed_on_disk_is_dropped(control: Control, folder: Path, token_file: Path) -> None:
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        await edge.stop()
    file = folder / "snapshot"
    file.write_bytes(file.read_bytes().replace(b"tnl_01", b"tnl_02"))
    async with asyncio.timeout(10):
        alone = fresh(control, folder)
        await alone.start()
        assert alone.feed.version == -1
        assert alone.why_not_ready() == "no word from the control plane"
        await alone.stop()


async def test_a_version_is_never_lowered_by_the_disk_nor_by_who_answers_for_control(
    control: Control, folder: Path, token_file: Path
) -> None:
    """A snapshot that still has a caller revoked since is put back, and played back."""
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        old, page = (folder / "snapshot").read_bytes(), control.page
        control.site.callers = ()
        control.publish()
        await until(lambda: not edge.feed.directory.callers and (folder / "snapshot").read_bytes() != old)
        await edge.stop()
        (folder / "snapshot").write_bytes(old)
        control.page = page
        again = fresh(control, folder)
        with structlog.testing.capture_logs() as logs:
            await again.start()
        assert again.feed.version == -1
        reasons = [
            log["reason"] for log in logs if log["event"] in {"stored snapshot dropped", "control plane does not answer"}
        ]
        assert reasons == ["the control plane's feed went backwards"] * 2
        control.publish()
        await until(lambda: again.why_not_ready() is None)
        await again.stop()


async def test_after_stale_limit_without_a_word_new_streams_are_refused_and_live_ones_go_on(site: Site) -> None:
    now = time.time()
    edge = Edge(site.edge_config(limits={"stop_seconds": 1.0}), clock=lambda: now)
    async with Origin(Echo) as origin:
        await edge.start()
        async with site.agent(edge, url=origin.url, links=1):
            now += edge._config.stale_limit - 60
            stream, _ = await site.open(edge)
            now += 61
            response, _ = await site.ask(edge)
            assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
            assert b"control plane" in response.body
            assert edge.why_not_ready() is not None
            await stream.write(b"still here")
            assert await stream.read(100) == b"still here"
            edge.feed.confirm(now)
            assert (await site.ask(edge))[0].status == 101
            await stream.aclose()
        await site.hang_up()
        await edge.stop()


@pytest.mark.parametrize(("hours", "status"), [(1, 101), (25, 502)])
async def test_an_edge_that_restarts_while_control_is_away_serves_until_its_last_word_is_too_old(
    site: Site, hours: int, status: int
) -> None:
    config = site.edge_config()
    last_word = time.time() - hours * 3600
    os.utime(config.state_dir / "snapshot", (last_word, last_word))
    edge = Edge(config)
    await edge.start()
    async with Origin(Echo) as origin, site.agent(edge, url=origin.url, links=1):
        response, transport = await site.ask(edge)
        assert response.status == status
        assert (edge.why_not_ready() is None) is (status == 101)
        transport.abort()
        await site.hang_up()
        await edge.stop()


async def test_an_edge_that_starts_before_control_waits_for_it(control: Control, folder: Path, token_file: Path) -> None:
    async with control.running():
        port = control.port
    async with asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        starting = asyncio.gather(edge.start())
        await asyncio.sleep(0)
        async with control.running(port):
            await starting
            await edge.stop()


async def test_waiting_for_control_is_said_once_with_where_and_what_to_do(
    control: Control, folder: Path, token_file: Path
) -> None:
    async with control.running():
        port = control.port
    with structlog.testing.capture_logs() as logs, pytest.raises(UnavailableError, match="does not enrol"):
        await fresh(control, folder, enrolment_token_file=token_file, start_timeout=1.0).start()
    said = [log for log in logs if log["event"] == "not enrolled yet"]
    assert [(log["log_level"], log["reason"]) for log in said] == [
        ("warning", f"the control plane at http://127.0.0.1:{port} does not answer")
    ]
    assert "control_url" in said[0]["hint"]


async def test_a_refused_enrolment_ends_the_start_with_what_to_do(control: Control, folder: Path, token_file: Path) -> None:
    control.status = 401
    async with control.running(), asyncio.timeout(10):
        with pytest.raises(IdentityError) as raised:
            await fresh(control, folder, enrolment_token_file=token_file).start()
    assert "make a new one" in (raised.value.hint or "")
    assert raised.value.public == "the control plane refused to enrol this edge: the enrolment token is spent"
    assert raised.value.detail == "status 401"


async def test_a_name_that_another_edge_has_is_asked_for_until_it_is_free(
    control: Control, folder: Path, token_file: Path
) -> None:
    control.status = 409
    async with control.running(), asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="does not enrol this edge: the name 'fresh' is taken") as raised:
            await fresh(control, folder, enrolment_token_file=token_file, start_timeout=0.3).start()
        assert "no other edge has" in (raised.value.hint or "")
        edge = fresh(control, folder, enrolment_token_file=token_file)
        tried = len(control.requests)
        async with asyncio.TaskGroup() as group:
            group.create_task(edge.start())
            await until(lambda: len(control.requests) > tried)
            control.status = None
        assert edge.why_not_ready() is None
        await edge.stop()


async def test_an_edge_that_control_no_longer_knows_is_not_ready_and_asks_seldom(
    control: Control, folder: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_UNKNOWN_BASE", 1.0)
    monkeypatch.setattr(follow, "_UNKNOWN_CAP", 1.0)
    async with control.running(), asyncio.timeout(20):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        assert edge.why_not_ready() is None
        control.status = 401
        control.publish()  # ends the poll
        with structlog.testing.capture_logs() as logs:
            await until(lambda: edge.why_not_ready() == "the control plane no longer knows this edge")
        said = next(line for line in logs if line["event"] == "feed interrupted")
        assert f"delete the folder {folder} (state_dir)" in said["hint"]
        control.status = None
        await until(lambda: edge.why_not_ready() is None)  # known again, from a backup
        await edge.stop()


async def test_a_control_plane_that_never_answers_ends_the_start(control: Control, folder: Path, token_file: Path) -> None:
    control.status = 503
    async with control.running(), asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="does not enrol"):
            await fresh(control, folder, enrolment_token_file=token_file, start_timeout=0.3).start()


async def test_a_first_start_without_a_token_says_so(control: Control, folder: Path) -> None:
    async with control.running(), asyncio.timeout(10):
        with pytest.raises(ConfigError) as raised:
            await fresh(control, folder).start()
    assert "enrolment_token_file" in (raised.value.hint or "")


@pytest.mark.parametrize("listener", ["callers_addr", "agents_addr", "admin_addr"])
async def test_a_busy_port_ends_the_start_before_a_token_is_spent(
    control: Control, folder: Path, token_file: Path, listener: str
) -> None:
    async with control.running(), asyncio.timeout(10):
        busy = f"127.0.0.1:{control.port}"
        with pytest.raises(ConfigError, match=r"the port is busy|already in use"):
            await fresh(control, folder, enrolment_token_file=token_file, **{listener: busy}).start()
        assert control.enrolments == []
        assert not (folder / "enrolment.json").exists()


async def test_an_answer_of_another_time_is_not_believed(control: Control, folder: Path, token_file: Path) -> None:
    """Whoever stands between edge and control can keep a revocation back, but not make the edge believe that there is none."""
    async with control.running(), asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token_file)
        await edge.start()
        try:
            confirmed, version = edge.feed.confirmed_at, edge.feed.version
            control.replayed = "0" * 32
            with structlog.testing.capture_logs() as logs:
                control.publish()
                await until(lambda: sum(log["event"] == "feed interrupted" for log in logs) >= 2)
            assert "not of now" in next(log["reason"] for log in logs if log["event"] == "feed interrupted")
            assert (edge.feed.confirmed_at, edge.feed.version) == (confirmed, version)
            control.replayed = None
            await until(lambda: edge.feed.version > version)
        finally:
            await edge.stop()
