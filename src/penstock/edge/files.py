"""How many callers, links and connections that arrive the open files allow that the system gives this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.net.loop import raise_descriptor_limit

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from penstock.edge.config import EdgeLimits

_OWN_FILES: Final = 64  # listeners, log, state, the control plane, the loop's own
_FEW: Final = 1000  # below it a busy edge meets its limit, and somebody should know before
_A_CALLER: Final = 2  # its own connection, and another where its stream is passed on


def limits_that_hold(limits: EdgeLimits, log: FilteringBoundLogger) -> EdgeLimits:
    """The limits, or lower ones where the files do not suffice: who is refused is told, EMFILE tells nobody."""
    wanted = limits.links + limits.callers * _A_CALLER + limits.arriving
    files = raise_descriptor_limit(wanted + _OWN_FILES)
    given = max(files - _OWN_FILES, _A_CALLER + 2)
    if given >= wanted:
        return limits
    links = max(limits.links * given // wanted, 1)
    arriving = max(limits.arriving * given // wanted, 1)
    callers = max((given - links - arriving) // _A_CALLER, 1)
    say = log.warning if callers < _FEW else log.info
    say(
        "streams limited by open files",
        callers=callers,
        links=links,
        arriving=arriving,
        files=files,
        hint="raise it with ulimit -n or LimitNOFILE",
    )
    return limits.model_copy(update={"callers": callers, "links": links, "arriving": arriving})
