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
        return await self._call("GET", f"{self._secrets}/{name}")

    async def create_secret(self, body: Mapping[str, Any]) -> Answer:
        """POST; 409 when there is one of this name already."""
        return await self._call("POST", self._secrets, body, params={"fieldManager": _FIELD_MANAGER})

    async def apply_secret(self, name: str, body: Mapping[str, Any]) -> Answer:
        """Server-side apply; 409 when `metadata.resourceVersion` is not the current one."""
        params = {"fieldManager": _FIELD_MANAGER, "force": "true"}
        return await self._call("PATCH", f"{self._secrets}/{name}", body, params=params, content_type=_SERVER_SIDE_APPLY)

    async def may(self, verb: str, name: str | None) -> bool:
        """Whether this service account may do that to the Secret of this name, or to one without a name yet."""
        attributes = {"namespace": self.namespace, "verb": verb, "resource": "secrets", **({"name": name} if name else {})}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        status = answer.body.get("status")
        return isinstance(status, dict) and cast("dict[str, Any]", status).get("allowed") is True

    @property
    def _secrets(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
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
                    f"{self.base_url}{path}",
                    params=params,
                    headers={"authorization": f"Bearer {token.strip()}", "content-type": content_type},
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
        if not isinstance(answered, dict) or response.status_code == 429 or response.status_code >= 500:
            raise UnavailableError(
                f"the Kubernetes API at {self.base_url} cannot serve this now",
                detail=f"status {response.status_code}",
                hint="run setup again: it goes on from there",
            )
        return Answer(response.status_code, cast("dict[str, Any]", answered))
