# SPDX-License-Identifier: Apache-2.0
"""Where `hornbeam_erlang` finds the node; set once by the worker, at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hornbeam._hooks import Hooks
from hornbeam._hub import Hub
from hornbeam._protocol import IncomingMessage
from hornbeam._slots import Slot, StreamSlot
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

    async def call_async(self, function: Atom, args: tuple[object, ...]) -> object:
        """Call from a task; as `call`. The reply to a cancelled call is dropped."""

    def start(
        self, function: Atom, args: tuple[object, ...], stream: StreamSlot | None = None
    ) -> Slot:
        """Begin a call; raises as `call`, but for what the node answers."""

    def wait(self, slot: Slot, timeout_s: float | None = None) -> object:
        """Wait for the reply to a call that was begun; for one thread.

        Raises:
            TimeoutError: it did not come in time, and may come yet.
            CallFailed, ReentrantCall: as `call`.
        """

    async def wait_async(self, slot: Slot) -> object:
        """Wait for the reply to a call that was begun; for one task."""

    def forget(self, slot: Slot) -> None:
        """Have a late reply dropped, and a stream that it opens closed."""

    def cast(self, function: Atom, args: tuple[object, ...]) -> None:
        """Call without an answer, also from a finalizer; raises what it can at once."""

    def take_item(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream; for one thread."""

    async def take_item_async(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream; for one task."""

    def close_stream(self, stream: StreamSlot) -> None:
        """Have the node stop a stream, if it has not ended yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A worker's tie to its node."""

    caller: Caller
    worker_id: int | None
    """None is the stand-in."""
    hub: Hub = field(default_factory=Hub)
    hooks: Hooks = field(default_factory=Hooks)


_installed: Bridge | None = None


def install(bridge: Bridge | None) -> None:
    """Set the bridge of this process; None takes it away."""
    global _installed
    _installed = bridge


def current() -> Bridge | None:
    """Return the bridge of this process, None outside of a worker."""
    return _installed
