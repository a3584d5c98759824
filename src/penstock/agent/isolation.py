"""Notices that the agent was left behind in a network that no longer leads anywhere.

Where it shares the proxy's network namespace, as in the published Compose file, and the proxy's container starts again, the
engine makes a new namespace and the old one loses every interface but loopback. No link can ever come back there, and only a
process that starts anew is put into the new one: so the agent ends, and its engine starts it.

Links die of it only when their pings are not answered, seconds later. What tells a namespace that was left behind from one that
was merely cut off, and may be given its interfaces back, is that nobody listens on loopback any more: the proxy is elsewhere.
Where the proxy never was on loopback the namespace is the agent's own, which no engine takes away.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from penstock.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOOK_EVERY: Final = 0.5  # seconds
_LOOPBACK: Final = re.compile(r"lo\d*|loopback_\d+")  # as Linux, BSD and Windows name it
_IFF_UP: Final = 1  # linux/include/uapi/linux/if.h
_SURE_AFTER: Final = 3  # looks in a row: interfaces go and come back when a network is configured anew


def interfaces() -> frozenset[str] | None:
    """The names of this machine's network interfaces that are up, loopback left out; None where they are not to be had.

    A kernel with tunnels built in puts a few that are down into every namespace; where it cannot be told, one counts as up.
    """
    try:
        names = [name for _, name in socket.if_nameindex()]
    except OSError:  # a sandbox that lets nobody ask (systemd's RestrictAddressFamilies), or no file is left to ask with
        return None
    return frozenset(name for name in names if _LOOPBACK.fullmatch(name) is None and _is_up(name))


def _is_up(name: str) -> bool:
    try:
        flags = int(Path("/sys/class/net", name, "flags").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return True
    return bool(flags & _IFF_UP)


async def until_isolated(
    has_life: Callable[[], Awaitable[bool]],
    *,
    look: Callable[[], frozenset[str] | None] = interfaces,
    every: float = _LOOK_EVERY,
) -> NoReturn:
    """Raises UnavailableError once all interfaces that there were are gone and nothing shows life, which is asked only then.

    Waits for ever where there was none.
    """
    seen = 0
    had = bool(look())
    while True:
        await asyncio.sleep(every)
        here = look()
        had = had or bool(here)
        is_gone = had and here is not None and not here
        seen = seen + 1 if is_gone and not await has_life() else 0
        if seen >= _SURE_AFTER:
            raise UnavailableError(
                "the network is gone: every interface but loopback was taken away",
                hint="the container whose network this agent shares was started anew; start the agent again to join it",
            )
