# SPDX-License-Identifier: Apache-2.0
"""The exceptions that applications meet when they call the node.

HornbeamError
  +-- BridgeClosed         no node any more, or a process forked off a worker
  +-- CallTimeout          (TimeoutError) no answer in time
  +-- EncodeError          (TypeError, ValueError) a value has no Erlang form
  +-- FunctionNotFound     (LookupError) nothing is registered under that name
  |     +-- ServiceNotFound    no service is registered under that path
  +-- NodeDown             (ConnectionError) the other Erlang node can't be reached
  +-- NotAllowed           (PermissionError) the node does not let that be called
  +-- NotAnInteger         (TypeError) a value to be counted up is no integer
  +-- ReentrantCall        (RuntimeError) a finalizer or signal handler called
  +-- RemoteError          the called function failed
  +-- ServiceDown          (ConnectionError) the service's worker died meanwhile
  +-- StateFull            the shared state has reached its bound on memory
  +-- TooManyCalls         too many calls of this worker are under way
  +-- UnknownAtom          (ValueError) the node knows no atom of that name
"""

from __future__ import annotations

from collections.abc import Iterable

from hornbeam import _terms

__all__ = (
    "BridgeClosed",
    "CallTimeout",
    "EncodeError",
    "FunctionNotFound",
    "HornbeamError",
    "NodeDown",
    "NotAllowed",
    "NotAnInteger",
    "ReentrantCall",
    "RemoteError",
    "ServiceDown",
    "ServiceNotFound",
    "StateFull",
    "TooManyCalls",
    "UnknownAtom",
)


class HornbeamError(Exception):
    """Base of everything that `hornbeam_erlang` raises on purpose."""


class BridgeClosed(HornbeamError):
    """The connection to the node is closed."""


class CallTimeout(HornbeamError, TimeoutError):
    """The answer to a call did not come in time.

    Args:
        function: what was called.
        timeout_ms: how long that was, where it is known.
    """

    function: str
    timeout_ms: int | None

    def __init__(self, function: str, timeout_ms: int | None = None) -> None:
        super().__init__(function, timeout_ms)
        self.function = function
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        waited = "in time" if self.timeout_ms is None else f"in {self.timeout_ms} ms"
        return f"{self.function} gave no answer {waited}"


class EncodeError(HornbeamError, _terms.EncodeError):
    """A key or value, or a part of it, can't cross to Erlang.

    Has the attributes `reason`, `value_type` and `path`.
    """


class TooManyCalls(HornbeamError):
    """So many calls of this worker are under way already.

    Args:
        limit: how many there may be.
    """

    limit: int

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} calls of this worker are under way already"


class FunctionNotFound(HornbeamError, LookupError):
    """The node has no function of that name.

    Args:
        function: the name that was called.
        near: names that are registered and look alike.
    """

    function: str
    near: tuple[str, ...]

    _kind = "function"

    def __init__(self, function: str, near: Iterable[str] = ()) -> None:
        self.near = tuple(near)
        super().__init__(function, self.near)
        self.function = function

    def __str__(self) -> str:
        text = f"the node has no {self._kind} {self.function!r}"

        if not self.near:
            return text

        return f"{text}; did you mean {' or '.join(map(repr, self.near))}?"


class ServiceNotFound(FunctionNotFound):
    """No service is registered under that path, on any connected node.

    Args:
        function: the path.
        near: paths that are registered and look alike.
    """

    _kind = "service"


class ServiceDown(HornbeamError, ConnectionError):
    """The worker or process that ran a service died before its answer.

    Args:
        path: of the service.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"what runs service {self.path!r} died before it answered"


class NodeDown(HornbeamError, ConnectionError):
    """Another Erlang node can't be reached.

    Args:
        node: its name.
    """

    node: str

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node

    def __str__(self) -> str:
        return f"node {self.node!r} can't be reached"


class NotAllowed(HornbeamError, PermissionError):
    """The node's option `rpc_allow` does not let the function be called.

    Args:
        function: `module:function`.
    """

    function: str

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return f"{self.function} is not among what rpc_allow lets be called"


class StateFull(HornbeamError):
    """The shared state has reached the option `state_max_memory`; nothing was set.

    Args:
        limit_bytes: the option.
    """

    limit_bytes: int

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"the shared state may take {self.limit_bytes} bytes and is full"


class UnknownAtom(HornbeamError, ValueError):
    """The node makes no atoms of Python's text, and has none of that name yet.

    Args:
        name: of the atom.
    """

    name: str

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"the node knows no atom {self.name!r}; atoms are not made from Python: "
            "load the Erlang module that has it, or send a str"
        )


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
    """What was called failed.

    Args:
        function: the name that was called.
        reason: an Erlang reason as text, or the text of a Python exception.
        stack: the Erlang stack, or the Python traceback, where there is one.
        error_class: `error`, `exit` or `throw`; of a Python exception its type.
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
        kind = "" if self.error_class == "error" else f"{self.error_class}: "
        return f"{self.function} failed: {kind}{self.reason}"
