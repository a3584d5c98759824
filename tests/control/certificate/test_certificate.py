"""The parts of the API's certificate that need no authority; `tests/e2e/test_acme.py` has a real one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.idp import Site, site
from tests.support.store import make_config

from penstock.config.types import HostPort
from penstock.control.certificate.answers import Answers
from penstock.control.certificate.folder import AcmeFolder
from penstock.control.certificate.renewal import Renewal, seconds_left
from penstock.control.certificate.served import Served
from penstock.control.metrics import ControlMetrics
from penstock.errors import ConfigError
from penstock.net.tasks import Tasks
from penstock.tls import certs

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.tls.certs import KeyPair

DAY = 86_400.0
NAMES = ("penstock.example.com",)


def write(folder: Path, pair: KeyPair) -> None:
    (folder / "tls.crt").write_text(pair.certificate_pem)
    (folder / "tls.key").write_text(pair.key_pem.reveal())


@pytest.mark.parametrize(
    ("age", "names", "left"),
    [
        (0, NAMES, 60),
        (59.9, NAMES, 0.1),
        (60, NAMES, 0),
        (91, NAMES, 0),
        (0, (*NAMES, "api.example.com"), 0),
    ],
)
def test_a_certificate_is_renewed_at_two_thirds_of_its_life_or_for_a_new_name(
    age: float, names: tuple[str, ...], left: float
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    validity = ca.valid(timedelta(days=90), starts_in=timedelta())
    present = certs.load_certificate(ca.server(ca.ca(), *NAMES, validity=validity).certificate_pem)
    seconds = seconds_left(present, names, 1 / 3, now + timedelta(days=age))
    assert seconds == pytest.approx(left * DAY, abs=5)


def test_without_a_certificate_it_is_time_for_one() -> None:
    assert seconds_left(None, NAMES, 1 / 3, datetime.now(UTC)) == 0


@pytest.mark.anyio
async def test_files_that_change_are_presented_from_the_next_connection_on_and_half_written_ones_never(tmp_path: Path) -> None:
    authority = ca.ca()
    metrics = ControlMetrics.on(CollectorRegistry())
    write(tmp_path, ca.server(authority, "localhost"))
    served = Served(tmp_path / "tls.crt", tmp_path / "tls.key", metrics.certificate_expiry)
    await served.load()
    first = served.context()
    later = ca.server(authority, "localhost")
    with capture_logs() as logged:
        (tmp_path / "tls.crt").write_text(later.certificate_pem)
        await served.look()
        assert served.context() is first
        assert logged == []  # the key may be on its way
        for _ in range(3):
            await served.look()
        assert [line["event"] for line in logged] == ["certificate not reloaded"]
        assert "do not belong together" in logged[0]["error"]
        (tmp_path / "tls.key").write_text(later.key_pem.reveal())
        await served.look()
    assert served.context() is not first
    assert logged[-1]["event"] == "certificate reloaded"


def test_of_several_processes_one_holds_the_lock_until_it_ends(tmp_path: Path) -> None:
    first, second = AcmeFolder(tmp_path / "acme"), AcmeFolder(tmp_path / "acme")
    first.prepare()
    assert first.take_lock()
    assert first.take_lock()
    assert not second.take_lock()
    first.release()
    assert second.take_lock()
    second.release()


def test_a_token_is_no_path(tmp_path: Path) -> None:
    folder = AcmeFolder(tmp_path / "acme")
    folder.prepare()
    folder.account_key()
    for token in ("../account.key", "..", "", "a/b", "a" * 129):
        assert folder.answer(token) is None
        with pytest.raises(ValueError, match="token"):
            folder.open_challenge(token, "x")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"acme": {}}, "acme.agree_to_terms: required"),
        ({"acme": {"agree_to_terms": True}, "public_url": "https://10.0.0.1"}, "acme needs names"),
        ({"acme": {"agree_to_terms": True, "names": ["*.example.com"]}}, "acme.names"),
        (
            {"acme": {"agree_to_terms": True, "names": ["a.example"]}, "tls": {"cert_file": "a", "key_file": "b"}},
            "exclude each other",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        make_config(tmp_path, **settings)


def test_the_name_asked_for_is_the_public_one_unless_said_otherwise(tmp_path: Path) -> None:
    public = make_config(tmp_path, public_url="https://penstock.example.com", acme={"agree_to_terms": True})
    assert public.certificate_names == ("penstock.example.com",)
    assert public.audiences == ("https://penstock.example.com",)


@pytest.mark.anyio
@pytest.mark.parametrize("directory", [b"[]", b'"down for maintenance"', b'{"meta": 5}', b"[" * 50_000, b"{}"])
async def test_an_authority_that_answers_anything_else_is_asked_again_later(tmp_path: Path, directory: bytes) -> None:
    async with site() as authority:
        authority.documents["/directory"] = directory
        renewal, _ = _renewal(tmp_path, authority)
        with capture_logs() as logs:
            running = Tasks().spawn(renewal.run(), "renewal")
            while len([line for line in logs if line["event"] == "certificate not obtained"]) < 2:
                await asyncio.sleep(0.01)
            running.cancel()
        assert renewal.failure is not None
        assert "ACME authority" in renewal.failure.public


@pytest.mark.anyio
async def test_a_folder_that_is_gone_for_a_while_ends_no_renewal(tmp_path: Path) -> None:
    async with site() as authority:
        renewal, folder = _renewal(tmp_path, authority)
        folder.rename(tmp_path / "elsewhere")
        running = Tasks().spawn(renewal.run(), "renewal")
        while renewal.failure is None:
            await asyncio.sleep(0.01)
        assert renewal.failure.public == "the certificate cannot be kept"
        (tmp_path / "elsewhere").rename(folder)
        while "/directory" not in authority.asked:
            await asyncio.sleep(0.01)
        running.cancel()


@pytest.mark.anyio
async def test_no_stranger_holds_every_connection_of_the_port_that_authorities_ask(tmp_path: Path) -> None:
    folder = AcmeFolder(tmp_path / "acme")
    folder.prepare()
    folder.open_challenge("token", "answer")
    answers = Answers(folder)
    await answers.start(HostPort("127.0.0.1", 0))
    held = [await asyncio.open_connection("127.0.0.1", answers.address.port) for _ in range(100)]
    try:
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\n")
        async with httpx2.AsyncClient(trust_env=False, transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.2")) as http:
            url = f"http://127.0.0.1:{answers.address.port}/.well-known/acme-challenge/token"
            assert (await http.get(url)).text == "answer"
    finally:
        for _, writer in held:
            writer.close()
        await answers.stop()


def _renewal(folder: Path, authority: Site) -> tuple[Renewal, Path]:
    (folder / "ca.pem").write_text(authority.ca_pem)
    acme = {"agree_to_terms": True, "directory_url": authority.url("/directory"), "ca_file": str(folder / "ca.pem")}
    config = make_config(folder / "control", public_url=f"https://{NAMES[0]}", acme={**acme, "retry_interval": "100ms"})
    assert config.acme is not None
    kept = AcmeFolder(config.acme_folder)
    kept.prepare()

    async def changed() -> None:
        raise AssertionError("there is no certificate to be had")

    return Renewal(config.acme, NAMES, kept, changed), config.acme_folder
