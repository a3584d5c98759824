"""How many streams a link, and how many links, the open files allow that the system gives this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.agent.coverage import MOST_LINKS
from penstock.net.loop import raise_descriptor_limit

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from penstock.agent.config import AgentLimits

_OWN_FILES: Final = 64  # links, log, token, metrics, the loop's own, look-ups
_FEW: Final = 1000  # streams; below it a busy agent meets its limit, and somebody should know before


def limits_that_hold(limits: AgentLimits, links: int, log: FilteringBoundLogger) -> tuple[AgentLimits, int]:
    """The limits, or lower ones where there is no file for each stream of `links`; and how many links there may be at most.

    The edge is told how many streams a link takes; EMFILE tells nobody. Links beyond those asked for, one for each of an edge's
    workers, are made only where their streams have files too: a worker without a link hands its streams over.
    """
    wanted = limits.streams_a_link
    files = raise_descriptor_limit(wanted * MOST_LINKS + _OWN_FILES)
    given = max(files - _OWN_FILES, links)
    streams = min(wanted, given // links)
    if streams < wanted:
        say = log.warning if streams * links < _FEW else log.info
        hint = "raise it with ulimit -n or LimitNOFILE"
        say("streams limited by open files", streams_a_link=streams, files=files, hint=hint)
        limits = limits.model_copy(update={"streams_a_link": streams})
    return limits, min(given // streams, MOST_LINKS)
