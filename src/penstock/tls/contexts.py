"""The only place that builds an `SSLContext`, and the only one in `tls` that opens a file.

What holds for every context: no compression, no renegotiation, security level 2 (RSA and hashes below 112 bits are
refused), and an end without close_notify is an error: CPython's default hides it (`OP_IGNORE_UNEXPECTED_EOF`), and on this
wire a cut must not look like the end of a body.

Resumption. A TLS 1.3 ticket lets a later connection skip the certificate flight, and with it whatever checks hang on that
flight. Servers here issue none by default (`num_tickets` 0): no client of ours resumes, and with client certificates each
ticket would carry the caller's whole chain. Where `tickets` is raised (an RSA-4096 proxy), the rule stands that every
connection, resumed or not, is checked again from `getpeercert(binary_form=True)`, which a resumed session still answers.
TLS 1.2 tickets stay on, for switching them off would only move the sessions into this process's memory; the same rule
covers them. A context rebuilt after a reload has new ticket keys, so no session outlives the certificate it was made with.
"""

# ruff: noqa: TID251 - the ban on `ssl.SSLContext` is what sends everybody else here

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from penstock.errors import ConfigError, unreadable
from penstock.secret import Secret
from penstock.tls.certs import KeyPair

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

TLSContext: TypeAlias = ssl.SSLContext
"""For annotations elsewhere: whoever holds one got it from here."""

CallerMode: TypeAlias = Literal["off", "request", "require"]
"""Whether a proxy asks callers for their certificate inside inner TLS, and whether it insists."""

_HTTP: Final = "http/1.1"
_PEM_LIMIT: Final = 1 << 20  # the system's bundle is 250 KiB; nothing honest is over a MiB
# Forward secrecy and AEAD only; decides for TLS 1.2 and, by the level, for keys and hashes in TLS 1.3 too.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# Another key of the same algorithm; of another, by OpenSSL's version.
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_STRICT: Final = ssl.VerifyFlags.VERIFY_X509_STRICT | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
# /proc may be hidden from the process; then there is no path to a memory file.
_HAS_DESCRIPTOR_PATHS: Final = Path("/proc/self/fd").is_dir()


class NamedSSLObject(ssl.SSLObject):
    """A server's TLS session that remembers the name the client asked for (SNI), which CPython otherwise drops."""

    server_name: str | None = None


# --- inner TLS: caller and proxy --------------------------------------------------------------------------------------


def caller_inner(anchors: Iterable[str | bytes], identity: KeyPair | None) -> TLSContext:
    """A caller's side of inner TLS. `anchors` are the tunnel's CA certificates (PEM text or DER bytes).

    Strict flags inside the handshake; partial chains because a registered CA need not be self-signed. The direct-signing
    rule is `rules.check_server_certificate`'s, which must run before our Finished leaves.
    """
    context = _client(ssl.TLSVersion.TLSv1_3)
    context.verify_flags |= _STRICT
    context.set_alpn_protocols([_HTTP])
    _trust(context, anchors)
    if identity is not None:
        _present(context, identity)
    return context


def caller_inspection() -> TLSContext:
    """A caller's context that verifies nothing: only to look at a refused server certificate once more and name its rule.

    It presents no identity. Whoever uses it ends the connection when the server's flight has come and sends no byte of
    payload (`rules.explain_verification`).
    """
    context = _client(ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols([_HTTP])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def proxy_inner(
    identity: KeyPair, callers_ca: Iterable[str | bytes] = (), mode: CallerMode = "off", *, tickets: int = 0
) -> TLSContext:
    """A proxy's side of inner TLS: 1.2 or later, for callers that are not ours; SNI is kept in `NamedSSLObject`."""
    context = _server(ssl.TLSVersion.TLSv1_2, identity, tickets=tickets)
    context.set_alpn_protocols([_HTTP])
    _ask(context, callers_ca, mode)
    context.sslobject_class = NamedSSLObject
    # A name that is not ASCII ends the handshake inside CPython, which also prints an "exception ignored" of its own to stderr.
    context.sni_callback = _remember_name
    return context


# --- outer TLS: caller, agent and edge --------------------------------------------------------------------------------


def caller_outer(edge_ca: str | bytes, identity: KeyPair) -> TLSContext:
    """A caller's side of outer TLS; the server name is the edge's own (`names.edge_server_name`)."""
    context = _client(ssl.TLSVersion.TLSv1_3)
    context.verify_flags |= _STRICT
    context.set_alpn_protocols([_HTTP])
    _trust(context, [edge_ca])
    _present(context, identity)
    return context


def agent_outer(edge_cas: Iterable[str | bytes]) -> TLSContext:
    """An agent's side of outer TLS, trusting the CAs of its token (DER) or file (PEM)."""
    context = _client(ssl.TLSVersion.TLSv1_2)  # an edge in front of which a company puts its own TLS may be older
    context.verify_flags |= _STRICT
    _trust(context, edge_cas)
    return context


def edge_callers(identity: KeyPair, caller_cas: Iterable[str | bytes]) -> TLSContext:
    """An edge's port for callers: TLS 1.3, and no client certificate means no connection."""
    context = _server(ssl.TLSVersion.TLSv1_3, identity, tickets=0)
    context.set_alpn_protocols([_HTTP])
    _ask(context, caller_cas, "require")
    return context


def edge_peer(identity: KeyPair, edge_ca: str | bytes) -> TLSContext:
    """An edge's side towards another edge's port for callers."""
    return caller_outer(edge_ca, identity)


def edge_agents(identity: KeyPair) -> TLSContext:
    """An edge's port for agents: the stock agent speaks TLS 1.2 or 1.3, offers no ALPN and proves itself later by RPC."""
    return _server(ssl.TLSVersion.TLSv1_2, identity, tickets=0)


# --- upstreams and the control plane ----------------------------------------------------------------------------------


def upstream(ca_file: Path | None, *, include_system_cas: bool = False) -> TLSContext:
    """A proxy's side towards `https://` upstreams. With neither source of trust every upstream is refused, as published."""
    context = _client(ssl.TLSVersion.TLSv1_2)
    # Partial chains here as well: a private upstream's bundle often holds just the intermediate, or the leaf itself.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([_HTTP])
    _trust_files(context, ca_file, include_system_cas=include_system_cas)
    return context


def control_client(ca_file: Path | None = None) -> TLSContext:
    """A client of the control plane: the system's CAs, or one file instead of them."""
    context = _client(ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols([_HTTP])
    if ca_file is not None:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    _trust_files(context, ca_file, include_system_cas=ca_file is None)
    return context


def issuer_client(ca_pem: str | None) -> TLSContext:
    """The control plane's side towards an identity provider: the system's CAs, or the ones its admin gave instead."""
    context = _client(ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols([_HTTP])
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        _trust(context, [ca_pem])
    return context


def control_server(identity: KeyPair) -> TLSContext:
    """The control plane's own TLS, where no reverse proxy ends it."""
    context = _server(ssl.TLSVersion.TLSv1_2, identity, tickets=2)  # no client certificates: resumption skips no check
    context.set_alpn_protocols([_HTTP])
    return context


def unused_client() -> TLSContext:
    """A context that trusts nobody, for libraries that want one although every handshake is made elsewhere."""
    return _client(ssl.TLSVersion.TLSv1_3)


# --- files ------------------------------------------------------------------------------------------------------------


def read_key_pair(certificate_file: Path, key_file: Path) -> KeyPair:
    """Both files at once, so that what is checked is what is used. Raises ConfigError in the published words."""
    return KeyPair(read_pem(certificate_file), Secret(read_pem(key_file)))


def read_pem(file: Path) -> str:
    """A small text file. Raises ConfigError: `open /data/tls.key: permission denied`."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_PEM_LIMIT + 1)
    except OSError as exc:
        raise unreadable(file, exc) from exc
    if len(data) > _PEM_LIMIT:
        raise ConfigError(f"{file} is over {_PEM_LIMIT} bytes", hint="a PEM file is expected")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file} is not PEM", hint="convert it: openssl x509 -inform der, or openssl pkcs12") from exc


# --- parts ------------------------------------------------------------------------------------------------------------


def _client(minimum: ssl.TLSVersion) -> TLSContext:
    # The constructor turns hostname checks and CERT_REQUIRED on; the common name never counts as a name.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    return _harden(context, minimum)


def _server(minimum: ssl.TLSVersion, identity: KeyPair, *, tickets: int) -> TLSContext:
    context = _harden(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), minimum)
    context.options |= ssl.Options.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = tickets
    _present(context, identity)
    return context


def _harden(context: TLSContext, minimum: ssl.TLSVersion) -> TLSContext:
    context.minimum_version = minimum
    context.options |= ssl.Options.OP_NO_COMPRESSION | ssl.Options.OP_NO_RENEGOTIATION
    context.options &= ~ssl.Options.OP_IGNORE_UNEXPECTED_EOF
    context.set_ciphers(_CIPHERS)
    return context


def _ask(context: TLSContext, callers_ca: Iterable[str | bytes], mode: CallerMode) -> None:
    if mode == "off":
        return
    # VERIFY_X509_STRICT is for our own caller CA too, which obeys it.
    context.verify_flags |= _STRICT
    _trust(context, callers_ca)
    context.verify_mode = ssl.CERT_REQUIRED if mode == "require" else ssl.CERT_OPTIONAL


def _trust(context: TLSContext, anchors: Iterable[str | bytes]) -> None:
    count = 0
    for count, anchor in enumerate(anchors, 1):  # noqa: B007 - the count is the point
        try:
            # CPython reads bytes as DER and text as PEM; PEM bytes would be garbage to it.
            is_pem = isinstance(anchor, bytes) and anchor.lstrip().startswith(b"-----")
            context.load_verify_locations(cadata=anchor.decode("ascii") if is_pem and isinstance(anchor, bytes) else anchor)
        except (ssl.SSLError, ValueError, TypeError) as exc:  # TypeError: text that is not ASCII
            raise ConfigError("a CA certificate cannot be read", detail=str(exc), hint="PEM or DER is expected") from exc
    if count == 0:
        # A context without anchors would refuse everybody one by one, each time with a puzzling text.
        raise ConfigError("there is no CA certificate to trust", hint="register or configure at least one CA certificate")


def _trust_files(context: TLSContext, ca_file: Path | None, *, include_system_cas: bool) -> None:
    if ca_file is not None:
        try:
            context.load_verify_locations(cadata=read_pem(ca_file))
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(f"{ca_file} holds no CA certificate", detail=str(exc), hint="a PEM bundle is expected") from exc
    if include_system_cas:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _present(context: TLSContext, identity: KeyPair) -> None:
    try:
        with _as_file(f"{identity.certificate_pem}\n{identity.key_pem.reveal()}".encode()) as file:
            context.load_cert_chain(file, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as exc:
        reason = "do not belong together" if any(name in str(exc) for name in _MISMATCHES) else "cannot be used"
        raise ConfigError(
            f"the certificate and the private key {reason}",
            detail=str(exc),
            hint="give a PEM certificate and its own unencrypted PEM key, RSA of 2048 bits or more or ECDSA",
        ) from exc


def _refuse_password() -> bytes:
    # Without this OpenSSL asks on the terminal and the process hangs.
    msg = "the private key is encrypted"
    raise ValueError(msg)


@contextlib.contextmanager
def _as_file(data: bytes) -> Generator[str]:
    """A path OpenSSL can read `data` from; nothing is left behind, and a read-only root is enough on Linux."""
    descriptor = _memory_file(data)
    if descriptor is not None:
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:  # made 0700
        file = Path(folder, "pair.pem")
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
        yield str(file)


def _memory_file(data: bytes) -> int | None:
    create = getattr(os, "memfd_create", None)
    if create is None or not _HAS_DESCRIPTOR_PATHS:
        return None
    try:
        descriptor: int = create("penstock-pair", os.MFD_CLOEXEC)
    except OSError:
        return None
    os.set_blocking(descriptor, False)  # memory never blocks; this says so to those who watch the loop
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
    return descriptor


def _remember_name(session: ssl.SSLObject, name: str | None, _context: TLSContext) -> None:
    if isinstance(session, NamedSSLObject):
        session.server_name = name
