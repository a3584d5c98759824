from __future__ import annotations

import json
import uuid

from penstock.agent.metrics import ready_page

CONNECTOR = uuid.UUID("f29b7ff5-d9f4-4e18-8ab6-3c2c887989db")


def test_ready_is_200_with_a_link_and_503_without_and_says_how_many_as_the_published_agent_does() -> None:
    links = 0
    page = ready_page(CONNECTOR, lambda: links)
    assert page().status == 503
    assert json.loads(page().body) == {"status": 503, "readyConnections": 0, "connectorId": str(CONNECTOR)}
    links = 4
    assert page().status == 200
    assert json.loads(page().body) == {"status": 200, "readyConnections": 4, "connectorId": str(CONNECTOR)}
    assert page().content_type == "application/json"
