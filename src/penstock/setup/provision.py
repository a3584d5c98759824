"""`setup init`: each thing found, or made; in an order in which a killed run leaves nothing that the next one cannot use."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.client.control import ControlClient, NotAPlatformError, NotFoundError
from penstock.config.types import format_duration
from penstock.errors import ConfigError, IdentityError
from penstock.protocol.token import parse_token
from penstock.setup import keys, material
from penstock.setup.keys import KeyType
from penstock.setup.registration import register
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.schema.tunnels import Tunnel
    from penstock.setup.output import Output
    from penstock.setup.progress import Progress

CERTIFICATE_LIFE: Final = timedelta(hours=2160)
_RENEW_WITHIN: Final = 3
"""A server certificate with less than a third of its life left is renewed by the way."""
_GIVE_A_TUNNEL: Final = "create one in the console and give its id with --tunnel-id (or TUNNEL_ID)"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; what is None was not. platform_ca: PEM of the CA of a private platform, kept in the output."""

    tunnel_id: str | None = None
    display_name: str | None = None
    token_version: str | None = None
    duration: timedelta = CERTIFICATE_LIFE
    key_type: KeyType | None = None
    platform_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What an output holds after `init`."""

    tunnel_id: str
    domain: str


class _Rotating(NamedTuple):
    """The note of a rotation under way; empty when there is none."""

    old_token_id: str
    version: str


async def provision(output: Output, platform: ControlClient, wanted: Wanted, progress: Progress) -> Provisioned | None:
    """Make or complete `output`; None from a dry run that would still have to make the tunnel."""
    async with contextlib.nullcontext() if progress.is_dry else output.exclusively():
        return await _Provisioning(output, platform, wanted, progress, await output.load()).run()


@dataclass(slots=True)
class _Provisioning:
    output: Output
    platform: ControlClient
    wanted: Wanted
    progress: Progress
    entries: dict[str, str]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def run(self) -> Provisioned | None:
        if self.progress.is_dry:
            await self._look_ahead()
        await self._forget_another_tunnel()
        tunnel = await self._tunnel()
        if tunnel is None:
            self._tell_the_rest()
            return None
        authority = await self._authority(tunnel.domain)
        await register(self.platform, tunnel.id, authority, self.progress)
        await self._server_certificate(tunnel.domain, authority)
        await self._token(tunnel)
        await self._of_this_platform()
        return Provisioned(tunnel.id, tunnel.domain)

    # --- a dry run --------------------------------------------------------------------------------------------------

    async def _look_ahead(self) -> None:
        """What would end a real run at its first step: asked for, and nothing changed by asking."""
        await self.output.check_writable()
        self.progress.kept(f"{self.output} can be written")
        async for _ in self.platform.tunnels():
            break
        self.progress.kept(f"{self.platform.base_url} answers, and the credential may manage tunnels")

    def _tell_the_rest(self) -> None:
        """The steps behind a tunnel that is still to be made, as far as they are known."""
        self.progress.would("write the tunnel's id and domain")
        if keys.stored_authority(self.entries) is None:
            self.progress.would("make a CA (P-256, 5 years)")
        self.progress.would("register the CA on the new tunnel")
        life = format_duration(self.wanted.duration.total_seconds())
        kind = (self.wanted.key_type or KeyType.RSA).value
        self.progress.would(f"issue a server certificate for *.<the tunnel's domain> ({kind}, {life})")
        self.progress.would("fetch the agent's token")
        kept = [material.PLATFORM_CA] if self.wanted.platform_ca is not None else []
        self.progress.would(f"write {', '.join([*kept, material.CALLERS_CA])}, and the edges where the token names some")

    async def _store(self, changes: Mapping[str, str | None]) -> None:
        await self.output.store(changes)
        for name, text in changes.items():
            if text is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = text

    # --- the tunnel -------------------------------------------------------------------------------------------------

    async def _forget_another_tunnel(self) -> None:
        stored = self.entries.get(material.TUNNEL_ID, "").strip()
        if not self.wanted.tunnel_id or not stored or stored == self.wanted.tunnel_id:
            return
        if self.progress.would(f"forget tunnel {stored}: {self.wanted.tunnel_id} is asked for"):
            self.entries = {}
            return
        # The id last: a run killed in between finds the old one and forgets the rest again.
        await self._store({**dict.fromkeys(material.OF_ONE_TUNNEL), material.TUNNEL_ID: self.wanted.tunnel_id})

    async def _tunnel(self) -> Tunnel | None:
        known = self.wanted.tunnel_id or self.entries.get(material.TUNNEL_ID, "").strip()
        tunnel = await self._existing(known) if known else await self._created()
        if tunnel is None:
            return None
        if self.entries.get(material.DOMAIN, "").strip() == tunnel.domain and self.entries.get(material.TUNNEL_ID):
            self.progress.kept(f"tunnel {tunnel.id}, {tunnel.domain}")
            await self._tidy(material.CREATING)
        elif not self.progress.would(f"write the tunnel's id and domain: {tunnel.id}, {tunnel.domain}"):
            await self._store({material.DOMAIN: tunnel.domain, material.TUNNEL_ID: tunnel.id, material.CREATING: None})
        return tunnel

    async def _existing(self, tunnel_id: str) -> Tunnel:
        try:
            tunnel = await self.platform.tunnel(tunnel_id)
        except NotFoundError as exc:
            raise ConfigError(
                f"the platform has no tunnel {tunnel_id} in this credential's workspace",
                detail=exc.detail,
                hint=f"check --tunnel-id and ANTHROPIC_WORKSPACE_ID; to begin anew empty {self.output}",
            ) from exc
        if tunnel.archived_at is not None:
            raise ConfigError(
                f"tunnel {tunnel_id} was archived at {tunnel.archived_at:%Y-%m-%d %H:%M} UTC, for ever",
                hint=f"give another --tunnel-id, or empty {self.output} to have one made",
            )
        return tunnel

    async def _created(self) -> Tunnel | None:
        """Creating is not idempotent, so the tunnel carries a name that the next run would know it by."""
        name = self.entries.get(material.CREATING, "").strip()
        if name:
            async for tunnel in self.platform.tunnels():
                if tunnel.display_name == name:
                    self.progress.kept(f"tunnel {tunnel.id} was made by a run that did not finish")
                    return tunnel
        if not self.platform.edition.creates:
            raise ConfigError("the launch edition of the Tunnels API creates no tunnels", hint=_GIVE_A_TUNNEL)
        if self.progress.would("create a tunnel"):
            return None
        if not name:
            name = f"{self.wanted.display_name or 'penstock setup'} {secrets.token_hex(6)}"
            await self._store({material.CREATING: name})
        try:
            return await self.platform.create_tunnel(name)
        except NotFoundError as exc:
            raise ConfigError(
                "this platform does not let setup create tunnels",
                detail=exc.detail,
                hint=_GIVE_A_TUNNEL,
            ) from exc

    # --- certificates -----------------------------------------------------------------------------------------------

    async def _authority(self, domain: str) -> certs.Authority:
        authority = keys.stored_authority(self.entries)
        if authority is not None:
            keys.check_authority(authority, self.output, self.now)
            self.progress.kept(f"CA until {authority.certificate.not_valid_after_utc:%Y-%m-%d}")
            return authority
        made = keys.new_authority(domain, self.now)
        if not self.progress.would("make a CA (P-256, 5 years)"):
            # Before it is registered: a slot taken by a CA whose key was lost is a slot lost.
            await self._store({material.CA_KEY: made.key_pem.reveal(), material.CA_CERTIFICATE: made.certificate_pem})
        return made

    async def _server_certificate(self, domain: str, authority: certs.Authority) -> None:
        key = keys.stored_key(self.entries)
        present = self.entries.get(material.CERTIFICATE)
        fits = key is not None and (self.wanted.key_type is None or self.wanted.key_type.fits(key))
        if key is not None and fits and present:
            soon = self.now + self.wanted.duration / _RENEW_WITHIN
            reason = keys.broken_rule(present, key, authority, domain, soon)
            if reason is None:
                self.progress.kept(f"server certificate until {_end(present):%Y-%m-%d}")
                return
        if self.progress.would(f"issue a server certificate for *.{domain}"):
            return
        if key is None or not fits:
            key = (self.wanted.key_type or KeyType.RSA).make()
            await self._store({material.KEY: certs.key_to_pem(key).reveal()})
        certificate = keys.server_certificate(authority, key, domain, self.wanted.duration, self.now)
        await self._store({material.CERTIFICATE: certificate})

    # --- the agent's token ------------------------------------------------------------------------------------------

    async def _token(self, tunnel: Tunnel) -> None:
        version, stored = self.wanted.token_version, self.entries.get(material.TOKEN_VERSION, "").strip()
        if self._rotating().version == stored:
            await self._tidy(material.ROTATING)  # that rotation was finished, only its note was left
        if material.TOKEN in self.entries and (version is None or version == stored):
            self.progress.kept("the agent's token")
            return
        # A token without a noted version has another one than any: who asks for one wants it changed.
        if version is not None and version != stored and (stored or material.TOKEN in self.entries):
            if not self.progress.would(f"rotate the agent's token: version {stored or 'unnamed'} becomes {version}"):
                await self._rotate(tunnel, version)
        elif not self.progress.would("fetch the agent's token"):
            token = (await self.platform.reveal_token(tunnel.id)).value
            # The version first: a run killed in between has a version and no token, and the next one fetches it.
            await self._store({**({material.TOKEN_VERSION: version} if version else {}), material.TOKEN: token.reveal()})

    async def _rotate(self, tunnel: Tunnel, version: str) -> None:
        """Rotating twice would strand agents that took the first new token: the note says which token was the old one."""
        current = await self.platform.reveal_token(tunnel.id)
        old = self._rotating().old_token_id
        if not old:
            await self._store({material.ROTATING: f"{current.id} {version}"})
        if old in {"", current.id}:
            current = await self.platform.rotate_token(tunnel.id, f"setup: token version {version}")
        await self._store({material.TOKEN: current.value.reveal(), material.TOKEN_VERSION: version, material.ROTATING: None})

    def _rotating(self) -> _Rotating:
        old_token_id, _, version = self.entries.get(material.ROTATING, "").partition(" ")
        return _Rotating(old_token_id, version.strip())

    async def _tidy(self, note: str) -> None:
        """Remove a note whose work is done: a run was killed between the two."""
        if note in self.entries and not self.progress.is_dry:
            await self._store({note: None})

    # --- what a self-hosted platform tells besides --------------------------------------------------------------------

    async def _of_this_platform(self) -> None:
        """Callers' CA for the proxy, edges and their CA for the stock agent: the public platform tells none of these."""
        changes: dict[str, str] = {}
        if self.wanted.platform_ca is not None:
            changes[material.PLATFORM_CA] = self.wanted.platform_ca
        token = self.entries.get(material.TOKEN)
        edges = parse_token(token) if token else None
        if edges is not None and edges.edges and edges.cas:
            changes[material.EDGE_ADDRESSES] = "".join(f"{edge}\n" for edge in edges.edges)
            changes[material.EDGE_CA] = "".join(certs.certificate_to_pem(certs.load_certificate(der)) for der in edges.cas)
        try:
            changes[material.CALLERS_CA] = await self.platform.caller_ca()
        except (ConfigError, IdentityError, NotAPlatformError) as exc:
            self.progress.kept(f"this platform does not tell its callers' CA ({exc.public})")
        changed = {name: text for name, text in changes.items() if self.entries.get(name) != text}
        if changed and not self.progress.would(f"write {', '.join(changed)}"):
            await self._store(changed)


def _end(pem: str) -> datetime:
    return certs.load_certificate(pem).not_valid_after_utc
