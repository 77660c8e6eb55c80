# SPDX-License-Identifier: Apache-2.0
"""A client's socket that the node lends, for the rest of a response's body.

What passes through the pipe is copied four times, and read and written again by the
node. A large body of known length does without: the worker asks for the socket behind
the head (`borrow`), writes to it, closes its descriptor and says how much it has
written (`written`). The connection remains the node's: it reads from it, sees the
client leave, and ends it, whatever the worker does.

The node may keep the socket (`kept`): because there is TLS, because the connection is
HTTP/2, or because something waits to be written. Then the body goes the usual way.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import time
from typing import Final, Protocol

from hornbeam._runtime import Runtime, Timer

__all__ = (
    "BORROWING_PART_BYTES",
    "BORROW_BYTES",
    "SEND_FLAGS",
    "TAKEN_BYTES",
    "Borrower",
    "Loan",
    "LoanHost",
    "queued_bytes",
)

BORROW_BYTES: Final = 131_072
"""Of a body, or what is left of it: from there on the socket is asked for."""

BORROWING_PART_BYTES: Final = 16_384
"""Of the part that the rest begins with: small ones gather on their way by the pipe."""

WRITE_BYTES: Final = 1_048_576
"""How much is written at once: others wait as long, some 100 µs."""

TAKEN_BYTES: Final = 65_536
"""What a client has to take in `send_timeout`, if there is so much."""

_INT: Final = struct.Struct("i")
# An application may have its signals as it likes; to write to a client that has left
# must not end the worker.
SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class LoanHost(Protocol):
    """What the loans of one worker share."""

    @property
    def runtime(self) -> Runtime:
        """The event loop."""

    @property
    def send_timeout_s(self) -> float | None:
        """How long a client may take nothing; None: for ever."""

    def give_back(self, client: socket.socket) -> None:
        """Close one that has arrived."""


class Borrower(Protocol):
    """Who writes the body."""

    def send_pending(self) -> None:
        """Write on."""

    def handle_stall(self) -> None:
        """Note that the client has taken nothing for `send_timeout`."""


class Loan:
    """One such socket, from when it was asked for.

    Args:
        host: what it shares with others.
        borrower: has its methods called when there is room again, or no hope of it.
    """

    __slots__ = (
        "_blocked_s",
        "_borrower",
        "_client",
        "_host",
        "_is_watched",
        "_taken_bytes",
        "_timer",
        "is_kept",
        "written_bytes",
    )

    is_kept: bool
    """The node has it after all, and the body goes the usual way."""

    written_bytes: int
    """How much was written to it."""

    def __init__(self, host: LoanHost, borrower: Borrower) -> None:
        self._host = host
        # Until it is over: the borrower has the loan, too.
        self._borrower: Borrower | None = borrower
        self._client: socket.socket | None = None
        self.is_kept = False
        self.written_bytes = 0
        self._is_watched = False
        # Since when there is no room, by the monotonic clock, and what the client had
        # taken then.
        self._blocked_s: float | None = None
        self._taken_bytes = 0
        self._timer: Timer | None = None

    @property
    def is_here(self) -> bool:
        """Whether it can be written to."""
        return self._client is not None

    def take(self, client: socket.socket) -> None:
        """Note that it has arrived."""
        self._client = client

    def keep(self) -> None:
        """Note that it won't come."""
        self.is_kept = True
        self._borrower = None

    def write(self, body: memoryview) -> int:
        """Write as much as there is room for, the rest when the borrower is called.

        Returns:
            How many bytes; 0: none for now.

        Raises:
            OSError: the client has gone, or the node has ended the connection.
        """
        client = self._client
        assert client is not None

        try:
            written = client.send(body[:WRITE_BYTES], SEND_FLAGS)
        except BlockingIOError:
            self._wait(client)
            return 0

        self._blocked_s = None
        self.written_bytes += written
        return written

    def give_back(self) -> None:
        """Close it, if it is here; nothing can be written from now on."""
        client, self._client = self._client, None
        self._borrower = None

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

        if client is not None:
            self._blocked_s = None
            self._unwatch(client)
            self._host.give_back(client)

    def _wait(self, client: socket.socket) -> None:
        if self._blocked_s is None:
            self._blocked_s = time.monotonic()
            self._taken_bytes = self._count_taken(client)

        if not self._is_watched:
            self._is_watched = True
            self._host.runtime.add_writer(client.fileno(), self._on_writable)

        if self._timer is None and self._host.send_timeout_s is not None:
            self._start_timer(self._host.send_timeout_s)

    def _start_timer(self, delay_s: float) -> None:
        self._timer = self._host.runtime.call_later(delay_s, self._on_time)

    def _on_writable(self) -> None:
        if self._borrower is None:
            return

        self._blocked_s = None
        self._borrower.send_pending()
        client = self._client

        if client is not None and not self._is_blocked:
            self._unwatch(client)

    @property
    def _is_blocked(self) -> bool:
        return self._blocked_s is not None

    def _unwatch(self, client: socket.socket) -> None:
        if self._is_watched:
            self._is_watched = False
            self._host.runtime.remove_writer(client.fileno())

    def _on_time(self) -> None:
        """Look at a deadline that has moved, as it does with all that is written.

        The system reports room when a third of its buffer is free, which is too much to
        ask of a slow client where that is megabytes.
        """
        self._timer = None
        client, timeout_s = self._client, self._host.send_timeout_s

        if self._blocked_s is None or client is None or timeout_s is None:
            return

        now_s = time.monotonic()

        if now_s < self._blocked_s + timeout_s:
            self._start_timer(self._blocked_s + timeout_s - now_s)
            return

        if _has_room(client):
            # It was the loop that took so long, and what waits is written next.
            self._blocked_s = None
            return

        taken_bytes = self._count_taken(client)

        if taken_bytes - self._taken_bytes >= TAKEN_BYTES:
            self._blocked_s = now_s
            self._taken_bytes = taken_bytes
            self._start_timer(timeout_s)
        elif self._borrower is not None:
            self._borrower.handle_stall()

    def _count_taken(self, client: socket.socket) -> int:
        """How much the client's system has acknowledged."""
        return self.written_bytes - queued_bytes(client)


def queued_bytes(client: socket.socket) -> int:
    """Return how much of what was written the client's system does not have yet."""
    queued = fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
    return int(_INT.unpack(queued)[0])


def _has_room(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    return bool(poll.poll(0))
