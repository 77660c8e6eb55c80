# SPDX-License-Identifier: Apache-2.0
"""Erlang functions: those that are registered by name, and those of connected nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hornbeam._terms import Atom
from hornbeam_erlang import _requests
from hornbeam_erlang._client import ask, send

__all__ = (
    "call",
    "cast",
    "connect",
    "node",
    "nodes",
    "ping",
    "rpc_call",
    "rpc_cast",
)


def call(name: str, *args: object, timeout: float | None = 5.0) -> Any:
    """Call an Erlang function that is registered under a name.

    Calls run side by side, each in a process of its own.

    Args:
        name: as `hornbeam:register_function` has it.
        args: its arguments.
        timeout: seconds until the function is killed; None waits for ever.

    Returns:
        What the function returns.

    Raises:
        FunctionNotFound: (a LookupError) there is none; it lists similar names.
        CallTimeout: (a TimeoutError) it took too long.
        RemoteError: it failed; with class, reason and stack.
        EncodeError: an argument can't cross.
        UnknownAtom: an argument has an atom that the node does not know.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.call(name, args, timeout))


def cast(name: str, *args: object) -> None:
    """Call an Erlang function that is registered, and don't wait.

    What goes wrong with it shows in the node's log alone.

    Raises:
        EncodeError: an argument can't cross.
        HornbeamError: the node can't be asked.
    """
    send(_requests.cast(name, args))


def rpc_call(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object] = (),
    timeout_ms: int | None = 5000,
) -> Any:
    """Call a function of a connected node.

    Args:
        node, module, function: their names.
        args: its arguments.
        timeout_ms: milliseconds until it is given up; None waits for ever.

    Returns:
        What the function returns.

    Raises:
        NodeDown: (a ConnectionError) the node can't be reached.
        CallTimeout: (a TimeoutError) it took too long.
        RemoteError: it failed, or there is no such function.
        NotAllowed: (a PermissionError) the option `rpc_allow` forbids it.
        UnknownAtom: this node knows no atom of one of the names, or of an argument.
        EncodeError: an argument can't cross.
        HornbeamError: the node can't be asked.
    """
    return ask(_requests.rpc_call(node, module, function, args, timeout_ms))


def rpc_cast(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object] = (),
) -> None:
    """Call a function of a connected node, and don't wait for what becomes of it.

    Raises:
        NotAllowed, UnknownAtom, EncodeError, HornbeamError: as `rpc_call`.
    """
    ask(_requests.rpc_cast(node, module, function, args))


def nodes() -> list[str]:
    """Return the names of the nodes that this one is connected to."""
    return ask(_requests.nodes())


def node() -> str:
    """Return the name of this node; `nonode@nohost` if it is not distributed."""
    return ask(_requests.node())


def ping(node: str | Atom) -> bool:
    """Tell whether a node can be reached; connects to it. A node reaches itself.

    Raises:
        UnknownAtom: this node does not know the name, and it is not `name@host`, or
            there have been too many new ones.
    """
    return ask(_requests.ping(node))


def connect(node: str | Atom) -> bool:
    """Connect to a node, and tell whether that has worked.

    The node's name need not be known to this one, other than that of `rpc_call`.

    Raises:
        UnknownAtom: as `ping`.
    """
    return ask(_requests.connect(node))
