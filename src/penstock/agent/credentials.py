"""The tunnel token and the CAs that edges are known by: where they come from, and how they change while the agent lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.x509 import BasicConstraints, Certificate, ExtensionNotFound

from penstock.config.files import named_by, read_text
from penstock.config.pem import read_certificates
from penstock.errors import ConfigError, IdentityError
from penstock.protocol.token import TunnelToken, parse_token
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.agent.config import AgentConfig
    from penstock.tls.contexts import TLSContext

_MOST: Final = 8
"""CAs trusted at once. Two overlap in a rotation; more than a few is somebody filling our memory."""


def read_token(config: AgentConfig) -> TunnelToken:
    """The token as it is now; blocks on its file. ConfigError when there is none, or what is there is none."""
    if config.token is not None:
        text = config.token.reveal()
    elif config.token_file is not None:
        with named_by("token_file"):
            text = read_text(config.token_file)
        with named_by(f"token_file: {config.token_file}"):
            return parse_token(text)
    else:
        raise ConfigError("there is no tunnel token", hint="set TUNNEL_TOKEN, or token_file to a file that holds it")
    try:
        return parse_token(text)
    except IdentityError as exc:
        raise ConfigError(exc.public, detail=exc.detail, hint=exc.hint) from exc


class EdgeTrust:
    """The CAs that an edge's certificate may come from: those of the token or of a file, and whom they vouch for."""

    def __init__(self, anchors: Iterable[str | bytes]) -> None:
        """anchors: PEM text (bundles too) or DER. ConfigError when one is no certificate, or there is none."""
        self._anchors = list(anchors)
        if not self._anchors:
            raise ConfigError("the token names no CA to know an edge by", hint="set cacert to the CA bundle of the edge")
        self._known = [certificate for anchor in self._anchors for certificate in _certificates(anchor)]

    def context(self) -> TLSContext:
        """For links that are dialled from now on."""
        return contexts.agent_outer(self._anchors)

    def learn(self, candidates: Iterable[bytes]) -> tuple[int, int]:
        """Trust those (DER) that a trusted CA signed; how many were new, and how many were refused."""
        new = refused = 0
        for der in candidates:
            try:
                candidate = certs.load_certificate(der)
            except (ConfigError, IdentityError):
                refused += 1
                continue
            if candidate in self._known:
                continue
            if len(self._known) < _MOST and _is_ca(candidate) and any(_signed(candidate, ca) for ca in self._known):
                self._anchors.append(der)
                self._known.append(candidate)
                new += 1
            else:
                refused += 1
        return new, refused


def read_trust(config: AgentConfig, token: TunnelToken) -> EdgeTrust:
    """The file in place of the token's; blocks."""
    if config.cacert is None:
        return EdgeTrust(token.cas)
    with named_by("cacert"):
        bundle = read_certificates(config.cacert)
    with named_by(f"cacert: {config.cacert}"):
        return EdgeTrust([bundle])


def _certificates(anchor: str | bytes) -> list[Certificate]:
    if isinstance(anchor, bytes):
        return [certs.load_certificate(anchor)]
    return certs.load_bundle(anchor)


def _is_ca(certificate: Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except (ExtensionNotFound, ValueError):
        return False


def _signed(certificate: Certificate, by: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
