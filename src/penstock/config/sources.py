"""What was said of a role's settings: file < environment < flags, as plain values that no model has seen yet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import yaml

from penstock.errors import ConfigError, unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def gather(
    role: str, file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that was said, nested as in a file. Raises ConfigError for what cannot be read.

    environment: names are `PENSTOCK_<ROLE>_<FIELD>`, with `__` between a section and its field; values are YAML, so lists
    and numbers can be given. flags: those that are None were not given.
    """
    values: dict[str, Any] = _read(file) if file is not None else {}
    for path, name in variables(role, environment or {}).items():
        _put(values, path, _parse((environment or {})[name], f"environment variable {name}"))
    for name, value in (flags or {}).items():
        if value is not None:
            _put(values, tuple(name.split(".")), value)
    return values


def _read(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError when it cannot be read or is something else."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        error = unreadable(file, exc)
        raise ConfigError(f"--config: {error.public}", hint=error.hint) from exc
    loaded = _parse(text, str(file))
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{file}: the settings must be a mapping of names to values",
            hint="is this the file? its lines are like `name: value`",
        )
    return cast("dict[str, Any]", loaded)


def variables(role: str, environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Which variable says which setting, by the setting's path."""
    prefix = f"PENSTOCK_{role.upper()}_"
    return {
        tuple(name.removeprefix(prefix).lower().split("__")): name
        for name, value in environment.items()
        if name.startswith(prefix) and value
    }


def _parse(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        # PyYAML's constructors let through what `!!int x`, `!!int ''`, `!!bool x` or a mapping as a key make Python say.
        raise ConfigError(f"{source}: not valid YAML: {_first_line(exc)}") from exc


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for step in path[:-1]:
        inner = values.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{step}: must be a mapping")
        values = cast("dict[str, Any]", inner)
    values[path[-1]] = value


def _first_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: a key given twice is an error, and `on`, `off`, `yes`, `no` and dates are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen: set[object] = set()
        for key_node, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key = cast("object", self.construct_object(key_node, deep=True))  # pyright: ignore[reportUnknownMemberType]  # the stubs leave it open
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_BOOLEAN = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOLEAN, list("tTfF"))  # pyright: ignore[reportUnknownMemberType]  # untyped stubs
