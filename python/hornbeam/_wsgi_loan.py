# SPDX-License-Identifier: Apache-2.0
"""A client's socket that the node lends to a thread, for the rest of a body (`_loan`).

The thread that has the response waits for the socket, writes, and waits for room, all
of it by itself; the event loop only hands over what has arrived. A thread that waits
for room looks at the socket alone: to wake it, the event loop shuts that down, which
is not to be used any more in that case.
"""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress

from hornbeam._loan import SEND_FLAGS, TAKEN_BYTES, LoanHost, queued_bytes

__all__ = ("ThreadLoan",)


class ThreadLoan:
    """One such socket, from when it was asked for.

    Args:
        host: what it shares with others.
    """

    __slots__ = (
        "_answered",
        "_client",
        "_host",
        "_is_over",
        "_is_writing",
        "_lock",
        "_room",
        "written_bytes",
    )

    written_bytes: int
    """How much was written to it."""

    def __init__(self, host: LoanHost) -> None:
        self._host = host
        # Of all below, but for what only the thread uses.
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._client: socket.socket | None = None
        self._is_over = False
        # It may be shut down then, but not closed: its number could be another's.
        self._is_writing = False
        self._room: select.poll | None = None
        self.written_bytes = 0

    # By the event loop.

    def take(self, client: socket.socket) -> bool:
        """Note that it has arrived; say whether it was still waited for."""
        with self._lock:
            if self._is_over:
                return False

            self._client = client

        self._answered.set()
        return True

    def keep(self) -> None:
        """Note that it won't come."""
        self._answered.set()

    def end(self) -> None:
        """Have the thread wait no longer: the client takes nothing any more."""
        with self._lock:
            self._is_over = True
            client = None if self._is_writing else self._let_go()

            if self._is_writing and self._client is not None:
                # In both directions: on a Unix socket only that wakes who waits for
                # room.
                with suppress(OSError):
                    self._client.shutdown(socket.SHUT_RDWR)

        self._answered.set()
        self._return(client)

    # By the thread.

    def wait(self) -> bool:
        """Wait for the node's answer; say whether the socket is here."""
        self._answered.wait()
        return self._client is not None

    @property
    def is_here(self) -> bool:
        """Whether it can be written to."""
        return self._client is not None

    def write(self, body: memoryview) -> None:
        """Write all of it.

        Raises:
            OSError: the client has gone or takes nothing for `send_timeout`, or the
                event loop has ended it.
        """
        with self._lock:
            client = self._client

            if client is None:
                raise ConnectionAbortedError("it was ended")

            self._is_writing = True

        try:
            self._write(client, body)
        finally:
            with self._lock:
                self._is_writing = False
                ended = self._let_go() if self._is_over else None

            self._return(ended)

    def give_back(self) -> None:
        """Close it, if it is here; nothing can be written from now on."""
        with self._lock:
            self._is_over = True
            client = self._let_go()

        self._return(client)

    def _write(self, client: socket.socket, body: memoryview) -> None:
        while body:
            written = _send_some(client, body)

            if written:
                self.written_bytes += written
                body = body[written:]
            else:
                self._wait_for_room(client)

    def _wait_for_room(self, client: socket.socket) -> None:
        """Wait as long as the client takes `TAKEN_BYTES` in each `send_timeout`."""
        if self._room is None:
            self._room = select.poll()
            self._room.register(client, select.POLLOUT)

        timeout_s = self._host.send_timeout_s
        timeout_ms = None if timeout_s is None else timeout_s * 1000
        queued = queued_bytes(client)

        while not self._room.poll(timeout_ms):
            before, queued = queued, queued_bytes(client)

            # There is room when a third of it is free, which can be a mebibyte.
            if before - queued < TAKEN_BYTES:
                raise TimeoutError("the client takes too little")

    def _let_go(self) -> socket.socket | None:
        client, self._client = self._client, None
        return client

    def _return(self, client: socket.socket | None) -> None:
        if client is not None:
            self._host.give_back(client)


def _send_some(client: socket.socket, body: memoryview) -> int:
    try:
        return client.send(body, SEND_FLAGS)
    except BlockingIOError:
        return 0
