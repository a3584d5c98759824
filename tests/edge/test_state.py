from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from tests.support.site import SECRET

from penstock.edge.state import EdgeState, StoredFeed, StoredPage, identity_of
from penstock.errors import ConfigError
from penstock.tls import certs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site


def test_what_was_saved_is_loaded_again_and_only_its_owner_can_read_it(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state = EdgeState(folder)
    state.prepare()
    assert (state.load_identity(), state.load_feed()) == (None, StoredFeed(-1, None, ()))
    key = certs.make_ec_key()
    state.save_identity(identity_of(site.enrolment("edge-1", key.public_key()), certs.key_to_pem(key)))
    snapshot = StoredPage(b"body", bytes(range(64)), 1_700_000_000.0)
    state.save_snapshot(snapshot, 7)

    again = EdgeState(folder)
    identity = again.load_identity()
    assert identity is not None
    assert (identity.key_pem, identity.feed_key) == (certs.key_to_pem(key), site.public_key)
    assert again.load_feed() == StoredFeed(7, snapshot, ())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_an_identity_without_its_key_is_none(site: Site, tmp_path: Path) -> None:
    state = EdgeState(tmp_path)
    key = certs.make_ec_key()
    state.save_identity(identity_of(site.enrolment("edge-1", key.public_key()), certs.key_to_pem(key)))
    (tmp_path / "edge.key").unlink()
    assert state.load_identity() is None


def test_an_enrolment_that_was_cut_short_before_its_last_file_is_not_lost(site: Site, tmp_path: Path) -> None:
    state = EdgeState(tmp_path)
    key = certs.make_ec_key()
    state.save_identity(identity_of(site.enrolment("edge-1", key.public_key()), certs.key_to_pem(key)))
    (tmp_path / "edge.key").rename(tmp_path / "edge.key.next")
    identity = state.load_identity()
    assert identity is not None
    assert certs.belong_together(identity.certificate_pem, identity.key_pem)


def test_a_broken_identity_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "edge.key").write_text("key")
    (tmp_path / "enrolment.json").write_text("{}")
    with pytest.raises(ConfigError) as raised:
        EdgeState(tmp_path).load_identity()
    assert "enrol again" in (raised.value.hint or "")


def test_a_version_that_is_none_says_what_to_do(tmp_path: Path) -> None:
    assert EdgeState(tmp_path).load_feed().version == -1
    (tmp_path / "version").write_text("seven")
    with pytest.raises(ConfigError, match="not a version"):
        EdgeState(tmp_path).load_feed()


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as raised:
        EdgeState(tmp_path / "file" / "state").prepare()
    assert "state_dir" in (raised.value.hint or "")


def test_nothing_secret_of_a_tunnel_is_in_the_folder(site: Site) -> None:
    site.edge_config()
    stored = b"".join(file.read_bytes() for file in (site.folder / "edge-1").iterdir())
    assert SECRET not in stored
    assert SECRET.hex().encode() not in stored
