"""What a row of the table is: a command, what it sends, and how its answer is shown."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import typer


class Kind(Enum):
    """What a flag takes."""

    TEXT = "text"
    NUMBER = "number"
    SWITCH = "switch"
    """`--name` or `--no-name`; neither leaves it out."""
    FILE = "file"
    """A file, or `-` for stdin; its text is sent."""
    JSON_FILE = "JSON file"
    PAIRS = "NAME=VALUE"
    """Repeatable; an object of texts is sent."""
    LIST = "list"
    """Repeatable."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a command. `name` is the API's: in the query of a GET, else in the body."""

    name: str
    help: str
    kind: Kind = Kind.TEXT
    is_required: bool = False
    choices: tuple[str, ...] = ()
    into: str | None = None
    """Where in the body, dotted, if not at `name`: `match.subject_prefix`."""
    implies: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is sent where this is given, by its dotted place, unless a flag before it said otherwise."""

    @property
    def option(self) -> str:
        """As it is written."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def place(self) -> str:
        """Dotted, in the body or the query."""
        return self.into or self.name


@dataclass(frozen=True, slots=True)
class Command:
    """One call of the API. The ids in `path` are the command's arguments, in that order unless `ids` has another."""

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    help: str
    flags: tuple[Flag, ...] = ()
    ids: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """What a list's table shows, dotted where nested. A command without columns answers one object."""
    newest: int | None = None
    """How many a list shows unless asked for more; None is all."""
    reveals: str | None = None
    """The member of the answer that is shown once: alone on stdout, so that a script may take it."""
    asks: str | None = None
    """What a person is asked to agree to, with the ids in braces, before it is done."""
    sends: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What always goes with it."""
    only: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Which items of a list are meant: those that have these members."""
    needs_change: bool = False
    """An update: it makes no sense without a flag."""
    in_workspace: bool = False
    """Whether it acts in one workspace, which a person may choose."""

    @property
    def is_list(self) -> bool:
        """Whether it answers pages of items."""
        return bool(self.columns)


@dataclass(frozen=True, slots=True)
class Resource:
    """A noun and its verbs; nouns may stand below it."""

    name: str
    help: str
    commands: tuple[Command, ...] = ()
    below: tuple[Resource, ...] = ()
    more: Callable[[typer.Typer], None] | None = None
    """Adds commands that are more than one call."""


ARCHIVED = Flag("include_archived", "Archived ones too.", Kind.SWITCH)
"""Of every list of things that are archived and not deleted."""


def ids_of(command: Command) -> list[str]:
    """The names of its arguments, in order."""
    return list(command.ids) or [name for _, name, _, _ in string.Formatter().parse(command.path) if name]
