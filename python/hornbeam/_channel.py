# SPDX-License-Identifier: Apache-2.0
"""Calls of the node, and streams of items, that threads and tasks wait for.

`_pipes` has the reading and writing. A thread that waits may read; a task leaves that
to others: to a thread that waits, or the event loop.
"""

from __future__ import annotations

import time
from threading import get_ident

from hornbeam import _protocol as protocol
from hornbeam._bridge import CallFailed
from hornbeam._errors import BridgeClosed, ReentrantCall
from hornbeam._leaving import die_of
from hornbeam._loops import create_waiter
from hornbeam._pipes import Pipes
from hornbeam._protocol import IncomingMessage, ProtocolError
from hornbeam._slots import Slot, StreamSlot
from hornbeam._sorter import STREAM_CANCEL
from hornbeam._terms import Atom

__all__ = ("Channel",)


class Channel(Pipes):
    """Messages and calls over a pair of pipes.

    Args:
        read_descriptor: non-blocking, from the node.
        write_descriptor: non-blocking, to the node.
    """

    __slots__ = ()

    def call(self, function: Atom, args: tuple[object, ...]) -> object:
        """Call a service of the node and wait for the reply; from any thread.

        Raises:
            EncodeError: an argument has no Erlang form.
            CallFailed: the node answered with an error.
            BridgeClosed: this process is a fork of the worker.
            ReentrantCall: the thread is in the midst of another call.
        """
        slot = self._create_slot(None)

        try:
            self._writer.write(self._encode_call(slot, function, args))

            while not slot.done:
                self._wait_for(slot)
        except ReentrantCall:
            self._slots.pop(slot.call_id, None)
            raise

        return _outcome_of(slot.reply)

    async def call_async(self, function: Atom, args: tuple[object, ...]) -> object:
        """Call a service of the node from a task; as `call` in all else.

        The reply to a call that was cancelled is dropped.
        """
        slot = self.start(function, args)

        try:
            await self._wait_in_task(slot)
        except BaseException:
            self.forget(slot)
            raise

        return _outcome_of(slot.reply)

    def start(
        self, function: Atom, args: tuple[object, ...], stream: StreamSlot | None = None
    ) -> Slot:
        """Begin a call; the slot is for one of the methods below.

        Raises:
            EncodeError, BridgeClosed, ReentrantCall: as `call`.
        """
        slot = self._create_slot(stream)

        try:
            self._transmit(self._encode_call(slot, function, args))
        except ReentrantCall:
            self._slots.pop(slot.call_id, None)
            raise

        return slot

    def wait(self, slot: Slot, timeout_s: float | None = None) -> object:
        """Wait for the reply to a call that was begun; for one thread.

        Raises:
            TimeoutError: it did not come in time, and may come yet.
            CallFailed, ReentrantCall: as `call`.
        """
        if timeout_s is None:
            while not slot.done:
                self._wait_for(slot)
        else:
            deadline = time.monotonic() + timeout_s

            while not slot.done:
                if time.monotonic() >= deadline:
                    self._role.hand_on()
                    raise TimeoutError

                self._wait_for(slot, deadline)

        return _outcome_of(slot.reply)

    async def wait_async(self, slot: Slot) -> object:
        """Wait for the reply to a call that was begun; for one task.

        Raises:
            CallFailed: as `call`.
        """
        await self._wait_in_task(slot)
        return _outcome_of(slot.reply)

    def forget(self, slot: Slot) -> None:
        """Have a late reply dropped, and a stream that it opens closed."""
        if slot.stream is None:
            self._slots.pop(slot.call_id, None)
        else:
            self.close_stream(slot.stream)

    def cast(self, function: Atom, args: tuple[object, ...]) -> None:
        """Call a service of the node without an answer; never waits for the node.

        Raises:
            EncodeError, BridgeClosed: as `call`.
        """
        self._check_open()
        self.send(protocol.cast(function, args))

    # Streams of items.

    def take_item(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream; for one thread.

        Raises:
            ReentrantCall: as `call`.
        """
        while not stream.done:
            self._wait_for(stream)

        return self._pop_item(stream)

    async def take_item_async(self, stream: StreamSlot) -> IncomingMessage:
        """Wait for the next message of a stream; for one task."""
        if not stream.done:
            await self._wait_in_task(stream)

        return self._pop_item(stream)

    def close_stream(self, stream: StreamSlot) -> None:
        """Have the node stop, if it has not ended yet; also from a finalizer."""
        if stream.is_closed:
            return

        stream.is_closed = True
        stream_id = stream.stream_id

        # Otherwise its id is still to come, or it has ended.
        if stream_id is not None and stream_id in self._streams:
            self._streams.pop(stream_id, None)
            self.send(protocol.cast(STREAM_CANCEL, (stream_id,)))

    def _pop_item(self, stream: StreamSlot) -> IncomingMessage:
        with self._role.mutex:
            message = stream.messages.popleft()
            stream.done = bool(stream.messages)
            return message

    # What calls are made of.

    def _check_open(self) -> None:
        if self.is_closed:
            raise BridgeClosed(
                "this process is a fork of a Hornbeam worker; only the worker itself "
                "can call the node"
            )

    def _create_slot(self, stream: StreamSlot | None) -> Slot:
        self._check_open()

        if self._role.holder == get_ident():
            raise ReentrantCall

        return Slot(next(self._call_ids), stream)

    def _encode_call(
        self, slot: Slot, function: Atom, args: tuple[object, ...]
    ) -> bytes:
        encoded = protocol.call(slot.call_id, function, args)
        self._slots[slot.call_id] = slot
        return encoded

    async def _wait_in_task(self, slot: Slot) -> None:
        waiter = create_waiter()

        with self._role.mutex:
            if slot.done:
                return

            slot.waiter = waiter

        try:
            await waiter.wait()
        finally:
            slot.waiter = None


def _outcome_of(reply: IncomingMessage) -> object:
    _, _, outcome, value = reply

    if outcome is protocol.OK:
        return value

    raise _parse_failure(outcome, value)


def _parse_failure(outcome: object, value: object) -> CallFailed:
    match value:
        case (Atom(name=name), dict() as facts) if outcome is protocol.ERROR:
            return CallFailed(name, facts)

    die_of(
        ProtocolError(
            "a reply is ok, or error with a name and facts", repr((outcome, value))
        )
    )
