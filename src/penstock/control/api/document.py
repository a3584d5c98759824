"""The API's own description, OpenAPI 3.1: FastAPI's of the routes, and what their conditions and the envelope add.

What a route asks for is read from its dependencies, so a route cannot ask for something else than the document says.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from penstock.control.api import conditions
from penstock.schema.errors import STATUS_OF_TYPE, ErrorEnvelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastapi.dependencies.models import Dependant
    from starlette.routing import BaseRoute

_ABOUT: Final = """\
The platform API of Penstock: the published Tunnels API (`/v1/tunnels`, and its launch edition at `/v1/organizations/tunnels`),
token exchange and organization resources, and what this platform adds under `/penstock/v1`. docs/api.md explains it."""
_CREDENTIALS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, a Tunnels API key, a token or a session."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same secrets, in the older style."},
}
_ALWAYS: Final = ("invalid_request_error", "request_too_large", "rate_limit_error", "api_error", "overloaded_error")
_REF: Final = "#/components/{kind}/{name}"


def document(routes: Sequence[BaseRoute]) -> bytes:
    """The document of these routes, as JSON. Takes half a second: every route and type is made for it."""
    text = get_openapi(title="Penstock", version=version("penstock"), description=_ABOUT, routes=routes)
    components: dict[str, Any] = text["components"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which the envelope replaces
        components["schemas"].pop(name, None)
    components["schemas"] |= _schemas()
    components["responses"] = {name: _response(name, status) for name, status in STATUS_OF_TYPE.items()}
    components["securitySchemes"] = _CREDENTIALS
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _complete(text["paths"][route.path_format][method.lower()], route, method)
    return json.dumps(text, separators=(",", ":")).encode()


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    asked = set(_calls(route.dependant))
    room = route.endpoint.__module__.rpartition(".")[2]
    operation["tags"] = [room]
    place = [part.strip("{}") for part in route.path_format.split("/") if part not in {"", "v1"}]
    operation["operationId"] = "_".join([method.lower(), *place])
    operation["summary"] = operation.get("description", "").partition(". ")[0].rstrip(".")
    operation["security"] = [{name: []} for name in _CREDENTIALS] if conditions.bearer in asked else []
    if parameters := [*map(_stated, operation.get("parameters", ())), *_headers(asked)]:
        operation["parameters"] = parameters
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)
    for type_ in _refusals(asked, route, method):
        responses[str(STATUS_OF_TYPE[type_])] = {"$ref": _REF.format(kind="responses", name=type_)}
    for status, response in responses.items():
        if "$ref" not in response:
            response["description"] = HTTPStatus(int(status)).phrase


def _stated(parameter: dict[str, Any]) -> dict[str, Any]:
    """Without the null that leaving it out amounts to: a query has no null."""
    kinds = [kind for kind in parameter["schema"].get("anyOf", ()) if kind != {"type": "null"}]
    return parameter if len(kinds) != 1 else {**parameter, "schema": kinds[0]}


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any] | None]:
    for part in dependant.dependencies:
        yield part.call
        yield from _calls(part)


def _headers(asked: set[Any]) -> Iterator[dict[str, Any]]:
    if conditions.versioned not in asked:
        return
    known = {"type": "string", "enum": sorted(conditions.VERSIONS)}
    yield {"name": "anthropic-version", "in": "header", "required": True, "schema": known}
    betas: dict[str, Any] = {"type": "array", "items": {"type": "string", "enum": sorted(conditions.KNOWN_BETAS)}}
    needed = next((beta for condition, beta in conditions.BETA_OF.items() if condition in asked), None)
    if needed is not None:
        betas |= {"contains": {"const": needed}, "minItems": 1}
    yield {"name": "anthropic-beta", "in": "header", "required": needed is not None, "schema": betas}


def _refusals(asked: set[Any], route: APIRoute, method: str) -> Iterator[str]:
    yield from _ALWAYS
    if conditions.bearer in asked:
        yield "authentication_error"
        yield "permission_error"
    if route.dependant.path_params:
        yield "not_found_error"
    if method != "GET":
        yield "conflict_error"
    declared = {status: type_ for type_, status in STATUS_OF_TYPE.items()}
    yield from (declared[status] for status in route.responses if isinstance(status, int) and status in declared)


def _schemas() -> dict[str, Any]:
    envelope = ErrorEnvelope.model_json_schema(ref_template=_REF.format(kind="schemas", name="{model}"))
    return {**envelope.pop("$defs"), "ErrorEnvelope": envelope}


def _response(type_: str, status: int) -> dict[str, Any]:
    reference = {"$ref": _REF.format(kind="schemas", name="ErrorEnvelope")}
    headers = {"request-id": {"required": True, "schema": {"type": "string"}}}
    if type_ in {"rate_limit_error", "overloaded_error"}:
        headers["retry-after"] = {"required": True, "schema": {"type": "integer"}}
    return {
        "description": f"{status} `{type_}`",
        "headers": headers,
        "content": {"application/json": {"schema": reference}},
    }
