from __future__ import annotations

from dataclasses import dataclass

import pytest

from penstock.edge.routing import choose


@dataclass(frozen=True)
class Candidate:
    name: str
    connector_id: str = "one"
    load: int = 0
    carried: int = 0
    is_open: bool = True
    is_silent: bool = False


IDLE = Candidate("idle")
BUSY = Candidate("busy", load=9)
FRESH = Candidate("fresh")
WORN = Candidate("worn", carried=7)
CLOSED = Candidate("closed", is_open=False)
SILENT = Candidate("silent", is_silent=True)
OTHER_SILENT = Candidate("other silent", connector_id="two", is_silent=True)
OTHER = Candidate("other", connector_id="two", load=5)
OTHER_CLOSED = Candidate("other closed", connector_id="two", is_open=False)


@pytest.mark.parametrize(
    ("links", "replica", "tried", "chosen"),
    [
        ([], None, [], None),
        ([CLOSED], None, [], None),
        ([BUSY, IDLE, CLOSED], None, [], IDLE),
        ([BUSY, IDLE, CLOSED], None, [IDLE], BUSY),
        ([WORN, FRESH], None, [], FRESH),
        ([BUSY, WORN], None, [], WORN),
        ([BUSY, IDLE], None, [IDLE, BUSY], None),
        ([SILENT, BUSY], None, [], BUSY),
        ([SILENT, CLOSED], None, [], SILENT),
        ([IDLE, OTHER_SILENT, OTHER], "two", [], OTHER),
        ([IDLE, OTHER_SILENT], "two", [], OTHER_SILENT),
        ([IDLE, OTHER], "two", [], OTHER),
        ([IDLE, OTHER], "two", [OTHER], IDLE),
        ([IDLE, OTHER_CLOSED], "two", [], IDLE),
        ([IDLE, OTHER], "gone", [], IDLE),
        ([OTHER, BUSY], "", [], OTHER),
    ],
)
def test_the_least_loaded_open_link_that_is_not_silent_is_chosen_and_the_replica_asked_for_wins_while_it_is_there(
    links: list[Candidate], replica: str | None, tried: list[Candidate], chosen: Candidate | None
) -> None:
    assert choose(links, replica=replica, tried=tried) is chosen
