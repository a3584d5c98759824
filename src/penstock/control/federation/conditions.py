"""Conditions: CEL over `claims`, each evaluated in a process of its own that may neither run nor grow for long.

An organization's admin writes the condition and its issuer the claims, so both are a stranger's to everybody else here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.control.errors import ApiError
from penstock.control.federation.denial import Denial

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST: Final = 4096

_PROGRAM: Final = Path(__file__).with_name("cel_process.py")
_SECONDS: Final = 10.0  # of waiting, on a machine that has little time left; the process counts its own
_AT_ONCE: Final = 2
_threads: Final = ThreadPoolExecutor(_AT_ONCE, "conditions")  # each waits for one process


async def check(condition: str, claims: Mapping[str, Any]) -> None:
    """Raises Denial unless the condition is true of these claims."""
    answer = await _ask(condition, dict(claims))
    if answer is None:
        raise Denial("condition_too_costly", "the condition takes too much time or memory over these claims")
    if "failed" in answer:
        raise Denial("match_condition", f"the condition failed: {answer['failed']}")
    if answer["result"] is not True:
        raise Denial("match_condition", "the condition is no boolean" if answer["result"] is None else "the condition is false")


async def problem_of(condition: str) -> str | None:
    """Why this is no condition; None when it is one."""
    if len(condition) > LONGEST:
        return f"longer than {LONGEST} characters"
    answer = await _ask(condition, None)
    return "it takes too much time or memory" if answer is None else answer["problem"]


async def _ask(condition: str, claims: dict[str, Any] | None) -> dict[str, Any] | None:
    """The process's answer; None when it was ended before it had one. Raises ApiError when there is no process to be had."""
    try:
        question = json.dumps({"condition": condition, "claims": claims}).encode()
    except RecursionError:
        return None
    try:
        async with asyncio.timeout(_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(_threads, _run, question)
    except (OSError, TimeoutError) as exc:  # a timeout is one of the waiting for a place
        raise ApiError("overloaded_error", "conditions cannot be evaluated now; try again", detail=str(exc)) from exc


def _run(question: bytes) -> dict[str, Any] | None:
    # Nothing of the environment, which may hold secrets, but what some interpreters need to find their own libraries.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    command = [sys.executable, "-I", str(_PROGRAM)]
    try:
        ended = subprocess.run(  # noqa: S603 - our own program, and nothing of a stranger's on its command line
            command, input=question, capture_output=True, timeout=_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if ended.returncode > 0:
        raise OSError(ended.stderr[-500:].decode(errors="replace"))
    return None if ended.returncode else json.loads(ended.stdout)  # below zero: a bound, or what broke at it
