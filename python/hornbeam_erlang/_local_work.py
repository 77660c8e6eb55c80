# SPDX-License-Identifier: Apache-2.0
"""What takes its time on the stand-in: functions, services and their streams.

It plays the node between the callers, which wait for slots, and the `Hooks` of this
process, which take the node's messages and send theirs.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final, cast

from hornbeam import _protocol as protocol
from hornbeam._bridge import CallFailed
from hornbeam._etf import decode, decode_packet, encode, pack_batch
from hornbeam._hook_run import describe_failure
from hornbeam._hooks import Hooks
from hornbeam._protocol import IncomingMessage
from hornbeam._slots import Slot, StreamSlot
from hornbeam._terms import Atom

__all__ = ("LocalWork", "NODE_NAME")

NODE_NAME: Final = "nonode@nohost"
"""As Erlang calls a node that is not distributed."""

_LENGTH_BYTES: Final = 4
_CALL: Final = Atom("call")
_STREAM: Final = Atom("stream")
_REMOTE_ERROR: Final = Atom("remote_error")


class LocalWork:
    """Calls that wait.

    Args:
        hooks: the services of this process.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._functions: dict[str, Callable[..., object]] = {}
        self._ids = count(1)
        self._changed = threading.Condition()
        # Runs of services by their id: who waits for the result, or the items.
        self._waiting: dict[int, Slot | StreamSlot] = {}
        self._watches: dict[int, _Watch] = {}
        hooks.attach(self._take)

    # Functions.

    def register(self, name: str, function: Callable[..., object]) -> None:
        self._functions[name] = function

    def unregister(self, name: str) -> bool:
        return self._functions.pop(name, None) is not None

    def clear(self) -> None:
        self._functions.clear()

    def begin_call(
        self, slot: Slot, name: str, args: bytes, timeout_ms: int | Atom
    ) -> None:
        self._run(slot, self._find(name), args, timeout_ms)

    def begin_rpc(
        self,
        slot: Slot,
        node: str,
        module: str,
        function: str,
        args: bytes,
        timeout_ms: int | Atom,
    ) -> None:
        if node != NODE_NAME:
            raise CallFailed("node_down", {Atom("node"): node.encode()})

        found = self._functions.get(f"{module}:{function}")

        if found is None:
            facts = {"class": "error", "reason": "undef", "stack": ""}
            raise CallFailed("remote_error", _as_facts(facts))

        self._run(slot, found, args, timeout_ms)

    def cast(self, name: str, args: bytes) -> None:
        self._run(Slot(0), self._find(name), args, protocol.INFINITY)

    def _find(self, name: str) -> Callable[..., object]:
        function = self._functions.get(name)

        if function is None:
            raise CallFailed(
                "function_not_found",
                {Atom("name"): name, Atom("near"): _near(name, self._functions)},
            )

        return function

    def _run(
        self,
        slot: Slot,
        function: Callable[..., object],
        args: bytes,
        timeout_ms: int | Atom,
    ) -> None:
        given = cast("list[object]", decode(args))

        def work() -> None:
            try:
                reply: object = (protocol.OK, encode(function(*given)))
            except BaseException as exc:
                facts = _as_facts(describe_failure(exc))
                reply = (protocol.ERROR, (_REMOTE_ERROR, facts))

            self.settle(slot, reply)

        self._limit(slot, timeout_ms)
        # Of its own, as each call is a process of its own in Erlang.
        threading.Thread(target=work, daemon=True).start()

    # Services.

    def begin_execute(
        self,
        slot: Slot,
        path: str,
        method: str | None,
        args: bytes,
        kwargs: bytes,
        timeout_ms: int | Atom,
    ) -> None:
        invoke_id = self._expect(path, slot)
        self._limit(slot, timeout_ms, lambda: self.cancel(invoke_id))
        self._invoke(invoke_id, path, method, args, kwargs, _CALL)

    def begin_stream(
        self,
        slot: Slot,
        path: str,
        method: str | None,
        args: bytes,
        kwargs: bytes,
        timeout_ms: int | Atom,
    ) -> None:
        stream = slot.stream
        assert stream is not None
        invoke_id = self._expect(path, stream)
        stream.stream_id = invoke_id
        self._watches[invoke_id] = _Watch(timeout_ms, lambda: self._expire(invoke_id))
        self.settle(slot, (protocol.OK, invoke_id))
        self._invoke(invoke_id, path, method, args, kwargs, _STREAM)

    def add_credit(self, invoke_id: int, items: int) -> None:
        watch = self._watches.get(invoke_id)

        if watch is not None:
            watch.expect(items)
            message = (protocol.INVOKE_CREDIT, invoke_id, items)
            self._hooks.handle_credit(message)

    def cancel(self, invoke_id: int) -> None:
        """End a run whose consumer has gone."""
        self._waiting.pop(invoke_id, None)
        watch = self._watches.pop(invoke_id, None)

        if watch is not None:
            watch.stop()

        self._hooks.handle_cancel((protocol.INVOKE_CANCEL, invoke_id))

    def _expect(self, path: str, slot: Slot) -> int:
        paths = self._hooks.paths()

        if path not in paths:
            raise CallFailed(
                "service_not_found",
                {Atom("path"): path, Atom("near"): _near(path, paths)},
            )

        invoke_id = next(self._ids)
        self._waiting[invoke_id] = slot
        return invoke_id

    def _invoke(
        self,
        invoke_id: int,
        path: str,
        method: str | None,
        args: bytes,
        kwargs: bytes,
        kind: Atom,
    ) -> None:
        name = None if method is None else method.encode()
        self._hooks.handle_invoke(
            (protocol.INVOKE, invoke_id, path.encode(), name, args, kwargs, kind)
        )

    def _take(self, encoded: bytes) -> None:
        """Take a message of the hooks: `produce` or `result`."""
        packet = _pack(encoded)
        (message,) = decode_packet(packet)
        head, invoke_id, *fields = cast("tuple[Any, ...]", message)
        is_item = head.name == "produce"
        waiting = self._waiting

        if is_item:
            slot = waiting.get(invoke_id)
            watch = self._watches.get(invoke_id)
        else:
            slot = waiting.pop(invoke_id, None)
            watch = self._watches.pop(invoke_id, None)

        if watch is not None:
            watch.note(is_last=not is_item)

        if isinstance(slot, StreamSlot):
            self._add(slot, _as_item(invoke_id, is_item, fields))
        elif slot is not None:
            outcome, value = fields
            is_ok = outcome == protocol.OK
            self.settle(slot, (outcome, value if is_ok else (_REMOTE_ERROR, value)))

    def _expire(self, invoke_id: int) -> None:
        watch = self._watches.get(invoke_id)
        stream = self._waiting.get(invoke_id)

        if watch is None or not isinstance(stream, StreamSlot):
            return

        self.cancel(invoke_id)
        error = (Atom("timeout"), {Atom("timeout_ms"): watch.timeout_ms})
        self._add(stream, (protocol.STREAM_ERROR, invoke_id, error))

    # Slots.

    def settle(self, slot: Slot, reply: object) -> None:
        """Give a slot its reply; the first one counts."""
        outcome, value = cast("tuple[object, object]", reply)

        with self._changed:
            if not slot.done:
                slot.reply = (protocol.REPLY, slot.call_id, outcome, value)
                slot.done = True
                self._wake(slot)

    def wait(self, slot: Slot, timeout_s: float | None = None) -> bool:
        """Wait until a slot is done, and say whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: slot.done, timeout_s)

    def set_waiter(self, slot: Slot, waiter: Any) -> bool:
        """Have a task woken when the slot is done; False if it is already."""
        with self._changed:
            slot.waiter = waiter
            return not slot.done

    def pop_item(self, stream: StreamSlot) -> IncomingMessage:
        with self._changed:
            message = stream.messages.popleft()
            stream.done = bool(stream.messages)
            return message

    def _add(self, stream: StreamSlot, message: IncomingMessage) -> None:
        with self._changed:
            stream.messages.append(message)
            stream.done = True
            self._wake(stream)

    def _wake(self, slot: Slot) -> None:
        if slot.waiter is not None:
            slot.waiter.set()

        self._changed.notify_all()

    def _limit(
        self,
        slot: Slot,
        timeout_ms: int | Atom,
        on_timeout: Callable[[], None] = lambda: None,
    ) -> None:
        if not isinstance(timeout_ms, int):
            return

        def expire() -> None:
            if not slot.done:
                on_timeout()
                facts = {Atom("timeout_ms"): timeout_ms}
                self.settle(slot, (protocol.ERROR, (Atom("timeout"), facts)))

        timer = threading.Timer(timeout_ms / 1000, expire)
        timer.daemon = True
        timer.start()


class _Watch:
    """The deadline of a stream's next item, while the consumer waits for one."""

    def __init__(self, timeout_ms: int | Atom, on_timeout: Callable[[], None]) -> None:
        self.timeout_ms = timeout_ms
        self._on_timeout = on_timeout
        self._expected = 0
        self._deadline = 0.0
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def expect(self, items: int) -> None:
        with self._lock:
            if self._expected == 0:
                self._start_over()

            self._expected += items

    def note(self, *, is_last: bool) -> None:
        """Note that an item has come, or the end."""
        with self._lock:
            self._expected = 0 if is_last else self._expected - 1
            self._start_over()

        if is_last:
            self.stop()

    def stop(self) -> None:
        with self._lock:
            self._expected = 0
            timer, self._timer = self._timer, None

        if timer is not None:
            timer.cancel()

    def _start_over(self) -> None:
        if isinstance(self.timeout_ms, int):
            self._deadline = time.monotonic() + self.timeout_ms / 1000

            if self._timer is None:
                self._schedule(self.timeout_ms / 1000)

    def _schedule(self, delay_s: float) -> None:
        self._timer = threading.Timer(delay_s, self._check)
        self._timer.daemon = True
        self._timer.start()

    def _check(self) -> None:
        with self._lock:
            self._timer = None

            if self._expected == 0:
                return

            left_s = self._deadline - time.monotonic()

            if left_s > 0:
                self._schedule(left_s)
                return

        self._on_timeout()


def _pack(encoded: bytes) -> bytes:
    """Return the packet that has only this message."""
    return pack_batch([encoded])[_LENGTH_BYTES:]


def _as_item(invoke_id: int, is_item: bool, fields: list[Any]) -> IncomingMessage:
    if is_item:
        return (protocol.ITEM, invoke_id, fields[0])

    outcome, value = fields

    if outcome == protocol.OK:
        return (protocol.STREAM_END, invoke_id)

    return (protocol.STREAM_ERROR, invoke_id, (_REMOTE_ERROR, value))


def _as_facts(facts: Mapping[str, object]) -> dict[object, object]:
    return {
        Atom(name): fact.encode("utf-8", "backslashreplace")
        if isinstance(fact, str)
        else fact
        for name, fact in facts.items()
    }


def _near(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), 3)
