"""The one error the control plane raises for a request: a published type and a sentence for its sender."""

from __future__ import annotations

from typing import Literal, TypeAlias

from penstock.errors import PenstockError
from penstock.schema.errors import STATUS_OF_TYPE

ErrorType: TypeAlias = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
]


class ApiError(PenstockError):
    """A refused request; `type` decides the status."""

    def __init__(
        self,
        type_: ErrorType,
        public: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(public, detail=detail, hint=hint)
        self.type: ErrorType = type_
        self.retry_after = retry_after
        """Seconds until it is worth another try, where that is known."""

    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
        return STATUS_OF_TYPE[self.type]
