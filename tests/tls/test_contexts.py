from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from tests.support import ca
from tests.support.handshake import shake

from penstock.errors import ConfigError
from penstock.secret import Secret
from penstock.tls import certs, contexts
from penstock.tls.certs import KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.tls.contexts import TLSContext

TUNNEL, EDGE, CALLERS = ca.ca(), ca.ca("edges"), ca.ca("callers")
CALLER = ca.caller(CALLERS)
EDGE_NAME = "edge-1.edge.penstock.internal"


def _all() -> dict[str, TLSContext]:
    edge = ca.server(EDGE, EDGE_NAME)
    return {
        "caller_inner": contexts.caller_inner([TUNNEL.certificate_pem], CALLER),
        "caller_inspection": contexts.caller_inspection(),
        "proxy_inner": contexts.proxy_inner(ca.server(TUNNEL), [CALLERS.certificate_pem], "require"),
        "caller_outer": contexts.caller_outer(EDGE.certificate_pem, CALLER),
        "agent_outer": contexts.agent_outer([certs.certificate_to_der(EDGE.certificate)]),
        "edge_callers": contexts.edge_callers(edge, [CALLERS.certificate_pem]),
        "edge_agents": contexts.edge_agents(edge),
        "upstream": contexts.upstream(None, include_system_cas=True),
        "control_client": contexts.control_client(),
        "control_server": contexts.control_server(edge),
        "unused_client": contexts.unused_client(),
    }


@pytest.mark.parametrize("name", _all())
def test_no_context_compresses_renegotiates_or_takes_a_cut_for_an_end(name: str) -> None:
    context = _all()[name]
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert context.security_level == 2
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["caller_inner", "caller_inspection", "caller_outer", "edge_callers"])
def test_callers_speak_nothing_older_than_tls_1_3(name: str) -> None:
    assert _all()[name].minimum_version == ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("name", ["proxy_inner", "edge_callers", "edge_agents"])
def test_servers_of_callers_give_no_tickets(name: str) -> None:
    assert _all()[name].num_tickets == 0


def test_a_caller_and_a_proxy_meet_in_tls_1_3_with_http_and_know_each_other() -> None:
    everything = _all()
    result = shake(everything["caller_inner"], everything["proxy_inner"], ca.HOST)
    assert (result.client_error, result.server_error) == (None, None)
    assert result.client.version() == "TLSv1.3"
    assert result.server.selected_alpn_protocol() == "http/1.1"
    assert isinstance(result.server, contexts.NamedSSLObject)
    assert result.server.server_name == ca.HOST
    leaf = certs.load_certificate(CALLER.certificate_pem)
    assert result.server.getpeercert(binary_form=True) == certs.certificate_to_der(leaf)


def test_a_published_caller_with_tls_1_2_and_no_certificate_still_meets_a_proxy_that_does_not_ask() -> None:
    old = contexts.caller_inner([TUNNEL.certificate_pem], None)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    result = shake(old, contexts.proxy_inner(ca.server(TUNNEL)), ca.HOST)
    assert (result.client_error, result.server_error) == (None, None)
    assert result.client.version() == "TLSv1.2"


@pytest.mark.parametrize("identity", [None, ca.caller(ca.ca("impostor"))], ids=["none", "another CA's"])
def test_a_proxy_that_requires_callers_refuses_whoever_is_none(identity: KeyPair | None) -> None:
    proxy = contexts.proxy_inner(ca.server(TUNNEL), [CALLERS.certificate_pem], "require")
    result = shake(contexts.caller_inner([TUNNEL.certificate_pem], identity), proxy, ca.HOST)
    assert result.server_error is not None
    assert result.client_error is not None, "the alert reaches the client"


def test_a_proxy_that_only_requests_takes_none_but_no_wrong_one() -> None:
    proxy = contexts.proxy_inner(ca.server(TUNNEL), [CALLERS.certificate_pem], "request")
    assert shake(contexts.caller_inner([TUNNEL.certificate_pem], None), proxy, ca.HOST).server_error is None
    impostor = ca.caller(ca.ca("impostor"))
    assert shake(contexts.caller_inner([TUNNEL.certificate_pem], impostor), proxy, ca.HOST).server_error is not None


def test_a_server_certificate_is_no_callers_certificate() -> None:
    proxy = contexts.proxy_inner(ca.server(TUNNEL), [TUNNEL.certificate_pem], "require")
    result = shake(contexts.caller_inner([TUNNEL.certificate_pem], ca.server(TUNNEL)), proxy, ca.HOST)
    assert isinstance(result.server_error, ssl.SSLCertVerificationError)


def test_an_edge_lets_in_callers_of_its_callers_ca_only() -> None:
    edge = contexts.edge_callers(ca.server(EDGE, EDGE_NAME), [CALLERS.certificate_pem])
    assert shake(contexts.caller_outer(EDGE.certificate_pem, CALLER), edge, EDGE_NAME).server_error is None
    impostor = ca.caller(ca.ca("impostor"))
    assert shake(contexts.caller_outer(EDGE.certificate_pem, impostor), edge, EDGE_NAME).server_error is not None
    assert shake(contexts.caller_inspection(), edge, EDGE_NAME).server_error is not None


def test_an_agent_knows_an_edge_by_a_ca_in_der_or_pem_and_any_of_several() -> None:
    edge = contexts.edge_agents(ca.server(EDGE, "h2.cftunnel.com"))
    pem = EDGE.certificate_pem
    for cas in ([pem], [pem.encode()], [certs.certificate_to_der(EDGE.certificate)], [ca.ca().certificate_pem, pem]):
        assert shake(contexts.agent_outer(cas), edge, "h2.cftunnel.com").client_error is None
    assert shake(contexts.agent_outer([ca.ca().certificate_pem]), edge, "h2.cftunnel.com").client_error is not None
    assert shake(contexts.agent_outer([pem]), edge, "probe.cftunnel.com").client_error is not None


def test_a_session_is_not_resumed_where_no_ticket_is_given() -> None:
    everything = _all()
    first = shake(everything["caller_inner"], everything["proxy_inner"], ca.HOST)
    assert first.client.session is None or not first.client.session.has_ticket
    again = shake(everything["caller_inner"], everything["proxy_inner"], ca.HOST, session=first.client.session)
    assert not again.client.session_reused


def test_a_resumed_session_still_shows_both_certificates_for_the_checks() -> None:
    caller = contexts.caller_inner([TUNNEL.certificate_pem], CALLER)
    pair = ca.server(TUNNEL)
    proxy = contexts.proxy_inner(pair, [CALLERS.certificate_pem], "require", tickets=1)
    first = shake(caller, proxy, ca.HOST)
    again = shake(caller, proxy, ca.HOST, session=first.client.session)
    assert again.client.session_reused
    leaf = certs.certificate_to_der(certs.load_certificate(pair.certificate_pem))
    assert again.client.getpeercert(binary_form=True) == leaf
    assert again.server.getpeercert(binary_form=True) == first.server.getpeercert(binary_form=True) is not None


def test_a_context_without_anchors_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="no CA certificate to trust"):
        contexts.caller_inner([], None)
    with pytest.raises(ConfigError, match="no CA certificate to trust"):
        contexts.proxy_inner(ca.server(TUNNEL), [], "require")


@pytest.mark.parametrize(
    "anchor", ["", "garbage", b"garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ä"]
)
def test_an_anchor_that_is_no_certificate_is_refused(anchor: str | bytes) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        contexts.agent_outer([anchor])


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_of_another_certificate_is_refused_by_name() -> None:
    pair = ca.server(TUNNEL)
    for other in (certs.make_ec_key(), certs.make_rsa_key(2048)):
        with pytest.raises(ConfigError, match="do not belong together"):
            contexts.proxy_inner(KeyPair(pair.certificate_pem, certs.key_to_pem(other)))


def test_a_weak_pair_is_refused_at_load() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        contexts.proxy_inner(ca.server(TUNNEL, key=certs.make_rsa_key(1024)))


def test_an_encrypted_key_is_refused_and_nobody_is_asked() -> None:
    key = certs.make_ec_key()
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    with pytest.raises(ConfigError) as caught:
        contexts.proxy_inner(KeyPair(ca.server(TUNNEL, key=key).certificate_pem, Secret(encrypted.decode())))
    assert "encrypted" in (caught.value.detail or "")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory files are Linux's")
def test_a_key_in_memory_touches_no_disk_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    before = set(Path("/proc/self/fd").iterdir())
    contexts.proxy_inner(ca.server(TUNNEL))
    with pytest.raises(ConfigError):
        contexts.proxy_inner(KeyPair("nothing", Secret("nothing")))
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_where_there_are_no_memory_files_a_private_one_is_used_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contexts, "_memory_file", lambda _: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes: list[int] = []
    load = ssl.SSLContext.load_cert_chain  # noqa: TID251 - looked at while it loads

    def look(self: TLSContext, certfile: str, **options: object) -> None:
        modes.extend((Path(certfile).stat().st_mode & 0o777, Path(certfile).parent.stat().st_mode & 0o777))
        load(self, certfile, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)  # noqa: TID251 - as above
    contexts.proxy_inner(ca.server(TUNNEL))
    assert modes == [0o600, 0o700]
    assert list(tmp_path.iterdir()) == []


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_pair_is_read_from_its_two_files(tmp_path: Path) -> None:
    pair = ca.server(TUNNEL)
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    read = contexts.read_key_pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert (read.certificate_pem, read.key_pem) == (pair.certificate_pem, pair.key_pem)


def test_a_missing_file_is_named_in_the_published_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        contexts.read_pem(tmp_path / "tls.key")
    assert caught.value.public == f"open {tmp_path / 'tls.key'}: no such file or directory"


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may read everything: where the tests run as root, this one does not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("nobody")
def test_an_unreadable_key_is_named_in_the_published_words() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tls.key")
        file.touch(mode=0o000)
        with pytest.raises(ConfigError) as caught:
            contexts.read_pem(file)
        assert caught.value.public == f"open {file}: permission denied"


def test_der_and_endless_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tls.crt"
    file.write_bytes(certs.certificate_to_der(TUNNEL.certificate))
    with pytest.raises(ConfigError, match="is not PEM"):
        contexts.read_pem(file)
    with pytest.raises(ConfigError, match="bytes"):
        contexts.read_pem(Path("/dev/zero"))


def test_an_upstream_without_any_trust_is_refused_and_with_its_ca_accepted(tmp_path: Path) -> None:
    private = ca.ca("private")
    server = contexts.control_server(ca.server(private, "mcp.internal"))
    assert shake(contexts.upstream(None), server, "mcp.internal").client_error is not None
    (tmp_path / "ca.crt").write_text(private.certificate_pem)
    assert shake(contexts.upstream(tmp_path / "ca.crt"), server, "mcp.internal").client_error is None
    assert shake(contexts.upstream(tmp_path / "ca.crt"), server, "other.internal").client_error is not None
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(ConfigError, match="holds no CA certificate"):
        contexts.upstream(tmp_path / "ca.crt")
