"""People, workloads and what each may do; caller certificates belong to any of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LIVE = sa.text("archived_at IS NULL")


def upgrade() -> None:
    """Every existing key becomes an API key of its workspace, the oldest workspace the default one."""
    _organizations()
    _caller_certificates()
    _people()
    _service_accounts()
    _federation()
    _exchange()


def _organizations() -> None:
    op.add_column("organizations", sa.Column("suspended_at", sa.DateTime()))
    op.add_column("organizations", sa.Column("deleted_at", sa.DateTime()))
    op.add_column("workspaces", sa.Column("is_default", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("workspaces", sa.Column("archived_at", sa.DateTime()))
    op.execute(
        "UPDATE workspaces SET is_default = TRUE WHERE id IN ("
        " SELECT w.id FROM workspaces w WHERE NOT EXISTS (SELECT 1 FROM workspaces o WHERE"
        " o.organization_id = w.organization_id AND (o.created_at < w.created_at"
        " OR (o.created_at = w.created_at AND o.id < w.id))))"
    )
    scope = sa.Column("scope", sa.String(80), nullable=False, server_default="workspace:developer")
    op.add_column("api_keys", scope)
    op.add_column("api_keys", sa.Column("hint", sa.String(24)))
    op.add_column("api_keys", sa.Column("created_by", sa.String(80)))
    op.add_column("api_keys", sa.Column("disabled_at", sa.DateTime()))


def _caller_certificates() -> None:
    op.create_table(
        "new_caller_certificates",
        sa.Column("serial", sa.String(64), primary_key=True),
        sa.Column("caller_id", sa.String(80), nullable=False),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("holder_id", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.execute(
        "INSERT INTO new_caller_certificates"
        " SELECT c.serial, k.caller_id, k.organization_id, k.workspace_id, k.id, c.created_at, c.expires_at"
        " FROM caller_certificates c JOIN api_keys k ON k.id = c.api_key_id"
    )
    op.drop_table("caller_certificates")
    op.rename_table("new_caller_certificates", "caller_certificates")
    op.create_index("ix_caller_certificates_expires_at", "caller_certificates", ["expires_at"])
    op.create_index("certificates_of_holder", "caller_certificates", ["holder_id"])


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id")),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(40), nullable=False),
        sa.Column("manage_tunnels", sa.Boolean(), nullable=False),
        sa.Column("manage_federation", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sa.Text()),
        sa.Column("oidc_issuer", sa.Text()),
        sa.Column("oidc_subject", sa.Text()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("removed_at", sa.DateTime()),
    )
    present = sa.text("removed_at IS NULL")
    op.create_index("users_by_email", "users", ["email"], unique=True, sqlite_where=present, postgresql_where=present)
    op.create_index("users_of_organization", "users", ["organization_id", "created_at", "id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("user_id", sa.String(80), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])


def _service_accounts() -> None:
    op.create_table(
        "service_accounts",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("organization_role", sa.String(40), nullable=False),
        *_audited(),
    )
    _named_once("service_accounts")
    op.create_table(
        "service_account_members",
        sa.Column("service_account_id", sa.String(80), sa.ForeignKey("service_accounts.id"), primary_key=True),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), primary_key=True),
        sa.Column("role", sa.String(40), nullable=False),
        sa.Column("implicit", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(80)),
    )
    op.create_index("members_of_workspace", "service_account_members", ["workspace_id"])


def _federation() -> None:
    op.create_table(
        "federation_issuers",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("issuer_url", sa.Text(), nullable=False),
        sa.Column("jwks", sa.Text(), nullable=False),
        sa.Column("check_jti", sa.Boolean(), nullable=False),
        sa.Column("max_jwt_lifetime_seconds", sa.Integer(), nullable=False),
        sa.Column("keys", sa.Text()),
        sa.Column("fetched_at", sa.DateTime()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_poll_at", sa.DateTime()),
        sa.Column("polling_disabled_at", sa.DateTime()),
        *_audited(),
    )
    _named_once("federation_issuers")
    op.create_table(
        "federation_rules",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("issuer_id", sa.String(80), sa.ForeignKey("federation_issuers.id"), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("match", sa.Text(), nullable=False),
        sa.Column("service_account_id", sa.String(80), sa.ForeignKey("service_accounts.id"), nullable=False),
        sa.Column("oauth_scope", sa.Text(), nullable=False),
        sa.Column("token_lifetime_seconds", sa.Integer(), nullable=False),
        sa.Column("applies_to_all_workspaces", sa.Boolean(), nullable=False),
        *_audited(),
    )
    _named_once("federation_rules")
    op.create_index("federation_rules_of_issuer", "federation_rules", ["issuer_id"])
    op.create_table(
        "federation_rule_workspaces",
        sa.Column("rule_id", sa.String(80), sa.ForeignKey("federation_rules.id"), primary_key=True),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), primary_key=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(80)),
    )


def _exchange() -> None:
    op.create_table(
        "spent_assertions",
        sa.Column("issuer_id", sa.String(80), sa.ForeignKey("federation_issuers.id"), primary_key=True),
        sa.Column("jti_digest", sa.String(64), primary_key=True),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_spent_assertions_expires_at", "spent_assertions", ["expires_at"])
    op.create_table(
        "access_tokens",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("service_account_id", sa.String(80), sa.ForeignKey("service_accounts.id"), nullable=False),
        sa.Column("rule_id", sa.String(80), sa.ForeignKey("federation_rules.id"), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_access_tokens_expires_at", "access_tokens", ["expires_at"])
    op.create_table(
        "authentications",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("issuer_id", sa.String(80)),
        sa.Column("rule_id", sa.String(80)),
        sa.Column("service_account_id", sa.String(80)),
        sa.Column("workspace_id", sa.String(80)),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(80)),
        sa.Column("detail", sa.Text()),
        sa.Column("subject", sa.Text()),
        sa.Column("token_id", sa.String(80)),
    )
    op.create_index("ix_authentications_created_at", "authentications", ["created_at"])
    op.create_index("authentications_of_organization", "authentications", ["organization_id", "created_at", "id"])


def _audited() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(80)),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("updated_by", sa.String(80)),
        sa.Column("archived_at", sa.DateTime()),
        sa.Column("archived_by", sa.String(80)),
    )


def _named_once(table: str) -> None:
    op.create_index(
        f"{table}_by_name",
        table,
        ["organization_id", "name"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_index(f"{table}_of_organization", table, ["organization_id", "created_at", "id"])
