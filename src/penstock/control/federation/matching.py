"""Rules: whether a verified assertion is the one a rule asks for, and whether a rule asks for enough.

All populated fields must hold. A condition is CEL over `claims`; it is bounded in length when it is written and in steps when
it runs, for it is evaluated beside everybody's requests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

import cel

from penstock.control.federation.denial import Denial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.control.federation.assertion import Verified
    from penstock.schema.federation import RuleMatch

CONDITION_LONGEST: Final = 4096
_STEPS_MOST: Final = 1_000_000  # a tenth of a second
_LOOPS: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)")


def check(match: RuleMatch, verified: Verified, default_audiences: Sequence[str]) -> None:
    """Raises Denial for the first field that does not hold."""
    wanted = (match.audience,) if match.audience is not None else tuple(default_audiences)
    if not set(verified.audience) & set(wanted):
        named = ", ".join(verified.audience)[:300] or "none"
        raise Denial("audience_mismatch", f"aud is {named}; this rule expects {' or '.join(wanted)[:300]}")
    if match.subject_prefix is not None and not _is_subject(match.subject_prefix, verified.subject):
        raise Denial("match_subject_prefix", f"sub is {verified.subject[:300]}")
    for name, value in (match.claims or {}).items():
        if verified.claims.get(name) != value:
            raise Denial("match_claims", f"claim {name[:100]} is {str(verified.claims.get(name))[:200]}")
    if match.condition is not None:
        _check_condition(match.condition, verified.claims)


def problem_of(match: RuleMatch) -> str | None:
    """Why a match is not one, beginning with its field; None when it is."""
    narrows = (match.subject_prefix or "*") != "*" or bool(match.claims) or match.condition is not None
    if not narrows:
        return "match: at least one of subject_prefix (other than `*`), claims or condition is required"
    if match.condition is not None and (problem := _condition_problem(match.condition)) is not None:
        return f"match.condition: {problem}"
    return None


def _is_subject(prefix: str, subject: str) -> bool:
    return subject.startswith(prefix[:-1]) if prefix.endswith("*") else subject == prefix


def _check_condition(condition: str, claims: Mapping[str, Any]) -> None:
    loops = len(_LOOPS.findall(condition))
    if loops and _widest(claims) ** loops > _STEPS_MOST:
        raise Denial("condition_too_costly", f"{loops} loops over claims of {_widest(claims)} items")
    try:
        result = _evaluate(condition, {"claims": dict(claims)})
    except Exception as exc:  # noqa: BLE001 - the evaluator's errors are of any kind (KeyError for a claim that is not there)
        raise Denial("match_condition", f"the condition failed: {str(exc)[:200]}") from None
    if result is not True:
        raise Denial("match_condition", "the condition is false" if result is False else "the condition is no boolean")


def _condition_problem(condition: str) -> str | None:
    if len(condition) > CONDITION_LONGEST:
        return f"longer than {CONDITION_LONGEST} characters"
    try:
        program = cel.compile(condition)
    except Exception as exc:  # noqa: BLE001 - as above
        return f"not a CEL expression: {' '.join(str(exc).split())[:300]}"
    names = {str(name) for name in cast("Sequence[Any]", program.variables())}
    if unknown := sorted(names - {"claims"} - set(_LOOPS.findall(condition))):  # a loop's variable is its own
        return f"only `claims` is known, not {', '.join(unknown)[:200]}"
    try:
        constant = _evaluate(condition, {})
    except Exception:  # noqa: BLE001 - it needs claims, as it should
        return None
    return f"it is always {constant!r:.40}, whatever the claims"


def _evaluate(condition: str, variables: Mapping[str, Any]) -> Any:
    context = cel.Context()
    for name, value in variables.items():
        context.add_variable(name, value)
    return cel.compile(condition).execute(context)


def _widest(value: Any) -> int:
    """The most items one list, map or text of it has, at any depth."""
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value)
        return max(len(inner), *(_widest(one) for one in inner.values()), 0)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return max(len(items), *(_widest(one) for one in items), 0)
    return 1
