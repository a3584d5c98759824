"""Where each role tells how it is, unless set otherwise: all differ, for agent and proxy share a network namespace in pods."""

from __future__ import annotations

from typing import Final

from penstock.config.address import HostPort

CONTROL: Final = HostPort("127.0.0.1", 8701)
EDGE: Final = HostPort("127.0.0.1", 8444)
AGENT: Final = HostPort("127.0.0.1", 20241)
PROXY: Final = HostPort("127.0.0.1", 8081)
ADDRESSES: Final = {"control": CONTROL, "edge": EDGE, "agent": AGENT, "proxy": PROXY}
