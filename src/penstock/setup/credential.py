"""How setup proves who it is: a Tunnels API key, or the workload's own identity by way of the token exchange."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.client.control import ControlClient, Edition
from penstock.client.exchange import Identity, exchange
from penstock.config.files import read_file
from penstock.errors import ConfigError, IdentityError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_LAUNCH_SCOPE: Final = "org:manage_tunnels"
_CURRENT_SCOPE: Final = "workspace:manage_tunnels"
_REFUSED: Final = (
    f"the rule needs the scope {_CURRENT_SCOPE} (or {_LAUNCH_SCOPE}), and its service account must be a member of the tunnel's "
    "workspace: name it with ANTHROPIC_WORKSPACE_ID"
)


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """The `ANTHROPIC_*` variables. Exactly one of the two places a JWT comes from is set; a file is read when it is needed."""

    federation_rule_id: str
    organization_id: str
    workspace_id: str | None
    token: Secret | None
    token_file: Path | None

    def assertion(self) -> Secret:
        """The JWT as it is now. Raises ConfigError."""
        if self.token is not None:
            return self.token
        assert self.token_file is not None  # noqa: S101 - `find_credential` sees to it
        text = (read_file(self.token_file) or "").strip()
        if not text:
            raise ConfigError(
                f"there is no identity token in {self.token_file}", hint="is the volume with the projected token mounted there?"
            )
        return Secret(text)


Credential = Secret | WorkloadIdentity
"""A Tunnels API key, or an identity to exchange."""


def has_credential(variables: Mapping[str, str]) -> bool:
    """Whether the environment says anything of one, complete or not."""
    names = ("API_TOKEN", "ANTHROPIC_FEDERATION_RULE_ID", "ANTHROPIC_IDENTITY_TOKEN", "ANTHROPIC_IDENTITY_TOKEN_FILE")
    return any(variables.get(name, "").strip() for name in names)


def find_credential(variables: Mapping[str, str]) -> Credential:
    """From the environment, `API_TOKEN` or the `ANTHROPIC_*` variables. Raises ConfigError that names what is missing."""
    key = variables.get("API_TOKEN", "").strip()
    rule = variables.get("ANTHROPIC_FEDERATION_RULE_ID", "").strip()
    token, file = (
        variables.get("ANTHROPIC_IDENTITY_TOKEN", "").strip(),
        variables.get("ANTHROPIC_IDENTITY_TOKEN_FILE", "").strip(),
    )
    if key:
        if rule or token or file:
            raise ConfigError("API_TOKEN and the ANTHROPIC_* identity variables are both set", hint="unset one of them")
        return Secret(key)
    if not (rule or token or file):
        raise ConfigError(
            "there is no credential",
            hint=(
                "set ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID and ANTHROPIC_IDENTITY_TOKEN_FILE "
                "(or ANTHROPIC_IDENTITY_TOKEN), or set API_TOKEN to a Tunnels API key"
            ),
        )
    if token and file:
        raise ConfigError("ANTHROPIC_IDENTITY_TOKEN and ANTHROPIC_IDENTITY_TOKEN_FILE are both set", hint="unset one of them")
    organization = variables.get("ANTHROPIC_ORGANIZATION_ID", "").strip()
    missing = [
        name
        for name, value in (
            ("ANTHROPIC_FEDERATION_RULE_ID", rule),
            ("ANTHROPIC_ORGANIZATION_ID", organization),
            ("ANTHROPIC_IDENTITY_TOKEN_FILE or ANTHROPIC_IDENTITY_TOKEN", token or file),
        )
        if not value
    ]
    if missing:
        raise ConfigError(f"not set: {', '.join(missing)}", hint="workload identity needs all of them")
    workspace = variables.get("ANTHROPIC_WORKSPACE_ID", "").strip() or None
    return WorkloadIdentity(rule, organization, workspace, Secret(token) if token else None, Path(file) if file else None)


async def open_platform(api_url: str, credential: Credential, *, ca_file: Path | None) -> ControlClient:
    """A client of the platform in the edition that the credential's scope is for. Raises what `exchange` raises."""
    if isinstance(credential, Secret):
        return ControlClient(
            api_url,
            credential,
            ca_file=ca_file,
            credential="Tunnels API key in API_TOKEN",
            refused_hint="make a Tunnels API key in the tunnel's workspace; other API keys manage no tunnels",
        )
    identity = Identity(
        credential.assertion(), credential.federation_rule_id, credential.organization_id, credential.workspace_id
    )
    bearer = await exchange(api_url, identity, ca_file=ca_file)
    scopes = bearer.scope.split()
    if _CURRENT_SCOPE not in scopes and _LAUNCH_SCOPE not in scopes:
        raise IdentityError(
            "the federation rule does not grant tunnels",
            detail=f"its scope is {bearer.scope!r}",
            hint=f"give the rule the scope {_CURRENT_SCOPE} (or {_LAUNCH_SCOPE})",
        )
    edition = Edition.CURRENT if _CURRENT_SCOPE in scopes else Edition.LAUNCH
    return ControlClient(
        api_url,
        bearer.token,
        ca_file=ca_file,
        edition=edition,
        credential="workload's token",
        refused_hint=_REFUSED,
    )
