"""Reading a role's settings: all that was said, as one frozen model; all errors at once, each with its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.config.sources import gather, variables
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
        return validate(model, values, source=str(file), said=said)
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
            lines.append(f"{place}{_sentence(error['type'], error['msg'])}")
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
