"""`setup rotate-ca`: another CA in the place of the stored one, without a call that fails.

    make it, signed by the old one ─► register it in the second slot ─► wait until callers have looked
    ─► put it in the old one's place ─► issue the server certificate under it ─► see it in use ─► archive the old one

Until the last step callers trust both. A run that ends anywhere is taken up by the next one where it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from penstock.errors import ConfigError
from penstock.setup import keys, material
from penstock.setup.registration import register
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from penstock.client.control import ControlClient
    from penstock.setup.output import Output
    from penstock.setup.progress import Progress

SETTLE: Final = timedelta(seconds=75)
"""Callers ask for a tunnel's CAs once a minute; the rest is for slow ones."""

_MAKE: Final = "make another CA (P-256, 5 years), signed by the old one"
_PLACE: Final = "put it in the place of the old CA"
_NOBODY: Final = "none"  # who is retired, where there was no CA before


@dataclass(frozen=True, slots=True)
class Asked:
    """See: proves that calls pass under a CA (PEM), or raises; None where that cannot be seen from here.

    is_confirmed: somebody has seen it. settle: how long callers go on with the CAs they know.
    """

    see: Callable[[str, str], Awaitable[None]] | None = None
    is_confirmed: bool = False
    settle: timedelta = SETTLE
    duration: timedelta = timedelta(hours=2160)


async def rotate_ca(output: Output, platform: ControlClient, asked: Asked, progress: Progress) -> bool:
    """Whether it is done; False when somebody has to confirm first that calls pass."""
    async with contextlib.nullcontext() if progress.is_dry else output.exclusively():
        return await _Rotation(output, platform, asked, progress, await output.load()).run()


@dataclass(slots=True)
class _Rotation:
    output: Output
    platform: ControlClient
    asked: Asked
    progress: Progress
    entries: dict[str, str]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def run(self) -> bool:
        tunnel_id, domain = (self.entries.get(name, "").strip() for name in (material.TUNNEL_ID, material.DOMAIN))
        if not tunnel_id or not domain or material.KEY not in self.entries:
            raise ConfigError(f"{self.output} holds no private side", hint="run `penstock setup init` first")
        if self.progress.is_dry:
            self._tell(tunnel_id, domain)
            return False
        if not self._is_in_place:
            await self._put_in_place(tunnel_id, domain)
        authority = keys.stored_authority(self.entries)
        if authority is None:
            raise ConfigError(f"{self.output} has lost its CA", hint="run `penstock setup init`, then rotate again")
        await self._server_certificate(authority, domain)
        if not self.asked.is_confirmed:
            if self.asked.see is None:
                self.progress.kept("callers trust both CAs now; the old one stays until it is confirmed that calls pass")
                return False
            await self.asked.see(domain, authority.certificate_pem)
            self.progress.kept("calls pass under the new CA")
        await self._archive(tunnel_id)
        return True

    @property
    def _is_in_place(self) -> bool:
        return material.RETIRING in self.entries and material.NEXT_CA_CERTIFICATE not in self.entries

    def _tell(self, tunnel_id: str, domain: str) -> None:
        if keys.next_authority(self.entries) is None and not self._is_in_place:
            self.progress.would(_MAKE)
            self.progress.would(f"register it on {tunnel_id}")
        if not self._is_in_place:
            self.progress.would(_PLACE)
        self.progress.would(f"issue a server certificate for *.{domain} under it")
        self.progress.would("archive the old CA")

    async def _put_in_place(self, tunnel_id: str, domain: str) -> None:
        authority = await self._next(domain)
        await register(self.platform, tunnel_id, authority, self.progress)
        if material.RETIRING not in self.entries:
            await self._settle()
            old = self.entries.get(material.CA_CERTIFICATE)
            retiring = certs.fingerprint(certs.load_certificate(old)) if old else _NOBODY
            await self._store({material.RETIRING: retiring})
        self.progress.would(_PLACE)
        await self._store(
            {
                material.CA_CERTIFICATE: authority.certificate_pem,
                material.CA_KEY: authority.key_pem.reveal(),
                material.NEXT_CA_CERTIFICATE: None,
                material.NEXT_CA_KEY: None,
            }
        )

    async def _next(self, domain: str) -> certs.Authority:
        authority = keys.next_authority(self.entries)
        if authority is not None:
            self.progress.kept("a rotation that did not finish is taken up")
            return authority
        authority = keys.new_authority(domain, self.now, endorsed_by=self._endorser())
        self.progress.would(_MAKE)
        # The certificate last: with it the next CA is whole.
        await self._store(
            {material.NEXT_CA_KEY: authority.key_pem.reveal(), material.NEXT_CA_CERTIFICATE: authority.certificate_pem}
        )
        return authority

    def _endorser(self) -> certs.Authority | None:
        """The stored CA, unless it is what has to be got rid of."""
        authority = keys.stored_authority(self.entries)
        if authority is None or authority.key.public_key() != authority.certificate.public_key():
            self.progress.kept("the old CA's key is not there to sign the new CA: callers that pin it have to be told")
            return None
        return authority

    async def _settle(self) -> None:
        """The whole time, also when it was registered earlier: the platform's clock and ours need not agree on when."""
        seconds = self.asked.settle.total_seconds()
        if seconds > 0:
            self.progress.kept(f"waiting {seconds:g} s until every caller has heard of the new CA")
            await asyncio.sleep(seconds)

    async def _server_certificate(self, authority: certs.Authority, domain: str) -> None:
        """The key stays, so that the proxy's change is the change of one file."""
        key = keys.stored_key(self.entries)
        present = self.entries.get(material.CERTIFICATE)
        if key is None or (present and keys.broken_rule(present, key, authority, domain, self.now) is None):
            return
        self.progress.would(f"issue a server certificate for *.{domain} under it")
        certificate = keys.server_certificate(authority, key, domain, self.asked.duration, self.now)
        await self._store({material.CERTIFICATE: certificate})

    async def _archive(self, tunnel_id: str) -> None:
        retiring = self.entries.get(material.RETIRING, "").strip()
        for certificate in await self.platform.certificates(tunnel_id):
            if certificate.fingerprint == retiring:
                self.progress.would(f"archive the old CA {retiring[:16]}…")
                await self.platform.archive_certificate(tunnel_id, certificate.id)
        await self._store({material.NEXT_CA_KEY: None, material.RETIRING: None})

    async def _store(self, changes: Mapping[str, str | None]) -> None:
        await self.output.store(changes)
        for name, text in changes.items():
            if text is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = text
