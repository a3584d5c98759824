"""The published error envelope, and which status goes with which type."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

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


class ErrorBody(BaseModel):
    """The inner object."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    message: str


class ErrorEnvelope(BaseModel):
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["error"] = "error"
    error: ErrorBody
    request_id: str | None = None
