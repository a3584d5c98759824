"""The audit log's activities: which there are, what each says, and how one travels.

Names and fields of the tunnel activities are the published ones; the rest follow their manner. An activity's first field names
its subject, the thing it happened to. One line here and one `audit.record` in the transaction is all a new activity takes.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Final

from pydantic import ConfigDict

from penstock.schema.wire import Wire

ACTIVITIES: Final[dict[str, tuple[str, ...]]] = {
    # Tunnels, as published.
    "tunnel_created": ("tunnel_id",),
    "tunnel_archived": ("tunnel_id",),
    "tunnel_certificate_added": ("tunnel_id", "certificate_id", "certificate_fingerprint"),
    "tunnel_certificate_revoked": ("tunnel_id", "certificate_id", "certificate_fingerprint"),
    "tunnel_token_revealed": ("tunnel_id", "tunnel_token_id"),
    "tunnel_token_rotated": ("tunnel_id", "tunnel_token_id", "reason"),
    # Bearers for the management API, as published.
    "tunnel_token_minted": ("token_id", "token_name"),
    "tunnel_token_revoked": ("token_id", "token_name"),
    # Organizations and what belongs to them.
    "organization_created": ("created_organization_id", "name"),
    "organization_suspended": ("suspended_organization_id",),
    "organization_resumed": ("resumed_organization_id",),
    "organization_deleted": ("deleted_organization_id", "name"),
    "workspace_created": ("workspace_id", "name"),
    "workspace_updated": ("workspace_id", "name"),
    "workspace_archived": ("workspace_id",),
    "api_key_created": ("api_key_id", "workspace_id", "name"),
    "api_key_updated": ("api_key_id", "name", "status"),
    "api_key_revoked": ("api_key_id",),
    # People.
    "user_created": ("user_id", "email", "role"),
    "user_updated": ("user_id", "role", "manage_tunnels", "manage_federation"),
    "user_removed": ("user_id",),
    "user_password_set": ("user_id",),
    "user_signed_in": ("user_id", "method"),
    "user_sign_in_refused": ("email", "method"),
    "user_signed_out": ("user_id",),
    # Workloads.
    "service_account_created": ("service_account_id", "name", "organization_role"),
    "service_account_updated": ("service_account_id", "organization_role"),
    "service_account_archived": ("service_account_id",),
    "service_account_member_set": ("service_account_id", "workspace_id", "workspace_role"),
    "service_account_member_removed": ("service_account_id", "workspace_id"),
    "federation_issuer_created": ("federation_issuer_id", "name", "issuer_url"),
    "federation_issuer_updated": ("federation_issuer_id", "name", "issuer_url"),
    "federation_issuer_archived": ("federation_issuer_id",),
    "federation_rule_created": ("federation_rule_id", "name", "federation_issuer_id", "service_account_id", "oauth_scope"),
    "federation_rule_updated": ("federation_rule_id", "name", "federation_issuer_id", "service_account_id", "oauth_scope"),
    "federation_rule_archived": ("federation_rule_id",),
    "federation_rule_workspace_added": ("federation_rule_id", "workspace_id"),
    "federation_rule_workspace_removed": ("federation_rule_id", "workspace_id"),
    "token_exchanged": ("token_id", "federation_rule_id", "service_account_id", "workspace_id", "subject", "expires_at"),
    "caller_certificate_issued": ("caller_id", "workspace_id", "serial", "expires_at"),
    "caller_certificate_revoked": ("caller_id", "workspace_id", "serial"),
    # The platform's own.
    "enrolment_token_created": ("enrolment_token_id",),
    "enrolment_token_revoked": ("enrolment_token_id",),
    "edge_revoked": ("edge_id", "name"),
    "edge_replaced": ("edge_id", "name", "replaced_by"),
    "edge_enrolled": ("edge_id", "name", "enrolment_token_id", "serial"),
    "edge_certificate_renewed": ("edge_id", "name", "serial"),
    "master_key_rotated": ("master_key_id",),
    "store_restored": (),
    "secret_unreadable": ("cell",),
}


class Actor(Wire):
    """Who did it, and from where as far as that is known."""

    type: str
    id: str
    ip_address: str | None = None
    user_agent: str | None = None


class Activity(Wire):
    """One activity; its own fields (`tunnel_id`, …) stand beside the common ones."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    created_at: datetime
    organization_id: str | None
    organization_uuid: str | None
    actor: Actor
    request_id: str | None
    position: int
    """Its place in the one chain of this control plane, from 1."""
    previous_hash: str
    hash: str
    """Hex SHA-256 of this object without `hash`, as JSON with sorted keys, no spaces and no escapes beyond JSON's own."""


class ActivityPage(Wire):
    """One page of activities, newest first."""

    data: tuple[Activity, ...]
    next_page: str | None = None
