"""What the documents' tests share: the pages, and the tests they name."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

from tests.support.command import PENSTOCK, environment

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(?:tests/)?([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands(name: str, kind: str = "") -> str:
    """A page's shell commands, one after another; kind: the word behind `sh` of those that are meant."""
    blocks = re.findall(rf"^```sh{f' {kind}' if kind else ''}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)
    assert blocks, name
    return "".join(blocks)


async def shell(text: str, folder: Path, variables: dict[str, str]) -> str:
    """Run commands as somebody would type them in `folder`, ending at the first that fails; everything they said."""
    path = f"{PENSTOCK.rpartition('/')[0]}:{os.environ['PATH']}"
    ended = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-eu", "-c", text],
        cwd=folder,
        env=environment(folder, **variables, PATH=path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return str(ended.stdout)


def named_tests(name: str) -> list[tuple[str, str]]:
    return sorted(set(_NAMED.findall(page(name))))


def is_test(file: str, name: str) -> bool:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    return re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) is not None
