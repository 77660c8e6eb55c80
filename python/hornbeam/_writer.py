# SPDX-License-Identifier: Apache-2.0
"""The write end of a channel: an outbox, and packets made of it."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from hornbeam._errors import ReentrantCall
from hornbeam._etf import pack_batch, write_some
from hornbeam._leaving import leave_in_disorder

__all__ = ("PacketWriter",)

MAX_BATCH_BYTES: Final = 65536
"""Of a packet with several messages: the node keeps all of it while one is in use.

So what a client that takes nothing holds there is its own window, not also what was
sent to others in the same turn.
"""


class PacketWriter:
    """Writes messages to a pipe, in packets; from any thread.

    A write blocks while the pipe is full. The lock is re-entrant only to notice the one
    case that can't work: a finalizer or a signal handler that writes while its own
    thread is in the midst of a packet.

    Args:
        descriptor: of the pipe, non-blocking.
        on_broken: called when nobody reads the pipe any more; does not return.
        on_blocked: called with the seconds in which the pipe was full, in the midst of
            a packet.
    """

    __slots__ = (
        "_descriptor",
        "_is_writing",
        "_lock",
        "_on_blocked",
        "_on_broken",
        "_poll",
        "outbox",
    )

    outbox: list[bytes]
    """Encoded messages that the next packet begins with; always the same list."""

    def __init__(
        self,
        descriptor: int,
        on_broken: Callable[[], None],
        on_blocked: Callable[[float], None],
    ) -> None:
        self.outbox = []
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._on_blocked = on_blocked
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lock = threading.RLock()
        self._is_writing = False

    def write(self, encoded: bytes | None = None) -> None:
        """Write the outbox, and a message after it, as one packet unless that is large.

        Raises:
            ReentrantCall: this thread is in the midst of another packet.
        """
        with self._lock:
            if self._is_writing:
                raise ReentrantCall

            self._is_writing = True

            try:
                outbox = self.outbox
                messages = outbox[:]
                # Not clear(): the event loop may have put more there meanwhile.
                del outbox[: len(messages)]

                if encoded is not None:
                    messages.append(encoded)

                # Nearly always.
                if len(messages) < 2 or sum(map(len, messages)) <= MAX_BATCH_BYTES:
                    self._write_packet(pack_batch(messages))
                else:
                    for batch in _batches(messages):
                        self._write_packet(pack_batch(batch))
            except MemoryError:
                # What others have put into the outbox is lost.
                if encoded is None or len(messages) > 1:
                    leave_in_disorder()

                raise
            finally:
                self._is_writing = False

    def close(self) -> None:
        """Close the pipe; in a fork of the process, where other threads are gone."""
        os.close(self._descriptor)
        # A thread that is not in the fork may have held it.
        self._lock = threading.RLock()
        self._is_writing = False

    def _write_packet(self, packet: bytes) -> None:
        written = self._write_some(packet)

        # Nearly always.
        if written == len(packet):
            return

        try:
            began_s = time.monotonic()
            rest = memoryview(packet)[written:]

            while rest:
                self._poll.poll()
                rest = rest[self._write_some(rest) :]
        except BaseException:
            # Also what a signal handler of the application has raised here: the node
            # would take the next packet for the rest of this one.
            leave_in_disorder()

        self._on_blocked(time.monotonic() - began_s)

    def _write_some(self, data: bytes | memoryview) -> int:
        try:
            return write_some(self._descriptor, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self._on_broken()
            raise


def _batches(messages: list[bytes]) -> Iterator[list[bytes]]:
    """Cut into batches that are not too large, or have one message."""
    begin = size = 0

    for index, message in enumerate(messages):
        size += len(message)

        if size > MAX_BATCH_BYTES and index > begin:
            yield messages[begin:index]
            begin, size = index, len(message)

    yield messages[begin:]
