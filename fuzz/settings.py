"""Settings files: refused in one line with a path, or taken as something that says the same when it is written out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import yaml
from hypothesis import strategies as st

from penstock.config.load import as_yaml, load
from penstock.errors import ConfigError
from penstock.proxy.config import ProxyConfig
from penstock.proxy.routes import RouteTable

_WHOLE: Final = """\
listen_addr: ":8080"
tunnel_domain: ab.example.com
tls: {cert_file: /a.crt, key_file: /a.key}
routes:
  echo: http://10.0.0.1:9000
  wiki: {url: "https://wiki.internal:443", host_header: upstream, allowed_ips: [10.0.0.0/8], sse_keepalive: 30s}
  docs: {url: "http://docs:80", require_oauth: {issuer: "https://a.example", audience: a, scopes: [b]}}
upstream: {allowed_ips: [10.0.0.1], tls: {ca_file: /ca.crt, include_system_cas: true}}
callers: {mode: require, ca_file: /c.crt, allow: [wrkspc_1]}
limits: {streams: 5, head_bytes: 4KiB, idle_timeout: 1h30m}
reload_interval: 2s
"""
_NASTY: Final = [
    *":{}[],#&*!|>'\"%@`-? \n\t\0",
    "null",
    "~",
    "1e999",
    "0x10",
    "true",
    "<<: *a",
    "&a ",
    "- ",
    "é",
    "\u2028",
    "9" * 30,
]
_PATHS: Final = [
    "listen_addr",
    "routes",
    "upstream",
    "limits",
    "tls",
    "callers",
    "tunnel_domain",
    "admin_addr",
    "shutdown_timeout",
]
_LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["http://a:1", "http://a", "10.0.0.0/8", "::/0", "30s", "-1s", ":8080", "a:99999", "1KiB", "https://[::1]:1"]
    )
)
_VALUES: Final = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(_PATHS), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def _edited(draw: st.DrawFn) -> str:
    text = _WHOLE
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(_NASTY)) + text[at + draw(st.integers(0, 6)) :]
    return text


@st.composite
def _replaced(draw: st.DrawFn) -> str:
    values = {**yaml.safe_load(_WHOLE), draw(st.sampled_from(_PATHS)): draw(_VALUES)}
    return yaml.safe_dump(values, allow_unicode=True)


TEXTS = _edited() | _replaced()


def config(text: str) -> None:
    """One settings file of a proxy."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        try:
            taken = load(ProxyConfig, role="proxy", file=Path(file.name))
        except ConfigError as exc:
            error = exc.public
        else:
            error = None
    if error is not None:
        assert "\n" not in error, "an error is one line"
        return
    assert list(RouteTable(taken.routes, taken.tunnel_domain))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(as_yaml(taken))
        file.flush()
        assert load(ProxyConfig, role="proxy", file=Path(file.name)) == taken
