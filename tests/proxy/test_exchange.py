from __future__ import annotations

import asyncio
import gc
from typing import Any

import h11
import pytest
from tests.proxy.rig import HOST, LOOPBACK, Link, Script, get, hello, post, reply, rig

from penstock.proxy.guard import Guard

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.mark.parametrize(
    ("answer", "body", "framing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", b"content-length"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\nT: 1\r\n\r\n",
            b"hello",
            b"transfer-encoding",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", b"transfer-encoding"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello", b"transfer-encoding"),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", b"", b"content-length"),
    ],
)
async def test_every_body_reaches_the_caller_with_an_end_it_can_see(answer: bytes, body: bytes, framing: bytes) -> None:
    async with rig(reply(answer)) as r:
        got = await r.fetch(get())
        assert got.body == body
        assert framing in got.headers


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_bodiless_answers_leave_the_stream_in_order(method: str, answer: bytes) -> None:
    async def script(link: Link) -> None:
        while True:
            head, _ = await link.request()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" if b"/next" in head else answer)

    async with rig(script) as r:
        link = await r.connect()
        await link.send(get(method=method))
        got = await link.response(method)
        assert got.body == b""
        assert b"transfer-encoding" not in got.headers
        await link.send(get("/next"))
        assert (await link.response()).body == b"ok"


async def test_a_head_request_uses_its_connection_up() -> None:
    async with rig() as r:
        link = await r.connect()
        await link.send(get(method="HEAD"))
        await link.until(b"\r\n\r\n")
        await link.send(get())
        assert (await link.response()).status == 200
        assert len(r.upstream.links) == 2


async def test_interim_responses_pass() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with rig(reply(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as r:
        answer = await r.fetch(get())
        assert (answer.informational, answer.status) == ([100, 103], 200)


async def test_expect_is_the_upstreams_to_answer() -> None:
    async def script(link: Link) -> None:
        head = await link.until(b"\r\n\r\n")
        assert b"expect: 100-continue" in head.lower()
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await link.exactly(5) == b"hello"
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with rig(script) as r:
        link = await r.connect()
        await link.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
        assert await link.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await link.send(b"hello")
        assert (await link.response()).status == 200


async def test_an_answer_before_the_upload_ends_passes_at_once_and_uses_the_stream_up() -> None:
    async def script(link: Link) -> None:
        await link.until(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        await link.read()

    async with rig(script) as r:
        link = await r.connect()
        await link.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nabc".encode())
        answer = await link.response()
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (413, b"no", b"close")
        assert answer.error is None


async def test_both_directions_stream_at_once() -> None:
    async def echo(link: Link) -> None:
        await link.until(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(3):
            await link.send(await link.exactly(4))

    async with rig(echo) as r:
        link = await r.connect()
        await link.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 12\r\n\r\n".encode())
        await link.until(b"\r\n\r\n")
        for word in (b"one.", b"two.", b"six."):
            await link.send(word)
            assert await link.until(word + b"\r\n") == b"4\r\n" + word + b"\r\n"
        assert await link.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_an_event_passes_at_once_and_alone() -> None:
    next_event = asyncio.Event()

    async def sse(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await link.send(b"9\r\ndata: 1\n\n\r\n")
        await next_event.wait()
        await link.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with rig(sse) as r:
        link = await r.connect()
        await link.send(get())
        assert (await link.until(b"\n\n\r\n")).endswith(b"9\r\ndata: 1\n\n\r\n")
        next_event.set()
        assert await link.until(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


# --- back-pressure ----------------------------------------------------------------------------------------------------


async def test_a_slow_caller_stops_the_upstream_in_bounded_memory() -> None:
    sent = 0

    async def flood(link: Link) -> None:
        nonlocal sent
        await link.request()
        link.writer.transport.set_write_buffer_limits(65536)
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
        while sent < 256 * MIB:
            link.writer.write(bytes(MIB))
            await link.writer.drain()
            sent += MIB

    async with rig(flood) as r:
        link = await r.connect()
        link.writer.transport.pause_reading()
        await link.send(get())
        (pipeline,) = r.pipelines
        await r.until(lambda: pipeline._is_choked)
        before = -1
        while before != sent:  # what fills now are the kernel's buffers
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 64 * MIB
        assert pipeline._transport is not None
        assert pipeline._transport.get_write_buffer_size() <= MIB
        link.writer.transport.resume_reading()
        got = len(await link.until(b"\r\n\r\n")) * 0
        while got < 256 * MIB:
            got += len(await link.read(MIB))
        await r.until(lambda: len(r.events("request ended")) == 1)
        assert r.events("request ended")[0]["sent"] == 256 * MIB


async def test_a_slow_upstream_stops_the_caller_in_bounded_memory() -> None:
    resume = asyncio.Event()

    async def slow(link: Link) -> None:
        await link.until(b"\r\n\r\n")
        link.writer.transport.pause_reading()
        await resume.wait()
        link.writer.transport.resume_reading()
        got = 0
        while got < 128 * MIB:
            got += len(await link.read(MIB))
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with rig(slow) as r:
        link = await r.connect()
        link.writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {128 * MIB}\r\n\r\n".encode())
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while sent < 128 * MIB:
                link.writer.write(bytes(MIB))
                await link.writer.drain()
                sent += MIB

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(upload())
            (pipeline,) = r.pipelines
            await r.until(lambda: pipeline._is_paused and pipeline._exchange is not None and pipeline._exchange._is_choked)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < 64 * MIB
            (connection,) = r.service.pool._all
            assert connection._transport.get_write_buffer_size() <= MIB
            resume.set()
        assert (await link.response()).status == 200


async def test_a_body_waits_for_its_connection_with_reading_paused() -> None:
    resolve = asyncio.Event()

    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        await resolve.wait()
        return ["127.0.0.1"]

    async with rig(upstream_host="slow.internal", lookup=lookup) as r:
        link = await r.connect()
        link.writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {4 * MIB}\r\n\r\n".encode() + bytes(4 * MIB))
        await r.until(lambda: len(r.pipelines) == 1)
        (pipeline,) = r.pipelines
        await r.until(lambda: pipeline._is_paused)
        assert pipeline._received <= MIB
        resolve.set()
        answer = await link.response()
        assert answer.body.endswith(bytes(4 * MIB))


async def test_a_machine_without_a_thread_to_look_a_name_up_in_is_an_answer() -> None:
    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    async with rig(upstream_host="slow.internal", lookup=lookup) as r:
        link = await r.connect()
        await link.send(get())
        answer = await link.response()
        assert (answer.status, answer.error) == (502, b"upstream_unreachable")
        assert r.events("upstream failed")[0]["error"] == "lookup slow.internal: can't start new thread"


async def test_a_fault_of_ours_while_dialling_is_an_answer_and_told() -> None:
    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        raise LookupError(host)

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with rig(upstream_host="slow.internal", lookup=lookup) as r:
        link = await r.connect()
        await link.send(get())
        answer = await link.response()
        assert (answer.status, answer.error) == (502, b"upstream_unreachable")
        await r.until(lambda: told)
        assert isinstance(told[0]["exception"], LookupError)


# --- ends -------------------------------------------------------------------------------------------------------------


async def standing(link: Link) -> None:
    """An event stream that stays, until its caller goes."""
    await link.request()
    await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n.\r\n")
    while await link.read():
        pass


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_caller_that_leaves_ends_the_upstream_at_once(is_cut: bool) -> None:
    async with rig(standing) as r:
        link = await r.connect()
        await link.send(get())
        await link.until(b".\r\n")
        link.cut() if is_cut else link.close()
        async with asyncio.timeout(0.5):
            await r.until(lambda: r.upstream.running == 0 and not r.pipelines)
        assert [line["outcome"] for line in r.events("request ended")] == ["caller_gone"]
        assert r.service.pool.open == 0


async def test_a_caller_that_leaves_while_the_upstream_is_dialled_ends_the_dialling() -> None:
    cancelled = asyncio.Event()

    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return []

    async with rig(upstream_host="slow.internal", lookup=lookup) as r:
        link = await r.connect()
        await link.send(post(b"abc"))
        await r.until(lambda: bool(r.events("request started")))
        link.close()
        await asyncio.wait_for(cancelled.wait(), 1)


async def test_a_caller_that_leaves_a_stalled_upload_ends_the_upstream_with_a_reset() -> None:
    async def stalled(link: Link) -> None:
        await link.until(b"\r\n\r\n")
        link.writer.transport.pause_reading()
        await asyncio.wait_for(gone.wait(), 10)
        link.writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            await link.rest()
        told.set()

    gone, told = asyncio.Event(), asyncio.Event()
    async with rig(stalled) as r:
        link = await r.connect()
        link.writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {64 * MIB}\r\n\r\n".encode() + bytes(32 * MIB))
        await r.until(lambda: len(r.pipelines) == 1)
        (pipeline,) = r.pipelines
        await r.until(lambda: pipeline._exchange is not None and pipeline._exchange._is_choked)
        transport = pipeline._transport
        assert transport is not None
        pipeline.connection_lost(ConnectionResetError())  # as the layers below report it through the pause
        gone.set()
        await asyncio.wait_for(told.wait(), 10)
        transport.abort()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
async def test_half_a_body_is_passed_on_and_never_as_a_whole_one(answer: bytes) -> None:
    async with rig(reply(answer)) as r:
        link = await r.connect()
        await link.send(get())
        with pytest.raises(h11.RemoteProtocolError, match="without sending complete message body"):
            await link.response()
        assert r.closes == [1011]
        assert r.events("request ended")[0]["outcome"] == "upstream_protocol"
        assert r.events("request ended")[0]["sent"] in {0, 4}  # garbage in the same read takes what came with it along


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 50_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    ],
)
async def test_an_upstream_that_gives_no_proper_answer_is_a_502_and_the_stream_lives(answer: bytes) -> None:
    async with rig(reply(answer)) as r:
        link = await r.connect()
        await link.send(post(b"abc"))
        got = await link.response()
        assert (got.status, got.error) == (502, b"upstream_protocol")
        await link.send(get(host=f"other.{HOST}"))
        assert (await link.response()).status == 421
        assert b"127.0.0.1" not in got.body
        assert r.service.pool.open == 0


async def test_an_upstream_that_refuses_is_a_502_and_the_log_has_the_published_words() -> None:
    async with rig(port=1) as r:
        got = await r.fetch(get())
        assert (got.status, got.error) == (502, b"upstream_unreachable")
        assert b"127.0.0.1" not in got.body
        assert r.events("upstream failed")[0]["error"] == "dial tcp 127.0.0.1:1: connect: connection refused"


async def test_an_upstream_that_never_answers_is_a_504_where_a_time_is_set() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.read()

    async with rig(silent, limits={"first_byte_timeout": "100ms"}) as r:
        got = await r.fetch(post(b"abc"))
        assert (got.status, got.error) == (504, b"upstream_timeout")
        await r.until(lambda: r.upstream.running == 0)


async def test_a_name_that_never_resolves_is_a_504() -> None:
    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with rig(upstream_host="slow.internal", lookup=lookup, limits={"connect_timeout": "100ms"}) as r:
        got = await r.fetch(get())
        assert (got.status, got.error) == (504, b"upstream_timeout")


async def test_an_address_outside_is_refused_and_only_the_log_knows_it() -> None:
    async with rig(guard=Guard()) as r:
        got = await r.fetch(get())
        assert (got.status, got.error) == (502, b"address_refused")
        assert b"127.0.0.1" not in got.body
        assert r.events("IP validation failed: 127.0.0.1 is not a private address")
        assert not r.upstream.links


async def test_a_name_that_changes_its_answer_is_dialled_at_the_address_that_was_checked() -> None:
    answers = iter([["127.0.0.1"], ["8.8.8.8"]])
    asked = 0

    async def rebinding(host: str, *, ipv6: bool) -> list[str]:
        nonlocal asked
        asked += 1
        return next(answers)

    async with rig(upstream_host="rebind.internal", lookup=rebinding, guard=Guard(LOOPBACK)) as r:
        assert (await r.fetch(get(method="HEAD"), "HEAD")).status == 200
        assert asked == 1
        got = await r.fetch(get())
        assert (got.status, got.error) == (502, b"address_refused")
        assert asked == 2
        assert len(r.upstream.links) == 1


async def test_a_dead_address_leaves_time_for_the_next_one() -> None:
    async def lookup(host: str, *, ipv6: bool) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with rig(upstream_host="two.internal", lookup=lookup) as r:
        assert (await r.fetch(get())).status == 200


@pytest.mark.parametrize(
    ("host_header", "sent"), [("preserve", HOST.encode()), ("upstream", b"127.0.0.1:"), ("mcp.internal", b"mcp.internal\r\n")]
)
async def test_the_host_sent_upstream_is_the_routes_choice(host_header: str, sent: bytes) -> None:
    async with rig(host_header=host_header) as r:
        got = await r.fetch(get())
        assert b"Host: " + sent in got.body
        assert b"X-Forwarded-Host: " + HOST.encode() in got.body


async def test_an_upstreams_421_is_passed_on_and_explained_in_the_log() -> None:
    answer = b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 19\r\n\r\nInvalid Host header"
    async with rig(reply(answer)) as r:
        got = await r.fetch(get())
        assert (got.status, got.body, got.error) == (421, b"Invalid Host header", None)
        assert "host_header: upstream" in str(r.events("upstream answered 421")[0]["hint"])


async def test_a_redirect_is_passed_on() -> None:
    answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    async with rig(reply(answer)) as r:
        got = await r.fetch(get())
        assert (got.status, got.headers[b"location"]) == (307, b"http://169.254.169.254/")
        assert len(r.upstream.links) == 1


# --- what is left behind ----------------------------------------------------------------------------------------------


async def test_one_line_a_request_without_query_values() -> None:
    async with rig() as r:
        await r.fetch(post(b"secret-body", path="/mcp?code=secret", headers="Authorization: Bearer secret\r\n"))
        await r.until(lambda: not r.pipelines)
        (line,) = r.events("request ended")
        assert (line["method"], line["path"], line["status"], line["outcome"]) == ("POST", "/mcp", 200, "ok")
        assert (line["route"], line["received"]) == ("echo", 11)
        assert len(r.events("request started")) == 1
        assert "secret" not in str(r.logged.calls)


@pytest.mark.parametrize(
    "script", [hello, standing, reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then_close=False)]
)
async def test_nothing_of_a_stream_waits_for_the_garbage_collector(script: Script) -> None:
    async with rig(script) as r:
        gc.collect()
        gc.disable()
        try:
            link = await r.connect()
            await link.send(get())
            await link.read()
            assert _alive("Pipeline", "Deadline") == 2
            link.cut()
            await r.until(lambda: not r.pipelines)
            await r.until(lambda: not _alive("Pipeline", "Exchange", "Deadline"))
        finally:
            gc.enable()


def _alive(*names: str) -> int:
    return sum(type(thing).__name__ in names for thing in gc.get_objects())
