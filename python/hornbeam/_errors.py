# SPDX-License-Identifier: Apache-2.0
"""The exceptions that applications meet when they call the node.

HornbeamError
  +-- BridgeClosed       no node any more, or a process forked off a worker
  +-- CallTimeout        (TimeoutError) no answer in time
  +-- EncodeError        (TypeError, ValueError) a value has no Erlang form
  +-- FunctionNotFound   (LookupError) nothing is registered under that name
  +-- NodeDown           (ConnectionError) the other Erlang node can't be reached
  +-- NotAnInteger       (TypeError) a value to be counted up is no integer
  +-- ReentrantCall      (RuntimeError) a finalizer or signal handler called
  +-- RemoteError        the called function failed
"""

from __future__ import annotations

from hornbeam import _terms

__all__ = (
    "BridgeClosed",
    "CallTimeout",
    "EncodeError",
    "FunctionNotFound",
    "HornbeamError",
    "NodeDown",
    "NotAnInteger",
    "ReentrantCall",
    "RemoteError",
)


class HornbeamError(Exception):
    """Base of everything that `hornbeam_erlang` raises on purpose."""


class BridgeClosed(HornbeamError):
    """The connection to the node is closed."""


class CallTimeout(HornbeamError, TimeoutError):
    """The answer to a call did not come in time."""


class EncodeError(HornbeamError, _terms.EncodeError):
    """A key or value, or a part of it, can't cross to Erlang.

    Has the attributes `reason`, `value_type` and `path`.
    """


class FunctionNotFound(HornbeamError, LookupError):
    """The node has no function of that name.

    Args:
        function: the name that was called.
    """

    function: str

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return f"the node has no function {self.function!r}"


class NodeDown(HornbeamError, ConnectionError):
    """Another Erlang node can't be reached."""


class NotAnInteger(HornbeamError, TypeError):
    """The value under a key is no integer, so it can't be counted up or down.

    Args:
        key: the key.
    """

    key: object

    def __init__(self, key: object) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"the value under key {self.key!r} is not an integer"


class ReentrantCall(HornbeamError, RuntimeError):
    """A finalizer or signal handler called the node in the midst of another call.

    The interrupted call holds the pipe, and can't go on before this one returns.
    """

    def __init__(self) -> None:
        super().__init__(
            "called from a finalizer or signal handler that interrupted another call "
            "of the same thread; call from ordinary code, or from another thread"
        )


class RemoteError(HornbeamError):
    """What was called on the node failed.

    Args:
        function: the name that was called.
        reason: the name of the failure.
        stack: the Erlang stack as text, where there is one.
        error_class: `error`, `exit` or `throw`.
    """

    function: str
    reason: str
    stack: str
    error_class: str

    def __init__(
        self, function: str, reason: str, stack: str = "", error_class: str = "error"
    ) -> None:
        super().__init__(function, reason, stack, error_class)
        self.function = function
        self.reason = reason
        self.stack = stack
        self.error_class = error_class

    def __str__(self) -> str:
        return f"{self.function} failed: {self.reason}"
