"""What each live link carries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Zero, until edges tell."""
    op.add_column("links", sa.Column("streams", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("links", sa.Column("to_agent_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("links", sa.Column("from_agent_bytes", sa.BigInteger(), nullable=False, server_default="0"))
