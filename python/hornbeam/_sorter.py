# SPDX-License-Identifier: Apache-2.0
"""Reading the node's pipe, and sorting what was read; by who has the reader's role.

Replies and items of streams go into the slots of those who wait for them, what is for
the hooks or the watchdog is handed over to them, and all else goes into the inbox,
which only the event loop empties, in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

from hornbeam import _protocol as protocol
from hornbeam._arrivals import Arrivals
from hornbeam._leaving import (
    die_of,
    leave_fork,
    leave_in_disorder,
    leave_without_node,
)
from hornbeam._protocol import IncomingMessage, PacketSplitter, ProtocolError
from hornbeam._reader_role import ReaderRole
from hornbeam._slots import Slot, StreamSlot
from hornbeam._terms import Atom

__all__ = ("STREAM_CANCEL", "Sorter")

STREAM_CANCEL: Final = Atom("stream_cancel")


class Sorter:
    """Reads messages and puts each where it belongs.

    Args:
        descriptor: non-blocking, from the node.
        role: wakes those who wait.
        send_later: takes a message, and neither waits nor fails.
    """

    __slots__ = (
        "_role",
        "_send_later",
        "_splitter",
        "arrivals",
        "descriptor",
        "direct",
        "inbox",
        "is_closed",
        "slots",
        "streams",
    )

    inbox: deque[IncomingMessage]
    """What is for the event loop; always the same, as are those below."""

    arrivals: Arrivals
    """What was read of requests that have not begun."""

    slots: dict[int, Slot]
    """Who waits for a reply, by the id of the call."""

    streams: dict[int, StreamSlot]
    """Who takes items, by the id of the stream."""

    direct: dict[object, Callable[[IncomingMessage], None]]
    """Who takes messages as they are read, by their heads."""

    is_closed: bool
    """Whether this process is a fork: the pipe is the parent's."""

    def __init__(
        self, descriptor: int, role: ReaderRole, send_later: Callable[[bytes], None]
    ) -> None:
        self.descriptor = descriptor
        self._role = role
        self._send_later = send_later
        self._splitter = PacketSplitter()
        self.inbox = deque()
        self.arrivals = Arrivals()
        self.slots = {}
        self.streams = {}
        self.direct = {
            protocol.ITEM: self._deliver_item,
            protocol.STREAM_END: self._deliver_item,
            protocol.STREAM_ERROR: self._deliver_item,
        }
        self.is_closed = False

    def close(self) -> None:
        """Close the pipe; in a fork of the process."""
        self.is_closed = True
        os.close(self.descriptor)

    def read(self) -> int:
        """Read once; return how many bytes that were."""
        if self.is_closed:
            leave_fork()

        try:
            data = os.read(self.descriptor, self._splitter.read_bytes)
        except BlockingIOError:
            return 0

        if not data:
            leave_without_node()

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

                        self.inbox.append(message)
                    elif head is protocol.REPLY:
                        self._deliver(message)
                    elif head in self.direct:
                        protocol.check_message(message)
                        self.direct[head](message)
                    else:
                        if head is protocol.BODY:
                            protocol.check_message(message)
                            self.arrivals.add_body(message)
                        elif head is protocol.WEBSOCKET:
                            self._note(message, 4)

                        self.inbox.append(message)
        except ProtocolError as exc:
            die_of(exc)
        except BaseException:
            # Also what a signal handler of the application has raised here.
            leave_in_disorder()

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

        slot = self.slots.pop(message[1], None)

        # A late one: nobody waits for it any more.
        if slot is None:
            return

        if slot.stream is not None and message[2] is protocol.OK:
            self._open_stream(slot.stream, message[3])

        with self._role.mutex:
            slot.reply = message
            slot.done = True
            self._role.wake(slot)

    def _open_stream(self, stream: StreamSlot, stream_id: object) -> None:
        """Expect items from now on: an error may be right behind the reply."""
        if type(stream_id) is not int:
            raise ProtocolError("a stream's id is an integer", repr(stream_id))

        if stream.is_closed:
            self._send_later(protocol.cast(STREAM_CANCEL, (stream_id,)))
            return

        stream.stream_id = stream_id
        self.streams[stream_id] = stream

    def _deliver_item(self, message: IncomingMessage) -> None:
        head, stream_id = message[0], message[1]
        assert type(stream_id) is int
        streams = self.streams
        is_last = head is not protocol.ITEM
        stream = streams.pop(stream_id, None) if is_last else streams.get(stream_id)

        if stream is None:
            return

        with self._role.mutex:
            stream.messages.append(message)
            stream.done = True
            self._role.wake(stream)
