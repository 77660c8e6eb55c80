# SPDX-License-Identifier: Apache-2.0
"""Does what an event loop that is blocked can't: say where it is, give requests back.

A thread that sleeps, and looks now and then whether the loop has come round. It is not
told of anything, so what goes on costs nothing beside these looks: four a second while
little happens, fifty while there is traffic. A loop that has not come round between
two looks, though at both of them something waited for it, is late. Then the watchdog
reads in its place, sends what the loop was about to send, and does what the node asks a
late worker for:

* `revoke`: requests that have not begun go back to the node, see `_arrivals`;
* `inspect`: the stack of the loop's thread, and the requests under way.

Where the loop comes round after these have come, there is nothing to do. While C
code holds the interpreter's lock this thread does not run either; the node has its own
clock for that.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable
from time import sleep
from types import FrameType
from typing import Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam._failure import MAX_TEXT
from hornbeam._pipes import Pipes
from hornbeam._protocol import IncomingMessage

__all__ = ("Watchdog",)

IDLE_S: Final = 0.25
BUSY_S: Final = 0.02
"""Between looks: with little traffic, and with more."""

BUSY_LOOKS: Final = 10
"""How often is looked so soon after the last traffic: it comes in bursts."""

IDLE_ROUNDS: Final = 2
"""How often an idle loop comes round between two looks: for the node's heartbeat."""

MAX_AHEAD_BYTES: Final = 4 * 1024 * 1024
"""How much is read in place of a loop that is blocked; the rest waits in the pipe."""

NEVER: Final = -(1 << 62)

MAX_NAMED: Final = 20
"""How many requests under way a report names."""


class Underway(Protocol):
    """A request under way."""

    @property
    def where(self) -> str:
        """What request it is, in words."""


class WatchdogHost(Protocol):
    """The worker."""

    def list_begun(self) -> Iterable[tuple[int, Underway]]:
        """Return the requests whose application is running; from any thread."""

    def forget_returned(self, request_ids: Iterable[int]) -> None:
        """Take note that these were given back; from any thread."""


class Watchdog:
    """Looks after the event loop of a channel.

    Args:
        pipes: the channel.
        host: knows the requests.
    """

    __slots__ = (
        "_ahead_bytes",
        "_has_waited",
        "_host",
        "_inspect_round",
        "_pipes",
        "_revoke_round",
        "_rounds",
    )

    def __init__(self, pipes: Pipes, host: WatchdogHost) -> None:
        self._pipes = pipes
        self._host = host
        self._rounds = -1
        self._ahead_bytes = 0
        # Whether something waited for the loop at the last look, and in vain so far.
        self._has_waited = False
        # In which round the node has asked; far back where it has not.
        self._revoke_round = self._inspect_round = NEVER
        pipes.take_directly(protocol.REVOKE, self._note_revoke)
        pipes.take_directly(protocol.INSPECT, self._note_inspect)

    def start(self) -> None:
        """Look from now on, until the process ends."""
        thread = threading.Thread(
            target=self._work, name="hornbeam-watchdog", daemon=True
        )
        thread.start()

    # By whoever reads.

    def _note_revoke(self, message: IncomingMessage) -> None:
        self._revoke_round = self._pipes.rounds

    def _note_inspect(self, message: IncomingMessage) -> None:
        self._inspect_round = self._pipes.rounds

    # In a thread of its own.

    def _work(self) -> None:
        soon = 0

        while True:
            sleep(BUSY_S if soon else IDLE_S)
            is_busy = self.look(was_busy=soon > 0)
            soon = BUSY_LOOKS if is_busy else max(0, soon - 1)

    def look(self, *, was_busy: bool) -> bool:
        """Look once; say whether to look again soon."""
        rounds = self._pipes.rounds
        progress, self._rounds = rounds - self._rounds, rounds

        if progress:
            self._ahead_bytes = 0
            self._has_waited = False
            return progress > (0 if was_busy else IDLE_ROUNDS)

        has_waited, self._has_waited = self._has_waited, self._pipes.is_loop_wanted()

        if not self._has_waited:
            return False

        # It may have come only now; and where the whole process stood still, the loop
        # is no later than this thread, and about to run as well.
        if not has_waited:
            return True

        if self._ahead_bytes < MAX_AHEAD_BYTES:
            self._ahead_bytes += self._pipes.read_for_loop()

        self._do_what_is_due()
        return True

    def _do_what_is_due(self) -> None:
        # Where the loop has read it itself, it may be blocked by what it has read with
        # it, in the round that has begun then; in a later one it is not due any more.
        if self._rounds - self._revoke_round <= 1:
            self._revoke_round = NEVER
            returned = self._pipes.arrivals.take_back()

            if returned:
                self._pipes.send_all([protocol.returned(*one) for one in returned])
                self._host.forget_returned([request_id for request_id, _ in returned])

        if self._rounds - self._inspect_round <= 1:
            self._inspect_round = NEVER
            self._report()

    def _report(self) -> None:
        frame = sys._current_frames().get(self._pipes.loop_thread)

        if frame is None:
            return

        stack = traceback.StackSummary.extract(_outermost_first(frame))
        del frame

        # It has moved on meanwhile.
        if self._pipes.rounds != self._rounds:
            return

        here = stack[-1]
        location = f"{here.filename}:{here.lineno} in {here.name}"
        text = "".join(stack.format()).rstrip()
        begun = [(key, one.where) for key, one in self._host.list_begun()]
        self._pipes.send(
            protocol.blocked(location, text[-MAX_TEXT:], begun[:MAX_NAMED])
        )


def _outermost_first(frame: FrameType) -> Iterable[tuple[FrameType, int]]:
    return list(traceback.walk_stack(frame))[::-1]
