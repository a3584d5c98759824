from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.conformance.battery import RULES
from tests.conformance.stacks import NOT_ASKED, STACKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conformance.stacks import Factory


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


ASKED = [
    pytest.param(stack, rule, id=f"{stack}-{rule.__name__}")
    for stack in STACKS
    for rule in RULES
    if rule.__name__ not in NOT_ASKED.get(stack, {})
]


def test_what_is_not_asked_is_a_rule_of_a_stack() -> None:
    assert NOT_ASKED.keys() <= STACKS.keys()
    assert {name for rules in NOT_ASKED.values() for name in rules} <= {rule.__name__ for rule in RULES}


@pytest.mark.anyio
@pytest.mark.parametrize(("stack", "rule"), ASKED)
async def test_every_transport_keeps_the_contract(stack: str, rule: Callable[[Factory], Awaitable[None]]) -> None:
    await rule(STACKS[stack])
