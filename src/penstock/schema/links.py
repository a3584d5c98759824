"""A tunnel's live links, as people see them (`GET /penstock/v1/links`)."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time

from penstock.schema.wire import Wire


class Link(Wire):
    """One registered link between an agent and an edge."""

    id: str
    """As `Penstock-Link` and access records name it."""
    tunnel_id: str
    agent_id: str
    """The agent's connector id, the same on all its links; `Penstock-Replica` for callers."""
    version: str
    """What the agent says it is."""
    edge: str
    since: datetime
    streams: int
    """Open as of a few seconds ago, as the bytes are."""
    to_agent_bytes: int
    from_agent_bytes: int
    """On the link since it stands, HTTP/2 framing included, TLS not."""

    @property
    def created_at(self) -> datetime:
        """Where it stands in a list."""
        return self.since


class LinkPage(Wire):
    """Newest first."""

    data: tuple[Link, ...]
    next_page: str | None
