# SPDX-License-Identifier: Apache-2.0
"""One way for all requests: to the node, or to the stand-in for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from hornbeam import _bridge, _terms
from hornbeam._bridge import Bridge, CallFailed
from hornbeam._errors import (
    CallTimeout,
    EncodeError,
    FunctionNotFound,
    HornbeamError,
    NodeDown,
    NotAllowed,
    NotAnInteger,
    RemoteError,
    ServiceDown,
    ServiceNotFound,
    StateFull,
    TooManyCalls,
    UnknownAtom,
)
from hornbeam._etf import encode
from hornbeam._slots import Slot, StreamSlot
from hornbeam_erlang import _local

__all__ = (
    "Request",
    "ask",
    "ask_async",
    "begin",
    "bridge",
    "call",
    "encode_value",
    "send",
    "translate",
    "under_hornbeam",
    "worker_id",
)

_Result = TypeVar("_Result")

# Where the path of an encoding error begins for the arguments of a call or cast.
_ARGUMENTS_PATHS: Final = ("value[3]", "value[2]")


def _same(value: object) -> Any:
    return value


class Request(Generic[_Result]):
    """What a function of this package asks of the node.

    Args:
        function, args: of the protocol.
        subject: what errors are about: a key, or a name.
        parse: makes the function's result of the reply.
    """

    __slots__ = ("args", "function", "parse", "subject")

    def __init__(
        self,
        function: _terms.Atom,
        args: tuple[object, ...],
        subject: object = None,
        parse: Callable[[Any], _Result] = _same,
    ) -> None:
        self.function = function
        self.args = args
        self.subject = subject
        self.parse = parse


def under_hornbeam() -> bool:
    """Tell whether this code runs in a Hornbeam worker.

    Elsewhere the functions of this package work on an in-process stand-in. In a process
    that was forked off a worker the answer is False, and they raise `BridgeClosed`.
    """
    current = _bridge.current()
    return current is not None and not current.caller.is_closed


def worker_id() -> int | None:
    """Return the number of this worker, counted from 1; None outside of Hornbeam."""
    current = _bridge.current()
    return None if current is None else current.worker_id


def bridge() -> Bridge:
    """Return the tie to the node, or to the stand-in."""
    current = _bridge.current()
    return _local.node.bridge if current is None else current


def ask(request: Request[_Result]) -> _Result:
    """Make a request and wait for its result.

    Raises:
        HornbeamError: it failed, or can't be made from here.
    """
    current = _bridge.current()
    caller = _local.node if current is None else current.caller

    try:
        value = caller.call(request.function, request.args)
    except (CallFailed, _terms.EncodeError) as exc:
        raise translate(request, exc) from None

    return request.parse(value)


async def ask_async(request: Request[_Result]) -> _Result:
    """Make a request from a task; as `ask`."""
    try:
        value = await bridge().caller.call_async(request.function, request.args)
    except (CallFailed, _terms.EncodeError) as exc:
        raise translate(request, exc) from None

    return request.parse(value)


def begin(request: Request[Any], stream: StreamSlot | None = None) -> Slot:
    """Make a request and leave the waiting to others; raises as `ask`."""
    try:
        return bridge().caller.start(request.function, request.args, stream)
    except (CallFailed, _terms.EncodeError) as exc:
        raise translate(request, exc) from None


def send(request: Request[Any]) -> None:
    """Make a request that has no result; raises what can be known at once."""
    try:
        bridge().caller.cast(request.function, request.args)
    except (CallFailed, _terms.EncodeError) as exc:
        raise translate(request, exc) from None


def call(function: _terms.Atom, args: tuple[object, ...]) -> object:
    """Call a service of the node; the first argument is what errors name as its key."""
    return ask(Request(function, args, args[0] if args else None))


def encode_value(value: object, name: str = "value") -> bytes:
    """Encode a value that the node keeps or hands on as it is.

    Args:
        value: what to encode.
        name: where the path of an error begins.

    Raises:
        EncodeError: it can't cross.
    """
    try:
        return encode(value)
    except _terms.EncodeError as exc:
        path = name + exc.path.removeprefix("value")
        raise EncodeError(exc.reason, exc.value_type, path) from None


def _rename(error: _terms.EncodeError) -> EncodeError:
    """Let the path begin at the key, not at a message that the caller never saw."""
    path = error.path

    for arguments in _ARGUMENTS_PATHS:
        if path.startswith(f"{arguments}[0]"):
            path = "key" + path.removeprefix(f"{arguments}[0]")
        elif path.startswith(arguments):
            path = "arguments" + path.removeprefix(arguments)

    return EncodeError(error.reason, error.value_type, path)


# Failures.


def translate(
    request: Request[Any], failure: CallFailed | _terms.EncodeError
) -> HornbeamError:
    """Make the exception that callers of this package know."""
    if isinstance(failure, _terms.EncodeError):
        return _rename(failure)

    make = _FAILURES.get(failure.name)
    subject = request.subject
    name = subject if isinstance(subject, str) else request.function.name

    if failure.name == "not_an_integer":
        return NotAnInteger(subject)

    if make is None:
        return RemoteError(request.function.name, failure.name)

    facts = {
        fact.name: value.decode(errors="replace") if type(value) is bytes else value
        for fact, value in failure.facts.items()
        if isinstance(fact, _terms.Atom)
    }
    facts["function"] = request.function.name
    return make(name, facts)


def _near(facts: dict[str, Any]) -> list[str]:
    return [
        name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        for name in cast("list[object]", facts.get("near") or [])
    ]


def _text(fact: object) -> str:
    return fact if isinstance(fact, str) else str(fact)


_FAILURES: Final[dict[str, Callable[[str, dict[str, Any]], HornbeamError]]] = {
    "timeout": lambda name, facts: CallTimeout(name, facts.get("timeout_ms")),
    "function_not_found": lambda name, facts: FunctionNotFound(name, _near(facts)),
    "unknown_function": lambda name, facts: FunctionNotFound(facts["function"]),
    "service_not_found": lambda name, facts: ServiceNotFound(name, _near(facts)),
    "service_down": lambda name, facts: ServiceDown(name),
    "remote_error": lambda name, facts: RemoteError(
        name,
        _text(facts.get("reason", "")),
        _text(facts.get("stack", "")),
        _text(facts.get("class", "error")),
    ),
    "node_down": lambda name, facts: NodeDown(_text(facts.get("node", name))),
    "not_allowed": lambda name, facts: NotAllowed(name),
    "unknown_atom": lambda name, facts: UnknownAtom(_text(facts.get("text", "?"))),
    "state_full": lambda name, facts: StateFull(facts["limit_bytes"]),
    "too_many_calls": lambda name, facts: TooManyCalls(facts["limit"]),
}
