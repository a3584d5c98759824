"""What the wire types have in common.

Their validators are built when a type is first used: a control plane has a hundred types, and a start uses none of them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Generator


class Wire(BaseModel):
    """Fixed once made; what is not known is passed over, for a newer peer may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Exact(BaseModel):
    """For bodies in which a field that is not understood may be the one that narrows: it is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


@contextlib.contextmanager
def built_late() -> Generator[None]:
    """The same for what a library defines meanwhile."""
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]
