# SPDX-License-Identifier: Apache-2.0
"""How much of a WSGI response may be under way through the pipe."""

from __future__ import annotations

import threading

from hornbeam._asgi import ClientDisconnected

__all__ = ("ResponseWindow",)


class ResponseWindow:
    """How much of a response's body may be under way.

    The application's thread waits for room, the event loop makes it.

    Args:
        size_bytes: at most so much is unacknowledged.
    """

    __slots__ = (
        "_changed",
        "_lock",
        "_size_bytes",
        "_unacknowledged_bytes",
        "why_closed",
    )

    why_closed: str | None
    """What has ended it, as a text for who waits for room; None while it is open."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._unacknowledged_bytes = 0
        self.why_closed = None
        self._lock = threading.Lock()
        # There once somebody has waited, which is rare, and dear to prepare for.
        self._changed: threading.Condition | None = None

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def is_closed(self) -> bool:
        return self.why_closed is not None

    def take(self, wanted_bytes: int) -> int:
        """Wait for room; return how much of the wanted may be sent now, at least 1.

        The node may owe acknowledgements for up to a quarter of the window; so waiting
        for half of it to be free comes to an end.

        Raises:
            ClientDisconnected: nobody takes it any more; the text says why.
        """
        enough = min(wanted_bytes, (self._size_bytes + 1) // 2)

        with self._lock:
            while True:
                if self.why_closed is not None:
                    raise ClientDisconnected(self.why_closed)

                room = self._size_bytes - self._unacknowledged_bytes

                if room >= enough:
                    break

                if self._changed is None:
                    self._changed = threading.Condition(self._lock)

                self._changed.wait()

            taken = min(wanted_bytes, room)
            self._unacknowledged_bytes += taken
            return taken

    def acknowledge(self, sent_bytes: int) -> None:
        """Note that the client has taken that much more."""
        with self._lock:
            self._unacknowledged_bytes -= sent_bytes
            self._wake()

    def close(self, why: str) -> None:
        """Note that nobody takes any more, and why; the first reason is the one."""
        with self._lock:
            if self.why_closed is None:
                self.why_closed = why

            self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()
