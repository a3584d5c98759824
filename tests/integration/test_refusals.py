"""Whoever is not the proxy, or not the edge, is refused by the caller before any payload, and told which rule it broke."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.impostor import FakeEdge
from tests.support.site import until
from tests.support.tape import ALERT, APPLICATION_DATA, Tape, closes, record_types

from penstock.client.mcp import mcp_session
from penstock.client.transport import TunnelRefusedError
from penstock.errors import CertificateError
from penstock.protocol.websocket import POLICY, Close
from penstock.tls import certs
from penstock.tls.names import edge_server_name
from penstock.tls.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import Side, Upstream, World

    from penstock.tls.certs import Authority, KeyPair

pytestmark = pytest.mark.anyio

PAYLOAD = b"a payload that must not leave"


@pytest.fixture(scope="module")
async def side(platform: World, upstream: Upstream) -> Side:
    """The tunnel's CA is made as the published command makes one: it may sign intermediates, so only our rule forbids them."""
    return await platform.add_side({"echo": upstream.url}, tapped=True, authority=ca.ca())


@pytest.fixture(scope="module")
async def rsa_side(platform: World, upstream: Upstream) -> Side:
    """A tunnel whose CA has an RSA key, the only kind that weak signatures can be made with."""
    return await platform.add_side({"echo": upstream.url}, tapped=True, authority=ca.sha1_authority())


# --- the proxy's certificate ------------------------------------------------------------------------------------------


def _through_intermediate(authority: Authority, host: str) -> KeyPair:
    middle = ca.ca("intermediate", issuer=authority)
    return ca.server(middle, host, chain=[middle.certificate])


def _not_now(span: tuple[Any, Any]) -> certs.Validity:
    return ca.valid(span[0], starts_in=span[1])


@dataclass(frozen=True)
class Broken:
    make: Callable[[Authority, str], KeyPair]
    rule: Rule
    is_lax: bool = False  # the proxy's own contexts refuse to load it


BROKEN = {
    "from another CA": Broken(lambda _, host: ca.server(ca.ca("nobody's CA"), host), Rule.SERVER_REGISTERED_CA),
    "from another CA of the registered one's name": Broken(
        lambda own, host: ca.server(certs.Authority(own.certificate, certs.make_ec_key()), host), Rule.SERVER_REGISTERED_CA
    ),
    "through an intermediate": Broken(_through_intermediate, Rule.SERVER_SIGNED_DIRECTLY),
    "through an intermediate that is not sent": Broken(
        lambda own, host: ca.server(ca.ca("intermediate", issuer=own), host), Rule.SERVER_REGISTERED_CA
    ),
    "expired": Broken(lambda own, host: ca.server(own, host, validity=_not_now(ca.EXPIRED)), Rule.SERVER_NOT_EXPIRED),
    "not yet valid": Broken(lambda own, host: ca.server(own, host, validity=_not_now(ca.NOT_YET_VALID)), Rule.SERVER_VALID_YET),
    "for another route": Broken(lambda own, host: ca.server(own, host.replace("echo", "other")), Rule.SERVER_NAME),
    "for another tunnel": Broken(lambda own, _: ca.server(own, "*.zz99zz99.tunnel.penstock.internal"), Rule.SERVER_NAME),
    "for the whole of the level above": Broken(
        lambda own, host: ca.server(own, f"*.{host.split('.', 2)[2]}"), Rule.SERVER_NAME
    ),
    "without an AKI": Broken(lambda own, host: ca.server(own, host, key_identifier=False), Rule.SERVER_HAS_AKI),
    "with another key's AKI": Broken(
        lambda own, host: ca.server(own, host, key_identifier=ca.wrong_key_identifier()), Rule.SERVER_AKI_MATCHES
    ),
    "with an EKU that lacks serverAuth": Broken(
        lambda own, host: ca.server(own, host, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]), Rule.SERVER_AUTH
    ),
    "with a weak key": Broken(
        lambda own, host: ca.server(own, host, key=certs.make_rsa_key(1024)), Rule.SERVER_STRONG_KEY, is_lax=True
    ),
}
# OpenSSL ends both alike; a second look tells them apart, and the proxy logs both.
TOLD_APART = {Rule.SERVER_REGISTERED_CA, Rule.SERVER_AKI_MATCHES}
WEAK_HASH = Broken(lambda own, host: ca.server(own, host, sha1=True), Rule.SERVER_STRONG_HASH, is_lax=True)


async def refused(side: Side, upstream: Upstream, broken: Broken) -> None:
    pair = broken.make(side.authority, side.host())
    inside = Tape()
    context = inside.on(ca.lax_server(pair) if broken.is_lax else side.proxy_context(pair))
    assert side.tap is not None
    before, visits = len(side.tap.tape.conversations), upstream.connections
    with side.presenting(context), capture_logs() as logs:
        async with side.world.client() as client:
            with pytest.raises(TunnelRefusedError) as raised:
                await client.post(side.url(), content=PAYLOAD)
        first = [Rule.SERVER_REGISTERED_CA.value] if broken.rule in TOLD_APART else []
        reasons = [*first, broken.rule.value]
        await until(lambda: [line["reason"] for line in logs if line["event"] == "tls handshake failed"] == reasons)

    assert isinstance(raised.value.cause, CertificateError)
    assert raised.value.cause.rule == broken.rule.value
    assert raised.value.cause.hint
    # Nothing was decrypted at the proxy, for nothing was sent: a hello, and the refusal.
    assert inside.everything == b""
    assert upstream.connections == visits
    said = [bytes(conversation.read) for conversation in side.tap.tape.conversations[before:]]
    assert [closes(flow) for flow in said] == [[Close(POLICY, reason)] for reason in reasons]
    for flow in said:
        assert record_types(flow)[-1] == ALERT
        assert APPLICATION_DATA not in record_types(flow)


@pytest.mark.parametrize("story", BROKEN)
async def test_a_proxy_whose_certificate_breaks_a_rule_is_refused_before_any_payload(
    side: Side, upstream: Upstream, story: str
) -> None:
    await refused(side, upstream, BROKEN[story])


async def test_a_proxy_whose_certificate_is_signed_with_sha1_is_refused_before_any_payload(
    rsa_side: Side, upstream: Upstream
) -> None:
    await refused(rsa_side, upstream, WEAK_HASH)


@pytest.mark.parametrize("is_lax", [False, True])
async def test_a_good_certificate_of_the_same_making_is_accepted(side: Side, upstream: Upstream, is_lax: bool) -> None:
    pair = ca.server(side.authority, side.host())
    inside = Tape()
    context = inside.on(ca.lax_server(pair) if is_lax else side.proxy_context(pair))
    with side.presenting(context):
        await answered(side, upstream)
    assert PAYLOAD in inside.everything


async def answered(side: Side, upstream: Upstream) -> None:
    """A request that passes, and its answer."""
    async with side.world.client() as client, asyncio.TaskGroup() as group:
        asked = group.create_task(client.post(side.url(), content=PAYLOAD))
        visit = await upstream.visit()
        await visit.head()
        assert await visit.reader.readexactly(len(PAYLOAD)) == PAYLOAD
        await visit.answer(b"welcome")
        assert (await asked).text == "welcome"


async def test_an_mcp_session_names_the_rule_without_groups_around_it(side: Side) -> None:
    broken = BROKEN["expired"]
    context = side.proxy_context(broken.make(side.authority, side.host()))
    with side.presenting(context), pytest.raises(CertificateError) as raised:
        async with mcp_session(side.url("/mcp"), side.world.access):
            pass
    assert raised.value.rule == broken.rule.value


async def test_the_next_call_after_a_renewal_is_accepted(side: Side, upstream: Upstream) -> None:
    async with side.world.client() as client:
        expired = BROKEN["expired"].make(side.authority, side.host())
        with side.presenting(side.proxy_context(expired)), pytest.raises(TunnelRefusedError):
            await client.get(side.url())
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(client.get(side.url()))
            await (await upstream.visit()).answer()
            assert (await asked).text == "ok"


async def test_a_registered_ca_that_is_itself_an_intermediate_works_and_its_own_ca_does_not(
    platform: World, upstream: Upstream
) -> None:
    root = ca.ca("a company's root")
    registered = ca.ca("a company's intermediate", issuer=root)
    assert registered.certificate.issuer != registered.certificate.subject
    side = await platform.add_side({"echo": upstream.url}, tapped=True, authority=registered)
    assert side.authority.certificate == registered.certificate

    await answered(side, upstream)
    await refused(side, upstream, Broken(lambda _, host: ca.server(root, host), Rule.SERVER_REGISTERED_CA))


# --- an edge in other hands -------------------------------------------------------------------------------------------

INNER: dict[str, tuple[Callable[[World, Side], KeyPair], Rule]] = {
    "of a CA of its own": (lambda _, side: ca.server(ca.ca("mcp-tunnel-ca"), side.host()), Rule.SERVER_REGISTERED_CA),
    "of the edge CA": (lambda platform, _: platform.edge_pair(), Rule.SERVER_NAME),
}


@pytest.mark.parametrize("story", INNER)
async def test_an_edge_that_answers_the_inner_handshake_with_a_certificate_of_its_own_is_refused(
    platform: World, side: Side, story: str
) -> None:
    make, rule = INNER[story]
    inner = make(platform, side)
    fake = FakeEdge(platform, platform.edge_pair(), inner=inner)
    async with fake, platform.streams(edge=fake.address) as streams:
        stream = await streams.open(side.host())  # its outer certificate is genuine: it holds the edge's key
        with pytest.raises(CertificateError) as raised:
            await stream.start_tls()
    assert raised.value.rule == rule.value
    assert fake.inside.everything == b""


async def test_the_same_edge_with_the_proxys_stolen_key_would_read_everything(platform: World, side: Side) -> None:
    """The control: what the tests above hold is held by the certificate alone."""
    thief = FakeEdge(platform, platform.edge_pair(), inner=side.pair)
    async with thief, platform.streams(edge=thief.address) as streams:
        pipe = await (await streams.open(side.host())).start_tls()
        await pipe.write(PAYLOAD)
        await until(lambda: PAYLOAD in thief.inside.everything)
        pipe.abort()


OUTER: dict[str, tuple[Callable[[Authority], KeyPair], Rule]] = {
    "from another CA": (lambda _: ca.server(ca.ca("Penstock edge CA"), edge_server_name("up")), Rule.EDGE_TRUSTED),
    "for another edge": (lambda own: ca.server(own, edge_server_name("other")), Rule.EDGE_NAME),
    "expired": (
        lambda own: ca.server(own, edge_server_name("up"), validity=_not_now(ca.EXPIRED)),
        Rule.EDGE_IN_TIME,
    ),
}


@pytest.mark.parametrize("story", OUTER)
async def test_an_edge_whose_outer_certificate_is_not_the_control_planes_is_refused_before_it_learns_the_route(
    platform: World, side: Side, story: str
) -> None:
    make, rule = OUTER[story]
    fake = FakeEdge(platform, make(await platform.edge_ca()))
    async with fake, platform.streams(edge=fake.address) as streams:
        with pytest.raises(CertificateError) as raised:
            await streams.open(side.host())
    assert raised.value.rule == rule.value
    assert fake.outside.everything == b""


async def test_an_edge_with_a_certificate_of_the_control_plane_learns_the_route_and_nothing_else(
    platform: World, side: Side
) -> None:
    """The control: the fake edge does listen, and hears."""
    fake = FakeEdge(platform, platform.edge_pair())
    async with fake, platform.streams(edge=fake.address) as streams:
        stream = await streams.open(side.host())
        stream.websocket.abort()
    assert side.host().encode() in fake.outside.everything
