"""Settings of the control plane."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from penstock.config import admin
from penstock.config.load import RoleConfig, Section
from penstock.config.types import ByteSize, Duration, HostPort, Level, Networks, SecretText, form
from penstock.secret import Secret  # noqa: TC001 - as above

_DAY = 86_400.0
_LEAST_MAC_KEY: Final = 16  # bytes; authorities give 32
_DNS_NAME: Final = form(
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$",
    "must be a DNS name in lower case, like api.example.com",
)
_DOMAIN: Final = form(
    r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*$",
    "must be a domain in lower case, like tunnel.example.com: letters, digits, hyphens",
)
_HTTPS: Final = form(r"^https://", "must be a URL that begins with https://")
_ORIGIN: Final = form(r"^https?://[^/?#\s]+$", "must be a URL without a path, like https://penstock.example.com")
_MAIL: Final = form(r"^[^@\s,]+@[^@\s,]+$", "must be one mail address")


class TlsFiles(Section):
    """A certificate and its key, for the API's own TLS."""

    cert_file: Path
    """PEM certificate chain, leaf first."""
    key_file: Path
    """PEM private key of the leaf, unencrypted."""


def _is_mac_key(value: Secret) -> Secret:
    try:
        key = base64.urlsafe_b64decode(value.reveal() + "=" * (-len(value.reveal()) % 4))
    except ValueError:
        key = b""
    if len(key) < _LEAST_MAC_KEY:
        msg = "is not the key that an authority gives with a key id: base64url of 16 bytes or more"
        raise ValueError(msg)
    return value


class ExternalAccount(Section):
    """What binds the account at an ACME authority to one at whoever runs it, where that issues to customers only."""

    key_id: str = Field(min_length=1, max_length=500)
    """As the authority shows it."""
    hmac_key: Annotated[SecretText, AfterValidator(_is_mac_key)]
    """As the authority shows it, in base64url; `{file: …}` keeps it out of the settings. Needed until the account is made."""


class Acme(Section):
    """An ACME authority (RFC 8555) that issues the API's certificate, by HTTP-01: it asks port 80 of each name."""

    agree_to_terms: Literal[True]
    """Must be true: you agree to the authority's terms of service. None issues otherwise."""
    contact: str | None = Field(default=None, pattern=_MAIL, max_length=200)
    """A mail address for the authority's notices."""
    directory_url: str = Field(default="https://acme-v02.api.letsencrypt.org/directory", pattern=_HTTPS, max_length=1000)
    """The authority's directory; Let's Encrypt where nothing is said. Try changes out with its staging directory."""
    external_account: ExternalAccount | None = None
    """For an authority that asks for an external account binding."""
    names: tuple[Annotated[str, Field(pattern=_DNS_NAME, max_length=253)], ...] = Field(default=(), max_length=100)
    """DNS names of the certificate, no wildcards; `public_url`'s where nothing is said."""
    listen_addr: HostPort = HostPort("", 80)
    """Where the authority's challenges are answered, in the clear and nothing else; port 80 of each name must lead here."""
    ca_file: Path | None = None
    """PEM CA of the authority's own TLS instead of the system's: for a private authority."""
    renew_before: float = Field(default=1 / 3, gt=0, lt=1)
    """How much of a certificate's life may be left when it is renewed: a third, so of 90 days the last 30."""
    retry_interval: Duration = Field(default=600.0, gt=0)
    """Longest wait after a first failure; it doubles up to six hours. Authorities refuse who fails five times an hour."""


class Rate(Section):
    """So many at once, and so many a minute in the long run."""

    per_minute: int = Field(ge=1)
    """How many a minute, on average."""
    burst: int = Field(ge=1)
    """How many at once after a rest."""


class Rates(Section):
    """How often somebody may ask before 429 and `retry-after`; null turns one off. Each control process counts for itself."""

    key: Rate | None = Rate(per_minute=3000, burst=500)
    """Of one credential. A thousand callers that share a key and start at once need two requests each; then they rest."""
    address: Rate | None = Rate(per_minute=12_000, burst=2000)
    """From one address, whatever the credential: an office behind one, and no more than a fraction of what a process serves."""
    sign_in: Rate | None = Rate(per_minute=30, burst=30)
    """Sign-ins and password changes from one address; each costs 50 ms of a core. Ten failed ones of one user are the end
    of that user's tries in any case."""
    exchange: Rate | None = Rate(per_minute=120, burst=120)
    """Token exchanges from one address, each of which may fetch keys and writes a line of history: a cluster that rolls out."""


class Limits(Section):
    """What bounds one organization, one tunnel, one caller and one connection."""

    tunnels_per_organization: int = Field(default=10, ge=1)
    """Active tunnels an organization may have, over all its workspaces; archived ones do not count. The published number."""
    certificates_per_tunnel: int = Field(default=2, ge=1)
    """Active CA certificates a tunnel may have: two, so that a CA rotates without a pause. As published."""
    issuers_per_organization: int = Field(default=50, ge=1)
    """Federation issuers an organization may have that are not archived: each is fetched from every few minutes."""
    certificates_per_caller: int = Field(default=1000, ge=1)
    """Live certificates one API key may hold: each one is a line of every edge's snapshot. A thousand processes share a key."""
    body: ByteSize = 64 << 10
    """Largest request body. The largest honest one is a certificate request of RSA-4096, under 4 KiB."""
    body_seconds: Duration = 10.0
    """How long a request body may take to arrive."""
    requests: int = Field(default=512, ge=1)
    """Requests served at a time, waiting edges included; more get 529 and are told to come back. One whose body still arrives
    is not served yet: a slow sender takes nobody's place."""
    connections: int = Field(default=4096, ge=1)
    """Connections held open at a time; more are closed at once. An idle one costs a descriptor and some 20 KiB."""
    connections_each: int = Field(default=1024, ge=1)
    """Connections one address may hold, so that no stranger holds them all; a trusted proxy's are not counted. An office behind
    one address, or a cluster that rolls out, has some hundred."""
    rates: Rates = Rates()
    """How often somebody may ask."""


class Federation(Section):
    """Workload identity: whose assertions are taken, and how their issuers' keys are fetched."""

    audiences: tuple[str, ...] = ()
    """What `aud` must be where a rule says nothing else; `public_url` if this is empty. Several, for a move between names."""
    allowed_hosts: tuple[str, ...] = ()
    """`host` or `host:port` of issuers that may be fetched although they are private, addresses or on another port: a
    cluster's API server, an identity provider in the company's network. All others must be public names on port 443."""
    fetch_seconds: Duration = 10.0
    """How long one fetch of keys may take in all; an exchange waits for it when it meets a key nobody knows."""
    document: ByteSize = 256 << 10
    """Largest discovery document or key set. Large providers publish under 20 KiB."""
    poll_interval: Duration = Field(default=300.0, gt=0)
    """How often keys are fetched anew, so that a new key is known before its first use."""
    refresh_interval: Duration = 60.0
    """How soon after an attempt an unknown key makes another: a stranger's garbage costs an issuer one fetch a minute."""
    stale_limit: Duration = _DAY
    """How long keys are believed after the last successful fetch: an outage of a day, and a withdrawn key not longer."""
    pause_after: int = Field(default=10, ge=1)
    """Failures in a row after which polling pauses until an admin turns it on: about four hours of an issuer that is gone."""
    history: Duration = 30 * _DAY
    """How long the authentication history keeps an exchange."""
    history_length: int = Field(default=10_000, ge=1)
    """How many exchanges it keeps of one organization: failed ones are written at a stranger's will."""


class Oidc(Section):
    """The company's identity provider, where people sign in. Its client there is a native one: redirects to loopback, PKCE."""

    issuer_url: str = Field(pattern=_HTTPS, max_length=1000)
    """The provider's issuer, as its discovery document spells it."""
    client_id: str = Field(min_length=1, max_length=300)
    """This platform's client at the provider."""
    client_secret: SecretText | None = None
    """Its secret, where the provider gave one; PKCE is used in either case."""
    scope: str = "openid email profile"
    """What is asked for. The address must come verified, for it is how a user is found the first time."""
    ca_file: Path | None = None
    """PEM CA of the provider instead of the system's."""


class ControlConfig(RoleConfig):
    """Settings of `penstock control`."""

    data_dir: Path
    """Folder of the database and, unless set otherwise, of the master key. Made by `initialize`, mode 0700."""
    database_url: SecretText | None = None
    """`postgresql://user:password@host/database`, with libpq's options (`?sslmode=verify-full`). Leave it out for SQLite in
    `data_dir`. Several control processes may share one; they need the same master key. `{file: PATH}` reads it from a file."""
    listen_addr: HostPort = HostPort("127.0.0.1", 8700)
    """Where the API listens. Loopback by default, for without `tls` keys would cross the network in the clear."""
    admin_addr: HostPort | None = admin.CONTROL
    """Where /healthz, /readyz and /metrics listen; null turns the admin port off."""
    public_url: str | None = Field(default=None, pattern=_ORIGIN, max_length=300)
    """The API's own URL as clients dial it, without a path: what assertions are made out to (`aud`). `http://` and
    `listen_addr` where it is not given, which only a machine of one's own can use."""
    tls: TlsFiles | None = None
    """The API's own TLS; files that change are taken up live. Leave it out behind a proxy that ends TLS."""
    acme: Acme | None = None
    """In place of `tls`: obtain the certificate from an ACME authority, keep it in `data_dir/acme` and renew it. Of several
    processes on one `data_dir` one does that; on several machines, let a proxy in front end TLS or give each `tls` files."""
    trusted_proxies: Networks = ()
    """Proxies in front, as CIDRs or addresses: what they say in X-Forwarded-For is where a request came from, for rates and the
    audit log. Nobody else is believed. Without it everybody behind a proxy shares the proxy's rate."""
    log_level: Level = "info"
    """debug, info, warn or error."""
    shutdown_timeout: Duration = 10.0
    """How long requests in flight may take to finish when the process stops."""

    tunnel_domain: str = Field(default="tunnel.penstock.internal", pattern=_DOMAIN, max_length=200)
    """What tunnel domains end in: a tunnel gets eight random letters and digits before it. Nobody has to resolve it."""
    master_key_file: Path | None = None
    """File of the master key that seals secrets in the database; `<data_dir>/master.key` by default. Back both up, apart."""
    single_use_enrolment: bool = False
    """Whether an enrolment token dies with its first use. Off, because an edge that lost its disk must come back without a
    person, and a group of edges scales with one token; whoever holds it can take an edge's name but reads no payload."""

    oidc: Oidc | None = None
    """How people sign in beside their password; null for passwords alone."""
    session_lifetime: Duration = 8 * 3600.0
    """How long a person stays signed in: a working day. A session is a bearer in a file, so it is short."""
    caller_certificate_lifetime: Duration = _DAY
    """How long a caller's certificate holds. A day: it outlasts an outage of the control plane, and a theft does not last."""
    edge_certificate_lifetime: Duration = 90 * _DAY
    """How long an edge's certificate holds."""
    rotation_overlap: Duration = 0.0
    """How long the value that a rotation replaced still registers agents. Zero, as published: not at all. With an overlap a
    fleet changes over without a gap; a value that leaked is then ended by rotating twice."""
    change_poll_interval: Duration = Field(default=1.0, gt=0)
    """How often a waiting edge's request looks for changes that another control process made. Own changes wake it at once;
    five seconds is what a revocation may take in all."""
    long_poll_limit: Duration = 30.0
    """Longest wait of a snapshot request; proxies in between commonly cut at 60 seconds."""
    federation: Federation = Federation()
    """Workload identity."""
    limits: Limits = Limits()
    """Bounds, each with its reason."""

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: Secret | None) -> Secret | None:
        if value is not None and not value.reveal().startswith(("postgresql://", "postgres://")):
            msg = "must begin with postgresql://; SQLite needs no URL"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _one_source_of_tls(self) -> Self:
        if self.acme is not None and self.tls is not None:
            msg = "tls and acme exclude each other: files of yours, or an authority's certificate"
            raise ValueError(msg)
        if self.acme is not None and not self.certificate_names:
            msg = "acme needs names, or a public_url with a DNS name"
            raise ValueError(msg)
        return self

    @property
    def has_tls(self) -> bool:
        """Whether the API itself ends TLS."""
        return self.tls is not None or self.acme is not None

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """What the ACME authority is asked for."""
        if self.acme is not None and self.acme.names:
            return self.acme.names
        host = urlsplit(self.public_url or "").hostname
        return () if host is None or _is_address(host) else (host,)

    @property
    def acme_folder(self) -> Path:
        """The authority's account, the certificate and its key."""
        return self.data_dir / "acme"

    @property
    def audiences(self) -> tuple[str, ...]:
        """What an assertion's `aud` must be, unless its rule says otherwise."""
        scheme = "https" if self.has_tls else "http"
        return self.federation.audiences or (self.public_url or f"{scheme}://{self.listen_addr}",)

    @property
    def database_file(self) -> Path:
        """The SQLite file; not used with `database_url`."""
        return self.data_dir / "control.db"

    @property
    def key_file(self) -> Path:
        """Where the master key is."""
        return self.master_key_file or self.data_dir / "master.key"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
