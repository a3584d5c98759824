"""The private side's folder under `up`: the tunnel's CA, the proxy's certificate, the agent's token.

Every file is made once and reused. The CA's key is on disk before its certificate is registered, so that a run cut short
anywhere leaves nothing that the next one cannot pick up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from penstock.config.files import read_file, write_file
from penstock.errors import CertificateError, ConfigError, IdentityError
from penstock.secret import Secret
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.client.control import ControlClient

_CA_LIFE: Final = timedelta(days=5 * 365)  # as setup makes it
_CA_MARGIN: Final = timedelta(days=90)  # a CA signs nothing that outlives it
_SERVER_LIFE: Final = timedelta(days=90)
_RENEW_BEFORE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Stack:
    """What the proxy and the agent need, and where it lies."""

    folder: Path
    tunnel_id: str
    domain: str
    workspace_id: str
    """Whose callers the proxy serves: the edge checks it too, but the proxy takes nobody's word."""

    @property
    def certificate_file(self) -> Path:
        """The proxy's certificate."""
        return self.folder / "tls.crt"

    @property
    def key_file(self) -> Path:
        """The proxy's private key."""
        return self.folder / "tls.key"

    @property
    def token_file(self) -> Path:
        """The agent's tunnel token."""
        return self.folder / "tunnel-token"

    @property
    def callers_ca_file(self) -> Path:
        """The CA of callers' certificates."""
        return self.folder / "callers-ca.crt"


async def prepare(folder: Path, control: ControlClient, *, now: datetime | None = None) -> Stack:
    """Make or complete the folder. Raises what `control` raises."""
    now = now or datetime.now(UTC)
    tunnel_id, domain = await _tunnel(folder, control)
    workspace_id = (await control.me()).workspace_id or ""
    stack = Stack(folder, tunnel_id, domain, workspace_id)
    authority = _authority(folder, domain, now)
    await _register(control, tunnel_id, authority)
    _server_certificate(stack, authority, now)
    write_file(stack.callers_ca_file, await control.caller_ca(), mode=0o644)
    write_file(stack.token_file, (await control.reveal_token(tunnel_id)).value.reveal())
    return stack


async def _tunnel(folder: Path, control: ControlClient) -> tuple[str, str]:
    known = (read_file(folder / "tunnel-id") or "").strip()
    if known:
        try:
            tunnel = await control.tunnel(known)
        except IdentityError:
            raise
        except ConfigError as exc:
            raise ConfigError(
                f"the tunnel of {folder} is not known to this control plane",
                detail=exc.public,
                hint=f"remove {folder.parent} to begin anew, or give another --dir",
            ) from exc
        if tunnel.archived_at is None:
            return tunnel.id, tunnel.domain
    tunnel = await control.create_tunnel("penstock up")
    write_file(folder / "tunnel-id", tunnel.id + "\n", mode=0o644)
    write_file(folder / "tunnel-domain", tunnel.domain + "\n", mode=0o644)
    return tunnel.id, tunnel.domain


def _authority(folder: Path, domain: str, now: datetime) -> certs.Authority:
    certificate, key = read_file(folder / "ca.crt"), read_file(folder / "ca.key")
    if certificate and key and _is_usable_ca(certificate, now):
        return certs.Authority.load(certificate, Secret(key))
    private_key = certs.make_ec_key()
    authority = certs.make_ca(
        f"{domain} CA", private_key, certs.Validity.lasting(now, _CA_LIFE), serial=certs.serial_number(os.urandom(16))
    )
    write_file(folder / "ca.key", authority.key_pem.reveal())
    write_file(folder / "ca.crt", authority.certificate_pem, mode=0o644)
    return authority


def _is_usable_ca(certificate: str, now: datetime) -> bool:
    try:
        return rules.check_ca_certificate(certificate, now).expires_at - now > _CA_MARGIN
    except CertificateError:
        return False


async def _register(control: ControlClient, tunnel_id: str, authority: certs.Authority) -> None:
    fingerprint = certs.fingerprint(authority.certificate)
    registered = await control.certificates(tunnel_id)
    if not any(certificate.fingerprint == fingerprint for certificate in registered):
        await control.register_certificate(tunnel_id, authority.certificate_pem)


def _server_certificate(stack: Stack, authority: certs.Authority, now: datetime) -> None:
    existing, key = read_file(stack.certificate_file), read_file(stack.key_file)
    if existing and key and _is_good_server_certificate(existing, authority, stack.domain, now):
        return
    private_key = certs.make_ec_key()
    certificate = certs.issue_server(
        authority,
        private_key.public_key(),
        names=[stack.domain, f"*.{stack.domain}"],
        validity=certs.Validity.lasting(now, _SERVER_LIFE),
        serial=certs.serial_number(os.urandom(16)),
    )
    write_file(stack.key_file, certs.key_to_pem(private_key).reveal())
    write_file(stack.certificate_file, certs.certificate_to_pem(certificate), mode=0o644)


def _is_good_server_certificate(pem: str, authority: certs.Authority, domain: str, now: datetime) -> bool:
    anchor = rules.check_ca_certificate(authority.certificate_pem, now)
    try:
        leaf = certs.certificate_to_der(certs.load_certificate(pem))
        rules.check_server_certificate(leaf, [anchor], f"any.{domain}", now + _RENEW_BEFORE)
    except IdentityError:
        return False
    return True
