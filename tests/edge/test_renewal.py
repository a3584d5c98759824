"""An edge renews its certificate with a real control plane, and what its connections notice of it: nothing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.control import database, start_api  # noqa: F401 - fixtures
from tests.support.site import until

from penstock.edge.config import EdgeConfig
from penstock.edge.metrics import EdgeMetrics
from penstock.edge.renewal import Presented, Renewal
from penstock.edge.server import Edge
from penstock.edge.state import EdgeState, identity_of
from penstock.errors import ConfigError, UnavailableError
from penstock.net.dial import dial_tls
from penstock.net.tasks import Tasks
from penstock.protocol import metadata
from penstock.schema.edges import EdgeCertificate, Snapshot
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api
    from tests.support.site import Site

    from penstock.edge.control import ControlPlane
    from penstock.edge.state import EdgeIdentity

pytestmark = pytest.mark.anyio


def config_of(api: Api, folder: Path) -> EdgeConfig:
    token = folder / "enrolment-token"
    token.write_text(api.initial.enrolment_token.reveal())
    values: dict[str, Any] = {
        "control_url": api.control.url,
        "enrolment_token_file": token,
        "state_dir": folder / "edge",
        "callers_addr": "127.0.0.1:0",
        "agents_addr": "127.0.0.1:0",
        "advertise_callers": "127.0.0.1:8443",
        "advertise_agents": "127.0.0.1:7844",
        "admin_addr": None,
        "limits": {"stop_seconds": 0.1},
    }
    return EdgeConfig.model_validate(values)


async def shown(edge: Edge, edge_ca_pem: str) -> tuple[str, asyncio.Transport]:
    """The serial an agent is shown, and its open connection."""
    address = edge.agents_address
    transport = await dial_tls(
        address.host,
        address.port,
        context=contexts.agent_outer([edge_ca_pem]),
        server_hostname=metadata.EDGE_SERVER_NAME,
    )
    der: bytes = transport.get_extra_info("peercert_der")
    return certs.serial_hex(certs.load_certificate(der)), transport


async def test_an_edge_renews_in_time_and_its_live_connections_stay(
    start_api: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    api: Api = await start_api(edge_certificate_lifetime=4)
    edge = Edge(config_of(api, tmp_path))
    await edge.start()
    state = EdgeState(tmp_path / "edge")
    first = state.load_identity()
    assert first is not None
    serial, live = await shown(edge, first.edge_ca_pem)
    with capture_logs() as lines:
        await until(lambda: any(line["event"] == "edge certificate renewed" for line in lines), seconds=15)
    again, other = await shown(edge, first.edge_ca_pem)
    assert again != serial
    assert not live.is_closing()
    second = state.load_identity()
    assert second is not None
    assert second.key_pem != first.key_pem
    assert certs.belong_together(second.certificate_pem, second.key_pem)
    assert (second.edge_id, second.credential) == (first.edge_id, first.credential)
    for transport in (live, other):
        transport.abort()
    await edge.stop()


async def test_a_renewal_that_fails_is_said_with_the_time_that_is_left_and_tried_again(
    start_api: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    api: Api = await start_api(edge_certificate_lifetime=1)
    config = config_of(api, tmp_path)
    edge = Edge(config)
    await edge.start()
    with capture_logs() as lines:
        await api.control.stop()
        await until(lambda: sum(line["event"] == "edge certificate not renewed" for line in lines) >= 2, seconds=15)
    said = next(line for line in lines if line["event"] == "edge certificate not renewed")
    assert said["reason"] == f"the control plane at {config.control_url} does not answer"
    assert "refuse this edge once its certificate has expired" in said["hint"]
    assert said["expires"]
    await edge.stop()


@dataclass
class Issuer:
    """A control plane that renews for a year, and counts."""

    site: Site
    asked: int = 0

    async def renew(self, _: EdgeIdentity, csr_pem: str) -> EdgeCertificate:
        self.asked += 1
        now = datetime.now(UTC)
        self.site.edge_validity = certs.Validity(now, now + timedelta(days=365))
        enrolment = self.site.enrolment("edge-1", certs.load_csr(csr_pem))
        return EdgeCertificate(certificate_pem=enrolment.certificate_pem, edge_ca_pem=enrolment.edge_ca_pem)


async def test_a_certificate_that_the_disk_does_not_take_is_shown_all_the_same_and_saved_once_it_does(
    site: Site, tmp_path: Path
) -> None:
    """And no other is asked for meanwhile: control knows an edge by its last two."""
    now = datetime.now(UTC)
    site.edge_validity = certs.Validity(now - timedelta(days=90), now + timedelta(days=1))
    site.edge_config()
    folder = site.folder / "edge-1"
    identity = EdgeState(folder).load_identity()
    assert identity is not None
    presented, issuer, metrics = Presented(identity), Issuer(site), EdgeMetrics.on(CollectorRegistry())
    control = cast("ControlPlane", issuer)
    renewal = Renewal(presented, control, EdgeState(folder), metrics=metrics, log=structlog.get_logger())
    aside = folder.rename(tmp_path / "aside")
    with capture_logs() as lines:
        tasks = Tasks()
        tasks.spawn(renewal.keep(), "renewal")
        await until(lambda: any(line["event"] == "edge certificate not saved" for line in lines))
        assert presented.identity.certificate_pem != identity.certificate_pem
        aside.rename(folder)
        await until(lambda: EdgeState(folder).load_identity() == presented.identity)
    assert "before it" in next(line for line in lines if line["event"] == "edge certificate not saved")["hint"]
    assert issuer.asked == 1
    await tasks.aclose()


@pytest.mark.parametrize("cut_after", ["next key", "certificate", "key"])
def test_a_renewal_that_is_cut_short_leaves_a_pair_that_belongs_together(site: Site, tmp_path: Path, cut_after: str) -> None:
    state = EdgeState(tmp_path)
    old, new = certs.make_ec_key(), certs.make_ec_key()
    state.save_identity(identity_of(site.enrolment("edge-1", old.public_key()), certs.key_to_pem(old)))
    fresh = site.enrolment("edge-1", new.public_key())
    (tmp_path / "edge.key.next").write_text(certs.key_to_pem(new).reveal())
    if cut_after != "next key":
        (tmp_path / "enrolment.json").write_text(fresh.model_dump_json())
    if cut_after == "key":
        (tmp_path / "edge.key").write_text(certs.key_to_pem(new).reveal())
    identity = state.load_identity()
    assert identity is not None
    assert certs.belong_together(identity.certificate_pem, identity.key_pem)


async def test_the_caller_ca_of_a_new_organization_is_asked_for_from_the_next_connection_on(site: Site) -> None:
    other_ca = ca.ca("another caller CA")
    stranger = ca.caller(other_ca)
    async with site.edge(limits={"feed_wait_seconds": 0.05, "stop_seconds": 1.0}) as edge:
        with pytest.raises((OSError, UnavailableError)):
            await site.ask(edge, pair=stranger)
        both = f"{site.caller_ca.certificate_pem}{other_ca.certificate_pem}"
        site.caller_ca_pem = both
        site.publish(edge)
        response, _ = await site.ask(edge, pair=stranger)  # the handshake is done: the feed alone refuses it now
        assert response.status == 403
        site.caller_ca_pem = ""
        site.publish(edge)  # an older control plane says nothing of it
        response, _ = await site.ask(edge, pair=stranger)
        assert response.status == 403


def test_a_certificate_that_cannot_be_used_changes_nothing(site: Site, tmp_path: Path) -> None:
    state = EdgeState(tmp_path)
    key = certs.make_ec_key()
    state.save_identity(identity_of(site.enrolment("edge-1", key.public_key()), certs.key_to_pem(key)))
    identity = state.load_identity()
    assert identity is not None
    presented = Presented(identity)
    before = (presented.agents(), presented.callers(), presented.identity)
    broken = type(identity)(
        **{
            **{name: getattr(identity, name) for name in identity.__dataclass_fields__},
            "key_pem": certs.key_to_pem(certs.make_ec_key()),
        }
    )
    with pytest.raises(ConfigError):
        presented.use(broken)
    assert (presented.agents(), presented.callers(), presented.identity) == before


async def test_the_snapshot_names_edges_and_both_kinds_of_ca(start_api: Callable[..., Any]) -> None:  # noqa: F811
    api: Api = await start_api()
    enrolment = (await api.enrol("edge-1")).json()
    await api.enrol("edge-2", agent_address="edge-2.example.com:7844")
    snapshot = Snapshot.model_validate_json((await api.snapshot(enrolment["credential"])).content)
    assert snapshot.agent_edges == ("edge.example.com:7844", "edge-2.example.com:7844")
    assert snapshot.edge_ca_pem == enrolment["edge_ca_pem"]
    assert snapshot.caller_ca_pem == enrolment["caller_ca_pem"]
    assert base64.b64decode(enrolment["feed_key"])
