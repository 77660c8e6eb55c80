# SPDX-License-Identifier: Apache-2.0
"""Where the answers of the node are put, for the thread or task that waits for them.

Plain data: the channel, or the stand-in for the node, fills them under its own lock.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from hornbeam._loops import Waiter
from hornbeam._protocol import IncomingMessage

__all__ = ("STREAM_CREDIT", "Slot", "StreamSlot")

STREAM_CREDIT: Final = 32
"""How many items of a stream may be under way; more are asked for at the half of it."""


class Slot:
    """Where the reply to a call is put.

    Args:
        call_id: of the call.
        stream: takes the items, where the call opens a stream.
    """

    __slots__ = ("call_id", "done", "reply", "stream", "waiter", "wakeup")

    def __init__(self, call_id: int, stream: StreamSlot | None = None) -> None:
        self.call_id = call_id
        self.done = False
        self.reply: IncomingMessage = ()
        self.stream = stream
        # Only a follower has one.
        self.wakeup: threading.Lock | None = None
        # Only what a task waits for has one.
        self.waiter: Waiter | None = None


class StreamSlot(Slot):
    """Where the items of a stream are put; `done` says that there are some."""

    __slots__ = ("is_closed", "messages", "stream_id")

    def __init__(self) -> None:
        super().__init__(0)
        self.stream_id: int | None = None
        self.messages: deque[IncomingMessage] = deque()
        # Nobody will take them any more.
        self.is_closed = False
