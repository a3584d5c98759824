"""The one HTTP head before a WebSocket, from either end, parsed by h11 under strict limits.

Nothing here is on the data path: a head is read once a stream. After it the transport belongs to somebody else.
"""

from penstock.net.upgrade.head import accept_for
from penstock.net.upgrade.listener import UpgradeListener, UpgradeRequest
from penstock.net.upgrade.request import UpgradeResponse, request_upgrade

__all__ = ["UpgradeListener", "UpgradeRequest", "UpgradeResponse", "accept_for", "request_upgrade"]
