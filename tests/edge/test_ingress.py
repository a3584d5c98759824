from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.ca import DOMAIN, HOST
from tests.support.current import current
from tests.support.rawagent import CONNECTOR, accept, raw_agent
from tests.support.site import AWAY, Echo, Origin, Stalled, caller_record, tunnel, until

from penstock.errors import UnavailableError
from penstock.net.streams import ByteStream
from penstock.protocol import metadata

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.edge.server import Edge
    from penstock.net.link import Link, LinkStream

pytestmark = pytest.mark.anyio

QUICK = {"feed_wait_seconds": 0.05, "stop_seconds": 0.1}
OTHER_WORKSPACE = "wrkspc_01AnotherWorkspace"


async def refusal(site: Site, edge: Edge, **asked: Any) -> tuple[int, str, bytes]:
    async with asyncio.timeout(10):
        response, transport = await site.ask(edge, **asked)
    transport.abort()
    return response.status, (response.header(b"penstock-error") or b"").decode(), response.body


# --- who gets in ------------------------------------------------------------------------------------------------------


async def test_unknown_foreign_and_archived_tunnels_and_management_hosts_are_not_found_all_alike(site: Site) -> None:
    foreign = tunnel(domain="ff00ff00.tunnel.penstock.internal", workspace_id=OTHER_WORKSPACE, wire_id=str(ca.ORGANIZATION))
    site.tunnels = (tunnel(), foreign)
    async with site.edge(limits=QUICK) as edge:
        answers = {
            await refusal(site, edge, host=host)
            for host in (
                "echo.nowhere.tunnel.penstock.internal",
                f"echo.{foreign.domain}",
                "management.argotunnel.com",
                f"too.deep.{DOMAIN}",
            )
        }
        site.tunnels = ()
        site.publish(edge)
        answers.add(await refusal(site, edge))
    assert len(answers) == 1
    assert answers.pop()[:2] == (404, "tunnel_not_found")


async def test_a_tunnel_without_an_active_ca_certificate_takes_no_callers(site: Site) -> None:
    site.tunnels = (tunnel(certificates=0),)
    async with site.edge(limits=QUICK) as edge:
        assert (await refusal(site, edge))[:2] == (403, "certificate_missing")


async def test_a_certificate_that_is_not_in_the_feed_is_forbidden_after_a_wait_for_it(site: Site) -> None:
    stranger = ca.caller(site.caller_ca, caller_id="clr_01Stranger")
    async with site.edge(limits=QUICK) as edge:
        assert (await refusal(site, edge, pair=stranger))[:2] == (403, "caller_forbidden")


async def test_a_certificate_issued_a_moment_ago_is_waited_for(site: Site) -> None:
    newcomer = ca.caller(site.caller_ca, caller_id="clr_01Newcomer")
    async with site.edge() as edge:
        asking = asyncio.gather(refusal(site, edge, pair=newcomer))
        await until(lambda: edge.ingress.waiting == 1)
        site.callers = (*site.callers, caller_record(newcomer))
        site.publish(edge)
        assert (await asking)[0][:2] == (502, "agent_unavailable")  # admitted: only the agent is missing


async def test_while_control_is_away_what_may_only_be_too_new_is_refused_for_now_and_afterwards_for_good(site: Site) -> None:
    newcomer = ca.caller(site.caller_ca, caller_id="clr_01Newcomer")
    spent = ca.caller(site.caller_ca, caller_id="clr_01Spent")
    bare = tunnel(id="tnl_01Bare", wire_id=str(uuid.uuid4()), domain="bare.tunnel.example.com", certificates=0)
    foreign = tunnel(
        id="tnl_01Other", wire_id=str(uuid.uuid4()), domain="other.tunnel.example.com", workspace_id="wrkspc_01Other"
    )
    site.tunnels = (*site.tunnels, bare, foreign)
    site.callers = (*site.callers, caller_record(spent, expires_at=datetime.now(UTC)))
    asked = [
        {"pair": newcomer},
        {"host": "echo.unheard.tunnel.example.com"},
        {"host": f"echo.{foreign.domain}"},
        {"host": f"echo.{bare.domain}"},
    ]
    async with site.edge(control_url=AWAY) as edge:
        assert edge.metrics.feed_interrupted.collect()[0].samples[0].value == 1
        answers = {await refusal(site, edge, **each) for each in asked}  # at once: nothing is waited for
        assert len(answers) == 1, answers  # alike, or they would tell an unknown tunnel from a foreign one
        (status, code, text) = answers.pop()
        assert (status, code) == (502, "agent_unavailable")
        assert b"cannot reach its control plane" in text
        assert (await site.ask(edge, pair=newcomer))[0].header(b"retry-after") == b"1"
        assert (await refusal(site, edge, pair=spent))[:2] == (403, "caller_forbidden")  # no news can make it valid
        async with current(site.feed_key) as control:
            edge._control.client.base_url = control.url
            await until(lambda: not edge.feed.is_interrupted)
            assert edge.metrics.feed_interrupted.collect()[0].samples[0].value == 0
            final = [(await refusal(site, edge, **each))[:2] for each in asked]
        assert final == [
            (403, "caller_forbidden"),
            (404, "tunnel_not_found"),
            (404, "tunnel_not_found"),
            (403, "certificate_missing"),
        ]


async def test_a_certificate_of_another_ca_ends_in_the_handshake(site: Site) -> None:
    impostor = ca.caller(ca.ca("caller-ca"))
    async with site.edge() as edge:
        with pytest.raises((ssl.SSLError, ConnectionError, UnavailableError)):
            await refusal(site, edge, pair=impostor)


async def test_a_stale_edge_takes_nothing_new(site: Site) -> None:
    async with site.edge(stale_limit=0.0, limits=QUICK) as edge:
        status, code, body = await refusal(site, edge)
    assert (status, code) == (502, "agent_unavailable")
    assert b"control plane" in body


async def test_a_full_edge_says_when_to_come_back(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(limits={"callers": 1, "stop_seconds": 0.1}) as edge,
        site.agent(edge, url=origin.url, links=1),
    ):
        stream, _ = await site.open(edge)
        response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (429, b"rate_limited")
        assert response.header(b"retry-after") == b"1"
        await stream.aclose()


async def test_a_limit_of_open_files_is_a_limit_of_callers_and_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []

    def system(most: int) -> int:
        wanted.append(most)
        return 71

    monkeypatch.setattr("penstock.edge.files.raise_descriptor_limit", system)
    with capture_logs() as lines:
        async with Origin(Echo) as origin, site.edge(limits={**QUICK, "callers": 20, "links": 20, "arriving": 4}) as edge:
            assert wanted == [2 * 20 + 20 + 4 + 64]
            async with site.agent(edge, url=origin.url, links=1):
                streams = [(await site.open(edge))[0] for _ in range(2)]
                assert (await refusal(site, edge))[:2] == (429, "rate_limited")
                for stream in streams:
                    await stream.aclose()
    (said,) = [line for line in lines if line["event"] == "streams limited by open files"]
    assert (said["callers"], said["links"], said["arriving"], said["files"]) == (2, 2, 1, 71)


# --- which agent ------------------------------------------------------------------------------------------------------


async def test_without_a_link_the_answer_says_when_to_come_back(site: Site) -> None:
    async with site.edge() as edge:
        response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert response.header(b"retry-after") == b"1"


async def test_a_stream_that_one_agent_refuses_is_opened_at_another(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as one, raw_agent(site, edge) as other:
        await one.register()
        await other.register()
        asking = asyncio.gather(site.ask(edge))
        first = asyncio.gather(one.streams.get())
        second = asyncio.gather(other.streams.get())
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        refusing, waiting = (first, second) if first in done else (second, first)
        refusing.result()[0].refuse()
        accept((await waiting)[0])
        ((response, transport),) = await asking
        assert response.status == 101
        transport.abort()


async def test_a_link_that_falls_before_it_answered_is_replaced_by_another(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as one, raw_agent(site, edge) as other:
        await one.register()
        await other.register()
        asking = asyncio.gather(site.ask(edge))
        first = asyncio.gather(one.streams.get())
        second = asyncio.gather(other.streams.get())
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        falling, waiting = (one, second) if first in done else (other, first)
        falling.link.abort()
        accept((await waiting)[0])
        ((response, transport),) = await asking
        assert response.status == 101
        transport.abort()


async def test_a_request_of_very_many_fields_is_refused_and_costs_no_link(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge(limits=QUICK) as edge, site.agent(edge, url=origin.url, links=2) as agent:
        standing, _ = await site.open(edge)
        fields = [(b"a%d" % number, b"1") for number in range(600)]
        assert (await refusal(site, edge, headers=fields))[:2] == (431, "head_too_large")
        await standing.write(b"still here")
        async with asyncio.timeout(5):
            assert await standing.read(100) == b"still here"
        assert (edge.sessions.registered, agent.links) == (2, 2)
        await standing.aclose()


async def test_a_head_that_costs_a_link_is_sent_once_more_and_no_more(site: Site) -> None:
    async with site.edge(limits=QUICK) as edge, contextlib.AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(raw_agent(site, edge)) for _ in range(4)]
        asked = asyncio.Queue[None]()
        for agent in agents:
            await agent.register()

            def fall(_: LinkStream, link: Link = agent.link) -> None:
                asked.put_nowait(None)
                link.abort()

            agent.streams.put_nowait = fall  # pyright: ignore[reportAttributeAccessIssue]  # as soon as it is asked
        response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert response.header(b"penstock-link")  # for an edge that passed it on: not to be tried elsewhere
        assert asked.qsize() == 2
        assert edge.sessions.registered == 2


async def test_a_stream_that_no_agent_takes_is_refused_once_all_were_tried(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        (await agent.streams.get()).refuse()
        ((response, _),) = await asking
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")


async def test_an_agent_that_does_not_answer_is_given_up_and_told_so(site: Site) -> None:
    async with site.edge(limits={"open_seconds": 0.1, "stop_seconds": 0.1}) as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        stream = await agent.streams.get()
        ((response, _),) = await asking
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        await until(stream.is_closing)


async def test_the_answer_names_the_replica_and_the_next_request_can_ask_for_it(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as one, raw_agent(site, edge) as other:
        await one.register()
        await other.register(client_id=b"another-agent-16")
        for _ in range(4):
            asking = asyncio.gather(site.ask(edge, headers=[(b"penstock-replica", _text(CONNECTOR))]))
            accept(await one.streams.get())
            ((response, transport),) = await asking
            assert response.header(b"penstock-replica") == _text(CONNECTOR)
            transport.abort()
        assert other.streams.empty()


async def test_what_the_agent_is_asked_has_the_admitted_host_and_no_control_header_of_the_callers(site: Site) -> None:
    forged = [
        (b"cf-cloudflared-proxy-connection-upgrade", b"update-configuration"),
        (b"Cf-Cloudflared-Proxy-Src", b"x"),
        (b"x-kept", b"1"),
    ]
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge, host=HOST.upper() + ":443", headers=forged))
        stream = await agent.streams.get()
        accept(stream)
        ((_, transport),) = await asking
        transport.abort()
    asked = dict(stream.headers)
    assert asked[b":authority"] == HOST.encode()
    assert [value for name, value in stream.headers if name == metadata.UPGRADE] == [metadata.WEBSOCKET]
    assert metadata.TCP_SOURCE not in asked
    assert asked[b"x-kept"] == b"1"


async def test_an_answer_that_is_no_upgrade_is_passed_on_with_a_bounded_body(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        packed = metadata.serialize_headers([(b"Penstock-Error", b"no_ingress"), (b"X-Proxy", b"said")])
        head = [(b":status", b"503"), (metadata.RESPONSE_HEADERS, packed), (metadata.RESPONSE_META, metadata.META_ORIGIN)]
        (await agent.streams.get()).respond(head, b"No ingress rules " * 1000)
        ((response, _),) = await asking
    assert (response.status, response.header(b"penstock-error"), response.header(b"x-proxy")) == (503, b"no_ingress", b"said")
    assert response.body.startswith(b"No ingress rules")
    assert len(response.body) == 8192


async def test_a_head_of_sixty_kilobytes_is_passed_on_and_the_link_lives(site: Site) -> None:
    cookie = b"c" * 60_000
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        transport = await site.dial(edge)
        pipe = ByteStream.over(transport)
        await pipe.write(b"GET / HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        await pipe.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        packed = metadata.serialize_headers([(b"Set-Cookie", cookie)])
        (await agent.streams.get()).respond([(b":status", b"403"), (metadata.RESPONSE_HEADERS, packed)], b"no")
        answer = b""
        while data := await pipe.read(65_536):
            answer += data
        await pipe.aclose()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert cookie in answer
        assert not agent.lost.done()


async def test_an_answer_that_cannot_be_read_is_the_agents_failure(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        stream = await agent.streams.get()
        stream.respond([(b":status", b"200"), (metadata.RESPONSE_HEADERS, b"!")])
        ((response, _),) = await asking
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        await until(stream.is_closing)


# --- streams that live ------------------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_before_the_answer_ends_the_stream(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        stream = await agent.streams.get()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(stream.is_closing)


async def test_a_revoked_caller_is_cut_and_another_is_not(site: Site) -> None:
    other = ca.caller(site.caller_ca, caller_id="clr_01Other")
    site.callers = (*site.callers, caller_record(other))
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(10):
        revoked, _ = await site.open(edge)
        kept, _ = await site.open(edge, pair=other)
        site.callers = (caller_record(other),)
        site.publish(edge)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            assert await revoked.read(1) != b""
        await kept.write(b"still here")
        assert await kept.read(100) == b"still here"
        await kept.aclose()


async def test_a_certificate_that_ran_out_opens_nothing_but_its_streams_go_on(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(limits=QUICK) as edge,
        site.agent(edge, url=origin.url, links=1),
        asyncio.timeout(10),
    ):
        stream, _ = await site.open(edge)
        site.callers = (caller_record(site.caller, expires_at=datetime.now(UTC)),)
        site.publish(edge)
        assert (await refusal(site, edge))[0] == 403
        await stream.write(b"opened in time")
        assert await stream.read(100) == b"opened in time"
        site.callers = ()  # revoked since, or a day later
        site.publish(edge)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            assert await stream.read(1) != b""


async def test_an_archived_tunnels_streams_are_cut_even_while_they_stall(site: Site) -> None:
    async with Origin(Stalled) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(10):
        stream, _ = await site.open(edge)
        stream.transport.write(bytes(20_000_000))
        site.tunnels = ()
        site.publish(edge)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            assert await stream.read(1) != b""
        await until(lambda: edge.ingress.live == 0)


def _text(connector: bytes) -> bytes:
    return str(uuid.UUID(bytes=connector)).encode()


async def test_a_caller_revoked_while_its_stream_is_being_opened_does_not_get_it(site: Site) -> None:
    async with site.edge(limits=QUICK) as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        stream = await agent.streams.get()
        site.callers = ()
        site.publish(edge)
        accept(stream)
        ((response, _),) = await asking
        assert (response.status, response.header(b"penstock-error")) == (403, b"caller_forbidden")
        await until(stream.is_closing)
        assert edge.ingress.live == 0
