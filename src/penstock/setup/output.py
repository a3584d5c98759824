"""Where the material goes: a directory or a Kubernetes Secret, chosen by `dir:PATH` or `k8s-secret:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from penstock.errors import ConfigError
from penstock.setup.directory import Directory
from penstock.setup.secret import KubernetesSecret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from penstock.setup.cluster import Cluster

_PUBLISHED_SECRET: Final = "mcp-gateway"  # noqa: S105 - a Secret's name


class Output(Protocol):
    """Entries by name. One writer at a time: `exclusively` surrounds `load` and every `store`."""

    def __str__(self) -> str:
        """As it was asked for: `dir:/data`."""
        ...

    def exclusively(self) -> AbstractAsyncContextManager[None]:
        """Keep other runs of setup out."""
        ...

    async def load(self) -> dict[str, str]:
        """Everything there is; empty before the first run."""
        ...

    async def check_writable(self) -> None:
        """Raises what `store` would for want of a right; changes nothing."""
        ...

    async def store(self, changes: Mapping[str, str | None]) -> None:
        """Write these entries, in this order, durably; None removes one. Whoever reads meanwhile sees each old or new."""
        ...


def parse_output(text: str | None, pod: Cluster | None) -> Output:
    """An output from `--output`; in a pod the published default is its Secret. Raises ConfigError."""
    if text is None:
        if pod is None:
            raise ConfigError("--output is required outside Kubernetes", hint="for example --output=dir:/data")
        return KubernetesSecret(_PUBLISHED_SECRET, pod)
    kind, _, name = text.partition(":")
    if kind == "dir" and name:
        return Directory.of(name)
    if kind == "k8s-secret" and name:
        if pod is None:
            raise ConfigError(
                f"--output={text} works in a pod only: there is no service account here",
                hint="outside a pod use --output=dir:PATH",
            )
        return KubernetesSecret(name, pod)
    meant = f"a directory is written --output=dir:{text}" if text and ":" not in text else "for example --output=dir:/data"
    raise ConfigError(f"--output={text} is neither dir:PATH nor k8s-secret:NAME", hint=meant)
