from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.config.load import RoleConfig, Section, load
from penstock.config.types import Duration, HostPort, Networks
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class Inner(Section):
    networks: Networks = ()
    mode: str = "off"


class Example(RoleConfig):
    """A role for tests."""

    listen_addr: HostPort
    shutdown_timeout: Duration = 30.0
    inner: Inner = Inner()
    flag: bool = False


def test_what_is_wrong_is_said_in_words_and_not_in_patterns_and_types(tmp_path: Path) -> None:
    from penstock.control.config import ControlConfig  # noqa: PLC0415 - the one with patterns

    file = tmp_path / "control.yaml"
    file.write_text(
        "data_dir: x\npublic_url: ftp://x/y\ntunnel_domain: Not!\ntls: 7\nlog_level: loud\nlimits: {requests: many}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(ControlConfig, role="control", file=file)
    said = caught.value.public
    for words in (
        "public_url: must be a URL without a path, like https://penstock.example.com",
        "tunnel_domain: must be a domain in lower case",
        "tls: must be a mapping",
        "log_level: must be 'debug', 'info', 'warn' or 'error'",
        "limits.requests: must be a whole number",
    ):
        assert words in said
    for word in ("[", "^", "Input", "String", "dictionary", "TlsFiles"):
        assert word not in said.replace(str(tmp_path), "")


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('listen_addr: ":1"\nshutdown_timeout: 1s\ninner: {mode: file}\n')
    config = load(
        Example,
        role="demo",
        file=file,
        environment={"PENSTOCK_DEMO_SHUTDOWN_TIMEOUT": "2s", "PENSTOCK_DEMO_INNER__MODE": "environment", "OTHER": "x"},
        flags={"listen_addr": "127.0.0.1:9", "shutdown_timeout": None},
    )
    assert config.listen_addr == HostPort("127.0.0.1", 9)
    assert config.shutdown_timeout == 2.0
    assert config.inner.mode == "environment"


def test_every_wrong_field_is_named_with_its_path_and_values_stay_unsaid(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listen_addr: nowhere\ninner: {networks: [10.0.0.1/8], secert: hunter2}\nshutdown_timeout: soon\n")
    with pytest.raises(ConfigError) as caught:
        load(Example, role="demo", file=file)
    text = caught.value.public
    for path in ("listen_addr:", "inner.networks.0:", "inner.secert: unknown setting", "shutdown_timeout:"):
        assert path in text
    assert "hunter2" not in text


def test_what_the_environment_says_wrong_is_named_by_its_variable_and_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('listen_addr: ":1"\nother: 1\n')
    environment = {"PENSTOCK_DEMO_SERVICE_HOST": "10.0.0.1", "PENSTOCK_DEMO_SHUTDOWN_TIMEOUT": "soon"}
    with pytest.raises(ConfigError) as caught:
        load(Example, role="demo", file=file, environment=environment, flags={"flag": "maybe"})
    assert f"{file}: " in caught.value.public
    assert "; other: unknown setting" in caught.value.public.replace(f"{file}: ", "; ")
    assert "environment variable PENSTOCK_DEMO_SERVICE_HOST: unknown setting" in caught.value.public
    assert "environment variable PENSTOCK_DEMO_SHUTDOWN_TIMEOUT: " in caught.value.public

    file.write_text('listen_addr: ":1"\n')
    with pytest.raises(ConfigError, match=r"^environment variable PENSTOCK_DEMO_SERVICE_HOST: unknown setting") as caught:
        load(Example, role="demo", file=file, environment={"PENSTOCK_DEMO_SERVICE_HOST": "10.0.0.1"})
    assert "enableServiceLinks" in (caught.value.hint or "")


def test_off_is_text_and_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('listen_addr: ":1"\ninner: {mode: off}\nflag: true\n')
    config = load(Example, role="demo", file=file)
    assert config.inner.mode == "off"
    assert config.flag is True
    file.write_text('listen_addr: ":1"\nlisten_addr: ":2"\n')
    with pytest.raises(ConfigError, match="given twice"):
        load(Example, role="demo", file=file)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(Example, role="demo", file=file)


@pytest.mark.parametrize("text", ["{a: 1}: 2", "name: !!int x", "name: !!int ''", "name: !!bool x", "name: !!float x"])
def test_what_the_yaml_library_trips_over_is_one_line_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load(Example, role="demo", file=tmp_path / "c.yaml")
    assert "\n" not in caught.value.public


def test_a_name_with_a_line_end_does_not_break_the_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('"na\\nme": 1')
    with pytest.raises(ConfigError, match=r"'na\\nme': unknown setting"):
        load(Example, role="demo", file=tmp_path / "c.yaml")


def test_a_missing_file_says_so_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(Example, role="demo", file=tmp_path / "none.yaml")
    assert caught.value.hint
