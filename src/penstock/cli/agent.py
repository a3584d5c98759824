"""`penstock agent`, also spelled as the published agent is: `penstock tunnel --no-autoupdate run --url http://localhost:8080`.

A Compose file's `command` line goes on working with the image swapped. Flags of cloudflared that mean nothing here are taken
and say so; those that would mean another thing are refused.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.output import missing_extra, say
from penstock.cli.roles import ConfigOption, LogLevel, start_role
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HELP: Final = """The outbound connector beside the proxy: dials the edges, opens no port.

    \b
    TUNNEL_TOKEN=… penstock agent --url http://localhost:8080
    penstock agent --token-file /run/secrets/tunnel-token
    penstock tunnel --no-autoupdate run --url http://localhost:8080    as cloudflared

    The token comes from TUNNEL_TOKEN or a file, never from the command line. HTTPS_PROXY and NO_PROXY are honoured.
    """
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", envvar="TUNNEL_TOKEN_FILE", help="The tunnel token.")
]
_Ignored = typer.Option(hidden=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("agent", help=_HELP)(agent)
    app.command("token", help="Show what a tunnel token says, without its secret.")(token)


def agent(
    config: ConfigOption = None,
    token_file: TokenFile = None,
    url: Annotated[str | None, typer.Option(envvar="TUNNEL_URL", help="The proxy; http://localhost:8080 if not given.")] = None,
    edge: Annotated[
        list[str] | None,
        typer.Option(envvar="TUNNEL_EDGE", metavar="HOST:PORT,…", help="Edges to dial instead of the token's; repeatable."),
    ] = None,
    cacert: Annotated[
        Path | None, typer.Option(envvar="TUNNEL_CACERT", metavar="FILE", help="CA of the edges instead of the token's.")
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", envvar="TUNNEL_TRANSPORT_PROTOCOL", help="http2, or auto, which is the same.")
    ] = "http2",
    metrics: Annotated[
        str | None, typer.Option(envvar="TUNNEL_METRICS", metavar="HOST:PORT", help="Readiness and metrics.")
    ] = None,
    grace_period: Annotated[
        str | None, typer.Option(envvar="TUNNEL_GRACE_PERIOD", help="How long calls may go on after a stop.")
    ] = None,
    ha_connections: Annotated[int | None, typer.Option(help="Links held, spread over the edges; 4 if not given.")] = None,
    log_level: LogLevel = None,
    loglevel: Annotated[str | None, typer.Option("--loglevel", envvar="TUNNEL_LOGLEVEL", hidden=True)] = None,
    token: Annotated[str | None, typer.Option("--token", hidden=True)] = None,
    no_autoupdate: Annotated[bool, typer.Option("--no-autoupdate", envvar="NO_AUTOUPDATE", hidden=True)] = False,  # noqa: FBT002 - typer's way of a flag
    no_prechecks: Annotated[bool, typer.Option("--no-prechecks", envvar="TUNNEL_NO_PRECHECKS", hidden=True)] = False,  # noqa: FBT002
    retries: Annotated[int | None, _Ignored] = None,
    edge_ip_version: Annotated[str | None, _Ignored] = None,
) -> None:
    """Dial the edges until a signal comes."""
    del no_autoupdate, no_prechecks, retries, edge_ip_version  # nothing here updates itself, prechecks, or gives up
    if token is not None:
        raise ConfigError(
            "a token on a command line is there for everybody on this machine to read",
            hint="set TUNNEL_TOKEN, or give --token-file; and rotate this one",
        )
    if protocol not in {"http2", "auto"}:
        raise ConfigError(f"protocol {protocol!r}: only http2 is spoken here", hint="leave --protocol out, or set it to http2")
    try:
        from penstock.agent.config import AgentConfig  # noqa: PLC0415 - only when asked for
        from penstock.agent.server import Agent  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("agent", exc)
    flags: dict[str, Any] = {
        **token_flags(os.environ, token_file),
        "url": url,
        "edge": ",".join(edge) if edge else None,
        "cacert": cacert,
        "metrics": metrics,
        "grace_period": grace_period,
        "ha_connections": ha_connections,
        "https_proxy": _either_case(os.environ, "HTTPS_PROXY"),
        "no_proxy": _either_case(os.environ, "NO_PROXY"),
    }
    start_role("agent", AgentConfig, Agent, config, log_level or _level(loglevel), flags)


def token(
    token_file: TokenFile = None,
    ca: Annotated[bool, typer.Option("--ca", help="Print the edges' CA (PEM), as cloudflared's TUNNEL_CACERT.")] = False,  # noqa: FBT002
) -> None:
    """What TUNNEL_TOKEN, or the file, says: JSON, or the CA alone."""
    from penstock.agent.config import AgentConfig  # noqa: PLC0415 - only when asked for
    from penstock.agent.credentials import read_token  # noqa: PLC0415
    from penstock.config.load import load  # noqa: PLC0415
    from penstock.tls.certs import certificate_to_pem, fingerprint, load_certificate  # noqa: PLC0415

    read = read_token(load(AgentConfig, role="agent", flags=token_flags(os.environ, token_file)))
    authorities = [load_certificate(der) for der in read.cas]
    if ca:
        if not authorities:
            raise ConfigError("the token names no CA", hint="it is not one of Penstock's, or is older than this version")
        say("".join(map(certificate_to_pem, authorities)).rstrip())
        return
    members = {
        "tunnel_id": str(read.tunnel_id),
        "account": read.account,
        "secret_bytes": len(base64.b64decode(read.secret.reveal())),
        "edges": read.edges,
        "ca_sha256": [fingerprint(authority) for authority in authorities],
    }
    say(json.dumps(members, indent=2))


def token_flags(environment: Mapping[str, str], token_file: Path | None) -> dict[str, Any]:
    """The variable wins over the file, as with cloudflared."""
    given = environment.get("TUNNEL_TOKEN")
    return {"token": given or None, "token_file": None if given else token_file}


def _either_case(environment: Mapping[str, str], name: str) -> str | None:
    return environment.get(name) or environment.get(name.lower()) or None


def _level(loglevel: str | None) -> str | None:
    return "error" if loglevel in {"fatal", "panic"} else loglevel
