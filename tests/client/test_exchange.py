"""The token exchange from the workload's side: every published failure is explained, and the JWT is in no word of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.answering import answering, http
from tests.support.control import api, database, start_api
from tests.support.idp import Idp
from tests.support.workloads import AUDIENCE, ORGANIZATION, workload

from penstock.client.exchange import Identity, exchange
from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api
    from tests.support.workloads import Workload

__all__ = ["api", "database", "start_api"]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def one(start_api: Callable[..., Any]) -> Workload:
    started: Api = await start_api(public_url=AUDIENCE)
    return await workload(started)


async def refusal(url: str, assertion: str, **changes: Any) -> PenstockError:
    """Why this is not exchanged; in nothing that anybody reads is the assertion, or its signature alone."""
    identity = Identity(Secret(assertion), **{"federation_rule_id": "fdrl_1", "organization_id": "o", **changes})
    with pytest.raises(PenstockError) as caught:
        await exchange(url, identity)
    error = caught.value
    said = f"{error.public} {error.detail} {error.hint} {error!r} {identity!r}"
    assert not assertion or assertion not in said
    assert assertion.count(".") != 2 or assertion.rpartition(".")[2] not in said
    assert error.hint
    return error


async def refused(one: Workload, assertion: str, **changes: Any) -> str:
    """The hint of an opaque 401 of the real platform."""
    asked = {"federation_rule_id": one.rule["id"], "organization_id": one.api.initial.organization_id, **changes}
    error = await refusal(one.api.control.url, assertion, **asked)
    assert isinstance(error, IdentityError)
    assert error.public == "the identity token is not accepted"
    assert "Authentication failed" in str(error.detail)
    assert "request req_" in str(error.detail)
    return str(error.hint)


async def test_a_good_assertion_becomes_a_bearer(one: Workload) -> None:
    identity = Identity(Secret(one.idp.sign()), one.rule["id"], one.api.initial.organization_id)
    bearer = await exchange(one.api.control.url, identity)
    assert bearer.scope == "workspace:manage_tunnels"
    assert 1190 <= bearer.expires_in <= 1200
    assert "sk-ant" not in repr(bearer)


async def test_an_expired_assertion_says_when_it_expired_and_nothing_else(one: Workload) -> None:
    now = time.time()
    hint = await refused(one, one.idp.sign(iat=now - 900, exp=now - 300))
    assert hint.startswith("the token expired at ")
    assert "audience" not in hint


async def test_an_assertion_of_the_future_points_at_the_clocks(one: Workload) -> None:
    assert "clock" in await refused(one, one.idp.sign(nbf=time.time() + 600))


async def test_an_audience_without_its_scheme_is_told_apart(one: Workload) -> None:
    await one.change_rule(match={"subject_prefix": "system:*", "audience": "https://127.0.0.1"})
    hint = await refused(one, one.idp.sign(aud="127.0.0.1"))
    assert "audience is '127.0.0.1' and has no scheme" in hint
    assert "byte for byte" in hint
    assert "has no scheme" not in await refused(one, one.idp.sign(aud=["https://elsewhere.example.com"]))


async def test_subject_and_membership_are_among_the_causes(one: Workload) -> None:
    hint = await refused(one, one.idp.sign(sub="somebody"))
    assert "subject is 'somebody'" in hint
    await one.boss.post(f"{ORGANIZATION}/service_accounts", {"name": "unused"})
    hint = await refused(one, one.idp.sign(), workspace_id="wrkspc_00000000000000000000000")
    assert "must be a member of wrkspc_00000000000000000000000" in hint
    assert "ANTHROPIC_WORKSPACE_ID is not set" in await refused(one, one.idp.sign(), federation_rule_id="fdrl_01Unknown")


async def test_a_signature_of_somebody_else_is_refused_and_not_shown(one: Workload) -> None:
    await refused(one, Idp().sign())


async def test_a_malformed_request_names_the_variables(one: Workload) -> None:
    error = await refusal(one.api.control.url, one.idp.sign(), workspace_id="production")
    assert isinstance(error, ConfigError)
    assert "ANTHROPIC_WORKSPACE_ID" in str(error.hint)


@pytest.mark.parametrize(
    "text", ["", "pst-key-x", '{"value": "aaa.bbb.ccc"}', "aaa.bbb", "aaa.bbb.ccc.ddd", f"aaa.{'b' * 17_000}.ccc "]
)
async def test_what_is_no_jwt_is_not_sent_anywhere(text: str) -> None:
    error = await refusal("http://127.0.0.1:9", text)
    assert isinstance(error, IdentityError)
    assert "is not a JWT" in error.public


JWT = Idp().sign()
LAUNCH = json.dumps({"error": "invalid_grant", "error_description": f"no: {JWT}"})
UNSET = json.dumps({"error": "invalid_request", "error_description": "workspace_id_required"})
BUSY = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": JWT}})
ABSENT = json.dumps({"type": "error", "error": {"type": "not_found_error", "message": "no such path"}})


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (http(400, LAUNCH), IdentityError, "is not accepted"),
        (http(400, UNSET), ConfigError, "does not understand"),
        (http(529, BUSY), UnavailableError, "cannot be served now"),
        (http(429, BUSY), UnavailableError, "cannot be served now"),
        (http(404, ABSENT), ConfigError, "has no token exchange"),
        (http(404, "<html>"), UnavailableError, "not as a platform"),
        (http(302, ""), UnavailableError, "not as a platform"),
        (http(200, "{}"), UnavailableError, "does not answer like a token endpoint"),
        (http(200, "<html>"), UnavailableError, "does not answer like a token endpoint"),
        (b"", UnavailableError, "no answer from"),
        (b"SSH-2.0-OpenSSH\r\n", UnavailableError, "no answer from"),
    ],
    ids=["launch", "no workspace", "overloaded", "limited", "404", "html", "redirect", "empty", "page", "closes", "ssh"],
)
async def test_whatever_answers_is_one_clear_error(answer: bytes, kind: type[PenstockError], said: str) -> None:
    async with answering(answer) as url:
        error = await refusal(url, JWT)
    assert type(error) is kind
    assert said in error.public


@pytest.mark.parametrize("claims", ["bm90IGpzb24", "W10", "_", "eyJleHAiOjFlMzA5fQ", "eyJleHAiOi0xZTMwMH0"])
async def test_claims_that_cannot_be_read_do_not_hide_the_refusal(claims: str) -> None:
    async with answering(http(400, json.dumps({"error": "invalid_grant"}))) as url:
        assert isinstance(await refusal(url, f"a.{claims}.signature"), IdentityError)


@pytest.mark.parametrize("url", ["nonsense", "https://", "ftp://example.com", "https://exa mple.com:port"])
async def test_what_is_no_url_is_said_plainly(url: str) -> None:
    assert isinstance(await refusal(url, JWT), ConfigError)
