from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.agent.config import AgentConfig
from penstock.config.load import load
from penstock.config.types import HostPort
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def config(**settings: Any) -> AgentConfig:
    return load(AgentConfig, role="agent", flags={"token": "dG9rZW4=", **settings})


def test_a_token_is_enough() -> None:
    made = config()
    assert (made.url, made.ha_connections, str(made.metrics)) == ("http://localhost:8080", 4, "127.0.0.1:20241")


def test_the_token_shows_nowhere() -> None:
    assert "dG9rZW4=" not in repr(config())


def test_edges_are_a_list_or_the_comma_list_of_the_published_variable() -> None:
    expected = (HostPort("a", 7844), HostPort("b", 7844))
    assert config(edge="a:7844, b:7844,").edge == expected
    assert config(edge=["a:7844", "b:7844"]).edge == expected


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"token": None}, "token"),
        ({"token_file": "x"}, "token"),
        ({"url": "https://localhost:8080"}, "url"),
        ({"url": "http://localhost:8080/path"}, "url"),
        ({"url": "localhost:8080"}, "url"),
        ({"url": "http://localhost:port"}, "url"),
        ({"edge": "a"}, "edge"),
        ({"grace_period": "4m"}, "grace_period"),
        ({"ha_connections": 0}, "ha_connections"),
        ({"haconnections": 4}, "haconnections"),
    ],
)
def test_what_cannot_work_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**settings)


def test_a_file_can_hold_the_token_and_no_url_means_no_proxy(tmp_path: Path) -> None:
    made = load(AgentConfig, role="agent", flags={"token_file": str(tmp_path / "token"), "url": ""})
    assert (made.token, made.url) == (None, "")
