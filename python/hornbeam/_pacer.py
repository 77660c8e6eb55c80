# SPDX-License-Identifier: Apache-2.0
"""How many bytes of bodies and large messages leave in one turn of the event loop.

A write to the node blocks the event loop while the pipe is full. A thousand responses
that begin in the same turn have a thousand windows to send: if all of that had to leave
before the turn is over, nothing else would run meanwhile, and an answer of a few bytes
would wait for all of it. So a turn has a budget, of bytes and of time in which it was
blocked. When it is spent, further parts wait in their responses, whose `send()` waits
with them, and go on in the turns after, in the order in which they came; what other
tasks do and send has its place in between. Large messages of WebSockets are such parts.

The order within a response stays, and so does that of its calls: what an application
says after the `send()` of a part that waits, it says when that is over.

Only for the event loop's thread; but any may `charge`, where two at a time cost a part
more or less in that turn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ("PACED_PART_BYTES", "TURN_BYTES", "Pacer")

PACED_PART_BYTES: Final = 4096
"""Smaller parts are let pass: to make them takes longer than to send them."""

TURN_BYTES: Final = 524_288
"""Budget of a turn; the part that exceeds it is the last."""

BLOCKED_BYTES_PER_S: Final = 131_072_000
"""What the time counts in which the pipe was full.

A node that keeps up has the pipe full for a fraction of a millisecond at a time. One
that is busy with those thousand connections may let the worker wait for ten: then a
part or two are a turn's.
"""


class Paced(Protocol):
    """What has parts that wait."""

    def send_pending(self) -> None:
        """Send what there is room for, or wait again."""


class Pacer:
    """The budget of the current turn, and who waits for the next.

    Args:
        schedule: has `renew` called in the next turn.
    """

    __slots__ = ("_is_scheduled", "_last_id", "_schedule", "_waiting", "left_bytes")

    left_bytes: int
    """Of the budget. Spent: 0 or less."""

    def __init__(self, schedule: Callable[[], None]) -> None:
        self.left_bytes = TURN_BYTES
        self._waiting: OrderedDict[Paced, None] = OrderedDict()
        self._schedule = schedule
        self._is_scheduled = False
        # Whose part was admitted last.
        self._last_id = 0

    def admits(self, request_id: int) -> bool:
        """Say whether a part of that response may leave in this turn.

        The one that has spent the budget may go on, as far as its window lets it: who
        streams alone never waits for a turn.
        """
        if self.left_bytes > 0:
            self._last_id = request_id
            return True

        return request_id == self._last_id

    def wait(self, paced: Paced) -> None:
        """Have its parts go on in a turn to come; it is in the queue once."""
        self._waiting.setdefault(paced)
        self._schedule_once()

    def charge(self, blocked_s: float) -> None:
        """Count the time in which the pipe was full."""
        self.left_bytes -= int(blocked_s * BLOCKED_BYTES_PER_S)

    def begin_turn(self) -> None:
        """Take note of a new turn; those that wait have theirs in `renew`."""
        if not self._is_scheduled:
            self.left_bytes = TURN_BYTES

    def renew(self) -> None:
        """Begin a new turn, with those that wait.

        As long as one of them still waits, the budget is spent: nobody overtakes them.
        """
        self._is_scheduled = False
        self.left_bytes = TURN_BYTES

        while self._waiting and self.left_bytes > 0:
            self._waiting.popitem(last=False)[0].send_pending()

        if self._waiting:
            self._schedule_once()

    def _schedule_once(self) -> None:
        """One call for all: each of them adds a budget to its turn."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule()
