"""The published error envelope, and which status goes with which type."""

from __future__ import annotations

from typing import Final, Literal

from penstock.schema.wire import Wire

STATUS_OF_TYPE: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class ErrorBody(Wire):
    """The inner object."""

    type: str
    message: str


class ErrorEnvelope(Wire):
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""

    type: Literal["error"] = "error"
    error: ErrorBody
    request_id: str | None = None
