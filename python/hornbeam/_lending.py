# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of clients arrive that the node lends to this worker.

A descriptor can't come through a pipe, so there is a Unix socket beside it (`unix(7)`,
SCM_RIGHTS): this worker listens under an abstract name, says so in `ready`, and the
node connects. Each message on it is the id of a request and the cookie of a socket, 8
bytes each, with one descriptor. By the cookie (`SO_COOKIE`) that is known for the right
one: the node may have closed its own a moment before, for a client that has left, and
have given another the number.

Only on Linux, which has abstract names: nothing of them is left when a worker is
killed. Elsewhere nothing is lent, and all goes through the pipe.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
import struct
import sys
import threading
from array import array
from collections.abc import Callable
from typing import Final, Protocol

from hornbeam._runtime import Runtime

__all__ = ("Lending",)

_MESSAGE: Final = struct.Struct(">Q8s")
_SO_COOKIE: Final = 57
_COOKIE_BYTES: Final = 8
_CREDENTIALS: Final = struct.Struct("3i")
# Room for what the node sends, one descriptor; the kernel closes what is beyond it.
# Without what it would be padded with, which is room for another.
_ANCILLARY_BYTES: Final = socket.CMSG_LEN(array("i").itemsize)


class Taker(Protocol):
    """Takes what has arrived."""

    def __call__(self, request_id: int, client: socket.socket | None, /) -> None:
        """Take the socket of that request's client, and the duty to give it back.

        None: this process has too many of them to get one more, or the node had closed
        it.
        """


class Lending:
    """The socket that descriptors come through, and those that are here.

    Args:
        runtime: the event loop.
        send_timeout_s: how long a client may take nothing; None: for ever.
        take: called in the loop's thread.
    """

    __slots__ = (
        "_channel",
        "_listener",
        "_lock",
        "_most_lent",
        "_take",
        "lent",
        "runtime",
        "send_timeout_s",
    )

    lent: set[socket.socket]
    """Those that are here and not given back."""

    def __init__(
        self, runtime: Runtime, send_timeout_s: float | None, take: Taker
    ) -> None:
        self.runtime = runtime
        self.send_timeout_s = send_timeout_s
        self._take = take
        self._listener: socket.socket | None = None
        self._channel: socket.socket | None = None
        # For forks in another thread: what is open is in `lent` where this is free.
        self._lock = threading.RLock()
        # The others are the application's, for files and connections of its own.
        self._most_lent = _most_descriptors() // 2
        self.lent = set()

    def listen(self) -> bytes | None:
        """Let the node connect, once; returns the name, None where that can't be."""
        if sys.platform != "linux":
            return None

        name = b"\0hornbeam-" + secrets.token_hex(16).encode()

        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(name)
            listener.listen(1)
        except OSError:
            return None

        listener.setblocking(False)
        self._listener = listener
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._abandon,
        )
        self._watch(listener, self._accept)
        return name

    @property
    def is_open(self) -> bool:
        """Whether the node is connected."""
        return self._channel is not None

    def close(self) -> None:
        """Let nothing more arrive."""
        for one in (self._listener, self._channel):
            if one is not None:
                self.runtime.remove_reader(one.fileno())
                one.close()

        self._listener = self._channel = None

    def give_back(self, client: socket.socket) -> None:
        """Close one that has arrived."""
        with self._lock:
            client.close()
            self.lent.discard(client)

    def _watch(self, one: socket.socket, callback: Callable[[], None]) -> None:
        self.runtime.add_reader(one.fileno(), callback)

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None

        try:
            channel, _ = listener.accept()
        except OSError:
            return

        if not _is_of_same_user(channel):
            channel.close()
            return

        self.close()
        channel.setblocking(False)
        self._channel = channel
        self._watch(channel, self._receive)

    def _receive(self) -> None:
        """Take all that is there."""
        while self._channel is not None:
            try:
                with self._lock:
                    message = self._receive_one(self._channel)
            except BlockingIOError:
                return

            if message is None:
                # The node has gone, or there is no telling what comes next.
                self.close()
                return

            self._take(*message)

    def _receive_one(
        self, channel: socket.socket
    ) -> tuple[int, socket.socket | None] | None:
        """Return the id of a request and its client's socket, None for what is none."""
        try:
            received, ancillary, _, _ = channel.recvmsg(
                _MESSAGE.size, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError:
            return None

        client = _socket_of(ancillary)
        is_whole = len(received) == _MESSAGE.size
        request_id, cookie = _MESSAGE.unpack(received) if is_whole else (0, b"")

        if client is not None:
            if self._may_stay(client, cookie):
                self.lent.add(client)
            else:
                client.close()
                client = None

        return (request_id, client) if is_whole else None

    def _may_stay(self, client: socket.socket, cookie: bytes) -> bool:
        return len(self.lent) < self._most_lent and _cookie_of(client) == cookie

    def _abandon(self) -> None:
        """In a child that was forked: a client would not see its connection end."""
        for one in (self._listener, self._channel):
            if one is not None:
                one.close()

        self._listener = self._channel = None

        while self.lent:
            self.lent.pop().close()

        self._lock.release()


def _most_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _is_of_same_user(channel: socket.socket) -> bool:
    credentials = channel.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    # Root may do what it likes in any case, and an application may have given that up.
    return _CREDENTIALS.unpack(credentials)[1] in (0, os.geteuid())


def _cookie_of(client: socket.socket) -> bytes:
    return client.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)


def _socket_of(ancillary: list[tuple[int, int, bytes]]) -> socket.socket | None:
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors = array("i")
            descriptors.frombytes(payload)
            return _socket_with(descriptors[0])

    return None


def _socket_with(descriptor: int) -> socket.socket | None:
    try:
        # Of which family it is matters only to who asks for its addresses.
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    except OSError:
        # It is none.
        os.close(descriptor)
        return None

    # The node has it so, and it is one for both. Here it says that send() never waits,
    # not for what an application has set as the default timeout either.
    client.setblocking(False)
    return client
