"""Workload identity: service accounts, whose signatures are believed, and which assertions become which tokens."""

from __future__ import annotations

from typing import Final

from penstock.cli.resources.table import ARCHIVED, Command, Flag, Kind, Resource

_ACCOUNT: Final = "/v1/organizations/service_accounts/{service_account_id}"
_MEMBER: Final = "/v1/organizations/workspaces/{workspace_id}/service_accounts/{service_account_id}"
_ACCOUNT_FIRST: Final = ("service_account_id", "workspace_id")
_ISSUER: Final = "/v1/organizations/federation_issuers/{federation_issuer_id}"
_RULE: Final = "/v1/organizations/federation_rules/{federation_rule_id}"
_WORKSPACE_ROLES: Final = ("workspace_admin", "workspace_developer", "workspace_restricted_developer", "workspace_user")

_ACCOUNT_FLAGS: Final = (
    Flag("description", "What it is for."),
    Flag("organization_role", "developer if not given.", choices=("admin", "developer")),
)

SERVICE_ACCOUNTS: Final = Resource(
    "service-accounts",
    "Service accounts: who a workload is here.",
    (
        Command(
            "create",
            "POST",
            "/v1/organizations/service_accounts",
            "Make a service account.",
            (Flag("name", "Lower-case letters, digits and hyphens.", is_required=True), *_ACCOUNT_FLAGS),
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/service_accounts",
            "List service accounts, newest first.",
            (ARCHIVED,),
            columns=("id", "name", "organization_role", "description", "created_at", "archived_at"),
        ),
        Command("get", "GET", _ACCOUNT, "Show one service account."),
        Command("update", "POST", _ACCOUNT, "Change its description or role.", _ACCOUNT_FLAGS, needs_change=True),
        Command(
            "archive",
            "POST",
            f"{_ACCOUNT}/archive",
            "End it with its tokens and certificates.",
            asks="archive service account {service_account_id} with its tokens and certificates",
        ),
    ),
    below=(
        Resource(
            "workspaces",
            "Where a service account may act, and as what.",
            (
                Command(
                    "add",
                    "POST",
                    f"{_ACCOUNT}/workspaces",
                    "Let it act in one more workspace.",
                    (
                        Flag("workspace_id", "Which.", is_required=True),
                        Flag("workspace_role", "As what.", is_required=True, choices=_WORKSPACE_ROLES),
                    ),
                ),
                Command(
                    "list",
                    "GET",
                    f"{_ACCOUNT}/workspaces",
                    "List where it may act.",
                    columns=("workspace_id", "workspace_role", "implicit"),
                ),
                Command("get", "GET", _MEMBER, "Show one membership.", ids=_ACCOUNT_FIRST),
                Command(
                    "update",
                    "POST",
                    _MEMBER,
                    "Give it another role there.",
                    (Flag("workspace_role", "As what.", is_required=True, choices=_WORKSPACE_ROLES),),
                    ids=_ACCOUNT_FIRST,
                ),
                Command(
                    "remove",
                    "DELETE",
                    f"{_ACCOUNT}/workspaces/{{workspace_id}}",
                    "End a membership, with the tokens and certificates it gave.",
                    asks="take service account {service_account_id} out of workspace {workspace_id}",
                ),
            ),
        ),
    ),
)

_KEYS_FROM: Final = (
    Flag(
        "discovery_base",
        "Look for the discovery document below this URL, not below the issuer's.",
        into="jwks.discovery_base",
        implies={"jwks.type": "discovery"},
    ),
    Flag("jwks_url", "Take the keys from this URL.", into="jwks.url", implies={"jwks.type": "explicit_url"}),
    Flag(
        "jwks_file",
        "Take the keys from this file, a JSON array of JWKs or a JWKS, and never fetch any.",
        Kind.JSON_FILE,
        into="jwks.keys",
        implies={"jwks.type": "inline"},
    ),
    Flag(
        "jwks_ca_file",
        "CA (PEM) of the host that the keys come from.",
        Kind.FILE,
        into="jwks.ca_cert_pem",
        implies={"jwks.type": "discovery"},
    ),
)
_JWT_RULES: Final = (
    Flag("check_jti", "Whether an assertion is taken once only; yes if not given.", Kind.SWITCH),
    Flag("max_jwt_lifetime_seconds", "How long an assertion may live; 3600 if not given.", Kind.NUMBER),
)

ISSUERS: Final = Resource(
    "issuers",
    "Identity providers whose signatures are believed.",
    (
        Command(
            "create",
            "POST",
            "/v1/organizations/federation_issuers",
            "Trust an identity provider; its keys are found by discovery unless it is said otherwise.",
            (
                Flag("name", "Lower-case letters, digits and hyphens.", is_required=True),
                Flag("issuer_url", "`iss` of its tokens, to the byte.", is_required=True),
                *_KEYS_FROM,
                *_JWT_RULES,
            ),
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/federation_issuers",
            "List issuers, newest first.",
            (ARCHIVED,),
            columns=("id", "name", "issuer_url", "jwks.type", "poll_status.consecutive_failures", "archived_at"),
        ),
        Command("get", "GET", _ISSUER, "Show one issuer, and how fetching its keys goes."),
        Command(
            "update",
            "POST",
            _ISSUER,
            "Change an issuer, or fetch its keys again after failures (--no-jwks-polling-disabled).",
            (
                Flag("name", "Its new name."),
                Flag("issuer_url", "`iss` of its tokens, to the byte."),
                *_KEYS_FROM,
                *_JWT_RULES,
                Flag("jwks_polling_disabled", "Only --no-… is taken: fetch the keys again.", Kind.SWITCH),
            ),
            needs_change=True,
        ),
        Command("archive", "POST", f"{_ISSUER}/archive", "Trust it no more.", asks="archive issuer {federation_issuer_id}"),
    ),
)

_MATCH: Final = (
    Flag("subject_prefix", "`sub` of the assertion, exactly, or its beginning with a `*` behind.", into="match.subject_prefix"),
    Flag("audience", "`aud` of the assertion, if not this platform's URL.", into="match.audience"),
    Flag("claim", "A claim the assertion must have; repeatable.", Kind.PAIRS, into="match.claims"),
    Flag("condition", "A CEL expression over `claims`.", into="match.condition"),
)
_TARGET: Final = {"target.type": "service_account"}
_SCOPE_HELP: Final = "What the token opens, for example workspace:manage_tunnels; several with spaces between."
_RULE_FLAGS: Final = (
    Flag("token_lifetime_seconds", "60 to 86400; 3600 if not given.", Kind.NUMBER),
    Flag("workspace_id", "Where the token acts."),
    Flag("applies_to_all_workspaces", "Whether it acts wherever the service account may.", Kind.SWITCH),
    Flag("description", "What it is for."),
)

RULES: Final = Resource(
    "rules",
    "Which assertions become which tokens.",
    (
        Command(
            "create",
            "POST",
            "/v1/organizations/federation_rules",
            "Make a rule. All that is said of the assertion must hold.",
            (
                Flag("name", "Lower-case letters, digits and hyphens.", is_required=True),
                Flag("issuer_id", "Whose assertions.", is_required=True),
                Flag(
                    "service_account_id",
                    "Whom the token speaks for.",
                    is_required=True,
                    into="target.service_account_id",
                    implies=_TARGET,
                ),
                Flag("scope", _SCOPE_HELP, is_required=True, into="oauth_scope"),
                *_MATCH,
                *_RULE_FLAGS,
            ),
        ),
        Command(
            "list",
            "GET",
            "/v1/organizations/federation_rules",
            "List rules, newest first.",
            (Flag("issuer_id", "Only those of this issuer."), ARCHIVED),
            columns=("id", "name", "issuer_name", "target.service_account_name", "oauth_scope", "workspace_ids", "archived_at"),
        ),
        Command("get", "GET", _RULE, "Show one rule."),
        Command(
            "update",
            "POST",
            _RULE,
            "Change a rule. What the assertion must be is replaced as a whole.",
            (
                Flag("name", "Its new name."),
                Flag("service_account_id", "Whom the token speaks for.", into="target.service_account_id", implies=_TARGET),
                Flag("scope", _SCOPE_HELP, into="oauth_scope"),
                *_MATCH,
                *_RULE_FLAGS,
            ),
            needs_change=True,
        ),
        Command("archive", "POST", f"{_RULE}/archive", "End a rule.", asks="archive rule {federation_rule_id}"),
    ),
    below=(
        Resource(
            "workspaces",
            "Where a rule's tokens may act.",
            (
                Command(
                    "add",
                    "POST",
                    f"{_RULE}/workspaces",
                    "Enable a rule for one more workspace.",
                    (Flag("workspace_id", "Which.", is_required=True),),
                ),
                Command(
                    "list",
                    "GET",
                    f"{_RULE}/workspaces",
                    "List where a rule is enabled.",
                    columns=("workspace_id", "workspace_name", "created_at"),
                ),
                Command(
                    "remove",
                    "DELETE",
                    f"{_RULE}/workspaces/{{workspace_id}}",
                    "Disable a rule for a workspace.",
                    asks="disable rule {federation_rule_id} for workspace {workspace_id}",
                ),
            ),
        ),
    ),
)

FEDERATION: Final = Resource(
    "federation",
    "Workload identity: issuers, rules, and why an assertion was refused.",
    (
        Command(
            "history",
            "GET",
            "/penstock/v1/authentications",
            "List exchanges with the reasons of those that were denied, newest first.",
            (
                Flag("federation_rule_id", "Only those of this rule."),
                Flag("outcome", "Only these.", choices=("granted", "denied")),
            ),
            columns=("created_at", "outcome", "reason", "detail", "subject", "federation_rule_id"),
            newest=50,
        ),
    ),
    below=(ISSUERS, RULES),
)
