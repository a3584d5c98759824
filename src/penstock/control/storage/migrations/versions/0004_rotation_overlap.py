"""The value before a tunnel's last rotation, and until when it still registers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns, empty: nothing was rotated with an overlap before."""
    op.add_column("tunnels", sa.Column("retiring_verifier", sa.String(64)))
    op.add_column("tunnels", sa.Column("retiring_until", sa.DateTime()))
