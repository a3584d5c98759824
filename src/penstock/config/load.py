"""Reading a role's settings: file < environment < flags, all errors at once, each with its path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class RoleConfig(BaseModel):
    """The settings of one role. The docstring under a field is its only text: help and reference are made from it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class Section(BaseModel):
    """A nested group of settings."""

    model_config = RoleConfig.model_config


C = TypeVar("C", bound=RoleConfig)


def load(
    model: type[C],
    *,
    role: str,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> C:
    """The settings of `role`, or a ConfigError that names every wrong field.

    environment: names are `PENSTOCK_<ROLE>_<FIELD>`, with `__` between a section and its field; values are YAML, so lists
    and numbers can be given. flags: those that are None were not given.
    """
    values: dict[str, Any] = read_file(file) if file is not None else {}
    for path, text in _from_environment(role, environment or {}).items():
        _put(values, path, _scalar(text, "_".join(path)))
    for name, value in (flags or {}).items():
        if value is not None:
            _put(values, tuple(name.split(".")), value)
    if file is not None:
        return validate(model, values, source=str(file))
    return validate(model, values, source=f"{role} settings", missing=f"give --config FILE, or set PENSTOCK_{role.upper()}_…")


def read_file(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError when it cannot be read or is something else."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"open {file}: no such file or directory", hint="check the path given with --config") from None
    except PermissionError:
        raise ConfigError(f"open {file}: permission denied", hint="make the file readable by this user") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"open {file}: {exc}") from exc
    loaded = _parse(text, str(file))
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: the settings must be a mapping of names to values")
    return cast("dict[str, Any]", loaded)


def validate(model: type[C], values: Mapping[str, Any], *, source: str, missing: str | None = None) -> C:
    """`values` as `model`, or a ConfigError with one line a wrong field, paths dotted, values never shown.

    missing: the hint where a required setting was not given.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as exc:
        lines = [f"{_path(error['loc'])}{_sentence(error['type'], error['msg'])}" for error in exc.errors(include_url=False)]
        raise ConfigError(f"{source}: " + "; ".join(lines), hint=_hint(exc, missing)) from None


def as_yaml(settings: RoleConfig) -> str:
    """Settings as a file that says the same, every default written out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _from_environment(role: str, environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    prefix = f"PENSTOCK_{role.upper()}_"
    return {
        tuple(name.removeprefix(prefix).lower().split("__")): value
        for name, value in environment.items()
        if name.startswith(prefix) and value
    }


def _scalar(text: str, name: str) -> object:
    return _parse(text, f"environment {name}")


def _parse(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        # PyYAML's constructors let through what `!!int x`, `!!bool x` or a mapping as a key make Python say.
        raise ConfigError(f"{source}: not valid YAML: {_first_line(exc)}") from exc


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for step in path[:-1]:
        inner = values.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{step}: must be a mapping")
        values = cast("dict[str, Any]", inner)
    values[path[-1]] = value


def _path(location: tuple[int | str, ...]) -> str:
    """With what stands behind it; nothing for what is wrong with the whole."""
    names = [str(step) for step in location]
    return ".".join(name if name.isprintable() else ascii(name) for name in names) + ": " if names else ""


def _sentence(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown setting"
    if kind == "missing":
        return "required"
    return " ".join(message.removeprefix("Value error, ").split())


def _hint(exc: ValidationError, missing: str | None) -> str | None:
    kinds = {error["type"] for error in exc.errors(include_url=False)}
    if "extra_forbidden" in kinds:
        return "remove the setting or correct its name; unknown names are never ignored"
    return missing if "missing" in kinds else None


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
