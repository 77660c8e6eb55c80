# SPDX-License-Identifier: Apache-2.0
"""A bounded queue from any thread to one task; full, it loses the oldest."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from hornbeam._loops import Waiter, create_waiter

__all__ = ("Mailbox", "MailboxClosed")

_Item = TypeVar("_Item")


class MailboxClosed(Exception):
    """The queue is empty and will stay so."""


class Mailbox(Generic[_Item]):
    """Items for one task.

    Args:
        max_items: how many it holds, at least 1.
    """

    __slots__ = ("_is_closed", "_items", "_lock", "_max_items", "_waiter", "dropped")

    dropped: int
    """How many items were lost."""

    def __init__(self, max_items: int) -> None:
        self.dropped = 0
        self._max_items = max_items
        self._items: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._waiter: Waiter | None = None
        self._is_closed = False

    def put(self, item: _Item) -> None:
        """Add an item; from any thread. Closed, it takes none."""
        with self._lock:
            if self._is_closed:
                return

            if len(self._items) == self._max_items:
                self._items.popleft()
                self.dropped += 1

            self._items.append(item)
            self._wake()

    def count_dropped(self, count: int) -> None:
        """Note that items were lost before they came here."""
        with self._lock:
            self.dropped += count

    def close(self) -> None:
        """Take no more items; who waits gets what is there, and then the end."""
        with self._lock:
            self._is_closed = True
            self._wake()

    async def get(self) -> _Item:
        """Wait for an item and take it; for one task at a time.

        Raises:
            MailboxClosed: there will be none any more.
            RuntimeError: another task waits already.
        """
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()

                if self._is_closed:
                    raise MailboxClosed

                if self._waiter is not None:
                    raise RuntimeError("another task waits for messages here already")

                waiter = self._waiter = create_waiter()

            try:
                await waiter.wait()
            finally:
                with self._lock:
                    if self._waiter is waiter:
                        self._waiter = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None

        if waiter is not None:
            waiter.set()
