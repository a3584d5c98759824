"""Every answer that is not a success has the published error envelope, whoever refused: router, validation, service or bug."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from penstock.control.auth.actors import Machine
from penstock.control.errors import ApiError, ErrorType
from penstock.control.service import audit
from penstock.control.storage.vault import SealError
from penstock.errors import PenstockError
from penstock.schema.errors import STATUS_OF_TYPE, ErrorBody, ErrorEnvelope
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request

    from penstock.control.service.core import Core

_INTERNAL: Final = "Internal error; the log of the control plane has this request_id"
_TYPE_OF_STATUS: Final[dict[int, ErrorType]] = {status: cast("ErrorType", type_) for type_, status in STATUS_OF_TYPE.items()}


def error_response(
    type_: ErrorType,
    message: str,
    request_id: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> JSONResponse:
    """The envelope. `status` where HTTP is more precise than the type (405)."""
    body = ErrorEnvelope(error=ErrorBody(type=type_, message=message), request_id=request_id)
    response = JSONResponse(body.model_dump(), status or STATUS_OF_TYPE[type_], headers)
    if type_ == "conflict_error":
        # SDKs repeat a 409 by themselves; ours never go away by repeating.
        response.headers["x-should-retry"] = "false"
    elif type_ in {"rate_limit_error", "overloaded_error"}:
        response.headers["retry-after"] = str(math.ceil(retry_after or 1))
    elif type_ == "authentication_error":
        response.headers["www-authenticate"] = "Bearer"  # RFC 9110 11.6.1: a 401 names its scheme
    return response


def register(app: FastAPI) -> None:
    """Let every exception of `app` end in the envelope."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(SealError, _unreadable)
    app.add_exception_handler(PenstockError, _internal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _internal)


async def _api_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ApiError)  # noqa: S101 - registered for this class
    request.state.refusal = exc
    return refusal(exc, request.state.request_id)


def refusal(exc: ApiError, request_id: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The envelope of a foreseen refusal."""
    message = f"{exc.public}; {exc.hint}" if exc.hint else exc.public
    return error_response(exc.type, message, request_id, headers=headers, retry_after=exc.retry_after)


async def _internal(request: Request, exc: Exception) -> JSONResponse:
    # Foreseen, but nothing the sender did or may know: a sealed value that does not open, a full disk, a bug.
    detail = exc.detail if isinstance(exc, PenstockError) else None
    get_logger("control").error(
        "request failed", request_id=request.state.request_id, error=type(exc).__name__, detail=detail, exc_info=exc
    )
    return error_response("api_error", _INTERNAL, request.state.request_id)


async def _unreadable(request: Request, exc: Exception) -> JSONResponse:
    # A cell that was altered or moved: somebody wrote to the database who is not this program.
    core: Core = request.app.state.core
    fields = {"cell": exc.detail if isinstance(exc, SealError) else None}
    async with core.database.write() as connection:
        await audit.record(core, connection, Machine("control"), "secret_unreadable", fields)
    return await _internal(request, exc)


async def _invalid(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for this class
    problems = "; ".join(_problem(error) for error in exc.errors()[:5])
    return error_response("invalid_request_error", problems, request.state.request_id)


async def _http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for this class
    request_id = request.state.request_id
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return error_response("not_found_error", "there is nothing at this path", request_id)
    type_: ErrorType = _TYPE_OF_STATUS.get(exc.status_code, "invalid_request_error")
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(sorted(_methods(request)))
    text = "the method is not allowed here" if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED else "the request is malformed"
    return error_response(type_, text, request_id, status=exc.status_code, headers=headers)


def _methods(request: Request) -> set[str]:
    """What the path allows, over all its routes; the router's own header names the first route's only."""
    found: set[str] = set()
    for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    return found


def _problem(error: Mapping[str, Any]) -> str:
    """`field: sentence`; never the value, which may be a secret that was put in the wrong place."""
    if error["type"] == "json_invalid":
        return "the body is not JSON"
    place = ".".join(str(step) for step in error["loc"] if step not in {"body", "query", "path", "header"})
    if not place:
        return "the body must be a JSON object, sent with content-type: application/json"
    return f"{place}: {error['msg'].lower()}"
