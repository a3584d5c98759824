from __future__ import annotations

import asyncio
import builtins
import resource
import subprocess
import sys
from typing import Any

import pytest
from tests.support.pages import ROOT

from penstock.net import loop


async def _name() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_uvloop_runs_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert loop.run(_name()).startswith("uvloop")


def test_asyncio_runs_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "uvloop":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert loop.run(_name()).startswith("asyncio")


def test_the_descriptor_limit_is_raised_as_far_as_allowed_and_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
        wanted = 512 if hard == resource.RLIM_INFINITY else min(512, hard)
        assert loop.raise_descriptor_limit(wanted) == wanted
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted
        assert loop.raise_descriptor_limit(300) == wanted
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_GREETED_WITH_GARBAGE = """
import asyncio, ssl
from tests.support import ca
from penstock.net import loop
from penstock.tls import contexts

async def main():
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.wrap_bio(received, sent, server_hostname="aaaa.b").do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello.write(sent.read().replace(b"aaaa.b", b"\\xff\\xffaa.b"))
    server = contexts.proxy_inner(ca.server(ca.ca("x"), "a.b"), (), "off").wrap_bio(hello, answer, server_side=True)
    try:
        server.do_handshake()
    except ssl.SSLError as exc:
        print("refused:", exc.reason)

loop.run(main())
"""


def test_a_server_name_that_is_no_text_is_refused_without_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _GREETED_WITH_GARBAGE], capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
    )
    assert ended.stdout.startswith("refused:")
    assert ended.stderr == ""
