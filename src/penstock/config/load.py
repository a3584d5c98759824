"""Reading a role's settings: all that was said, as one frozen model; all errors at once, each with its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.config.sources import gather, variables
from penstock.config.types import FORMS
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SERVICE_LINKS: Final = (
    "unset it or correct its name; Kubernetes sets such variables for a Service named penstock-…: enableServiceLinks: false"
)


class RoleConfig(BaseModel):
    """The settings of one role. The docstring under a field is its only text: the reference is made from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


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
    """The settings of `role`, or a ConfigError that names every wrong field. What is given where: `sources.gather`."""
    values = gather(role, file, environment, flags)
    overruled = {name for name, value in (flags or {}).items() if value is not None}
    said = {path: name for path, name in variables(role, environment or {}).items() if ".".join(path) not in overruled}
    if file is not None:
        missing = (
            f"set it in {file}, or in the environment as PENSTOCK_{role.upper()}_…; docs/configuration.md tells every setting"
        )
        return validate(model, values, source=str(file), missing=missing, said=said)
    missing = f"give --config FILE, or set PENSTOCK_{role.upper()}_…"
    return validate(model, values, source=f"{role} settings", missing=missing, said=said)


def validate(
    model: type[C],
    values: Mapping[str, Any],
    *,
    source: str,
    missing: str | None = None,
    said: Mapping[tuple[str, ...], str] | None = None,
) -> C:
    """`values` as `model`, or a ConfigError with one line a wrong field, paths dotted, values never shown.

    missing: the hint where a required setting was not given. said: the settings that the environment gave, with their
    variables, for they are not the source's fault.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as exc:
        lines: list[str] = []
        is_from_environment = False
        for error in exc.errors(include_url=False):
            variable = (said or {}).get(tuple(str(step) for step in error["loc"]))
            is_from_environment |= variable is not None and error["type"] == "extra_forbidden"
            place = _path(error["loc"]) if variable is None else f"environment variable {variable}: "
            lines.append(f"{place}{_sentence(error['type'], error['msg'], error.get('ctx', {}))}")
        text = "; ".join(lines)
        is_sourced = not all(line.startswith("environment variable ") for line in lines)
        hint = _SERVICE_LINKS if is_from_environment else _hint(exc, missing)
        raise ConfigError(f"{source}: {text}" if is_sourced else text, hint=hint) from None


def as_yaml(settings: RoleConfig) -> str:
    """Settings as a file that says the same, every default written out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _path(location: tuple[int | str, ...]) -> str:
    """With what stands behind it; nothing for what is wrong with the whole."""
    names = [str(step) for step in location]
    return ".".join(name if name.isprintable() else ascii(name) for name in names) + ": " if names else ""


def _sentence(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """In words for whoever wrote the file: pydantic's speak of its own types, and show patterns."""
    match kind:
        case "extra_forbidden":
            return "unknown setting"
        case "missing":
            return "required"
        case "string_pattern_mismatch":
            return FORMS.get(str(context.get("pattern")), message)
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a mapping of names to values"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "string_type":
            return "must be text"
        case "path_type":
            return "must be the path of a file or folder"
        case _:
            return _plain(message)


def _plain(message: str) -> str:
    words = " ".join(message.removeprefix("Value error, ").split())
    for theirs, ours in (("Input should", "must"), ("String should", "must"), ("Tuple should", "must")):
        if words.startswith(theirs):
            return ours + words.removeprefix(theirs)
    return words


def _hint(exc: ValidationError, missing: str | None) -> str | None:
    kinds = {error["type"] for error in exc.errors(include_url=False)}
    if "extra_forbidden" in kinds:
        return "remove the setting or correct its name; unknown names are never ignored"
    return missing if "missing" in kinds else None
