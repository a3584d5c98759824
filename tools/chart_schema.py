"""Writes values.schema.json of the chart `mcp-tunnel`: `make reference`.

The proxy's settings come from their models, so that Helm refuses what the proxy would; the rest is described here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from penstock.proxy.config import ProxyConfig

FILE: Final = Path(__file__).parents[1] / "deploy" / "helm" / "mcp-tunnel" / "values.schema.json"

Schema = dict[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {"type": "object"}
_LIST: Final[Schema] = {"type": "array"}
_DURATION: Final[Schema] = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"}


def render() -> str:
    """The file as it should be."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_closed(
            replicaCount={"type": "integer", "minimum": 0},
            image=_closed(
                repository=_TEXT,
                tag=_TEXT,
                digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            ),
            imagePullSecrets=_LIST,
            agent=_closed(image=_TEXT, gracePeriod=_DURATION),
            setup=_closed(enabled=_FLAG, force=_FLAG, extraVolumes=_LIST, extraVolumeMounts=_LIST),
            api=_closed(
                url={"type": "string", "pattern": "^(https?://[^/?#]+)?$"},
                caSecretName=_TEXT,
                token=_TEXT,
                tokenSecretName=_TEXT,
                wif=_closed(
                    tunnelId=_TEXT,
                    federationRuleId=_TEXT,
                    organizationId=_TEXT,
                    workspaceId=_TEXT,
                    audience=_TEXT,
                    tokenFile=_TEXT,
                ),
            ),
            tunnel=_closed(id=_TEXT, tokenVersion=_TEXT),
            external=_closed(tunnelTokenSecretName=_TEXT, serverCertSecretName=_TEXT),
            edge=_closed(addresses={"type": "array", "items": _TEXT}, caSecretName=_TEXT),
            gateway=_closed(config=_proxy()),
            serverCert=_closed(
                cronSchedule=_TEXT, renewBefore=_DURATION, duration=_DURATION, keyType={"enum": ["rsa", "ecdsa"]}
            ),
            networkPolicy=_closed(
                ingress=_closed(enabled=_FLAG, metricsFrom=_LIST),
                egress=_closed(
                    enabled=_FLAG,
                    mcpServers={"type": "array", "items": {"type": ["string", "object"]}},
                    cloudflaredEgressCIDRs={"type": "array", "items": _TEXT},
                    edgePorts={"type": "array", "items": {"type": "integer"}},
                    dns=_FLAG,
                ),
            ),
            resources=_closed(proxy=_ANY, agent=_ANY),
            podDisruptionBudget=_closed(enabled=_FLAG, minAvailable={"type": ["integer", "string"]}),
            podAnnotations=_ANY,
            podLabels=_ANY,
            nodeSelector=_ANY,
            tolerations=_LIST,
            affinity=_ANY,
            topologySpread=_FLAG,
            **{"global": _ANY},
        ),
        "$defs": _definitions(),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _closed(**properties: Schema) -> Schema:
    """A mapping with these names and no others: a misspelt value is told, not ignored."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _proxy() -> Schema:
    """The proxy's settings; what the chart sets itself need not be given."""
    model = _plain(ProxyConfig.model_json_schema())
    del model["$defs"], model["required"]
    model["properties"]["routes"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [_TEXT, {"$ref": "#/$defs/RouteConfig"}]},
    }
    model["properties"]["tls"] = _ANY
    return model


def _definitions() -> Schema:
    return _plain(ProxyConfig.model_json_schema()["$defs"])


def _plain(schema: Any) -> Any:
    """Without titles, texts and defaults: they are in docs/configuration.md, and Helm shows none of them."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        properties = {name: _plain(value) for name, value in schema["properties"].items()}
        rest = _plain({name: value for name, value in schema.items() if name != "properties"})
        return {**rest, "properties": properties}
    return {name: _plain(value) for name, value in schema.items() if name not in {"title", "description", "default"}}


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
