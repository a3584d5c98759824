from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.conformance.battery import RULES
from tests.conformance.stacks import NOT_ASKED, STACKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conformance.stacks import Factory

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("stack", STACKS)
async def test_every_transport_keeps_the_contract(stack: str, rule: Callable[[Factory], Awaitable[None]]) -> None:
    if rule.__name__ in NOT_ASKED.get(stack, {}):
        pytest.skip(NOT_ASKED[stack][rule.__name__])
    await rule(STACKS[stack])
