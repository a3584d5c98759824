"""A CA on a tunnel: found among the registered ones, or registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.errors import ConfigError
from penstock.tls import certs

if TYPE_CHECKING:
    from penstock.client.control import ControlClient
    from penstock.setup.progress import Progress


async def register(platform: ControlClient, tunnel_id: str, authority: certs.Authority, progress: Progress) -> None:
    """See to it that callers are told of this CA. Raises ConfigError when the tunnel's slots are full, or a rule is broken."""
    registered = await platform.certificates(tunnel_id)
    fingerprint = certs.fingerprint(authority.certificate)
    for certificate in registered:
        if certificate.fingerprint == fingerprint:
            progress.kept("the CA is registered")
            return
    if progress.would(f"register the CA {fingerprint[:16]}… on {tunnel_id}"):
        return
    try:
        await platform.register_certificate(tunnel_id, authority.certificate_pem)
    except ConfigError as exc:
        taken = ", ".join(f"{certificate.id} ({certificate.fingerprint[:16]}…)" for certificate in registered)
        raise ConfigError(
            f"the platform does not take the CA: {exc.public}",
            detail=f"registered now: {taken}" if taken else exc.detail,
            hint="a tunnel has two slots for CAs: archive one that is no longer used, and run again" if taken else exc.hint,
        ) from exc
