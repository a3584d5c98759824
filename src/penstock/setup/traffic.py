"""Whether callers reach the proxies of a tunnel under one CA and no other: seen from the outside, through edge and agent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from penstock.client.streams import TunnelStreams
from penstock.errors import CertificateError, PenstockError, UnavailableError
from penstock.tls import certs

if TYPE_CHECKING:
    from penstock.client.access import Access

_ANY_ROUTE: Final = "setup-check"  # the certificate is for every route, and the handshake comes before any request
_IN_A_ROW: Final = 5  # each on a replica of chance: those that have not looked yet are found
_PATIENCE: Final = 180.0  # seconds: a kubelet brings a Secret's change within a minute or two
_EVERY: Final = 2.0


async def see_under(access: Access, domain: str, ca_pem: str, *, patience: float = _PATIENCE, every: float = _EVERY) -> None:
    """Return once several handshakes in a row ended in a certificate of this CA. Raises what the last one failed with."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience
    seen = 0
    while seen < _IN_A_ROW:
        try:
            await _handshake(access, domain, ca_pem)
            seen += 1
        except (CertificateError, UnavailableError) as exc:
            seen = 0
            if loop.time() > give_up:
                raise _not_seen(exc) from exc
            await asyncio.sleep(every)


async def _handshake(access: Access, domain: str, ca_pem: str) -> None:
    this = certs.fingerprint(certs.load_certificate(ca_pem))
    streams = TunnelStreams(
        replace(access, pins=None, ca_pins=frozenset({this}))
    )  # anew each time: kept, it stays on one replica
    try:
        stream = await streams.open(f"{_ANY_ROUTE}.{domain}")
        secured = await stream.start_tls()
        secured.transport.abort()
    finally:
        await streams.aclose()


def _not_seen(exc: PenstockError) -> PenstockError:
    return UnavailableError(
        f"calls do not pass under the new CA yet: {exc.public}",
        detail=exc.detail,
        hint="callers trust both CAs meanwhile; does every proxy read the new tls.crt? Then run rotate-ca again",
    )
