"""What programs import to call through a tunnel.

    from penstock.client import TunnelTransport, mcp_session

Both find the platform the same way (`penstock.client.access`). Nothing here listens, and nothing here knows a role.
"""

from __future__ import annotations

from penstock.client.access import Access, find_access
from penstock.client.mcp import mcp_session
from penstock.client.transport import TunnelTransport

__all__ = ["Access", "TunnelTransport", "find_access", "mcp_session"]
