"""A workload that may exchange its assertions: service account, issuer and rule of the first organization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.idp import GRANT, ISSUER, Idp
from tests.support.people import Person, admin

if TYPE_CHECKING:
    import httpx2
    from tests.support.control import Api

AUDIENCE = "https://penstock.example.com"
ORGANIZATION = "/v1/organizations"


@dataclass
class Workload:
    """`exchange` sends an assertion of `idp`; what is to be changed is given."""

    api: Api
    boss: Person
    account: dict[str, Any]
    issuer: dict[str, Any]
    rule: dict[str, Any]
    idp: Idp = field(default_factory=Idp)

    async def exchange(self, assertion: str | None = None, **changes: Any) -> httpx2.Response:
        body = {
            "grant_type": GRANT,
            "assertion": assertion if assertion is not None else self.idp.sign(),
            "federation_rule_id": self.rule["id"],
            "organization_id": self.api.initial.organization_id,
            **changes,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return await self.api.http.post("/v1/oauth/token", json=body, headers={"authorization": ""})

    async def reason(self) -> str | None:
        """The reason of the newest exchange in the history."""
        history = await self.boss.get("/penstock/v1/authentications")
        return history["data"][0]["reason"]

    async def denied(self, reason: str, assertion: str | None = None, **changes: Any) -> None:
        """The exchange is refused as all are, and the history says why."""
        response = await self.exchange(assertion, **changes)
        assert response.status_code == 401, response.text
        assert response.json()["error"] == {"type": "authentication_error", "message": "Authentication failed"}
        assert await self.reason() == reason

    async def change_rule(self, **changes: Any) -> None:
        self.rule = await self.boss.post(f"{ORGANIZATION}/federation_rules/{self.rule['id']}", changes)


async def workload(api: Api, idp: Idp | None = None, *, jwks: Any = None, issuer: Any = None, **rule: Any) -> Workload:
    """One with a rule for any subject that begins with `system:`, unless said otherwise."""
    idp, boss = idp or Idp(), await admin(api)
    account = await boss.post(f"{ORGANIZATION}/service_accounts", {"name": "ci"})
    source = jwks or {"type": "inline", "keys": [idp.jwk]}
    made = await boss.post(
        f"{ORGANIZATION}/federation_issuers", {"name": "idp", "issuer_url": ISSUER, "jwks": source, **(issuer or {})}
    )
    body = {
        "name": "ci",
        "issuer_id": made["id"],
        "match": {"subject_prefix": "system:*"},
        "target": {"type": "service_account", "service_account_id": account["id"]},
        "oauth_scope": "workspace:manage_tunnels",
        "workspace_id": api.initial.workspace_id,
        **rule,
    }
    return Workload(api, boss, account, made, await boss.post(f"{ORGANIZATION}/federation_rules", body), idp)
