"""The table of commands against the API itself: nothing it offers is missing, nothing is sent that it does not take."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel

from penstock.cli.resources import RESOURCES
from penstock.control import api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.cli.resources.table import Command, Resource

NOT_COMMANDS = {
    r"/v1/organizations/tunnels.*": "the launch edition of what `tunnels` does",
    r"/v1/oauth/token": "for workloads: `penstock setup` and SDKs exchange by themselves",
    r"/penstock/v1/login.*|/penstock/v1/logout": "`penstock login` and `logout`",
    r"/penstock/v1/edges/enrol|/penstock/v1/edge/.*": "an edge's own",
    r"/penstock/v1/tunnels/resolve|/penstock/v1/callers/ca": "a caller's own",
    r"/penstock/v1/callers/certificates": "`callers issue`, beside the rows",
    r"/v1/organizations/workspaces/{}/service_accounts": "the mirror of `service-accounts workspaces`",
    r"/v1/organizations/me|/penstock/v1/me.*|/penstock/v1/audit/export": "`whoami`, and `audit export` beside the rows",
}
NOT_FLAGS = {
    "limit", "page", "after_id", "before_id",  # paging is followed
    "attributes",  # published, and refused unless empty
    "data_residency", "display_color", "external_key_id", "tags", "user_profile_id",  # published, and not kept here
    "ids", "include_default",  # filters that a shell has itself
    "type", "service_account_name",  # of nested objects
}  # fmt: skip


@pytest.fixture(scope="module")
def routes() -> dict[tuple[str, str], APIRoute]:
    """What the API serves, by method and path with the ids left out."""
    modules = [importlib.import_module(f"{api.__name__}.{found.name}") for found in pkgutil.iter_modules(api.__path__)]
    routers = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, APIRouter)}
    served = [route for router in routers.values() for route in router.routes if isinstance(route, APIRoute)]
    return {(method, _shape(route.path)): route for route in served for method in route.methods or ()}


def test_every_row_has_a_help_that_is_a_sentence_and_a_name_of_its_own() -> None:
    for _, command in _rows(RESOURCES):
        assert re.fullmatch(r"[A-Z`].*\.|.*\)\.", command.help), command.help
    names = [names for names, _ in _rows(RESOURCES)]
    assert len(names) == len(set(names))


def test_every_row_is_a_route_of_the_api(routes: dict[tuple[str, str], APIRoute]) -> None:
    for names, command in _rows(RESOURCES):
        assert (command.method, _shape(command.path)) in routes, " ".join(names)


def test_every_route_of_the_api_is_a_row_or_says_why_not(routes: dict[tuple[str, str], APIRoute]) -> None:
    rows = {(command.method, _shape(command.path)) for _, command in _rows(RESOURCES)}
    missing = {
        (method, path)
        for method, path in routes.keys() - rows
        if method != "HEAD" and not any(re.fullmatch(pattern, path) for pattern in NOT_COMMANDS)
    }
    # The same deletion has two paths, as published.
    assert missing <= {("DELETE", "/v1/organizations/workspaces/{}/service_accounts/{}")}


def test_every_field_the_api_takes_is_a_flag_and_every_flag_is_a_field(routes: dict[tuple[str, str], APIRoute]) -> None:
    for names, command in _rows(RESOURCES):
        route = routes[command.method, _shape(command.path)]
        takes = _fields(route)
        tells = {flag.place for flag in command.flags} | set(command.sends) | {p for f in command.flags for p in f.implies}
        tops = {place.partition(".")[0] for place in takes}
        assert {place.partition(".")[0] for place in tells} <= tops, " ".join(names)
        if command.sends:
            continue  # one of several commands of this route
        untold = {place for place in takes - tells if not NOT_FLAGS & {place, place.rpartition(".")[2]}}
        assert {place for place in untold if place not in tops or not _has_nested(takes, place)} == set(), " ".join(names)


def _rows(resources: tuple[Resource, ...], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    for resource in resources:
        names = (*above, resource.name)
        for command in resource.commands:
            yield (*names, command.name), command
        yield from _rows(resource.below, names)


def _shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


def _fields(route: APIRoute) -> set[str]:
    """The query parameters and the members of the body, dotted."""
    found: set[str] = set()
    for dependant in (route.dependant, *route.dependant.dependencies):
        found |= {param.alias for param in dependant.query_params}
    for param in route.dependant.body_params:
        for model in _models(param.field_info.annotation):
            found |= _members(model)
    return found


def _members(model: type[BaseModel], above: str = "") -> set[str]:
    found: set[str] = set()
    for name, member in model.model_fields.items():
        found.add(above + name)
        for nested in _models(member.annotation):
            found |= _members(nested, f"{above}{name}.")
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _has_nested(takes: set[str], place: str) -> bool:
    return any(other.startswith(f"{place}.") for other in takes)
