"""A control plane in a thread of its own, for tools that make their requests one after the other without a loop; and requests
made of its OpenAPI document, each with a credential that may and, half of the time, ids that exist."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from tests.support import ca
from tests.support.control import PUBLISHED
from tests.support.idp import ISSUER, Idp
from tests.support.store import STORES

from penstock.control.server import Control
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.control.service.bootstrap import Initial

UNCOUNTED: Final = {
    "tunnels_per_organization": 10_000,
    "certificates_per_tunnel": 10_000,
    "rates": {"key": None, "address": None, "sign_in": None, "exchange": None},
}
JUDGES: Final = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
)


@dataclass
class Served:
    """Where it is, and what is in it."""

    url: str
    initial: Initial
    http: httpx2.Client
    ids: dict[str, str] = field(default_factory=dict)
    """An id that exists, by the name its path parameter has."""
    credentials: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, body: Any = None, *, by: str) -> Any:
        headers = {**PUBLISHED, "authorization": f"Bearer {self.credentials[by]}"}
        response = self.http.post(f"{self.url}{path}", json={} if body is None else body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """With one of everything in it."""
    started: threading.Event = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        try:
            config, found["initial"] = await STORES["sqlite"].initialized(
                folder, {"limits": UNCOUNTED, "long_poll_limit": 0.05}
            )
            control = Control(config)
            await control.start()
            found.update(url=control.url, loop=asyncio.get_running_loop(), stop=asyncio.Event())
        finally:
            started.set()
        await found["stop"].wait()
        await control.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(30)
        with httpx2.Client(trust_env=False, verify=False) as http:
            place = Served(found["url"], found["initial"], http)
            _fill(place)
            yield place
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(20)


def _fill(place: Served) -> None:
    initial, by = place.initial, place.credentials
    by["tunnels"], by["calls"], by["enrol"] = (
        secret.reveal() for secret in (initial.tunnels_key, initial.api_key, initial.enrolment_token)
    )
    for name, email, password in (
        ("admin", initial.admin_email, initial.admin_password),
        ("operator", initial.operator_email, initial.operator_password),
        ("leaver", initial.admin_email, initial.admin_password),
    ):
        login = {"email": email, "password": password.reveal()}
        by[name] = place.http.post(f"{place.url}/penstock/v1/login", json=login).json()["session_token"]
    here = place.ids
    for name in ("edge-1", "edge-2"):
        edge = {
            "name": name,
            "caller_address": "127.0.0.1:8443",
            "agent_address": "127.0.0.1:7844",
            "csr_pem": certs.make_csr(certs.make_ec_key(), "edge"),
        }
        enrolled = place.post("/penstock/v1/edges/enrol", edge, by="enrol")
        by["edge"], here["edge_id"] = by.get("edge", enrolled["credential"]), enrolled["edge_id"]
    here["tunnel_id"] = place.post("/v1/tunnels", by="tunnels")["id"]
    pem = {"ca_certificate_pem": ca.ca().certificate_pem}
    here["certificate_id"] = place.post(f"/v1/tunnels/{here['tunnel_id']}/certificates", pem, by="tunnels")["id"]
    here["workspace_id"] = place.post("/v1/organizations/workspaces", {"name": "second"}, by="admin")["id"]
    here["user_id"] = place.post("/penstock/v1/users", {"email": "u@example.com"}, by="admin")["id"]
    here["api_key_id"] = place.post("/penstock/v1/api_keys", {"name": "k"}, by="admin")["id"]
    here["service_account_id"] = place.post("/v1/organizations/service_accounts", {"name": "ci"}, by="admin")["id"]
    issuer = {"name": "idp", "issuer_url": ISSUER, "jwks": {"type": "inline", "keys": [Idp().jwk]}}
    here["federation_issuer_id"] = place.post("/v1/organizations/federation_issuers", issuer, by="admin")["id"]
    rule = {
        "name": "ci",
        "issuer_id": here["federation_issuer_id"],
        "match": {"subject_prefix": "system:*"},
        "target": {"type": "service_account", "service_account_id": here["service_account_id"]},
        "oauth_scope": "workspace:developer",
        "workspace_id": initial.workspace_id,
    }
    here["federation_rule_id"] = place.post("/v1/organizations/federation_rules", rule, by="admin")["id"]
    other = {"name": "other", "admin_email": "a@other.example.com"}
    here["organization_id"] = place.post("/penstock/v1/organizations", other, by="operator")["id"]
    here["token_id"] = place.post("/penstock/v1/enrolment_tokens", by="operator")["id"]


# --- requests -------------------------------------------------------------------------------------------------------------

_BY: Final = {
    "tunnels": "tunnels",
    "launch": "admin",
    "audit": "admin",
    "organization": "admin",
    "federation": "admin",
    "platform": "operator",
    "login": "leaver",
}
_BY_PATH: Final = {"/penstock/v1/edge/": "edge", "/penstock/v1/edges/enrol": "enrol"}
_ENDING: Final = ("/archive", "/suspend", "/logout")  # done last, so that the rest meets what lives


def operations(place: Served, *, mode: Literal["positive", "negative"]) -> list[Any]:
    """What the document says there is. `mode`: whether requests are to be as it says, or not."""
    # Made when it is first asked for: half a second of a quiet machine.
    document = place.http.get(f"{place.url}/openapi.json", timeout=60).raise_for_status().json()
    # The credential is ours: what happens without one has tests of its own.
    config = {"generation": {"mode": mode, "with-security-parameters": False}}
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(config))
    found = [result.ok() for result in schema.get_all_operations()]
    return sorted(found, key=lambda operation: operation.method == "delete" or operation.path.endswith(_ENDING))


def speak_all(place: Served, *, mode: Literal["positive", "negative"], examples: int) -> dict[str, Counter[int]]:
    """Make so many requests of each operation; how often which status was the answer. Fails for answers it does not name."""
    wrong: list[str] = []
    seen: dict[str, Counter[int]] = {}
    for operation in operations(place, mode=mode):
        seen[operation.label] = Counter()
        try:
            _speak(place, operation, examples, seen[operation.label])
        except Unsatisfiable:
            assert mode == "negative"  # nothing can be wrong where nothing is sent
        except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - all of them in one report
            wrong.append(f"{operation.label}: {exc}")
    assert not wrong, "\n\n".join(wrong)
    return seen


def _speak(place: Served, operation: Any, examples: int, statuses: Counter[int]) -> None:
    by = _credential(operation)
    strategy = st.tuples(operation.as_strategy(), st.sampled_from((True, True, False)))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(drawn: tuple[Any, bool]) -> None:
        case, is_real = drawn
        if is_real:
            case.path_parameters = {name: place.ids.get(name, value) for name, value in (case.path_parameters or {}).items()}
        headers = {"authorization": f"Bearer {place.credentials[by]}"} if by else {}
        response = case.call(base_url=place.url, headers=headers)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=list(JUDGES))

    one()


def _credential(operation: Any) -> str | None:
    if not operation.definition.raw["security"]:
        return None
    for path, by in _BY_PATH.items():
        if operation.path.startswith(path):
            return by
    return _BY.get(operation.definition.raw["tags"][0], "calls")
