"""A Kubernetes Secret as output: one key an entry, written whole by server-side apply, never over somebody's change."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from penstock.setup.cluster import Answer, Cluster


class KubernetesSecret:
    """`k8s-secret:NAME`, in the pod's own namespace.

    There is no lock: every write names the version it is based on, so of two runs at once one fails before it has done
    harm, and says so.
    """

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self._cluster = cluster
        self._version: str | None = None
        self._entries: dict[str, str] = {}

    def __str__(self) -> str:
        return f"k8s-secret:{self.name}"

    @contextlib.asynccontextmanager
    async def exclusively(self) -> AsyncGenerator[None]:
        """As `Output`."""
        yield

    async def load(self) -> dict[str, str]:
        """As `Output`."""
        answer = await self._cluster.get_secret(self.name)
        if answer.status == 404:
            self._version, self._entries = None, {}
        elif answer.status == 200:
            self._take(answer)
        else:
            raise self._refusal("get", answer)
        return dict(self._entries)

    async def store(self, changes: Mapping[str, str | None]) -> None:
        """As `Output`. Raises UnavailableError when somebody else has written since `load`."""
        entries = {name: text for name, text in (self._entries | dict(changes)).items() if text is not None}
        metadata: dict[str, str] = {"name": self.name}
        if self._version is not None:
            metadata["resourceVersion"] = self._version
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in entries.items()},
        }
        answer = await self._cluster.apply_secret(self.name, body)
        if answer.status == 409:
            raise UnavailableError(
                f"the Secret {self.name} was changed by another run of setup meanwhile",
                hint="run setup again: it goes on from there",
            )
        if answer.status not in {200, 201}:
            raise self._refusal("patch", answer)
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        metadata = cast("dict[str, Any]", answer.body.get("metadata", {}))
        data = cast("dict[str, str]", answer.body.get("data") or {})
        self._version = str(metadata["resourceVersion"])
        try:
            self._entries = {name: base64.b64decode(value).decode() for name, value in data.items()}
        except ValueError:
            raise ConfigError(
                f"the Secret {self.name} holds something that is not text", hint="give setup a Secret of its own"
            ) from None

    def _refusal(self, verb: str, answer: Answer) -> PenstockError:
        if answer.status in {401, 403}:
            account = "SERVICE_ACCOUNT"
            head, _, _ = answer.message.partition(" cannot ")
            if "system:serviceaccount:" in head:
                account = head.rpartition(":")[2].strip('"')
            namespace = self._cluster.namespace
            return IdentityError(
                f"this pod may not {verb} the Secret {self.name}",
                detail=answer.message,
                hint=(
                    f"kubectl -n {namespace} create role penstock-setup --verb=get,create,patch --resource=secrets && "
                    f"kubectl -n {namespace} create rolebinding penstock-setup --role=penstock-setup "
                    f"--serviceaccount={namespace}:{account}"
                ),
            )
        return ConfigError(f"the Kubernetes API does not take the Secret {self.name}", detail=answer.message)
