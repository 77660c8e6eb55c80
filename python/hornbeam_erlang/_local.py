# SPDX-License-Identifier: Apache-2.0
"""The stand-in for the node where there is none: tests, a REPL, another server.

It lives in this process and forgets all with it. Values are kept as encoded and keys
are told apart as in Erlang, so that what can't cross fails alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, cast

from hornbeam import _protocol as protocol
from hornbeam._bridge import Bridge, CallFailed
from hornbeam._hooks import Hooks
from hornbeam._hub import Hub
from hornbeam._loops import create_waiter
from hornbeam._protocol import IncomingMessage
from hornbeam._slots import Slot, StreamSlot
from hornbeam._terms import Atom
from hornbeam_erlang._local_state import LocalState
from hornbeam_erlang._local_work import NODE_NAME, LocalWork

__all__ = ("LocalNode", "node")


class LocalNode:
    """Answers the calls of `docs/protocol.md`; for any number of threads.

    Args:
        clock: seconds that only go forward.
    """

    is_closed: Final = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._skipped_s = 0.0
        self._call_ids = count(1)
        self.hub = Hub()
        self.hooks = Hooks()
        self.state = LocalState(self._now)
        self.work = LocalWork(self.hooks)
        self.bridge = Bridge(
            caller=self, worker_id=None, hub=self.hub, hooks=self.hooks
        )
        self._functions = self._list_functions()
        # Those that may wait.
        self._beginnings: Mapping[str, Callable[..., None]] = {
            "call": self.work.begin_call,
            "rpc_call": self.work.begin_rpc,
            "execute": self.work.begin_execute,
            "stream": self.work.begin_stream,
        }

    def _list_functions(self) -> Mapping[str, Callable[..., object]]:
        state, work = self.state, self.work
        return {
            "state_get": state.get,
            "state_set": state.set,
            "state_delete": state.delete,
            "state_incr": state.incr,
            "state_get_multi": state.get_multi,
            "state_set_multi": state.set_multi,
            "state_keys": state.keys,
            "state_add": state.add,
            "state_cas": state.cas,
            "state_pop": state.pop,
            "publish": lambda topic, message: self.hub.deliver(_text(topic), message),
            # The hub of this process knows the subscriptions and hooks already.
            "subscribe": _agree,
            "unsubscribe": _agree,
            "register_hook": _agree,
            "unregister_hook": _agree,
            "cast": lambda name, args: work.cast(_text(name), args),
            "rpc_cast": self._rpc_cast,
            "nodes": list,
            "node": lambda: NODE_NAME,
            "ping": lambda name: _text(name) == NODE_NAME,
            "connect": lambda name: _text(name) == NODE_NAME,
            "stream_credit": work.add_credit,
            "stream_cancel": work.cancel,
        }

    # For tests.

    def clear(self) -> None:
        """Forget all: state, subscriptions, functions, services."""
        self.state.clear()
        self.hub.clear()
        self.hooks.clear()
        self.work.clear()

    def advance(self, seconds: float) -> None:
        """Let time go by for what has a ttl."""
        self._skipped_s += seconds

    def _now(self) -> float:
        return self._clock() + self._skipped_s

    # Calls, as of a channel.

    def call(self, function: Atom, args: tuple[object, ...]) -> object:
        """Answer a call.

        Raises:
            EncodeError: an argument has no Erlang form.
            CallFailed: as the node would fail.
        """
        # For the error alone, which is to be the same.
        protocol.call(0, function, args)

        if function.name in self._beginnings:
            return self.wait(self.start(function, args))

        return self._answer(function, args)

    async def call_async(self, function: Atom, args: tuple[object, ...]) -> object:
        """Answer a call of a task."""
        slot = self.start(function, args)

        try:
            return await self.wait_async(slot)
        except BaseException:
            self.forget(slot)
            raise

    def start(
        self, function: Atom, args: tuple[object, ...], stream: StreamSlot | None = None
    ) -> Slot:
        """Begin a call."""
        protocol.call(0, function, args)
        slot = Slot(next(self._call_ids), stream)
        begin = self._beginnings.get(function.name)

        try:
            if begin is not None:
                begin(slot, *args)
            else:
                self.work.settle(slot, (protocol.OK, self._answer(function, args)))
        except CallFailed as exc:
            reply = (protocol.ERROR, (Atom(exc.name), exc.facts))
            self.work.settle(slot, reply)

        return slot

    def wait(self, slot: Slot, timeout_s: float | None = None) -> object:
        """Wait for the reply to a call.

        Raises:
            TimeoutError: it did not come in time.
            CallFailed: as the node would fail.
        """
        if not self.work.wait(slot, timeout_s):
            raise TimeoutError

        return _outcome_of(slot)

    async def wait_async(self, slot: Slot) -> object:
        """Wait for the reply to a call, in a task."""
        await self._wait_in_task(slot)
        return _outcome_of(slot)

    def forget(self, slot: Slot) -> None:
        """Close the stream that a call opens."""
        if slot.stream is not None:
            self.close_stream(slot.stream)

    def cast(self, function: Atom, args: tuple[object, ...]) -> None:
        """Take a call that nobody waits for."""
        protocol.cast(function, args)

        try:
            self._answer(function, args)
        except CallFailed:
            # The node writes it to its log.
            pass

    def take_item(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream."""
        self.work.wait(stream)
        return self.work.pop_item(stream)

    async def take_item_async(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream, in a task."""
        await self._wait_in_task(stream)
        return self.work.pop_item(stream)

    def close_stream(self, stream: StreamSlot) -> None:
        """End a stream."""
        if not stream.is_closed and stream.stream_id is not None:
            self.work.cancel(stream.stream_id)

        stream.is_closed = True

    async def _wait_in_task(self, slot: Slot) -> None:
        waiter = create_waiter()

        try:
            if self.work.set_waiter(slot, waiter):
                await waiter.wait()
        finally:
            slot.waiter = None

    def _answer(self, function: Atom, args: tuple[object, ...]) -> object:
        answer = self._functions.get(function.name)

        if answer is None:
            raise CallFailed("unknown_function", {})

        return answer(*args)

    def _rpc_cast(self, node: Any, module: Any, function: Any, args: bytes) -> bool:
        if _text(node) == NODE_NAME:
            self.cast(Atom("cast"), (f"{_text(module)}:{_text(function)}", args))

        return True


def _agree(name: object) -> bool:
    return True


def _text(value: object) -> str:
    """Return text that may have come as the protocol has it."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _outcome_of(slot: Slot) -> object:
    _, _, outcome, value = slot.reply

    if outcome == protocol.OK:
        return value

    name, facts = cast("tuple[Atom, dict[object, object]]", value)
    raise CallFailed(name.name, facts)


node: Final = LocalNode()
"""The one of this process."""
