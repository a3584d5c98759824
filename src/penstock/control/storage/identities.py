"""The tables of people, workloads and what each may do; beside `tables`, in the same database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from penstock.control.storage.tables import UtcDateTime, metadata, once_among

_LIVE: Final = "archived_at IS NULL"


def _audited() -> tuple[Column[object], ...]:
    return (
        Column("created_at", UtcDateTime, nullable=False),
        Column("created_by", String(80)),
        Column("updated_at", UtcDateTime, nullable=False),
        Column("updated_by", String(80)),
        Column("archived_at", UtcDateTime),
        Column("archived_by", String(80)),
    )


# A platform operator belongs to no organization.
users = Table(
    "users",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id")),
    Column("email", String(320), nullable=False),
    Column("name", Text, nullable=False),
    Column("role", String(40), nullable=False),
    # Granted beside the role; the two are apart, as published.
    Column("manage_tunnels", Boolean, nullable=False),
    Column("manage_federation", Boolean, nullable=False),
    Column("password_hash", Text),
    # Who the identity provider says this is; bound at the first sign-in.
    Column("oidc_issuer", Text),
    Column("oidc_subject", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
    once_among("removed_at IS NULL", "users_by_email", "email"),
    Index("users_of_organization", "organization_id", "created_at", "id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("user_id", String(80), ForeignKey("users.id"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

service_accounts = Table(
    "service_accounts",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text),
    Column("organization_role", String(40), nullable=False),
    *_audited(),
    once_among(_LIVE, "service_accounts_by_name", "organization_id", "name"),
    Index("service_accounts_of_organization", "organization_id", "created_at", "id"),
)

service_account_members = Table(
    "service_account_members",
    metadata,
    Column("service_account_id", String(80), ForeignKey("service_accounts.id"), primary_key=True),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), primary_key=True),
    Column("role", String(40), nullable=False),
    # The membership of the default workspace that every service account has; it cannot be taken away.
    Column("implicit", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(80)),
    Index("members_of_workspace", "workspace_id"),
)

federation_issuers = Table(
    "federation_issuers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("issuer_url", Text, nullable=False),
    Column("jwks", Text, nullable=False),
    Column("check_jti", Boolean, nullable=False),
    Column("max_jwt_lifetime_seconds", Integer, nullable=False),
    # The keys as last fetched, and how the fetching goes; null for inline keys.
    Column("keys", Text),
    Column("fetched_at", UtcDateTime),
    Column("failures", Integer, nullable=False),
    Column("next_poll_at", UtcDateTime),
    Column("polling_disabled_at", UtcDateTime),
    *_audited(),
    once_among(_LIVE, "federation_issuers_by_name", "organization_id", "name"),
    Index("federation_issuers_of_organization", "organization_id", "created_at", "id"),
)

federation_rules = Table(
    "federation_rules",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("issuer_id", String(80), ForeignKey("federation_issuers.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text),
    Column("match", Text, nullable=False),
    Column("service_account_id", String(80), ForeignKey("service_accounts.id"), nullable=False),
    Column("oauth_scope", Text, nullable=False),
    Column("token_lifetime_seconds", Integer, nullable=False),
    Column("applies_to_all_workspaces", Boolean, nullable=False),
    *_audited(),
    once_among(_LIVE, "federation_rules_by_name", "organization_id", "name"),
    Index("federation_rules_of_organization", "organization_id", "created_at", "id"),
    Index("federation_rules_of_issuer", "issuer_id"),
)

federation_rule_workspaces = Table(
    "federation_rule_workspaces",
    metadata,
    Column("rule_id", String(80), ForeignKey("federation_rules.id"), primary_key=True),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(80)),
)

# Assertions that were used: a `jti` is good once an issuer.
spent_assertions = Table(
    "spent_assertions",
    metadata,
    Column("issuer_id", String(80), ForeignKey("federation_issuers.id"), primary_key=True),
    Column("jti_digest", String(64), primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), nullable=False),
    Column("service_account_id", String(80), ForeignKey("service_accounts.id"), nullable=False),
    Column("rule_id", String(80), ForeignKey("federation_rules.id"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Every token exchange and its reason; the one who asked learns only that it failed.
authentications = Table(
    "authentications",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("issuer_id", String(80)),
    Column("rule_id", String(80)),
    Column("service_account_id", String(80)),
    Column("workspace_id", String(80)),
    Column("outcome", String(20), nullable=False),
    Column("reason", String(80)),
    Column("detail", Text),
    Column("subject", Text),
    Column("token_id", String(80)),
    Index("authentications_of_organization", "organization_id", "created_at", "id"),
)
