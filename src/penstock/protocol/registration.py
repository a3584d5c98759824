"""An agent registers with an edge: the RPC on a link's control stream, both ends of it, without I/O.

Nothing but the tunnel's secret authenticates an agent, so what a `Register` says is a claim until the edge has checked it.
Field layouts are facts of the published agent, replayed from a recorded exchange by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from penstock.protocol import rpc
from penstock.protocol.capnp import MAX_MESSAGE, Message, Reader, Splitter, Struct, words
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError

ID_SIZE: Final = 16
MAX_OPEN_QUESTIONS: Final = 16
"""Calls an agent may leave unanswered; a stock one waits for each."""

_ERROR: Final = 0
_DETAILS: Final = 1
_NANOSECONDS: Final = 1_000_000_000
_SHOULD_RETRY: Final = 1
_REMOTELY_MANAGED: Final = 1

# The client's question ids; none is used twice.
_BOOTSTRAP: Final = 0
_REGISTER: Final = 1
_UNREGISTER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an agent says of itself."""

    connection_index: int
    """0 to 3: which of its links this is."""
    account: str
    secret: bytes = field(repr=False)
    tunnel_id: bytes
    """16 bytes."""
    client_id: bytes
    """16 bytes: the connector, the same on all its links."""
    replace_existing: bool = False
    previous_attempts: int = 0
    features: tuple[str, ...] = ()
    version: str = ""
    arch: str = ""
    origin_ip: bytes = b""
    """The agent's own address, 4 or 16 bytes; stock agents send IPv4 as an IPv4-mapped IPv6 address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Register(Registration):
    """An agent asks to be registered: answer with `accept` or `refuse`."""

    question: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregister:
    """The agent is going: answer with `acknowledge`, send nothing new on its link, close it when its streams are done."""

    question: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLocalConfiguration:
    """A stock agent that is not remotely managed tells its configuration (JSON): answer with `acknowledge`."""

    question: int
    configuration: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """The peer gave up the RPC session, for the reason it gives."""

    reason: str


ServerEvent: TypeAlias = Register | Unregister | UpdateLocalConfiguration | Aborted


class RegistrationServer:
    """The edge's end."""

    __slots__ = ("_has_registered", "_open", "_out", "_splitter")

    def __init__(self, *, max_message: int = MAX_MESSAGE) -> None:
        self._splitter = Splitter(max_message)
        self._out: list[bytes] = []
        self._open: set[int] = set()
        self._has_registered = False

    def receive_data(self, data: bytes) -> list[ServerEvent]:
        """What the agent asks. RemoteProtocolError: it does not speak this protocol, close the link."""
        events: list[ServerEvent] = []
        for message in self._splitter.feed(data):
            self._receive(message, events)
        return events

    def data_to_send(self) -> bytes:
        """Answers to send."""
        out, self._out = self._out, []
        return b"".join(out)

    def accept(self, request: Register, *, location: str, tunnel_uuid: bytes, remotely_managed: bool = False) -> None:
        """The agent is registered. `tunnel_uuid` identifies this connection: a stock agent takes 16 bytes, nothing else."""
        if len(tunnel_uuid) != ID_SIZE:
            raise LocalProtocolError("a connection's uuid has 16 bytes")
        details = Struct(words(_REMOTELY_MANAGED if remotely_managed else 0), (tunnel_uuid, location))
        self._answer(request.question, Struct(pointers=(Struct(words(_DETAILS), (details,)),)))

    def refuse(self, request: Register, cause: str, *, retry_after_s: float = 0, should_retry: bool = True) -> None:
        """The agent is not registered; close the link soon after, a stock agent waits for that.

        Begin `cause` with "Unauthorized" where the agent should go on trying: on its first connection a stock agent exits at
        any other, whatever `should_retry` says.
        """
        flags = _SHOULD_RETRY if should_retry else 0
        error = Struct(words(int(retry_after_s * _NANOSECONDS), flags), (cause,))
        self._answer(request.question, Struct(pointers=(Struct(words(_ERROR), (error,)),)))

    def acknowledge(self, request: Unregister | UpdateLocalConfiguration) -> None:
        """Done as asked."""
        self._answer(request.question, Struct())

    def _answer(self, question: int, results: Struct) -> None:
        if question not in self._open:
            raise LocalProtocolError("the request was answered already")
        self._open.remove(question)
        self._out.append(rpc.returned(question, results))

    def _receive(self, message: Message, events: list[ServerEvent]) -> None:
        root = message.root
        content = root.struct(0)
        match root.number(0, 2):
            case rpc.Kind.BOOTSTRAP:
                self._out.append(rpc.bootstrapped(content.number(0, 4)))
            case rpc.Kind.CALL:
                self._call(content, events)
            case rpc.Kind.FINISH | rpc.Kind.RELEASE | rpc.Kind.UNIMPLEMENTED:
                pass  # nothing is kept by question or reference count
            case rpc.Kind.ABORT:
                events.append(Aborted(reason=content.text(0)))
            case _:
                raise RemoteProtocolError("an RPC message of this kind has no place in a registration")

    def _call(self, content: Reader, events: list[ServerEvent]) -> None:
        question = content.number(0, 4)
        if question in self._open:
            raise RemoteProtocolError("an RPC question was asked twice")
        target = content.struct(0)
        if target.number(4, 2) == rpc.IMPORTED and target.number(0, 4) != 0:
            raise RemoteProtocolError("an RPC call is to an object that was never offered")
        parameters = content.struct(1).struct(0)
        event: ServerEvent
        match content.number(4, 2) if content.number(8, 8) == rpc.INTERFACE else None:
            case rpc.Method.REGISTER_CONNECTION if self._has_registered:
                raise RemoteProtocolError("a link is registered once")  # for one tunnel, and where it is refused it is closed
            case rpc.Method.REGISTER_CONNECTION:
                self._has_registered = True
                event = _read_register(parameters, question)
            case rpc.Method.UNREGISTER_CONNECTION:
                event = Unregister(question=question)
            case rpc.Method.UPDATE_LOCAL_CONFIGURATION:
                event = UpdateLocalConfiguration(question=question, configuration=parameters.data(0))
            case _:
                # A newer agent may know more methods; it is told that we do not.
                self._out.append(rpc.failed(question, "method not implemented", rpc.EXCEPTION_UNIMPLEMENTED))
                return
        if len(self._open) >= MAX_OPEN_QUESTIONS:
            raise RemoteProtocolError("too many RPC questions are open")
        self._open.add(question)
        events.append(event)


def _read_register(parameters: Reader, question: int) -> Register:
    auth, options = parameters.struct(0), parameters.struct(2)
    client = options.struct(0)
    register = Register(
        question=question,
        connection_index=parameters.number(0, 1),
        account=auth.text(0),
        secret=auth.data(1),
        tunnel_id=parameters.data(1),
        client_id=client.data(0),
        replace_existing=options.bit(0),
        previous_attempts=options.number(2, 1),
        features=tuple(client.texts(1)),
        version=client.text(2),
        arch=client.text(3),
        origin_ip=options.data(1),
    )
    if len(register.tunnel_id) != ID_SIZE or len(register.client_id) != ID_SIZE:
        raise RemoteProtocolError("an agent registers with ids of 16 bytes")
    return register


# --- the agent's end --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The edge took us."""

    location: str
    uuid: bytes
    """Of this connection, 16 bytes."""
    remotely_managed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The edge did not."""

    cause: str
    should_retry: bool
    retry_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregistered:
    """The edge knows that we go, and sends nothing new."""


ClientEvent: TypeAlias = Registered | Refused | Unregistered | Aborted


class RegistrationClient:
    """The agent's end: `start`, wait for Registered or Refused; later `unregister`, wait for Unregistered."""

    __slots__ = ("_capability", "_out", "_splitter", "_waiting")

    def __init__(self, *, max_message: int = MAX_MESSAGE) -> None:
        self._splitter = Splitter(max_message)
        self._out: list[bytes] = []
        self._waiting: set[int] = set()
        self._capability: int | None = None

    def start(self, registration: Registration) -> None:
        """Ask for the service and call it in one flight, as stock agents do."""
        if self._waiting:
            raise LocalProtocolError("the registration was started already")
        self._out.append(rpc.bootstrap(_BOOTSTRAP))
        self._out.append(
            rpc.call(
                _REGISTER,
                rpc.Method.REGISTER_CONNECTION,
                _write_register(registration),
                capability=None,
                promise=_BOOTSTRAP,
            )
        )
        self._waiting |= {_BOOTSTRAP, _REGISTER}

    def unregister(self) -> None:
        """Say that we go."""
        if self._capability is None or _UNREGISTER in self._waiting:
            raise LocalProtocolError("there is nothing to unregister")
        method = rpc.Method.UNREGISTER_CONNECTION
        self._out.append(rpc.call(_UNREGISTER, method, Struct(), capability=self._capability))
        self._waiting.add(_UNREGISTER)

    def receive_data(self, data: bytes) -> list[ClientEvent]:
        """What the edge answers. RemoteProtocolError: it does not speak this protocol, close the link."""
        events: list[ClientEvent] = []
        for message in self._splitter.feed(data):
            root = message.root
            content = root.struct(0)
            match root.number(0, 2):
                case rpc.Kind.RETURN:
                    self._returned(content, events)
                case rpc.Kind.FINISH | rpc.Kind.RELEASE | rpc.Kind.UNIMPLEMENTED:
                    pass
                case rpc.Kind.ABORT:
                    events.append(Aborted(reason=content.text(0)))
                case _:
                    raise RemoteProtocolError("an RPC message of this kind has no place in a registration")
        return events

    def data_to_send(self) -> bytes:
        """Calls to send."""
        out, self._out = self._out, []
        return b"".join(out)

    def _returned(self, content: Reader, events: list[ClientEvent]) -> None:
        question, tag = content.number(0, 4), content.number(6, 2)
        if question not in self._waiting:
            raise RemoteProtocolError("an RPC answer has no question")
        if tag not in {rpc.RESULTS, rpc.EXCEPTION}:
            raise RemoteProtocolError("an RPC answer is of an unknown kind")
        self._waiting.remove(question)
        payload = content.struct(0)
        self._out.append(rpc.finish(question, keep=question == _BOOTSTRAP))
        if tag == rpc.EXCEPTION:
            # An exception is the edge's failure, not its answer: trying again may help.
            if question != _BOOTSTRAP:  # the pipelined call fails with it
                events.append(_failure(question, payload.text(0)))
        elif question == _BOOTSTRAP:
            self._capability = rpc.imported_capability(payload)
        elif question == _REGISTER:
            events.append(_read_response(payload.struct(0).struct(0)))
        else:
            events.append(Unregistered())


def _failure(question: int, reason: str) -> ClientEvent:
    if question == _UNREGISTER:
        return Unregistered()  # an edge that cannot even do this has nothing to wait for
    return Refused(cause=reason, should_retry=True, retry_after_s=0)


def _read_response(response: Reader) -> Registered | Refused:
    content = response.struct(0)
    match response.number(0, 2):
        case 1:  # _DETAILS
            uuid = content.data(0)
            if len(uuid) != ID_SIZE:
                raise RemoteProtocolError("a connection's uuid has 16 bytes")
            return Registered(location=content.text(1), uuid=uuid, remotely_managed=content.bit(0))
        case 0:  # _ERROR
            retry_after = content.number(0, 8, signed=True) / _NANOSECONDS
            return Refused(cause=content.text(0), should_retry=content.bit(64), retry_after_s=max(0.0, retry_after))
        case _:
            raise RemoteProtocolError("a registration has an unknown result")


def _write_register(registration: Registration) -> Struct:
    if len(registration.tunnel_id) != ID_SIZE or len(registration.client_id) != ID_SIZE:
        raise LocalProtocolError("an agent registers with ids of 16 bytes")
    client = Struct(pointers=(registration.client_id, registration.features, registration.version, registration.arch))
    flags = (1 if registration.replace_existing else 0) | (registration.previous_attempts & 0xFF) << 16
    return Struct(
        words(registration.connection_index & 0xFF),
        (
            Struct(pointers=(registration.account, registration.secret)),
            registration.tunnel_id,
            Struct(words(flags), (client, registration.origin_ip or None)),
        ),
    )
