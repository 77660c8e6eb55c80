# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the two pipes: batches out, batches in.

Who writes. The event loop's thread puts messages into the outbox, which leaves as one
packet at the end of the turn, or at once behind a large part of a body. A call is
written at once by its thread, behind what is in the outbox.

Who reads. The event loop, or a thread that waits for the reply to its call: whoever has
the reader's role, see `_reader_role`. What was read is sorted by `_sorter`. A task that
waits leaves the reading to others: to a thread that has the role, or the event loop.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from threading import get_ident
from typing import Final, Protocol

from hornbeam._arrivals import Arrivals
from hornbeam._errors import ReentrantCall
from hornbeam._leaving import (
    die_of,
    leave_fork,
    leave_in_disorder,
    leave_without_node,
)
from hornbeam._pacer import PACED_PART_BYTES, Pacer
from hornbeam._protocol import IncomingMessage, ProtocolError
from hornbeam._reader_role import ReaderRole, Scheduler, milliseconds_until
from hornbeam._slots import Slot
from hornbeam._sorter import Sorter
from hornbeam._terms import Atom
from hornbeam._writer import MAX_BATCH_BYTES, PacketWriter

__all__ = ("Pipes", "Receiver")

LARGE_PART_BYTES: Final = MAX_BATCH_BYTES // 2
"""Of a message that hardly shares its packet with others."""


class Receiver(Protocol):
    """The event loop's side of a channel."""

    def handle(self, message: IncomingMessage) -> None:
        """Take one message of the node; not a reply.

        Raises:
            ProtocolError: the node may not send it.
        """

    def is_output_expected(self) -> bool:
        """Say whether what was just handled has tasks run in the next turn.

        If so, what they send can leave at the end of that turn.
        """


class Pipes:
    """Messages over a pair of pipes, and who reads them.

    Args:
        read_descriptor: non-blocking, from the node.
        write_descriptor: non-blocking, to the node.
    """

    __slots__ = (
        "_call_ids",
        "_drain_scheduled",
        "_flush_scheduled",
        "_inbox",
        "_put",
        "_read_poll",
        "_receiver",
        "_role",
        "_scheduler",
        "_slots",
        "_sorter",
        "_streams",
        "_watch_poll",
        "_writer",
        "arrivals",
        "loop_thread",
        "pacer",
        "rounds",
    )

    loop_thread: int
    """The event loop's thread; 0 before there is one."""

    arrivals: Arrivals
    """What was read of requests that have not begun."""

    pacer: Pacer
    """How much of bodies leaves in a turn; parts are posted while its budget lasts."""

    rounds: int
    """How often the event loop has come round to its messages."""

    def __init__(self, read_descriptor: int, write_descriptor: int) -> None:
        self.pacer = Pacer(self._schedule_renewal)
        self._writer = PacketWriter(
            write_descriptor, leave_without_node, self.pacer.charge
        )
        self._put = self._writer.outbox.append
        self._role = ReaderRole(read_descriptor, self._on_readable)
        self._sorter = Sorter(read_descriptor, self._role, self._send_later)
        # The sorter's own: always the same, and a look-up less.
        self._inbox = self._sorter.inbox
        self._slots = self._sorter.slots
        self._streams = self._sorter.streams
        self.arrivals = self._sorter.arrivals
        self._read_poll = select.poll()
        self._read_poll.register(read_descriptor, select.POLLIN)
        # One for each thread: a poll object is for one at a time.
        self._watch_poll = select.poll()
        self._watch_poll.register(read_descriptor, select.POLLIN)
        self.rounds = 0
        self._call_ids = count(1)
        self._scheduler: Scheduler | None = None
        self._receiver: Receiver | None = None
        self.loop_thread = 0
        self._flush_scheduled = False
        self._drain_scheduled = False

    @property
    def is_closed(self) -> bool:
        """Whether calls can't be made any more."""
        return self._sorter.is_closed

    def take_directly(
        self, head: Atom, handler: Callable[[IncomingMessage], None]
    ) -> None:
        """Have messages of that head handled as they are read, by whoever reads.

        The handler must not wait and not call; it may send.
        """
        self._sorter.direct[head] = handler

    def close_in_forks(self) -> None:
        """Have forks of this process leave the pipes alone."""
        os.register_at_fork(after_in_child=self._abandon)

    # The event loop.

    def receive_first(self) -> IncomingMessage:
        """Wait for the node's first message; before there is an event loop."""
        self._role.take_for_loop(get_ident())

        try:
            while not self._inbox:
                self._read_poll.poll()
                self._sorter.read()
        finally:
            self._role.give_up()

        return self._inbox.popleft()

    def attach(self, scheduler: Scheduler, receiver: Receiver) -> None:
        """Have the event loop of this thread take the node's messages from now on."""
        self._scheduler = scheduler
        self._receiver = receiver
        self.loop_thread = get_ident()
        self._role.watch(scheduler)
        self._schedule_drain()

    def detach(self) -> None:
        """Let go of the event loop, which is about to end; calls still work."""
        self.flush()
        self._role.unwatch()
        self._scheduler = None

    def post(self, encoded: bytes) -> None:
        """Send a message at the end of this turn; only from the event loop's thread."""
        self._put(encoded)

        if not self._flush_scheduled and self._scheduler is not None:
            self._flush_scheduled = True
            self._scheduler.call_soon(self.flush)

    def post_part(self, encoded: bytes) -> None:
        """Send a part of a body as `post` does, or at once where it is large.

        A thousand tasks that send in the same turn do not fill the memory with what is
        then all written in one go, and the node begins with the first ones meanwhile.
        """
        size = len(encoded)
        self.post(encoded)

        if size < PACED_PART_BYTES:
            return

        self.pacer.left_bytes -= size

        if size >= LARGE_PART_BYTES:
            # In the midst of a packet it leaves at the end of the turn.
            with suppress(ReentrantCall):
                self.flush()

    def _schedule_renewal(self) -> None:
        if self._scheduler is not None:
            self._scheduler.call_soon(self._renew)

    def _renew(self) -> None:
        """Send what was posted in this turn, and let parts that wait come after it."""
        self.flush()
        self.pacer.renew()

    def flush(self) -> None:
        """Send what is in the outbox now."""
        self._flush_scheduled = False

        if self._sorter.is_closed:
            leave_fork()

        if self._writer.outbox:
            self._writer.write()

    def send(self, encoded: bytes) -> None:
        """Send a message soon; from any thread, a finalizer as well."""
        try:
            self._transmit(encoded)
        except ReentrantCall:
            self._send_later(encoded)

    def send_all(self, messages: Sequence[bytes]) -> None:
        """Send messages at once, as one packet; from a thread, not the event loop's."""
        *others, last = messages
        # The list's own operations are atomic.
        self._writer.outbox.extend(others)
        self.send(last)

    def _transmit(self, encoded: bytes) -> None:
        """Send at the end of this turn of the event loop, from elsewhere at once."""
        if get_ident() == self.loop_thread and self._scheduler is not None:
            self.post(encoded)
        else:
            self._writer.write(encoded)

    def _send_later(self, encoded: bytes) -> None:
        """Send with the next packet, where this thread is in the midst of one."""
        self._writer.outbox.append(encoded)

        if self._scheduler is not None:
            self._scheduler.call_soon_threadsafe(self.flush)

    # In place of an event loop that is late; by one other thread.

    def is_loop_wanted(self) -> bool:
        """Tell whether there is something for the event loop to read, begin or send."""
        if self._scheduler is None:
            return False

        if self._inbox or self._writer.outbox or self.arrivals:
            return True

        return bool(self._watch_poll.poll(0))

    def read_for_loop(self) -> int:
        """Read what the event loop does not, and send what it would send.

        Returns how many bytes were read: 0 also where another thread does that already.
        """
        read_bytes = 0

        if self._role.take_in_place_of_loop():
            try:
                if self._watch_poll.poll(0):
                    read_bytes = self._sorter.read()
            finally:
                self._role.give_up()

        self._write_outbox()

        if self._inbox:
            self._schedule_drain()

        return read_bytes

    def _on_readable(self) -> None:
        if not self._role.take_for_loop(get_ident()):
            return

        try:
            self._sorter.read()
        finally:
            self._role.give_up()

        self._drain()

    def _drain(self) -> None:
        """Handle what is in the inbox, and send what came of it.

        Handling a message may run code of the application, which may call the node,
        which may fill the inbox again, to be looked into in a later turn: so other
        tasks run in between.
        """
        receiver, scheduler = self._receiver, self._scheduler
        self._drain_scheduled = False
        self.rounds += 1
        inbox = self._inbox

        if receiver is None or scheduler is None:
            return

        self.pacer.begin_turn()
        # What is posted meanwhile leaves below.
        self._flush_scheduled = True

        try:
            for _ in range(len(inbox)):
                receiver.handle(inbox.popleft())
        except ProtocolError as exc:
            die_of(exc)
        except Exception:
            leave_in_disorder()

        if receiver.is_output_expected():
            # Behind the tasks' first steps, which are in the loop's queue already.
            scheduler.call_soon(self.flush)
        else:
            self.flush()

    def _schedule_drain(self) -> None:
        """Have the event loop look into the inbox; from any thread."""
        scheduler = self._scheduler

        if scheduler is None or self._drain_scheduled:
            return

        self._drain_scheduled = True

        if get_ident() == self.loop_thread:
            scheduler.call_soon(self._drain)
        else:
            scheduler.call_soon_threadsafe(self._drain)

    # Waiting for what somebody reads.

    def _wait_for(self, slot: Slot, deadline: float | None = None) -> None:
        """Read until the reply is there, or sleep until it is or the role is free."""
        self._write_outbox()

        if not self._role.take_or_sleep(slot, deadline):
            return

        try:
            while not slot.done:
                if deadline is None:
                    self._read_poll.poll()
                elif not self._read_poll.poll(milliseconds_until(deadline)):
                    return

                self._sorter.read()
                self._write_outbox()

                if self._inbox:
                    self._schedule_drain()
        finally:
            self._role.give_up()

    def _write_outbox(self) -> None:
        """Let out what the event loop would send, if it is its thread that waits."""
        if self._writer.outbox:
            self._writer.write()

    # Fork.

    def _abandon(self) -> None:
        """In a child that was forked: the pipes are the parent's."""
        if self._sorter.is_closed:
            return

        # A thread that is not in the child may have held it.
        self._role.reset()
        self._sorter.close()
        self._writer.close()
