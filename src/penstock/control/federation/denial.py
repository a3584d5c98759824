"""Why an assertion was not accepted. The one who presented it learns only that; the reason is for the organization's admins."""

from __future__ import annotations

from typing import Final

REASONS: Final = frozenset(
    {
        "assertion_malformed",
        "assertion_too_large",
        "algorithm_not_allowed",
        "kid_missing",
        "critical_header",
        "issuer_mismatch",
        "issuer_archived",
        "jwks_unavailable",
        "jwks_stale",
        "key_not_found",
        "key_unusable",
        "signature_invalid",
        "subject_missing",
        "issued_at_missing",
        "issued_in_future",
        "expiry_missing",
        "expired",
        "not_yet_valid",
        "lifetime_too_long",
        "audience_mismatch",
        "match_subject_prefix",
        "match_claims",
        "match_condition",
        "condition_too_costly",
        "service_account_mismatch",
        "service_account_archived",
        "workspace_id_required",
        "workspace_not_enabled",
        "service_account_not_member",
        "jti_malformed",
        "jti_reused",
        "organization_suspended",
        "rule_changed",
    }
)


class Denial(Exception):  # noqa: N818 - it is an outcome, and only becomes an error at the API
    """One refused assertion; `reason` is a word of `REASONS`, `detail` what an admin has to see to mend it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
