"""The tables of what edges hold now: a lease for each incarnation of an edge, and the links that belong to it.

Hints, written often and worth nothing after a restart: not audited, not in the feed.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table

from penstock.control.storage.tables import UtcDateTime, metadata

leases: Final = Table(
    "leases",
    metadata,
    Column("incarnation", String(36), primary_key=True),
    Column("edge_id", String(80), nullable=False, index=True),
    Column("is_draining", Boolean, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

links: Final = Table(
    "links",
    metadata,
    Column("incarnation", String(36), ForeignKey("leases.incarnation", ondelete="CASCADE"), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("wire_id", String(36), nullable=False),
    Column("connector_id", String(36), nullable=False),
    Column("version", String(200), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("streams", Integer, nullable=False, server_default="0"),
    Column("to_agent_bytes", BigInteger, nullable=False, server_default="0"),
    Column("from_agent_bytes", BigInteger, nullable=False, server_default="0"),
    Index("links_of_tunnel", "wire_id"),
)
