# SPDX-License-Identifier: Apache-2.0
"""Where `hornbeam_erlang` finds the node; set once by the worker, at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hornbeam._terms import Atom

__all__ = ("Bridge", "CallFailed", "Caller", "current", "install")


class CallFailed(Exception):
    """The node answered a call with an error.

    Args:
        name: the error's name.
        facts: what the node says about it.
    """

    name: str
    facts: dict[object, object]

    def __init__(self, name: str, facts: dict[object, object]) -> None:
        super().__init__(name, facts)
        self.name = name
        self.facts = facts


class Caller(Protocol):
    """What can call the node."""

    @property
    def is_closed(self) -> bool:
        """Whether calls can't be made any more."""

    def call(self, function: Atom, args: tuple[object, ...]) -> object:
        """Call a service and wait for the reply; from any thread.

        Raises:
            EncodeError: an argument has no Erlang form.
            CallFailed: the node answered with an error.
            BridgeClosed: this process is a fork of the worker.
            ReentrantCall: the thread is in the midst of another call.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A worker's tie to its node."""

    caller: Caller
    worker_id: int


_installed: Bridge | None = None


def install(bridge: Bridge | None) -> None:
    """Set the bridge of this process; None takes it away."""
    global _installed
    _installed = bridge


def current() -> Bridge | None:
    """Return the bridge of this process, None outside of a worker."""
    return _installed
