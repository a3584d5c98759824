"""A Kubernetes Secret as output: one key an entry, written whole by server-side apply, never over somebody's change."""

from __future__ import annotations

import base64
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError
from penstock.setup import material
from penstock.setup.cluster import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from penstock.setup.cluster import Cluster

_KIND: Final = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9.-]+:[a-z0-9.-]+)")  # as the API server's refusal names it


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
            raise await self._refusal("read", answer)
        return dict(self._entries)

    async def check_writable(self) -> None:
        """As `Output`; after `load`."""
        verbs: list[tuple[str, str | None]] = [("patch", self.name)]
        if self._version is None:
            verbs.append(("create", None))
        if not all([await self._cluster.may(verb, name) for verb, name in verbs]):
            raise await self._refusal("write", Answer(403, {"message": "says its access review"}))

    async def store(self, changes: Mapping[str, str | None]) -> None:
        """As `Output`. Raises UnavailableError when somebody else has written since `load`."""
        if self._version is None:
            await self._create()
        entries = {name: text for name, text in (self._entries | dict(changes)).items() if text is not None}
        data = {name: base64.b64encode(text.encode()).decode() for name, text in entries.items()}
        metadata = {"name": self.name, "resourceVersion": self._version}
        self._take(
            await self._written(await self._cluster.apply_secret(self.name, {**_KIND, "metadata": metadata, "data": data}))
        )

    async def _create(self) -> None:
        """Empty: an apply would take over what another run made since `load`, a creation says that it is there."""
        self._take(await self._written(await self._cluster.create_secret({**_KIND, "metadata": {"name": self.name}})))

    async def _written(self, answer: Answer) -> Answer:
        if answer.status == 409:
            raise UnavailableError(
                f"the Secret {self.name} was changed by another run of setup meanwhile",
                detail=answer.message,
                hint="run setup again: it goes on from there",
            )
        if answer.status not in {200, 201}:
            raise await self._refusal("write", answer)
        return answer

    def _take(self, answer: Answer) -> None:
        metadata = cast("dict[str, Any]", answer.body.get("metadata", {}))
        data = cast("dict[str, str]", answer.body.get("data") or {})
        self._version = str(metadata["resourceVersion"])
        try:
            self._entries = {name: base64.b64decode(data[name]).decode() for name in material.ALL if name in data}
        except ValueError:
            raise ConfigError(
                f"the Secret {self.name} holds something that is not text", hint="give setup a Secret of its own"
            ) from None

    async def _refusal(self, what: str, answer: Answer) -> PenstockError:
        if answer.status == 401:
            return IdentityError(
                "the Kubernetes API does not accept this pod's service account token",
                detail=answer.message,
                hint="is the service account still there, and is the token the mounted one?",
            )
        if answer.status == 403:
            return IdentityError(
                f"this pod may not {what} the Secret {self.name}", detail=answer.message, hint=await self._grant(answer)
            )
        return ConfigError(f"the Kubernetes API does not take the Secret {self.name}", detail=answer.message)

    async def _grant(self, answer: Answer) -> str:
        """The `kubectl` line that gives what is missing, and nothing else."""
        missing = [verb for verb in ("get", "patch") if not await self._cluster.may(verb, self.name)]
        rules = [f"--verb={','.join(missing)} --resource=secrets --resource-name={self.name}"] if missing else []
        if not await self._cluster.may("create", None):
            rules.append("--verb=create --resource=secrets")  # what is to be created has no name that a rule could ask for
        if not rules:
            return "the grant has only just arrived: run setup again"
        namespace, found = self._cluster.namespace, _ACCOUNT.search(answer.message)
        account = found[1] if found else f"{namespace}:NAME_OF_THE_SERVICE_ACCOUNT"
        lines: list[str] = []
        for number, rule in enumerate(rules, start=1):
            role = f"{self.name}-setup-{number}"
            lines += [
                f"kubectl -n {namespace} create role {role} {rule}",
                f"kubectl -n {namespace} create rolebinding {role} --role={role} --serviceaccount={account}",
            ]
        return " && ".join(lines)
