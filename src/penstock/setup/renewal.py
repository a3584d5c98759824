"""`setup renew-cert`: a new server certificate under the stored CA. No network, no credential."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from penstock.errors import ConfigError
from penstock.setup import keys, material
from penstock.setup.keys import KeyType
from penstock.tls import certs

if TYPE_CHECKING:
    from penstock.setup.output import Output
    from penstock.setup.progress import Progress

ALWAYS: Final = timedelta(0)


async def renew(
    output: Output,
    progress: Progress,
    *,
    duration: timedelta,
    renew_before: timedelta = ALWAYS,
    key_type: KeyType | None = None,
    now: datetime | None = None,
) -> datetime:
    """The end of the certificate that `output` holds afterwards.

    renew_before: nothing is done while the certificate has more than that left; zero renews always. The key stays, as in the
    published manual renewal, so that certificate and key never mismatch for a moment; another `key_type` replaces it.
    """
    now = now or datetime.now(UTC)
    async with contextlib.nullcontext() if progress.is_dry else output.exclusively():
        entries = await output.load()
        authority = keys.stored_authority(entries)
        domain = entries.get(material.DOMAIN, "").strip()
        if authority is None or not domain:
            raise ConfigError(
                f"{output} holds no CA to renew with", hint="run `penstock setup init` first, or name the right --output"
            )
        keys.check_authority(authority, output, now)
        key = keys.stored_key(entries)
        present = entries.get(material.CERTIFICATE)
        fits = key is not None and (key_type is None or key_type.fits(key))
        if key is not None and fits and present and renew_before:
            acts = certs.load_certificate(present).not_valid_after_utc - renew_before
            if now < acts and keys.broken_rule(present, key, authority, domain, now) is None:
                progress.kept(f"nothing to do: the server certificate is renewed from {acts:%Y-%m-%d %H:%M} UTC on")
                return acts + renew_before
        end = min(now + duration, authority.certificate.not_valid_after_utc)
        if end < now + duration:
            progress.kept(f"the CA ends on {end:%Y-%m-%d}, and so does what it signs: `penstock setup rotate-ca` replaces it")
        if progress.would(f"renew the server certificate for *.{domain} until {end:%Y-%m-%d}"):
            return end
        if key is None or not fits:
            key = (key_type or KeyType.RSA).make()
            await output.store({material.KEY: certs.key_to_pem(key).reveal()})
        await output.store({material.CERTIFICATE: keys.server_certificate(authority, key, domain, duration, now)})
        return end
