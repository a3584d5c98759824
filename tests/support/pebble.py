"""A real ACME authority, Pebble, which looks at every challenge; and a resolver beside it for which every name is this machine.

`$PEBBLE` names its binary; `pebble-challtestsrv`, which comes with it, is beside that.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from tests.support import ca

from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BINARY = Path(os.environ.get("PEBBLE", "pebble"))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@dataclass(frozen=True)
class Pebble:
    """One running authority, with a root of its own."""

    directory_url: str
    ca_file: Path
    """Of its own TLS."""
    root_file: Path
    """Of the certificates it issues."""
    log: Path

    @property
    def issued(self) -> int:
        return self.log.read_text().count("Issued certificate serial")


@asynccontextmanager
async def running(
    folder: Path, *, asks_port: int, life: int = 3600, port: int = 0, customers: dict[str, str] | None = None
) -> AsyncIterator[Pebble]:
    """An authority that asks `asks_port` of every name, and whose certificates hold `life` seconds.

    With `customers`, keys by their ids, it issues to nobody else.
    """
    folder.mkdir(exist_ok=True)
    port, management, resolver = port or free_port(), free_port(), free_port()
    authority = ca.ca("pebble-tls")
    pair = ca.server(authority, "localhost")
    (folder / "ca.pem").write_text(authority.certificate_pem)
    (folder / "tls.pem").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem.reveal())
    settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": "tls.pem",
        "privateKey": "tls.key",
        "httpPort": asks_port,
        "tlsPort": 1,
        "certificateValidityPeriod": life,
    }
    if customers is not None:
        settings |= {"externalAccountBindingRequired": True, "externalAccountMACKeys": customers}
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    names = ["-dns01", f"127.0.0.1:{resolver}", "-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
    log = folder / "pebble.log"
    async with AsyncExitStack() as started:
        names += ["-management", f"127.0.0.1:{free_port()}"]
        await started.enter_async_context(_process([f"{BINARY}-challtestsrv", *names], folder, folder / "names.log"))
        pebble = [str(BINARY), "-config", "pebble.json", "-dnsserver", f"127.0.0.1:{resolver}", "-strict"]
        await started.enter_async_context(_process(pebble, folder, log))
        context = contexts.control_client(folder / "ca.pem")
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client, asyncio.timeout(30):
            while True:
                try:
                    root = await client.get(f"https://localhost:{management}/roots/0")
                    break
                except httpx2.ConnectError:
                    await asyncio.sleep(0.05)
        (folder / "root.pem").write_text(root.text)
        yield Pebble(f"https://localhost:{port}/dir", folder / "ca.pem", folder / "root.pem", log)


@asynccontextmanager
async def _process(command: Sequence[str], folder: Path, log: Path) -> AsyncIterator[None]:
    """PEBBLE_VA_ALWAYS_VALID stays unset: what is not answered is not valid. Only its wait for effect is left out."""
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1"}
    environment.pop("PEBBLE_VA_ALWAYS_VALID", None)
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=said, stderr=said)
        try:
            yield
        finally:
            process.kill()
            await process.wait()
