"""The API's document is true: what it says may be sent is understood, and every answer is one it names, in its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.speaking import served, speak_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Api


@pytest.mark.timeout(240)
def test_every_answer_is_one_that_the_document_names(tmp_path: Path) -> None:
    with served(tmp_path / "control") as place:
        seen = speak_all(place, mode="positive", examples=2)
    assert len(seen) >= 90
    understood = [label for label, statuses in seen.items() if any(status < 300 for status in statuses)]
    assert len(understood) >= 65, sorted(set(seen) - set(understood))  # what needs a certificate or a key set is never guessed


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_of_many_is_answered_otherwise(tmp_path: Path, mode: Any) -> None:
    with served(tmp_path / "control") as place:
        seen = speak_all(place, mode=mode, examples=15)
    assert len(seen) >= 90


@pytest.mark.anyio
async def test_the_document_says_what_each_route_asks_for(api: Api) -> None:
    document = (await api.http.get("/openapi.json", headers={"authorization": ""})).raise_for_status().json()
    assert document["openapi"].startswith("3.1")
    create = document["paths"]["/v1/tunnels"]["post"]
    assert create["security"] == [{"bearer": []}, {"key": []}]
    version, beta = create["parameters"]
    assert (version["name"], version["required"]) == ("anthropic-version", True)
    assert (beta["name"], beta["required"], beta["schema"]["contains"]) == (
        "anthropic-beta",
        True,
        {"const": "mcp-tunnels-2026-06-22"},
    )
    assert create["responses"]["409"] == {"$ref": "#/components/responses/conflict_error"}
    assert "422" not in create["responses"]
    exchange = document["paths"]["/v1/oauth/token"]["post"]
    assert exchange["security"] == []
    assert "parameters" not in exchange
    assert {"400", "401", "429"} <= set(exchange["responses"])
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["tags"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)
