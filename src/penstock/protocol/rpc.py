"""Cap'n Proto RPC, as little of it as a registration needs: bootstrap, call, return, finish, release, abort.

Layouts and ordinals are those of the RPC protocol's published schema. No state is kept by question id: a stock agent uses
an id again as soon as it has sent Finish.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from penstock.protocol.capnp import Capability, Node, Reader, Struct, Structs, serialize, words

INTERFACE: Final = 0xF71695EC7FE85497
"""The registration service's id."""


class Kind(IntEnum):
    """RPC messages, by the union's tag."""

    UNIMPLEMENTED = 0
    ABORT = 1
    CALL = 2
    RETURN = 3
    FINISH = 4
    RELEASE = 6
    BOOTSTRAP = 8


class Method(IntEnum):
    """The registration service's methods."""

    REGISTER_CONNECTION = 0
    UNREGISTER_CONNECTION = 1
    UPDATE_LOCAL_CONFIGURATION = 2


RESULTS: Final = 0
EXCEPTION: Final = 1
"""Tags of a Return."""
IMPORTED: Final = 0
PROMISED: Final = 1
"""Tags of a call's target."""
EXCEPTION_FAILED: Final = 0
EXCEPTION_UNIMPLEMENTED: Final = 3
"""Types of an exception."""
_SENDER_HOSTED: Final = 1
_KEEP: Final = 1 << 32
"""Finish without releasing the result's capabilities; the flag is stored inverted."""


def message(kind: Kind, content: Struct) -> bytes:
    """A framed RPC message."""
    return serialize(Struct(words(kind), (content,)))


def bootstrap(question: int) -> bytes:
    """Ask for the peer's service."""
    return message(Kind.BOOTSTRAP, Struct(words(question), (None,)))


def call(question: int, method: Method, parameters: Struct, *, capability: int | None, promise: int = 0) -> bytes:
    """Call a method of the service: of an imported capability or, before that is known, of the promised bootstrap answer."""
    if capability is None:
        target = Struct(words(PROMISED << 32), (Struct(words(promise), (None,)),))
    else:
        target = Struct(words(capability), (None,))
    payload = Struct(pointers=(parameters, None))
    return message(Kind.CALL, Struct(words(question | method << 32, INTERFACE, 0), (target, payload, None)))


def bootstrapped(answer: int) -> bytes:
    """Answer a bootstrap: the service is our export 0."""
    table = Structs((Struct(words(_SENDER_HOSTED), (None,)),))
    return _returned(answer, RESULTS, Struct(pointers=(Capability(0), table)))


def returned(answer: int, results: Struct) -> bytes:
    """Answer a call."""
    return _returned(answer, RESULTS, Struct(pointers=(results, None)))


def failed(answer: int, reason: str, kind: int) -> bytes:
    """Answer a call with an exception."""
    return _returned(answer, EXCEPTION, Struct(words(kind << 32), (reason,)))


def finish(question: int, *, keep: bool) -> bytes:
    """Be done with a question."""
    return message(Kind.FINISH, Struct(words(question | (_KEEP if keep else 0))))


def _returned(answer: int, tag: int, content: Node) -> bytes:
    return message(Kind.RETURN, Struct(words(answer | tag << 48, 0), (content,)))


def imported_capability(payload: Reader) -> int | None:
    """The capability a bootstrap's answer brings."""
    for entry in payload.structs(1)[:1]:
        if entry.number(0, 2) == _SENDER_HOSTED:
            return entry.number(4, 4)
    return None
