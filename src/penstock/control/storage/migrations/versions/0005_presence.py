"""Leases of edges and the links that belong to them; the serial of an edge's certificate before the present one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables, empty: edges fill them within seconds."""
    op.create_table(
        "leases",
        sa.Column("incarnation", sa.String(36), primary_key=True),
        sa.Column("edge_id", sa.String(80), nullable=False),
        sa.Column("is_draining", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_leases_edge_id", "leases", ["edge_id"])
    op.create_index("ix_leases_expires_at", "leases", ["expires_at"])
    op.create_table(
        "links",
        sa.Column("incarnation", sa.String(36), sa.ForeignKey("leases.incarnation", ondelete="CASCADE"), primary_key=True),
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("wire_id", sa.String(36), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
    )
    op.create_index("links_of_tunnel", "links", ["wire_id"])
    op.add_column("edges", sa.Column("previous_serial", sa.String(64)))
