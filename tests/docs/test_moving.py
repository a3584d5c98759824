"""docs/guides/moving.md, run as it stands: towards a platform of ours, and towards one that knows only what is published."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.control import database, start_api
from tests.support.pages import Page
from tests.support.public_platform import public_platform
from tests.support.terminal import type_once
from tests.support.workloads import AUDIENCE, workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.support.control import Api

__all__ = ["database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(180)]  # seven processes

PAGE = Page("guides/moving.md")
PUBLISHED = """\
listen_addr: ":8080"
log_level: info
shutdown_timeout: 30s
tunnel_domain: a1b2c3d4.tunnel.anthropic.com
tls:
  cert_file: /data/tls.crt
  key_file: /data/tls.key
routes:
  echo: http://hello-mcp:9000
"""


async def test_moving_here_takes_the_settings_along(start_api: Callable[..., Any], tmp_path: Path) -> None:
    started: Api = await start_api()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mcp-gateway.yaml").write_text(PUBLISHED)
    variables = {"API_URL": started.control.url, "API_TOKEN": started.initial.tunnels_key.reveal()}
    await asyncio.to_thread(type_once, PAGE.commands("from"), tmp_path, variables)
    moved = yaml.safe_load((tmp_path / "config" / "mcp-gateway-new.yaml").read_text())
    [tunnel] = (await started.http.get("/v1/tunnels")).json()["data"]
    before = yaml.safe_load(PUBLISHED)
    assert moved["tunnel_domain"] == tunnel["domain"]
    assert moved["routes"] == before["routes"]
    assert moved["tls"]["cert_file"] == str(tmp_path / "data-new" / "tls.crt")


async def test_moving_there_needs_nothing_that_is_not_published(start_api: Callable[..., Any], tmp_path: Path) -> None:
    started: Api = await start_api(public_url=AUDIENCE)
    one = await workload(started, oauth_scope="org:manage_tunnels", issuer={"check_jti": False})
    tunnel = await started.tunnel()
    async with public_platform(started.control.url) as public:
        variables = {
            "API_URL": public.url,
            "TUNNEL_ID": tunnel["id"],
            "ANTHROPIC_FEDERATION_RULE_ID": one.rule["id"],
            "ANTHROPIC_ORGANIZATION_ID": started.initial.organization_id,
            "ANTHROPIC_IDENTITY_TOKEN": one.idp.sign(),
        }
        said = await asyncio.to_thread(type_once, PAGE.commands("to"), tmp_path, variables)
    data = tmp_path / "data-public"
    assert (data / "tunnel-domain").read_text().strip() == tunnel["domain"]
    assert not {"callers-ca.crt", "edge-addresses", "edge-ca.crt"} & {file.name for file in data.iterdir()}
    assert "this platform does not tell its callers' CA" in said
    assert "until it is confirmed that calls pass" in said
    certificates = (await started.http.get(f"/v1/tunnels/{tunnel['id']}/certificates")).json()["data"]
    assert len(certificates) == 1
    assert not any("/v1/tunnels" in line for line in public.asked)
