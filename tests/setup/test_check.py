"""`setup check`: a directory is held to every rule that a caller or the platform would hold it to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.support import ca
from tests.support.control import api, database, start_api
from tests.support.provisioned import Side, side, write_offline

from penstock.setup.check import check_files, check_platform
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.setup.check import Finding
    from penstock.tls.certs import Authority, KeyPair

__all__ = ["api", "database", "side", "start_api"]


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, str]:
    write_offline(tmp_path / "data")
    return {file.name: file.read_text() for file in (tmp_path / "data").iterdir()}


def problems(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject.split(" (")[0]: finding.problem for finding in findings if finding.problem}


def test_a_good_directory_has_no_problems_and_tells_when_it_ends(entries: dict[str, str]) -> None:
    findings = check_files(entries, "")
    assert problems(findings) == {}
    assert [finding.subject.split(" (")[0] for finding in findings] == ["CA certificate", "server certificate", "CA key"]
    assert "days" in str(findings[0].note)
    assert "89 days" in str(findings[1].note)


BROKEN = ca.broken_servers()


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_every_server_certificate_that_a_caller_refuses_is_refused_here(
    entries: dict[str, str], make: Callable[[Authority], KeyPair]
) -> None:
    authority = ca.ca()
    pair = make(authority)
    made = {"ca.crt": authority.certificate_pem, "tls.crt": pair.certificate_pem, "tls.key": pair.key_pem.reveal()}
    found = [one for one in check_files(entries | made, ca.DOMAIN) if one.subject.startswith("server certificate")]
    assert [bool(one.problem and one.hint) for one in found] == [True]


@pytest.mark.parametrize(
    "pem",
    [
        ca.ca(is_ca=False).certificate_pem,
        ca.ca(critical=False).certificate_pem,
        ca.ca(key_identifier=False).certificate_pem,
        ca.ca(key_cert_sign=False).certificate_pem,
        ca.ca(sha1=True).certificate_pem,
        ca.ca(validity=ca.valid(timedelta(days=1), starts_in=timedelta(days=-2))).certificate_pem,
        ca.of_version(ca.ca().certificate, 1),
        ca.ca().certificate_pem * 2,
        ca.ca().key_pem.reveal(),
        "nonsense",
        "",
    ],
    ids=["leaf", "critical", "SKI", "keyCertSign", "SHA-1", "expired", "version", "two", "a key", "nonsense", "empty"],
)
def test_every_ca_that_the_platform_refuses_is_refused_here(entries: dict[str, str], pem: str) -> None:
    assert "CA certificate" in problems(check_files(entries | {"ca.crt": pem}, ca.DOMAIN))


def test_keys_of_other_certificates_are_found(entries: dict[str, str]) -> None:
    stray = certs.key_to_pem(certs.make_ec_key()).reveal()
    assert "is not the key of tls.crt" in problems(check_files(entries | {"tls.key": stray}, ""))["server certificate"]
    assert "is not the key of ca.crt" in problems(check_files(entries | {"ca.key": stray}, ""))["CA key"]


def test_a_token_that_no_agent_could_use_is_found(entries: dict[str, str]) -> None:
    found = problems(check_files(entries | {"tunnel-token": "eyJhIjoi"}, ""))
    assert found.keys() == {"agent's token"}
    assert "eyJ" not in str(found)


def test_missing_files_are_named_one_by_one() -> None:
    assert problems(check_files({}, "")) == {
        "CA certificate": "there is no ca.crt",
        "server certificate": "there is no tls.crt",
    }


def test_another_domain_than_the_certificates_is_found(entries: dict[str, str]) -> None:
    assert "server certificate" in problems(check_files(entries, "zz99zz99.tunnel.penstock.internal"))
    assert "domain is not known" in problems(check_files({**entries, "tunnel-domain": ""}, ""))["server certificate"]


def test_a_certificate_is_judged_at_a_time(entries: dict[str, str]) -> None:
    later = datetime.now(UTC) + timedelta(days=91)
    assert problems(check_files(entries, "", later)).keys() == {"server certificate"}


@pytest.mark.anyio
async def test_the_platform_is_asked_for_tunnel_name_and_registration(side: Side) -> None:
    await side.init()
    tunnel_id, entries = side.read("tunnel-id"), side.entries()
    async with side.platform() as platform:
        assert problems(await check_platform(entries, platform, tunnel_id)) == {}
        wrong = {"tunnel-domain": "zz99zz99.tunnel.penstock.internal", "ca.crt": ca.ca().certificate_pem}
        found = problems(await check_platform(entries | wrong, platform, tunnel_id))
        assert found.keys() == {"tunnel domain", "CA registered"}
        assert side.read("tunnel-domain") in found["tunnel domain"]
        unknown = problems(await check_platform(entries, platform, "tnl_00000000000000000000000"))
        assert unknown.keys() == {"tunnel tnl_00000000000000000000000"}
        await side.api.http.post(f"/v1/tunnels/{tunnel_id}/archive")
        assert "archived" in problems(await check_platform(entries, platform, tunnel_id))[f"tunnel {tunnel_id}"]
