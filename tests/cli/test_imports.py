"""What a role does not need it does not import: a start is CPU, and a process's memory is its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

ROOMS = {
    "agent": ["penstock.cli.agent", "penstock.agent.config", "penstock.agent.server"],
    "proxy": ["penstock.cli.roles", "penstock.proxy.config", "penstock.proxy.server"],
    "edge": ["penstock.cli.roles", "penstock.edge.config", "penstock.edge.server"],
    "control": ["penstock.cli.control", "penstock.control.config", "penstock.control.server"],
    "health": ["penstock.cli.probe"],
}
_STORE = {"sqlalchemy", "aiosqlite", "alembic", "asyncpg"}
_API = {"fastapi", "starlette", "uvicorn"}
_TERMINAL = {"rich", "pygments"}
_NOBODYS = _TERMINAL | {"cel", "prompt_toolkit", "acme", "requests", "mcp", "anthropic"}
# Only a migration, a look at an issuer's keys, or that database needs them.
_LATER = {
    "alembic",
    "sqlalchemy.orm",
    "httpx2",
    "asyncpg",
    "aiosqlite",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
}
STRANGERS = {
    "agent": _NOBODYS | _STORE | _API | {"httpx2", "jwt"},
    "proxy": _NOBODYS | _STORE | _API | {"httpx2", "hpack"},
    "edge": _NOBODYS | _STORE | _API | {"jwt"},
    "control": _NOBODYS | _LATER | {"hpack"},
    # An engine runs it every few seconds.
    "health": _NOBODYS | _STORE | _API | {"typer", "pydantic", "asyncio", "ssl", "http", "cryptography", "structlog", "httpx2"},
}


@pytest.mark.parametrize("role", ROOMS)
def test_a_role_imports_nothing_that_only_others_need(role: str) -> None:
    program = f"import sys, {', '.join(['penstock.cli.main', *ROOMS[role]])}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(ended.stdout.split()) & STRANGERS[role] == set()


def test_every_stranger_is_here_to_be_imported() -> None:
    assert [name for name in set().union(*STRANGERS.values()) if find_spec(name) is None] == []
