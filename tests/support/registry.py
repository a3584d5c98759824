"""A registry of container images on loopback, where an engine asks for no TLS; `$DOCKER_REGISTRY` names the program."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.compose import docker, until
from tests.support.pages import Page
from tests.support.pebble import free_port
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETWORK = Page("guides/network.md")
THERE = "registry.example.com"  # as the guide calls it
_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{address}"}}
"""


@dataclass(frozen=True)
class Registry:
    """One that runs, with nothing in it."""

    address: str
    folder: Path

    @property
    def repository(self) -> str:
        return f"{self.address}/penstock"

    @property
    def tag(self) -> str:
        return f"{self.repository}:0.1.0"

    def push(self, image: str) -> str:
        """By the guide's commands; its name by digest. The engine has neither name any more, and will have to ask."""
        changes = {THERE: self.address, " penstock:0.1.0": f" {image}"}
        with Terminal(self.folder, os.environ, changes=changes) as terminal:
            said = terminal.type(NETWORK.commands("push"))
        [pinned] = [line for line in said.splitlines() if line.startswith(f"{self.repository}@sha256:")]
        docker("rmi", self.tag)
        return pinned

    def move_tag(self, image: str) -> str:
        """To an image made from this one, which is not it; its id."""
        (self.folder / "Dockerfile").write_text(f"FROM {image}\nLABEL moved=yes\n")
        docker("build", "--quiet", "--tag", self.tag, str(self.folder))
        docker("push", self.tag)
        return docker("image", "inspect", "--format", "{{.Id}}", self.tag).strip()

    def pinned(self, language: str, name: str) -> str:
        """What the guide shows for an image's name by digest, with this one in it."""
        [text] = NETWORK.blocks("digest", language=language)
        return text.replace(f"{THERE}/penstock", self.repository).replace("sha256:…", name.partition("@")[2], 1)


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Ready when it is given; gone afterwards, and the engine has no name of it."""
    folder.mkdir()
    made = Registry(f"127.0.0.1:{free_port()}", folder)
    (folder / "config.yml").write_text(_CONFIG.format(folder=folder / "images", address=made.address))
    with (folder / "log").open("wb") as log:
        command = [os.environ["DOCKER_REGISTRY"], "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        until(lambda: _listens(made.address), "listening: the registry")
        yield made
    finally:
        process.kill()
        process.wait()
        names = docker("images", "--quiet", "--no-trunc", made.repository).split()
        for name in names:
            listed = docker(
                "image", "inspect", "--format", '{{join .RepoTags " "}} {{join .RepoDigests " "}}', name, check=False
            )
            docker("rmi", *(one for one in listed.split() if one.startswith(made.repository)), check=False)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True
