"""A tunnel's life as the official SDK lives it. Run as a program by whichever version of the SDK an environment holds.

Environment: `URL`, `KEY` (a Tunnels API key), `CA` (three CA certificates in PEM, one after the other).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import anthropic

if TYPE_CHECKING:
    from collections.abc import Callable

END = "-----END CERTIFICATE-----\n"


def main() -> None:
    key, url = os.environ["KEY"], os.environ["URL"]
    pems = [pem + END for pem in os.environ["CA"].split(END) if pem.strip()]
    for style in ({"api_key": key}, {"auth_token": key}):
        # Strict: an answer that the SDK's types do not describe fails here.
        with anthropic.Anthropic(base_url=url, max_retries=0, _strict_response_validation=True, **style) as client:
            live(client.beta.tunnels, pems)
    print("lived", anthropic.__version__)  # noqa: T201 - what the test waits for


def live(tunnels: anthropic.resources.beta.Tunnels, pems: list[str]) -> None:
    names = [f"t{number}" for number in range(3)]
    made = [tunnels.create(display_name=name) for name in names]
    first = made[0]
    assert first.type == "tunnel"
    assert first.archived_at is None
    assert tunnels.retrieve(first.id) == first
    assert [tunnel.id for tunnel in tunnels.list(limit=1)] == [tunnel.id for tunnel in reversed(made)]  # pages that meet

    answer = tunnels.with_raw_response.reveal_token(first.id)
    assert re.fullmatch(r"req_\w+", answer.headers["request-id"])
    token = answer.parse()
    assert re.fullmatch(r"ttkn_[0-9a-f]{64}", token.id)
    assert tunnels.reveal_token(first.id).tunnel_token == token.tunnel_token
    assert tunnels.rotate_token(first.id, reason="a laptop was lost").id != token.id

    certificates = tunnels.certificates
    kept = [certificates.create(first.id, ca_certificate_pem=pem) for pem in pems[:2]]
    refused(anthropic.BadRequestError, lambda: certificates.create(first.id, ca_certificate_pem=pems[2]), "maximum of 2")
    refused(anthropic.BadRequestError, lambda: certificates.create(made[1].id, ca_certificate_pem="x"), "ca-pem")
    assert certificates.retrieve(kept[0].id, tunnel_id=first.id) == kept[0]
    assert [found.id for found in certificates.list(first.id, limit=1)] == [found.id for found in reversed(kept)]
    gone = certificates.archive(kept[0].id, tunnel_id=first.id)
    assert certificates.archive(kept[0].id, tunnel_id=first.id) == gone

    ended = tunnels.archive(first.id)
    assert tunnels.archive(first.id) == ended  # again: the same record
    assert {found.archived_at is None for found in certificates.list(first.id, include_archived=True)} == {False}
    refused(anthropic.ConflictError, lambda: tunnels.reveal_token(first.id), "archived")
    refused(anthropic.NotFoundError, lambda: tunnels.retrieve("tnl_unknown"), "not found")
    for tunnel in made[1:]:
        tunnels.archive(tunnel.id)
    assert first.domain in {tunnel.domain for tunnel in tunnels.list(include_archived=True)}
    assert not list(tunnels.list())


def refused(kind: type[anthropic.APIStatusError], do: Callable[[], object], text: str) -> None:
    said = None
    try:
        do()
    except kind as exc:
        said = exc.message
    assert said is not None, "it was not refused"
    assert text in said, said


if __name__ == "__main__":
    main()
