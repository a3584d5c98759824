"""Groups of commands that are made when one is asked for: Typer takes 3 ms for each, and a start runs one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from collections.abc import Callable


def late(fill: Callable[[typer.Typer], None]) -> type[TyperGroup]:
    """A group whose commands `fill` registers, at the first question for one of them."""

    class Late(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            self._fill()
            return super().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            self._fill()
            return super().get_command(ctx, cmd_name)

        def _fill(self) -> None:
            if not self.commands:
                filled = typer.Typer(rich_markup_mode=None)  # as the program's own: one look of help
                fill(filled)
                self.commands.update(get_group(filled).commands)

    return Late
