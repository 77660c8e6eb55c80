# SPDX-License-Identifier: Apache-2.0
"""Requests that have come and have not begun: who may have them is decided here.

A request that waits behind a blocked event loop can be served by another worker, if and
only if its application has not begun here. Three threads may be concerned: one *reads*
the request and its body (whoever has the reader's role), one *begins* it (the event
loop, or a thread of a WSGI application), and the watchdog *takes it back*. The table
below has an entry from when a request is read; to begin and to take back are one and
the same operation on it, which removes the entry and is atomic in every Python, so each
request goes exactly one way. It costs one entry of a dict per request.

Only a request whose body has come as a whole is taken back: of another one the node has
parts under way to this worker.
"""

from __future__ import annotations

from collections.abc import Callable

from hornbeam import _protocol as protocol
from hornbeam._protocol import IncomingMessage

__all__ = ("Arrivals",)


class _Upload:
    """A request whose body was not all there when it came."""

    __slots__ = ("is_complete", "parts")

    def __init__(self, body: object) -> None:
        self.parts = [body]
        self.is_complete = False


class Arrivals:
    """The requests of a worker that have not begun."""

    __slots__ = ("_entries", "claim", "has", "put")

    # The dict's own methods: a call less for each request.

    claim: Callable[[int, None], object | None]
    """Begin a request, by its id and None: gives None if it was taken back."""

    has: Callable[[int], bool]
    """Say whether a request has not begun, by its id."""

    put: Callable[[int, IncomingMessage], None]
    """Note a `request` that has its whole body, by its id."""

    def __init__(self) -> None:
        # By id: the message, or an upload.
        self._entries: dict[int, object] = {}
        self.claim = self._entries.pop
        self.has = self._entries.__contains__
        self.put = self._entries.__setitem__

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, message: IncomingMessage) -> None:
        """Note a `request` or `websocket` that was read; its form was checked."""
        request_id = message[1]
        assert type(request_id) is int

        if message[0] is protocol.REQUEST and message[4]:
            self._entries[request_id] = _Upload(message[3])
        else:
            self._entries[request_id] = message

    def add_body(self, message: IncomingMessage) -> None:
        """Note a `body` that was read; its form was checked."""
        _, request_id, part, more = message
        assert type(request_id) is int
        assert type(part) is bytes
        entry = self._entries.get(request_id)

        if isinstance(entry, _Upload):
            entry.parts.append(part)
            # Last: who sees it finds all the parts.
            entry.is_complete = not more

    def take_back(self) -> list[tuple[int, bytes]]:
        """Take all that can be had: ids and bodies."""
        taken = []

        # The keys alone: a list of pairs makes a tuple for each, which may have garbage
        # collected, which may run code of the application, which lets others run.
        for request_id in list(self._entries):
            entry = self._entries.get(request_id)

            if isinstance(entry, _Upload) and not entry.is_complete:
                continue

            # The loop may be faster.
            if self._entries.pop(request_id, None) is not None:
                taken.append((request_id, _body_of(entry)))

        return taken


def _body_of(entry: object) -> bytes:
    if isinstance(entry, _Upload):
        return b"".join(entry.parts)  # type: ignore[arg-type]  # see take_back()

    assert isinstance(entry, tuple)
    return b"" if entry[0] is protocol.WEBSOCKET else entry[3]
