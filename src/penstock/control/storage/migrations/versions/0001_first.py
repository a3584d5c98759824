"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table, and the feed's one row."""
    feed = op.create_table(
        "feed", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("version", sa.BigInteger(), nullable=False)
    )
    op.bulk_insert(feed, [{"id": 1, "version": 1}])
    op.create_table(
        "organizations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "roots",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id")),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
    )
    _tunnels()
    _callers()
    _edges()


def _tunnels() -> None:
    op.create_table(
        "tunnels",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("wire_id", sa.String(36), nullable=False, unique=True),
        sa.Column("domain", sa.String(255), nullable=False, unique=True),
        sa.Column("display_name", sa.Text()),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("verifier", sa.String(64), nullable=False),
        sa.Column("token_id", sa.String(80), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("archived_at", sa.DateTime()),
    )
    op.create_index("tunnels_of_workspace", "tunnels", ["workspace_id", "created_at", "id"])
    op.create_index("tunnels_of_organization", "tunnels", ["organization_id", "archived_at"])
    op.create_table(
        "certificates",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("tunnel_id", sa.String(80), sa.ForeignKey("tunnels.id"), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("archived_at", sa.DateTime()),
    )
    op.create_index("certificates_of_tunnel", "certificates", ["tunnel_id", "created_at", "id"])
    op.create_index(
        "certificates_once_a_tunnel",
        "certificates",
        ["tunnel_id", "fingerprint"],
        unique=True,
        sqlite_where=sa.text("archived_at IS NULL"),
        postgresql_where=sa.text("archived_at IS NULL"),
    )


def _callers() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("organization_id", sa.String(36), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("workspace_id", sa.String(80), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("caller_id", sa.String(80), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("revoked_at", sa.DateTime()),
    )
    op.create_table(
        "caller_certificates",
        sa.Column("serial", sa.String(64), primary_key=True),
        sa.Column("api_key_id", sa.String(80), sa.ForeignKey("api_keys.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_caller_certificates_expires_at", "caller_certificates", ["expires_at"])
    op.create_index("certificates_of_key", "caller_certificates", ["api_key_id"])


def _edges() -> None:
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("spent_at", sa.DateTime()),
        sa.Column("revoked_at", sa.DateTime()),
    )
    op.create_table(
        "edges",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("server_name", sa.String(255), nullable=False),
        sa.Column("caller_host", sa.String(255), nullable=False),
        sa.Column("caller_port", sa.Integer(), nullable=False),
        sa.Column("agent_address", sa.String(270), nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(), nullable=False),
    )
