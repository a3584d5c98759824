"""The tables, as code sees them. Migrations make them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps none, so it is stored naive and given back aware."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Aware to naive UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - as above
        """Naive UTC to aware."""
        return None if value is None else value.replace(tzinfo=UTC)


def once_among(where: str, name: str, *columns: str) -> Index:
    """An index that is unique among the rows where that holds, which the migration sees to.

    As an option of the index it would make SQLAlchemy load every database's dialect, 40 ms of each start.
    """
    return Index(name, *columns, unique=True, info={"where": where})


metadata: Final = MetaData()

# One row; its lock is what orders all changes that edges have to hear of.
feed = Table("feed", metadata, Column("id", Integer, primary_key=True), Column("version", BigInteger, nullable=False))

# What a version is about, where that is few records: `kind` is `tunnel` or `caller`, `key` its wire id or serial. Of a version
# that is not here it may be anything.
feed_changes = Table(
    "feed_changes",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(8), primary_key=True),
    Column("key", String(64), primary_key=True),
)

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("suspended_at", UtcDateTime),
    Column("deleted_at", UtcDateTime),
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    # The one that `default` means; an organization has exactly one, and it is never archived.
    Column("is_default", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

# API keys and Tunnels API keys: the scope is what tells them apart.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), nullable=False),
    Column("caller_id", String(80), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scope", String(80), nullable=False, server_default="workspace:developer"),
    Column("hint", String(24)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(80)),
    Column("disabled_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# The roots: caller CA (one an organization), edge CA and feed key.
roots = Table(
    "roots",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id")),
    Column("public", Text, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

tunnels = Table(
    "tunnels",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), nullable=False),
    Column("wire_id", String(36), nullable=False, unique=True),
    # Unique over archived rows too, and rows are never deleted: a domain is never given twice.
    Column("domain", String(255), nullable=False, unique=True),
    Column("display_name", Text),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("verifier", String(64), nullable=False),
    Column("token_id", String(80), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
    # The value before the last rotation, and until when it registers agents.
    Column("retiring_verifier", String(64)),
    Column("retiring_until", UtcDateTime),
    Index("tunnels_of_workspace", "workspace_id", "created_at", "id"),
    Index("tunnels_of_organization", "organization_id", "archived_at"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("tunnel_id", String(80), ForeignKey("tunnels.id"), nullable=False),
    Column("pem", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
    Index("certificates_of_tunnel", "tunnel_id", "created_at", "id"),
    once_among("archived_at IS NULL", "certificates_once_a_tunnel", "tunnel_id", "fingerprint"),
)

caller_certificates = Table(
    "caller_certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("caller_id", String(80), nullable=False),
    Column("organization_id", String(36), ForeignKey("organizations.id"), nullable=False),
    Column("workspace_id", String(80), ForeignKey("workspaces.id"), nullable=False),
    # Who got it: an API key, a service account or a user. Its end is the certificate's end.
    Column("holder_id", String(80), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Index("certificates_of_holder", "holder_id"),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("spent_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

edges = Table(
    "edges",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("server_name", String(255), nullable=False),
    Column("caller_host", String(255), nullable=False),
    Column("caller_port", Integer, nullable=False),
    Column("agent_address", String(270), nullable=False),
    Column("serial", String(64), nullable=False),
    Column("previous_serial", String(64)),
    Column("enrolled_at", UtcDateTime, nullable=False),
)

# One row; its lock is what orders the audit log. `seal` holds position and hash under the master key, so that whoever can write
# the database but has no key cannot make a new end for a log they cut.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("seal", LargeBinary),
)

# Rows are only ever added; triggers hold it against this program, the chain against everyone else. `body` is the record, the
# other columns are for finding it.
audit = Table(
    "audit",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(80), nullable=False, unique=True),
    Column("type", String(80), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("organization_id", String(36)),
    Column("actor_id", String(80), nullable=False),
    Column("subject_id", String(300)),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_of_organization", "organization_id", "position"),
)
