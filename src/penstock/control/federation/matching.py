"""Rules: whether a verified assertion is the one a rule asks for, and whether a rule asks for enough.

All populated fields must hold; the condition comes last, for it alone costs anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.control.federation import conditions
from penstock.control.federation.denial import Denial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.control.federation.assertion import Verified
    from penstock.schema.federation import RuleMatch


async def check(match: RuleMatch, verified: Verified, default_audiences: Sequence[str]) -> None:
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
        await conditions.check(match.condition, verified.claims)


async def problem_of(match: RuleMatch) -> str | None:
    """Why a match is not one, beginning with its field; None when it is."""
    narrows = (match.subject_prefix or "*") != "*" or bool(match.claims) or match.condition is not None
    if not narrows:
        return "match: at least one of subject_prefix (other than `*`), claims or condition is required"
    if match.condition is not None and (problem := await conditions.problem_of(match.condition)) is not None:
        return f"match.condition: {problem}"
    return None


def _is_subject(prefix: str, subject: str) -> bool:
    return subject.startswith(prefix[:-1]) if prefix.endswith("*") else subject == prefix
