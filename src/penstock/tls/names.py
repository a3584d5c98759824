"""Whom a certificate speaks for.

A caller's certificate carries exactly one identity, as a URI: `penstock://caller/<organization>/<workspace>/<caller>`.
`CallerIdentity` comes out of `caller_identity` alone, so a function that takes one takes a name that was read from a
certificate; that the certificate is genuine is the handshake's word (and `penstock.tls.rules`').
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from cryptography import x509

from penstock import ids
from penstock.errors import IdentityError
from penstock.tls import certs

EDGE_DOMAIN: Final = "edge.penstock.internal"
"""Edges' own names: no public resolver knows `.internal`, and addresses come from control."""

_SCHEME: Final = "penstock://caller/"
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_KNOWN: Final = 1024  # certificates, of a kilobyte: a caller opens stream after stream with one, and reading it is 0.1 ms
_HINT: Final = "get a caller certificate from this control plane"


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """Who a caller's certificate says it is; `serial` is lowercase hex without leading zeros."""

    organization_id: str
    workspace_id: str
    caller_id: str
    serial: str


def dns_names(certificate: x509.Certificate) -> frozenset[str]:
    """The DNS names that a server's certificate speaks for; none where it has no such extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (*certs.UNREADABLE, x509.ExtensionNotFound):
        return frozenset()


def caller_uri(organization_id: str, workspace_id: str, caller_id: str) -> str:
    """The URI that goes into a caller's certificate. Raises ValueError for parts that could not be read back."""
    uri = f"{_SCHEME}{organization_id}/{workspace_id}/{caller_id}"
    if _parts(uri) is None:
        msg = f"not a caller's identity: {uri}"
        raise ValueError(msg)
    return uri


@lru_cache(_KNOWN)
def caller_identity(certificate_der: bytes) -> CallerIdentity:
    """The one identity a caller's certificate carries. Raises IdentityError when there is none, or more than one."""
    certificate = certs.load_certificate(certificate_der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (*certs.UNREADABLE, x509.ExtensionNotFound) as exc:
        raise IdentityError("the client certificate names no caller", detail=str(exc), hint=_HINT) from exc
    # One URI and nothing else: a second name would be a second opinion.
    parts = _parts(uris[0]) if len(uris) == 1 and len(list(names)) == 1 else None
    if parts is None:
        raise IdentityError("the client certificate names no caller", detail=f"uris: {uris!r:.200}", hint=_HINT)
    return CallerIdentity(*parts, serial=certs.serial_hex(certificate))


def edge_server_name(name: str) -> str:
    """The name an edge's certificate carries and callers send as SNI. Raises ValueError unless `name` is one DNS label."""
    if not is_edge_name(name):
        msg = f"an edge's name is one DNS label: {name!r:.100}"
        raise ValueError(msg)
    return f"{name}.{EDGE_DOMAIN}"


@lru_cache(_KNOWN)
def edge_label(certificate: bytes | str) -> str | None:
    """The name of the edge this certificate (DER or PEM) is of; None when it is not an edge's."""
    try:
        names = certs.load_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (*certs.UNREADABLE, x509.ExtensionNotFound):
        return None
    for name in names.get_values_for_type(x509.DNSName):
        label, _, domain = name.partition(".")
        if domain == EDGE_DOMAIN and is_edge_name(label):
            return label
    return None


def is_edge_name(name: str) -> bool:
    """Whether `name` can be an edge's name: one lower-case DNS label."""
    return _LABEL.fullmatch(name) is not None


def _parts(uri: str) -> tuple[str, str, str] | None:
    if not uri.startswith(_SCHEME):
        return None
    match uri.removeprefix(_SCHEME).split("/"):
        case [organization, workspace, caller] if (
            _is_uuid(organization) and ids.is_valid(ids.WORKSPACE, workspace) and ids.is_valid(ids.CALLER, caller)
        ):
            return organization, workspace, caller
        case _:
            return None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
