"""Issuers that many strangers share: a rule for one of them has to say whose token it accepts, or it accepts everyone's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from penstock.schema.federation import RuleMatch


@dataclass(frozen=True, slots=True)
class _Shared:
    name: str
    subject: re.Pattern[str]
    """A subject prefix that names one tenant, whole."""
    claims: frozenset[str]
    """Claims of which any one names a tenant."""


_SHARED: Final = {
    "https://token.actions.githubusercontent.com": _Shared(
        "GitHub Actions",
        re.compile(r"repo:[^/*:]+/"),
        frozenset({"repository", "repository_id", "repository_owner", "repository_owner_id", "enterprise_id"}),
    ),
    "https://gitlab.com": _Shared(
        "GitLab",
        re.compile(r"project_path:[^/*:]+/"),
        frozenset({"project_path", "project_id", "namespace_path", "namespace_id"}),
    ),
    "https://agent.buildkite.com": _Shared(
        "Buildkite", re.compile(r"organization:[^:*]+:"), frozenset({"organization_slug", "organization_id"})
    ),
    "https://app.terraform.io": _Shared(
        "Terraform Cloud",
        re.compile(r"organization:[^:*]+:"),
        frozenset({"terraform_organization_name", "terraform_organization_id"}),
    ),
    # Google's subjects are numbers without a structure: only a whole one names somebody.
    "https://accounts.google.com": _Shared("Google", re.compile(r"[0-9]+$"), frozenset({"hd", "email"})),
}


def problem_of(issuer_url: str, match: RuleMatch) -> str | None:
    """Why this match would accept strangers; None when it does not, or the issuer is nobody's but its owner's."""
    shared = _SHARED.get(issuer_url.rstrip("/"))
    if shared is None:
        return None
    if match.subject_prefix is not None and shared.subject.match(match.subject_prefix):
        return None
    if not shared.claims.isdisjoint(match.claims or {}):
        return None
    return (
        f"match: {shared.name} signs for everybody; subject_prefix must name your tenant whole, "
        f"or claims one of {', '.join(sorted(shared.claims))}"
    )
