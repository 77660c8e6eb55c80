# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the two pipes: batches out, batches in, and who reads when.

Who writes. The event loop's thread puts messages into the outbox, which leaves as one
packet at the end of the turn. A call is written at once by its thread, behind what is
in the outbox.

Who reads. One thread at a time has the *reader role*: the event loop, whenever there is
something to read, or a thread that waits for the reply to its call. Whoever reads puts
replies and items of streams into the slots of those who wait for them, hands what is
for the hooks over to them, and puts all else into the inbox, which only the event loop
empties, in order. A task that waits leaves the reading to others: to a thread that has
the role, or the event loop. Invariants, all kept under `_mutex`:

* `_reader` is the thread that has the role, or 0.
* A thread that finds the role taken becomes a follower: it sleeps until its reply is
  there or the role is handed to it. Who gives the role up wakes one follower; so while
  there are followers, somebody reads or is about to.
* The event loop never sleeps for the role. If a thread has it while the pipe is
  readable, the loop stops watching (`_paused`), as it would spin; who gives the role up
  has it watch again.

`_mutex` is re-entrant only to notice the one case that can't work: a finalizer or a
signal handler that calls the node while its own thread reads.
"""

from __future__ import annotations

import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from threading import get_ident
from typing import Final, NoReturn, Protocol

from hornbeam import _protocol as protocol
from hornbeam._arrivals import Arrivals
from hornbeam._errors import ReentrantCall
from hornbeam._process import leave
from hornbeam._protocol import IncomingMessage, PacketSplitter, ProtocolError
from hornbeam._slots import Slot, StreamSlot
from hornbeam._terms import Atom
from hornbeam._writer import PacketWriter

__all__ = ("Pipes", "Receiver", "die_of")

_STREAM_CANCEL: Final = Atom("stream_cancel")

EXIT_NODE_GONE: Final = 0
EXIT_PROTOCOL: Final = 70
"""EX_SOFTWARE of sysexits.h."""


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


class Scheduler(Protocol):
    """What a channel needs of the event loop."""

    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None: ...
    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, descriptor: int) -> None: ...


class Pipes:
    """Messages over a pair of pipes, and who reads them.

    Args:
        read_descriptor: non-blocking, from the node.
        write_descriptor: non-blocking, to the node.
    """

    __slots__ = (
        "_call_ids",
        "_closed",
        "_direct",
        "_drain_scheduled",
        "_flush_scheduled",
        "_followers",
        "_inbox",
        "_mutex",
        "_paused",
        "_put",
        "_read_descriptor",
        "_read_poll",
        "_reader",
        "_receiver",
        "_scheduler",
        "_slots",
        "_splitter",
        "_streams",
        "_watch_poll",
        "_writer",
        "arrivals",
        "loop_thread",
        "rounds",
    )

    loop_thread: int
    """The event loop's thread; 0 before there is one."""

    arrivals: Arrivals
    """What was read of requests that have not begun."""

    rounds: int
    """How often the event loop has come round to its messages."""

    def __init__(self, read_descriptor: int, write_descriptor: int) -> None:
        self._read_descriptor = read_descriptor
        self._writer = PacketWriter(write_descriptor, _leave_without_node)
        self._put = self._writer.outbox.append
        self._read_poll = select.poll()
        self._read_poll.register(read_descriptor, select.POLLIN)
        # One for each thread: a poll object is for one at a time.
        self._watch_poll = select.poll()
        self._watch_poll.register(read_descriptor, select.POLLIN)
        self._splitter = PacketSplitter()
        self._inbox: deque[IncomingMessage] = deque()
        self.arrivals = Arrivals()
        self.rounds = 0
        self._call_ids = count(1)
        self._slots: dict[int, Slot] = {}
        self._streams: dict[int, StreamSlot] = {}
        self._direct: dict[object, Callable[[IncomingMessage], None]] = {
            protocol.ITEM: self._deliver_item,
            protocol.STREAM_END: self._deliver_item,
            protocol.STREAM_ERROR: self._deliver_item,
        }
        self._scheduler: Scheduler | None = None
        self._receiver: Receiver | None = None
        self.loop_thread = 0
        self._flush_scheduled = False
        self._drain_scheduled = False
        self._reset_locks()
        self._closed = False

    def _reset_locks(self) -> None:
        self._mutex = threading.RLock()
        self._reader = 0
        # Ordered: who waits longest gets the role first.
        self._followers: dict[Slot, None] = {}
        self._paused = False

    @property
    def is_closed(self) -> bool:
        """Whether calls can't be made any more."""
        return self._closed

    def take_directly(
        self, head: Atom, handler: Callable[[IncomingMessage], None]
    ) -> None:
        """Have messages of that head handled as they are read, by whoever reads.

        The handler must not wait and not call; it may send.
        """
        self._direct[head] = handler

    def close_in_forks(self) -> None:
        """Have forks of this process leave the pipes alone."""
        os.register_at_fork(after_in_child=self._abandon)

    # The event loop.

    def receive_first(self) -> IncomingMessage:
        """Wait for the node's first message; before there is an event loop."""
        me = get_ident()
        self._take_role(me)

        try:
            while not self._inbox:
                self._read_poll.poll()
                self._read_and_sort()
        finally:
            self._give_up_role()

        return self._inbox.popleft()

    def attach(self, scheduler: Scheduler, receiver: Receiver) -> None:
        """Have the event loop of this thread take the node's messages from now on."""
        self._scheduler = scheduler
        self._receiver = receiver
        self.loop_thread = get_ident()
        scheduler.add_reader(self._read_descriptor, self._on_readable)
        self._schedule_drain()

    def detach(self) -> None:
        """Let go of the event loop, which is about to end; calls still work."""
        assert self._scheduler is not None
        self.flush()
        self._scheduler.remove_reader(self._read_descriptor)
        self._scheduler = None

    def post(self, encoded: bytes) -> None:
        """Send a message at the end of this turn; only from the event loop's thread."""
        self._put(encoded)

        if not self._flush_scheduled and self._scheduler is not None:
            self._flush_scheduled = True
            self._scheduler.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is in the outbox now."""
        self._flush_scheduled = False

        if self._closed:
            _leave_fork()

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
        with self._mutex:
            is_free = self._reader == 0 and self._scheduler is not None

            if is_free:
                self._reader = get_ident()

        read_bytes = 0

        if is_free:
            try:
                if self._watch_poll.poll(0):
                    read_bytes = self._read_and_sort()
            finally:
                self._give_up_role()

        self._write_outbox()

        if self._inbox:
            self._schedule_drain()

        return read_bytes

    def _on_readable(self) -> None:
        if not self._take_role(get_ident()):
            return

        try:
            self._read_and_sort()
        finally:
            self._give_up_role()

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

        # What is posted meanwhile leaves below.
        self._flush_scheduled = True

        try:
            for _ in range(len(inbox)):
                receiver.handle(inbox.popleft())
        except ProtocolError as exc:
            die_of(exc)
        except Exception:
            # A fault of ours: messages are lost, nobody could rely on this worker any
            # more.
            traceback.print_exc()
            leave(EXIT_PROTOCOL)

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
        me = get_ident()
        self._write_outbox()

        with self._mutex:
            if slot.done:
                return

            if self._reader == 0:
                self._reader = me
                wakeup = None
            elif self._reader == me:
                raise ReentrantCall
            else:
                wakeup = slot.wakeup = threading.Lock()
                wakeup.acquire()
                self._followers[slot] = None

        if wakeup is not None:
            self._sleep(slot, wakeup, deadline)
            return

        try:
            while not slot.done:
                if deadline is None:
                    self._read_poll.poll()
                elif not self._read_poll.poll(_milliseconds_until(deadline)):
                    return

                self._read_and_sort()
                self._write_outbox()

                if self._inbox:
                    self._schedule_drain()
        finally:
            self._give_up_role()

    def _write_outbox(self) -> None:
        """Let out what the event loop would send, if it is its thread that waits."""
        if self._writer.outbox:
            self._writer.write()

    def _sleep(
        self, slot: Slot, wakeup: threading.Lock, deadline: float | None
    ) -> None:
        if deadline is None:
            wakeup.acquire()
            return

        if not wakeup.acquire(timeout=_milliseconds_until(deadline) / 1000):
            with self._mutex:
                if slot.wakeup is not None:
                    slot.wakeup = None
                    del self._followers[slot]

    def _hand_on(self) -> None:
        """Wake another follower instead of this one, which may have been woken."""
        with self._mutex:
            if self._reader == 0 and self._followers:
                self._wake(next(iter(self._followers)))

    # Reading; by who has the role.

    def _take_role(self, me: int) -> bool:
        """Take the reader's role for the event loop, or stop watching the pipe."""
        with self._mutex:
            if self._reader == 0:
                self._reader = me
                return True

            if self._scheduler is not None and not self._paused:
                self._paused = True
                self._scheduler.remove_reader(self._read_descriptor)

            return False

    def _give_up_role(self) -> None:
        with self._mutex:
            self._reader = 0

            if self._followers:
                slot = next(iter(self._followers))
                self._wake(slot)
                return

            if not self._paused:
                return

            self._paused = False

        scheduler = self._scheduler

        if get_ident() == self.loop_thread:
            self._resume()
        elif scheduler is not None:
            scheduler.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        """Watch the pipe again."""
        if self._scheduler is not None:
            self._scheduler.add_reader(self._read_descriptor, self._on_readable)

    def _wake(self, slot: Slot) -> None:
        """Wake a follower, if it is one, or the task that waits; under the mutex."""
        if slot.waiter is not None:
            slot.waiter.set()

        wakeup, slot.wakeup = slot.wakeup, None

        if wakeup is not None:
            del self._followers[slot]
            wakeup.release()

    def _read_and_sort(self) -> int:
        """Read once; return how many bytes that were."""
        if self._closed:
            _leave_fork()

        try:
            data = os.read(self._read_descriptor, self._splitter.read_bytes)
        except BlockingIOError:
            return 0

        if not data:
            _leave_without_node()

        try:
            for packet in self._splitter.feed(data):
                for message in protocol.parse_packet(packet):
                    head = message[0]

                    # By far the most come first.
                    if head is protocol.REQUEST:
                        request_id = message[1] if len(message) == 5 else None

                        if type(request_id) is int and message[4] is False:
                            self.arrivals.put(request_id, message)
                        else:
                            self._note(message, 5)

                        self._inbox.append(message)
                    elif head is protocol.REPLY:
                        self._deliver(message)
                    elif head in self._direct:
                        protocol.check_message(message)
                        self._direct[head](message)
                    else:
                        if head is protocol.BODY:
                            protocol.check_message(message)
                            self.arrivals.add_body(message)
                        elif head is protocol.WEBSOCKET:
                            self._note(message, 4)

                        self._inbox.append(message)
        except ProtocolError as exc:
            die_of(exc)

        return len(data)

    def _note(self, message: IncomingMessage, length: int) -> None:
        """Note a request; all else about its form is checked when it is handled."""
        if len(message) != length or type(message[1]) is not int:
            protocol.check_message(message)
            raise AssertionError("check_message() takes what is not of that form")

        self.arrivals.add(message)

    def _deliver(self, message: IncomingMessage) -> None:
        if len(message) != 4 or type(message[1]) is not int:
            raise ProtocolError(
                "a reply has a call id and two more fields", repr(message)
            )

        slot = self._slots.pop(message[1], None)

        # A late one: nobody waits for it any more.
        if slot is None:
            return

        if slot.stream is not None and message[2] is protocol.OK:
            self._open_stream(slot.stream, message[3])

        with self._mutex:
            slot.reply = message
            slot.done = True
            self._wake(slot)

    def _open_stream(self, stream: StreamSlot, stream_id: object) -> None:
        """Expect items from now on: an error may be right behind the reply."""
        if type(stream_id) is not int:
            raise ProtocolError("a stream's id is an integer", repr(stream_id))

        if stream.is_closed:
            self._send_later(protocol.cast(_STREAM_CANCEL, (stream_id,)))
            return

        stream.stream_id = stream_id
        self._streams[stream_id] = stream

    def _deliver_item(self, message: IncomingMessage) -> None:
        head, stream_id = message[0], message[1]
        assert type(stream_id) is int
        streams = self._streams
        is_last = head is not protocol.ITEM
        stream = streams.pop(stream_id, None) if is_last else streams.get(stream_id)

        if stream is None:
            return

        with self._mutex:
            stream.messages.append(message)
            stream.done = True
            self._wake(stream)

    # Fork.

    def _abandon(self) -> None:
        """In a child that was forked: the pipes are the parent's."""
        if self._closed:
            return

        self._closed = True
        # A thread that is not in the child may have held them.
        self._reset_locks()
        os.close(self._read_descriptor)
        self._writer.close()


def _milliseconds_until(deadline: float) -> float:
    return max(0.0, (deadline - time.monotonic()) * 1000)


def die_of(error: ProtocolError) -> NoReturn:
    """Say what the node did wrong, and leave."""
    os.write(2, f"hornbeam worker: protocol error: {error}\n".encode(errors="replace"))
    os._exit(EXIT_PROTOCOL)


def _leave_without_node() -> NoReturn:
    # At once: what is left in buffers may go to a terminal or pipe that nobody reads.
    os._exit(EXIT_NODE_GONE)


def _leave_fork() -> NoReturn:
    # A fork that came back to the event loop, by an exception for instance, would serve
    # the parent's requests a second time.
    leave(1)
