"""The Kubernetes API as a pod sees it: its own namespace, its own service account, nothing to configure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import httpx2

from penstock.config.files import read_file
from penstock.errors import ConfigError, UnavailableError
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOUNTED: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS: Final = 15.0
_FIELD_MANAGER: Final = "penstock-setup"
_SERVER_SIDE_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the object that came with it."""

    status: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        """What the API server says of a refusal."""
        return str(self.body.get("message", f"status {self.status}"))


@dataclass(frozen=True, slots=True)
class Cluster:
    """One namespace of one API server. The service account's token is read anew each time: kubelet rotates it."""

    base_url: str
    account: Path
    namespace: str

    @classmethod
    def of_this_pod(cls, variables: Mapping[str, str] = os.environ, account: Path = _MOUNTED) -> Cluster | None:
        """The cluster this process runs in, or None outside of one."""
        host, port = variables.get("KUBERNETES_SERVICE_HOST"), variables.get("KUBERNETES_SERVICE_PORT", "443")
        namespace = read_file(account / "namespace")
        if not host or namespace is None:
            return None
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", account, namespace.strip())

    async def get_secret(self, name: str) -> Answer:
        """GET; 404 is an answer."""
        return await self._call("GET", name)

    async def apply_secret(self, name: str, body: Mapping[str, Any]) -> Answer:
        """Server-side apply; 409 when `metadata.resourceVersion` is not the current one."""
        return await self._call("PATCH", name, body)

    async def _call(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> Answer:
        token = read_file(self.account / "token")
        if not token:
            raise ConfigError(
                f"there is no service account token in {self.account}", hint="set automountServiceAccountToken: true"
            )
        async with httpx2.AsyncClient(
            verify=contexts.control_client(self.account / "ca.crt"), timeout=_SECONDS, trust_env=False
        ) as http:
            try:
                response = await http.request(
                    method,
                    f"{self.base_url}/api/v1/namespaces/{self.namespace}/secrets/{name}",
                    params={"fieldManager": _FIELD_MANAGER, "force": "true"} if body is not None else None,
                    headers={"authorization": f"Bearer {token.strip()}", "content-type": _SERVER_SIDE_APPLY},
                    json=body,
                )
            except httpx2.HTTPError as exc:
                raise UnavailableError(
                    f"the Kubernetes API at {self.base_url} does not answer",
                    detail=f"{type(exc).__name__}: {exc}",
                    hint="does a NetworkPolicy keep this pod from the API server?",
                ) from exc
        try:
            answered: object = response.json()
        except ValueError:
            answered = None
        if not isinstance(answered, dict) or response.status_code >= 500:
            raise UnavailableError(
                f"the Kubernetes API at {self.base_url} cannot serve this now", detail=f"status {response.status_code}"
            )
        return Answer(response.status_code, cast("dict[str, Any]", answered))
