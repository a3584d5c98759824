"""The platform's API with a certificate from a real ACME authority, by the Compose file that guides/compose.md names."""

from __future__ import annotations

import json
import shutil
import ssl
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.support import ca, compose, pebble, sides
from tests.support.pages import Page

from penstock.tls import contexts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PAGE = Page("guides/compose.md")
_DOCKERFILE = """
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY pebble /usr/local/bin/pebble
ENV PEBBLE_VA_NOSLEEP=1
ENTRYPOINT ["pebble", "-config", "/conf/pebble.json"]
"""
_SETTINGS = {
    "listenAddress": "0.0.0.0:14000",
    "managementListenAddress": "0.0.0.0:15000",
    "certificate": "/conf/tls.pem",
    "privateKey": "/conf/tls.key",
    "httpPort": 8780,  # of the container itself: the host's port 80 leads there
    "tlsPort": 1,
}


def authority(folder: Path) -> None:
    """What the `pebble` service is built and run with, and the CA of its own TLS."""
    conf = folder / "pebble/conf"
    conf.mkdir(parents=True)
    shutil.copy(pebble.BINARY, folder / "pebble/pebble")
    (folder / "pebble/Dockerfile").write_text(
        _DOCKERFILE.replace("ARG PYTHON_IMAGE", f"ARG PYTHON_IMAGE={sides.python_image()}")
    )
    made = ca.ca("pebble-tls")
    pair = ca.server(made, "pebble", "localhost")
    (conf / "pebble.json").write_text(json.dumps({"pebble": _SETTINGS}))
    (conf / "tls.pem").write_text(pair.certificate_pem)
    (conf / "tls.key").write_text(pair.key_pem.reveal())
    (folder / "tls/pebble.crt").write_text(made.certificate_pem)


def test_the_platform_starts_on_a_certificate_that_it_obtained_itself(tmp_path: Path) -> None:
    image = compose.image(sides.python_image(), version("penstock"))
    postgres = compose.postgres_image(sides.python_image())
    platform = compose.Project.copy("platform", tmp_path / "platform", "compose.acme.yaml", sides.HERE / "acme.yaml")
    platform.name = "penstock-test-acme"
    secrets = platform.folder / "secrets"
    for folder in (secrets, platform.folder / "tls"):
        folder.mkdir()
    authority(platform.folder)
    (secrets / "postgres-password").write_text("7cdf1e0a")
    (secrets / "database-url").write_text("postgresql://penstock:7cdf1e0a@postgres/penstock")
    (secrets / "enrolment-token").write_text("")
    given = dict(line.split("=", 1) for line in PAGE.blocks("acme", language="ini")[0].splitlines())
    assert given.pop("COMPOSE_FILE").split(":") == list(platform.files[:2])  # where a file is named, as here, it is not read
    port, roots_port = pebble.free_port(), pebble.free_port()
    ours = {"PENSTOCK_IMAGE": image, "POSTGRES_IMAGE": postgres, "API_PORT": str(port), "ROOTS_PORT": str(roots_port)}
    platform.environment({**given, **ours, "ACME_DIRECTORY": "https://pebble:14000/dir"})
    try:
        platform("up", "--detach", "--build", "pebble")
        trusted = contexts.control_client(platform.folder / "tls/pebble.crt")
        roots: list[str] = []

        def answers() -> bool:
            try:
                roots[:] = [httpx2.get(f"https://localhost:{roots_port}/roots/0", verify=trusted, trust_env=False).text]
            except httpx2.HTTPError:
                return False
            return True

        compose.until(answers, "the authority there")
        (platform.folder / "tls/ca.crt").write_text(roots[0])
        made = json.loads(platform("run", "--rm", "-T", "init"))
        (secrets / "enrolment-token").write_text(made["enrolment_token"])
        platform("up", "--detach", "--wait")  # edges are well when they have enrolled: over that certificate
        assert "certificate obtained" in platform("logs", "control")
        context = contexts.control_client(platform.folder / "tls/ca.crt")
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        assert "BEGIN CERTIFICATE" in shown
        with httpx2.Client(verify=context, trust_env=False) as client:
            answer = client.get(
                f"https://127.0.0.1:{port}/healthz",
                headers={"host": "penstock.example.com"},
                extensions={"sni_hostname": "penstock.example.com"},
            )
        assert answer.text == "ok\n"
        platform("restart", "control")
        platform.healthy("control")
        assert platform("logs", "control").count("certificate obtained") == 1  # it is kept in the volume
    finally:
        platform("down", "--volumes", "--timeout", "0", "--rmi", "local", check=False)
