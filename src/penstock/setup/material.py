"""What an output holds: names as published, and those that are ours."""

from __future__ import annotations

from typing import Final

TUNNEL_ID: Final = "tunnel-id"
DOMAIN: Final = "tunnel-domain"
TOKEN: Final = "tunnel-token"  # noqa: S105 - a file's name
CA_CERTIFICATE: Final = "ca.crt"
CA_KEY: Final = "ca.key"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

# Ours. The published setup keeps the token's version too, in a place it does not name.
TOKEN_VERSION: Final = "token-version"  # noqa: S105
CALLERS_CA: Final = "callers-ca.crt"
EDGE_CA: Final = "edge-ca.crt"
EDGE_ADDRESSES: Final = "edge-addresses"
PLATFORM_CA: Final = "platform-ca.crt"
NEXT_CA_CERTIFICATE: Final = "ca-next.crt"
NEXT_CA_KEY: Final = "ca-next.key"

# Notes of what is under way, written before it is asked for.
CREATING: Final = "setup-creating"
ROTATING: Final = "setup-rotating"
RETIRING: Final = "setup-retiring"

PUBLIC: Final = frozenset({TUNNEL_ID, DOMAIN, CA_CERTIFICATE, CERTIFICATE, CALLERS_CA, EDGE_CA, EDGE_ADDRESSES, PLATFORM_CA})
"""What anybody may read; the rest is for its owner alone."""

OF_ONE_TUNNEL: Final = (
    DOMAIN, TOKEN, TOKEN_VERSION, CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY, NEXT_CA_CERTIFICATE, NEXT_CA_KEY,
    CREATING, ROTATING, RETIRING,
)  # fmt: skip
"""What another tunnel has no use for."""

ALL: Final = tuple(sorted({TUNNEL_ID, *OF_ONE_TUNNEL, *PUBLIC}))
"""Every entry; what else an output holds is somebody else's."""
