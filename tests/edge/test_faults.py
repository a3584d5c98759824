"""What goes wrong around the feed keeps no revocation from the streams it ends, and costs nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import uuid
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.support.ca import HOST
from tests.support.following import Control, fresh
from tests.support.rawagent import accept, raw_agent
from tests.support.recording import settle
from tests.support.site import AWAY, tunnel, until

from penstock.edge.state import StoredPage
from penstock.net.streams import ByteStream
from penstock.protocol import events, metadata
from penstock.protocol.http2.frames import SETTING, ErrorCode, FrameType, SettingId, frame
from penstock.protocol.notice import FEATURE
from penstock.schema.edges import DELTA_CONTEXT, Delta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from pathlib import Path

    from tests.support.rawagent import RawAgent
    from tests.support.site import Site

    from penstock.edge.server import Edge

pytestmark = pytest.mark.anyio

ELSEWHERE = uuid.UUID("9a1b0c4e-0000-4000-8000-000000000002")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.edge.kept._AGAIN", 0.1)


@pytest.fixture
def folder(site: Site) -> Path:
    return site.folder / "fresh"


@contextlib.asynccontextmanager
async def following(site: Site, folder: Path) -> AsyncIterator[tuple[Control, Edge]]:
    """An edge that follows a control plane."""
    token = site.folder / "enrolment-token"
    token.write_text("pst-enrol-test\n")
    async with Control(site).running() as control, asyncio.timeout(30):
        edge = fresh(control, folder, enrolment_token_file=token)
        await edge.start()
        try:
            yield control, edge
        finally:
            await site.hang_up()
            await edge.stop()


async def live(site: Site, edge: Edge, agent: RawAgent) -> ByteStream:
    """A caller's stream by way of `agent`."""
    opening = asyncio.gather(site.open(edge))
    accept(await agent.streams.get())
    ((stream, _),) = await opening
    return stream


async def ended(stream: ByteStream) -> None:
    with contextlib.suppress(OSError):
        while await stream.read(100):
            pass


def revoked(site: Site, edge: Edge) -> StoredPage:
    """The delta that takes away all callers from what `edge` holds, to the version that is published next."""
    held = edge.feed.directory
    version = site.version + 1
    delta = Delta(
        after=held.version,
        after_mark=held.mark,
        version=version,
        mark=f"{version:032x}",
        gone_callers=tuple(held.callers),
    )
    body = delta.model_dump_json().encode()
    return StoredPage(body, site.feed_key.sign(DELTA_CONTEXT + body), 0.0)


@contextlib.contextmanager
def no_descriptors(_: Path) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_folder(folder: Path) -> Generator[None]:
    aside = folder.rename(folder.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(folder)


@pytest.mark.parametrize("without", [no_descriptors, no_folder])
async def test_a_disk_that_takes_nothing_keeps_no_revocation_back_and_has_all_once_it_takes_again(
    site: Site, folder: Path, without: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    async with following(site, folder) as (control, edge), raw_agent(site, edge) as agent:
        await agent.register()
        stream = await live(site, edge, agent)
        with structlog.testing.capture_logs() as logs, without(folder):
            control.publish()
            await until(lambda: any(line["event"] == "feed not saved" for line in logs))
            control.delta = revoked(site, edge)
            site.callers = ()
            control.publish()
            await ended(stream)
        assert next(line for line in logs if line["event"] == "feed not saved")["hint"]
        assert not [line for line in logs if line["event"] in {"feed interrupted", "background task failed"}]
        await until(lambda: (folder / "version").read_text() == str(edge.feed.version))
        assert edge.why_not_ready() is None
        alone = fresh(control, folder, control_url=AWAY)
        await alone.start()
        assert alone.feed.directory == edge.feed.directory
        await alone.stop()


async def hostile(site: Site, edge: Edge, agent: RawAgent) -> None:
    """It asks for notices, and then takes no header that one could have."""
    await agent.register(features=(FEATURE,), tunnel_id=ELSEWHERE.bytes)
    setting = SETTING.pack(SettingId.MAX_HEADER_LIST_SIZE, 1)
    agent.link._http._out.control(frame(FrameType.SETTINGS, 0, 0, setting))
    agent.link._flush_soon()
    (session,) = edge.sessions.links_of(ELSEWHERE)
    await until(lambda: session.link._http._ledger.peer.max_header_list == 1)


async def test_an_agent_that_no_notice_can_be_told_keeps_no_news_from_others(site: Site, folder: Path) -> None:
    site.tunnels = (tunnel(), tunnel(id="tnl_02", wire_id=str(ELSEWHERE), domain="elsewhere.example.com"))
    async with following(site, folder) as (control, edge), raw_agent(site, edge) as honest, raw_agent(site, edge) as bad:
        await honest.register()
        await hostile(site, edge, bad)
        stream = await live(site, edge, honest)
        site.callers, site.agent_edges = (), ("198.51.100.7:7844",)
        control.publish()
        await ended(stream)
        await bad.lost
        assert not honest.lost.done()
        await until(lambda: (folder / "version").read_text() == str(edge.feed.version) == str(site.version))


async def test_an_agent_that_no_notice_can_be_told_keeps_no_edge_from_stopping_in_order(site: Site) -> None:
    site.tunnels = (tunnel(), tunnel(id="tnl_02", wire_id=str(ELSEWHERE), domain="elsewhere.example.com"))
    async with site.edge(limits={"stop_seconds": 5.0}) as edge, raw_agent(site, edge) as honest, raw_agent(site, edge) as bad:
        await honest.register()
        await hostile(site, edge, bad)
        stream = await live(site, edge, honest)
        stopping = asyncio.gather(edge.stop())
        await bad.lost
        assert not stopping.done()  # the caller's stream is let finish
        await stream.aclose()
        await stopping
        assert await honest.lost is None


async def test_an_edge_that_follows_nobody_is_not_ready(site: Site, folder: Path) -> None:
    async with following(site, folder) as (_, edge):
        assert edge.why_not_ready() is None
        assert edge._following is not None
        edge._following.cancel()
        await until(lambda: edge.why_not_ready() == "the control plane is not followed")


async def test_a_fault_that_nobody_foresaw_is_said_and_the_feed_goes_on(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(site, folder) as (control, edge):
        with structlog.testing.capture_logs() as logs, monkeypatch.context() as broken:
            broken.setattr("penstock.edge.pages.check_fresh", lambda *_: 1 / 0)
            control.publish()
            await until(lambda: any(line["event"] == "background task failed" for line in logs))
            assert edge.feed.is_interrupted
        site.callers = ()
        control.publish()
        await until(lambda: not edge.feed.directory.callers and not edge.feed.is_interrupted)


@pytest.mark.parametrize("signature", ["é", "?", "AAAA"])
async def test_a_word_that_is_no_signature_is_not_believed_and_the_feed_goes_on(
    site: Site, folder: Path, signature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(site, folder) as (control, edge):
        version = edge.feed.version
        with structlog.testing.capture_logs() as logs, monkeypatch.context() as broken:
            broken.setattr(Control, "fresh", lambda *_: f"Penstock-Fresh: {signature}\r\n")
            control.publish()
            await until(lambda: any(line["event"] == "feed interrupted" for line in logs))
            assert edge.feed.version == version
        await until(lambda: edge.feed.version > version)


@pytest.mark.parametrize("presence", [500, 0], ids=["refused", "unanswered"])
async def test_reports_that_fail_while_the_feed_works_cost_a_poll_at_most(
    site: Site, folder: Path, presence: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.edge.reports._REPORT", 0.05)
    monkeypatch.setattr("penstock.edge.presence._EVERY", 0.02)
    async with following(site, folder) as (control, edge):

        def asked(what: str) -> int:
            return sum(target.endswith(what) for target, _ in control.requests)

        await until(lambda: asked("snapshot") >= 2 and asked("presence") >= 1)  # the second stays
        control.presence = presence
        polls, reports = asked("snapshot"), asked("presence")
        await until(lambda: asked("presence") >= reports + 10)
        assert asked("snapshot") <= polls + (
            2 if presence == 0 else 1
        )  # in doubt: one that says at once, and the next long one
        assert not edge.feed.is_interrupted
        control.publish()
        await until(lambda: edge.feed.version == control.version)


async def test_a_refusal_whose_text_is_reset_is_passed_on_and_its_caller_counted_no_more(site: Site) -> None:
    async with site.edge(limits={"callers": 2}) as edge, raw_agent(site, edge) as agent:
        await agent.register()
        for _ in range(4):
            asking = asyncio.gather(site.ask(edge))
            stream = await agent.streams.get()
            stream.respond([(b":status", b"404"), (metadata.RESPONSE_META, metadata.META_ORIGIN)])
            await settle()
            agent.link._http.reset_stream(stream.id, ErrorCode.REFUSED_STREAM)
            agent.link._flush_soon()
            ((response, _),) = await asking
            assert response.status == 404
        await until(lambda: edge.ingress.waiting == 0)


async def test_a_fault_that_nobody_foresaw_is_said_and_answers_the_caller(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.edge.ingress.admit_caller", lambda *_: 1 / 0)
    async with site.edge() as edge:
        with structlog.testing.capture_logs() as logs:
            response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert [line["error"] for line in logs if line["event"] == "background task failed"] == ["ZeroDivisionError"]
        assert edge.ingress.waiting == 0


async def test_callers_that_the_feed_does_not_know_are_counted_while_they_wait_for_events(site: Site) -> None:
    site.callers = ()
    async with site.edge(limits={"callers": 2}) as edge:
        asked = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (events.PATH.encode(), HOST.encode())
        held = [ByteStream.over(await site.dial(edge)) for _ in range(2)]
        for stream in held:
            await stream.write(asked)
        await until(lambda: edge.ingress.waiting == 2)
        third = ByteStream.over(await site.dial(edge))
        await third.write(asked)
        assert b"rate_limited" in await third.read(65_536)
