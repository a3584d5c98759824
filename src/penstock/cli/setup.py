"""`penstock setup`: provisioning of the private side, with the published flags and variables."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.output import EXIT_FAILED, data, talk
from penstock.errors import ConfigError, IdentityError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import datetime

    from penstock.setup.keys import KeyType
    from penstock.setup.output import Output
    from penstock.setup.progress import Progress

_HELP = """Provision a private side: CA, server certificate, the agent's token.

    \b
    penstock setup init --api-url=https://penstock.example.com --output=dir:/data
    penstock setup renew-cert --output=dir:/data --renew-before=720h
    penstock setup rotate-ca --api-url=https://penstock.example.com --output=dir:/data
    penstock setup check /data

    Exit codes: 0 done, or nothing to do; 1 refused or not reachable, or `check` found something; 2 a flag, a variable or a
    file is wrong.
    """

_CREDENTIAL = """The credential comes from the environment: ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID,
    ANTHROPIC_WORKSPACE_ID (optional) and ANTHROPIC_IDENTITY_TOKEN_FILE or ANTHROPIC_IDENTITY_TOKEN; or API_TOKEN with a
    Tunnels API key."""

OutputOption = Annotated[
    str | None,
    typer.Option("--output", metavar="dir:PATH|k8s-secret:NAME", help="Where it is kept; in a pod k8s-secret:mcp-gateway."),
]
Duration = Annotated[str, typer.Option(metavar="DURATION", help="How long the server certificate lasts.")]
KeyTypeOption = Annotated[
    str | None,
    typer.Option("--key-type", metavar="rsa|ecdsa", help="Of a new server key: RSA-4096 as published (default), or P-256."),
]
ApiUrl = Annotated[str | None, typer.Option(envvar="API_URL", help="The platform's API.")]
ApiCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="CA of a private platform; else platform-ca.crt in the output, if any.")
]
Json = Annotated[bool, typer.Option("--json", help="The outcome as JSON on stdout.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    setup = typer.Typer(help=_HELP, no_args_is_help=True)
    setup.command("init", help=f"Make or complete an output; running it again changes nothing.\n\n    {_CREDENTIAL}")(init)
    setup.command("renew-cert", help="Renew the server certificate under the stored CA; no network.")(renew_cert)
    setup.command(
        "rotate-ca",
        help=f"""Put another CA in the place of the stored one, with no call that fails.

        With PENSTOCK_API_KEY (an API key that may call) it makes sure that calls pass under the new CA before it archives the
        old one; else it stops there, and goes on when it is run again with --confirmed.

    {_CREDENTIAL}""",
    )(rotate_ca)
    setup.command("check", help="Hold an output, or a directory, to every rule, before anything is deployed.")(check)
    app.add_typer(setup, name="setup")


def init(
    api_url: ApiUrl = None,
    tunnel_id: Annotated[
        str | None, typer.Option(envvar="TUNNEL_ID", help="An existing tunnel (tnl_…); without it the output's, or a new one.")
    ] = None,
    output: OutputOption = None,
    cert_duration: Duration = "2160h",
    token_version: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Any text; when it changes, the agent's token is rotated.")
    ] = None,
    key_type: KeyTypeOption = None,
    api_ca_file: ApiCa = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,  # noqa: FBT002 - typer's way of a flag
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """`setup init`."""
    from penstock.setup.credential import find_credential, open_platform  # noqa: PLC0415 - only when asked for
    from penstock.setup.provision import Wanted, provision  # noqa: PLC0415

    url = _required(api_url)
    destination = _output(output)
    platform_ca = _read_ca(api_ca_file)
    credential = find_credential(os.environ)
    progress = _progress(is_dry=dry_run)

    async def run() -> dict[str, Any]:
        ca_file = api_ca_file or _stored_platform_ca(destination)
        wanted = Wanted(
            tunnel_id=tunnel_id or None,
            token_version=token_version,
            duration=_life(cert_duration),
            key_type=_key_type(key_type),
            platform_ca=platform_ca,
        )
        async with await open_platform(url, credential, ca_file=ca_file) as platform:
            done = await provision(destination, platform, wanted, progress)
        return {"tunnel_id": done.tunnel_id if done else None, "tunnel_domain": done.domain if done else None}

    outcome = _run(run())
    _finish(destination, progress, outcome, as_json=as_json)


def renew_cert(
    output: OutputOption = None,
    cert_duration: Duration = "2160h",
    renew_before: Annotated[
        str, typer.Option(metavar="DURATION", help="Do nothing while more than this is left; 0 renews always.")
    ] = "0",
    key_type: KeyTypeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """`setup renew-cert`."""
    from penstock.setup.renewal import renew  # noqa: PLC0415

    destination = _output(output)
    progress = _progress(is_dry=dry_run)
    end: datetime = _run(
        renew(
            destination,
            progress,
            duration=_life(cert_duration),
            renew_before=_duration(renew_before, "--renew-before"),
            key_type=_key_type(key_type),
        )
    )
    _finish(destination, progress, {"expires_at": end.isoformat()}, as_json=as_json)


def rotate_ca(
    api_url: ApiUrl = None,
    output: OutputOption = None,
    cert_duration: Duration = "2160h",
    settle: Annotated[
        str, typer.Option(metavar="DURATION", help="How long callers go on with the CAs they know; ours ask every minute.")
    ] = "75s",
    confirmed: Annotated[bool, typer.Option("--confirmed", help="Calls pass: archive the old CA.")] = False,  # noqa: FBT002
    api_ca_file: ApiCa = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """`setup rotate-ca`."""
    from penstock.setup.credential import find_credential, open_platform  # noqa: PLC0415 - only when asked for
    from penstock.setup.rotation import Asked  # noqa: PLC0415
    from penstock.setup.rotation import rotate_ca as rotate  # noqa: PLC0415

    url = _required(api_url)
    destination = _output(output)
    _read_ca(api_ca_file)
    credential = find_credential(os.environ)
    progress = _progress(is_dry=dry_run)

    async def run() -> bool:
        ca_file = api_ca_file or _stored_platform_ca(destination)
        asked = Asked(
            see=_seeing(url, ca_file),
            is_confirmed=confirmed,
            settle=_duration(settle, "--settle"),
            duration=_life(cert_duration),
        )
        async with await open_platform(url, credential, ca_file=ca_file) as platform:
            return await rotate(destination, platform, asked, progress)

    is_done: bool = _run(run())
    if not is_done and not dry_run:
        talk().print("run `penstock setup rotate-ca --confirmed` once calls have passed", markup=False)
    _finish(destination, progress, {"finished": is_done}, as_json=as_json)


def _seeing(api_url: str, ca_file: Path | None) -> Callable[[str, str], Awaitable[None]] | None:
    """How calls under the new CA are seen, where there is a key that may call."""
    from penstock.client.access import find_access  # noqa: PLC0415 - only when asked for
    from penstock.setup.traffic import see_under  # noqa: PLC0415

    try:
        access = find_access(api_url)
    except (ConfigError, IdentityError):
        return None
    return partial(see_under, replace(access, ca_file=ca_file or access.ca_file))


def check(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A directory; the same as --output=dir:DIR.")] = None,
    output: OutputOption = None,
    tunnel_domain: Annotated[str, typer.Option(help="The domain, where the output does not say it.")] = "",
    api_url: ApiUrl = None,
    tunnel_id: Annotated[str | None, typer.Option(envvar="TUNNEL_ID", help="Asked about at --api-url.")] = None,
    api_ca_file: ApiCa = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """`setup check`."""
    from penstock.setup import material  # noqa: PLC0415 - only when asked for
    from penstock.setup.check import Finding, check_files, check_platform  # noqa: PLC0415
    from penstock.setup.credential import find_credential, open_platform  # noqa: PLC0415
    from penstock.setup.directory import Directory  # noqa: PLC0415

    _read_ca(api_ca_file)
    if folder is not None and output is not None:
        raise ConfigError("DIR and --output are both given", hint="give one: --output=dir:DIR is the same as DIR")
    checked = Directory(folder) if folder is not None else _output(output)
    if isinstance(checked, Directory) and not checked.folder.is_dir():
        raise ConfigError(f"{checked.folder} is not a directory", hint="name the directory that holds tls.crt and ca.crt")

    async def run() -> list[Finding]:
        entries = await checked.load()
        findings = check_files(entries, tunnel_domain)
        if api_url:
            known = tunnel_id or entries.get(material.TUNNEL_ID, "").strip()
            if not known:
                raise ConfigError("which tunnel?", hint="give --tunnel-id, or write the id to tunnel-id")
            ca_file = api_ca_file or _stored_platform_ca(checked)
            credential = find_credential(os.environ)
            try:
                async with await open_platform(api_url, credential, ca_file=ca_file) as platform:
                    findings += await check_platform(entries, platform, known)
            except (IdentityError, UnavailableError) as exc:
                findings.append(Finding(f"platform {api_url}", exc.public, exc.hint))
        return findings

    findings = _run(run())
    if as_json:
        listed = [
            {"subject": f.subject, "problem": f.problem, "hint": f.hint if f.problem else None, "note": f.note}
            for f in findings
        ]
        data().print_json(json.dumps({"findings": listed}))
    else:
        for finding in findings:
            note = f": {finding.note}" if finding.note else ""
            data().print(f"{'✗' if finding.problem else '✓'} {finding.subject}{note}", markup=False)
            if finding.problem:
                data().print(f"    {finding.problem}\n    hint: {finding.hint}", markup=False)
    if any(finding.problem for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _required(api_url: str | None) -> str:
    if not api_url:
        raise ConfigError("--api-url is required", hint="for example --api-url=https://penstock.example.com, or set API_URL")
    return api_url


def _output(text: str | None) -> Output:
    from penstock.setup.cluster import Cluster  # noqa: PLC0415 - only when asked for
    from penstock.setup.output import parse_output  # noqa: PLC0415

    return parse_output(text, Cluster.of_this_pod())


def _finish(output: Output, progress: Progress, outcome: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        listed = {"output": str(output), "dry_run": progress.is_dry, "changes": progress.changes}
        data().print_json(json.dumps(outcome | listed))
    elif not progress.changes:
        talk().print(f"{output}: nothing to do", markup=False)
    else:
        talk().print(f"{output}: {'nothing was changed (dry run)' if progress.is_dry else 'done'}", markup=False)


def _progress(*, is_dry: bool) -> Progress:
    from penstock.setup.progress import Progress  # noqa: PLC0415 - only when asked for

    console = talk()
    return Progress(lambda sentence: console.print(sentence, markup=False), is_dry=is_dry)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def _duration(text: str, flag: str) -> timedelta:
    from penstock.config.types import parse_duration  # noqa: PLC0415 - only when asked for

    try:
        return timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as exc:
        raise ConfigError(f"{flag}: {exc}", hint="a Go duration, for example 2160h") from None


def _life(text: str) -> timedelta:
    life = _duration(text, "--cert-duration")
    if life < timedelta(minutes=1):
        raise ConfigError(f"--cert-duration: {text} is over before anybody could use it", hint="the published life is 2160h")
    return life


def _key_type(text: str | None) -> KeyType | None:
    from penstock.setup.keys import KeyType  # noqa: PLC0415 - only when asked for

    if text is None:
        return None
    try:
        return KeyType(text)
    except ValueError:
        raise ConfigError(f"--key-type: {text!r} is not rsa or ecdsa") from None


def _stored_platform_ca(output: Output) -> Path | None:
    from penstock.setup import material  # noqa: PLC0415 - only when asked for
    from penstock.setup.directory import Directory  # noqa: PLC0415

    if isinstance(output, Directory) and (output.folder / material.PLATFORM_CA).exists():
        return output.folder / material.PLATFORM_CA
    return None


def _read_ca(file: Path | None) -> str | None:
    """What `--api-ca-file` names, before anything is asked of the platform."""
    from penstock.config.pem import read_authorities  # noqa: PLC0415 - only when asked for

    return None if file is None else read_authorities(file, "--api-ca-file")
