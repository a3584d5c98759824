"""The process a condition is evaluated in: one question on standard input, one answer on standard output, and it ends.

A program of its own because CEL knows no bound of work: three nested loops over a list of the condition's own, or a text
doubled thirty times by `map`, stop whatever evaluates them. This one has a bound of time and of memory, and nothing to lose.
Imports nothing of Penstock, and of CEL the evaluator alone: its package brings a command line along, 400 ms of imports.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Final

_CPU_SECONDS: Final = 0.3  # an honest condition takes a millisecond
_MEMORY: Final = 512 << 20  # of addresses; the interpreter and the evaluator have 60 MiB of them
_LOOPS: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)")


def main() -> None:
    """Answer one question: `{"condition", "claims"}`, with null claims for one about the condition itself."""
    question = json.load(sys.stdin)
    cel = _evaluator()
    _bound()
    condition, claims = question["condition"], question["claims"]
    answer = _problem(cel, condition) if claims is None else _result(cel, condition, claims)
    json.dump(answer, sys.stdout)


def _evaluator() -> Any:
    package = find_spec("cel")
    extension = PathFinder.find_spec("cel", package.submodule_search_locations) if package else None
    if extension is None or extension.loader is None:
        msg = "common-expression-language is not installed"
        raise ImportError(msg)
    module = module_from_spec(extension)
    extension.loader.exec_module(module)
    return module


def _bound() -> None:
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)  # its signal ends the process


def _result(cel: Any, condition: str, claims: dict[str, Any]) -> dict[str, Any]:
    try:
        result = _evaluate(cel, condition, claims)
    except BaseException as exc:  # noqa: BLE001 - the evaluator's errors are of any kind, and its panics no Exception
        return {"failed": str(exc)[:200]}
    return {"result": result if isinstance(result, bool) else None}


def _problem(cel: Any, condition: str) -> dict[str, Any]:
    try:
        names = {str(name) for name in cel.compile(condition).variables()}
    except BaseException as exc:  # noqa: BLE001 - as above
        return {"problem": f"not a CEL expression: {' '.join(str(exc).split())[:300]}"}
    if unknown := sorted(names - {"claims"} - set(_LOOPS.findall(condition))):  # a loop's variable is its own
        return {"problem": f"only `claims` is known, not {', '.join(unknown)[:200]}"}
    try:
        constant = _evaluate(cel, condition, None)
    except BaseException:  # noqa: BLE001 - it needs claims, as it should
        return {"problem": None}
    return {"problem": f"it is always {constant!r:.40}, whatever the claims"}


def _evaluate(cel: Any, condition: str, claims: dict[str, Any] | None) -> Any:
    context = cel.Context()
    if claims is not None:
        context.add_variable("claims", claims)
    return cel.compile(condition).execute(context)


if __name__ == "__main__":
    main()
