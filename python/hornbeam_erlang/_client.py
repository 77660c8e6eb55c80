# SPDX-License-Identifier: Apache-2.0
"""One call path for all services: to the node, or to the stand-in for it."""

from __future__ import annotations

from hornbeam import _bridge, _terms
from hornbeam._bridge import CallFailed
from hornbeam._errors import (
    EncodeError,
    FunctionNotFound,
    NotAnInteger,
    RemoteError,
)
from hornbeam._etf import encode
from hornbeam_erlang import _local

__all__ = ("call", "encode_value", "under_hornbeam", "worker_id")

# Where the path of an encoding error begins for the arguments of a call.
_ARGUMENTS_PATH = "value[3]"


def under_hornbeam() -> bool:
    """Tell whether this code runs in a Hornbeam worker.

    Elsewhere the functions of this package work on an in-process stand-in. In a process
    that was forked off a worker the answer is False, and they raise `BridgeClosed`.
    """
    bridge = _bridge.current()
    return bridge is not None and not bridge.caller.is_closed


def worker_id() -> int | None:
    """Return the number of this worker, counted from 1; None outside of Hornbeam."""
    bridge = _bridge.current()
    return None if bridge is None else bridge.worker_id


def call(function: _terms.Atom, args: tuple[object, ...]) -> object:
    """Call a service of the node; the first argument is what errors name as its key.

    Raises:
        EncodeError: an argument can't cross.
        FunctionNotFound: the node does not know the function.
        NotAnInteger: the value under the key is none.
        RemoteError: it failed in another way.
        BridgeClosed, ReentrantCall: the call can't be made from here.
    """
    bridge = _bridge.current()
    caller = _local.node if bridge is None else bridge.caller

    try:
        return caller.call(function, args)
    except CallFailed as exc:
        raise _translate(function.name, args, exc) from None
    except _terms.EncodeError as exc:
        raise _rename(exc) from None


def encode_value(value: object) -> bytes:
    """Encode a value that the node keeps or hands on as it is.

    Raises:
        EncodeError: it can't cross.
    """
    try:
        return encode(value)
    except _terms.EncodeError as exc:
        raise EncodeError(exc.reason, exc.value_type, exc.path) from None


def _rename(error: _terms.EncodeError) -> EncodeError:
    """Let the path begin at the key, not at a message that the caller never saw."""
    path = error.path

    if path.startswith(f"{_ARGUMENTS_PATH}[0]"):
        path = "key" + path.removeprefix(f"{_ARGUMENTS_PATH}[0]")
    elif path.startswith(_ARGUMENTS_PATH):
        path = "arguments" + path.removeprefix(_ARGUMENTS_PATH)

    return EncodeError(error.reason, error.value_type, path)


def _translate(
    function: str, args: tuple[object, ...], failure: CallFailed
) -> FunctionNotFound | NotAnInteger | RemoteError:
    if failure.name == "not_an_integer":
        return NotAnInteger(args[0])

    if failure.name == "unknown_function":
        return FunctionNotFound(function)

    return RemoteError(function, failure.name)
