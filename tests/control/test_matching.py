"""What a rule asks for: each field alone, conditions in CEL, and issuers that strangers share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.control.federation import conditions, matching, tenants
from penstock.control.federation.assertion import Verified
from penstock.control.federation.denial import Denial
from penstock.schema.federation import RuleMatch

pytestmark = pytest.mark.anyio

CLAIMS: dict[str, Any] = {
    "sub": "repo:acme/app:ref:refs/heads/main",
    "env": "prod",
    "level": 3,
    "groups": ["a", "b"],
    "kubernetes.io": {"namespace": "ci", "pod": {"name": "x"}},
}


def verified(**changes: Any) -> Verified:
    claims = CLAIMS | changes
    return Verified(claims["sub"], 0.0, 600.0, None, ("https://p.example",), claims)


async def reason(match: dict[str, Any], **changes: Any) -> str | None:
    try:
        await matching.check(RuleMatch.model_validate(match), verified(**changes), ("https://p.example", "https://old.example"))
    except Denial as denial:
        return denial.reason
    return None


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"subject_prefix": "repo:acme/app:ref:refs/heads/main"}, None),
        ({"subject_prefix": "repo:acme/app:*"}, None),
        ({"subject_prefix": "repo:acme/app:"}, "match_subject_prefix"),
        ({"subject_prefix": "repo:acme/ap"}, "match_subject_prefix"),
        ({"subject_prefix": "Repo:*"}, "match_subject_prefix"),
        ({"subject_prefix": "repo:*:ref*"}, "match_subject_prefix"),
        ({"claims": {"env": "prod"}}, None),
        ({"claims": {"env": "Prod"}}, "match_claims"),
        ({"claims": {"env": "prod", "team": "x"}}, "match_claims"),
        ({"claims": {"level": "3"}}, "match_claims"),
        ({"claims": {"groups": "a"}}, "match_claims"),
        ({"claims": {"env": "prod"}, "audience": "https://other.example"}, "audience_mismatch"),
        ({"claims": {"env": "prod"}, "audience": "https://p.example"}, None),
        ({"condition": 'claims.env == "prod" && claims.level >= 3'}, None),
        ({"condition": 'claims["kubernetes.io"].namespace == "ci"'}, None),
        ({"condition": 'claims["kubernetes.io"].pod.name in ["x", "y"]'}, None),
        ({"condition": 'claims.groups.exists(g, g == "b")'}, None),
        ({"condition": 'has(claims.team) || claims.sub.startsWith("repo:acme/")'}, None),
        ({"condition": 'claims.sub.matches("^repo:acme/[a-z]+:ref:")'}, None),
        ({"condition": 'claims.env == "test"'}, "match_condition"),
        ({"condition": 'claims.team == "x"'}, "match_condition"),
        ({"condition": "claims.env"}, "match_condition"),
        ({"condition": "claims.env.nothing()"}, "match_condition"),
        ({"condition": "claims.level / 0 == 1"}, "match_condition"),
    ],
)
async def test_every_populated_field_has_to_hold(match: dict[str, Any], expected: str | None) -> None:
    assert await matching.problem_of(RuleMatch.model_validate(match)) is None
    assert await reason(match) == expected


ONES = f"[{','.join('1' * 200)}]"
HARMFUL = {
    "loops over lists of its own": f"{ONES}.all(a, {ONES}.all(b, {ONES}.all(c, {ONES}.all(d, {{}}))))",
    "a text that doubles": "['aaaaaaaa']" + ".map(x, x + x)" * 40 + ".size() > 0 && {}",
    "a list that doubles": "[[1, 1, 1, 1]]" + ".map(x, x + x)" * 40 + ".size() > 0 && {}",
}


@pytest.mark.parametrize("condition", HARMFUL.values(), ids=HARMFUL.keys())
async def test_a_condition_that_would_take_everybodys_time_or_memory_is_ended(condition: str) -> None:
    assert "too much" in str(await conditions.problem_of(condition.format("true")))
    ticks = 0

    async def serve_others() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    async with asyncio.TaskGroup() as group:
        others = group.create_task(serve_others())
        assert await reason({"condition": condition.format("claims.level == 3")}) == "condition_too_costly"
        others.cancel()
    assert ticks > 10  # they were served meanwhile


async def test_loops_over_claims_are_as_long_as_time_allows() -> None:
    condition = "claims.a.all(x, claims.a.all(y, claims.a.all(z, x + y + z >= 0)))"
    assert await reason({"condition": condition}, a=[0] * 2000) == "condition_too_costly"
    assert await reason({"condition": condition}, a=[0] * 20) is None


async def test_claims_nested_without_end_are_a_refusal() -> None:
    nested: list[Any] = []
    for _ in range(100_000):  # some Pythons read and write a thousand, some ten thousand
        nested = [nested]
    assert await reason({"condition": "size(claims.a) == 1"}, a=nested) == "condition_too_costly"


GITHUB = "https://token.actions.githubusercontent.com"


@pytest.mark.parametrize(
    ("issuer", "match", "is_narrow"),
    [
        (GITHUB, {"subject_prefix": "repo:acme/*"}, True),
        (GITHUB, {"subject_prefix": "repo:acme/app:ref:refs/heads/main"}, True),
        (GITHUB, {"subject_prefix": "repo:*"}, False),
        (GITHUB, {"subject_prefix": "repo:acme*"}, False),
        (GITHUB, {"claims": {"repository_owner": "acme"}}, True),
        (GITHUB, {"claims": {"ref": "refs/heads/main"}}, False),
        (GITHUB + "/", {"condition": "claims.ref == 'refs/heads/main'"}, False),
        ("https://gitlab.com", {"subject_prefix": "project_path:acme/*"}, True),
        ("https://gitlab.com", {"subject_prefix": "project_path:*"}, False),
        ("https://accounts.google.com", {"subject_prefix": "1138*"}, False),
        ("https://accounts.google.com", {"subject_prefix": "113812345"}, True),
        ("https://idp.acme.example", {"subject_prefix": "a*"}, True),
    ],
)
def test_a_rule_for_an_issuer_of_strangers_names_its_tenant(issuer: str, match: dict[str, Any], *, is_narrow: bool) -> None:
    assert (tenants.problem_of(issuer, RuleMatch.model_validate(match)) is None) is is_narrow
