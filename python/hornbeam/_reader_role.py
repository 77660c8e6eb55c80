# SPDX-License-Identifier: Apache-2.0
"""Who reads the node's pipe, and who sleeps meanwhile.

One thread at a time has the *reader role*: the event loop, whenever there is something
to read, or a thread that waits for the reply to its call. Invariants, all kept under
`mutex`:

* `holder` is the thread that has the role, or 0.
* A thread that finds the role taken becomes a follower: it sleeps until its reply is
  there or the role is handed to it. Who gives the role up wakes one follower; so while
  there are followers, somebody reads or is about to.
* The event loop never sleeps for the role. If a thread has it while the pipe is
  readable, the loop stops watching (`_is_paused`), as it would spin; who gives the role
  up has it watch again.

`mutex` is re-entrant only to notice the one case that can't work: a finalizer or a
signal handler that calls the node while its own thread reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Protocol

from hornbeam._errors import ReentrantCall
from hornbeam._slots import Slot

__all__ = ("ReaderRole", "Scheduler", "milliseconds_until")


class Scheduler(Protocol):
    """What a channel needs of the event loop."""

    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None: ...
    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, descriptor: int) -> None: ...


class ReaderRole:
    """The role of the one who reads a pipe.

    Args:
        descriptor: what the event loop watches.
        on_readable: called by the event loop when there is something to read.
    """

    __slots__ = (
        "_descriptor",
        "_is_paused",
        "_loop_thread",
        "_on_readable",
        "_scheduler",
        "followers",
        "holder",
        "mutex",
    )

    mutex: threading.RLock
    """Also guards the slots."""

    holder: int
    """The thread that has the role, or 0."""

    followers: dict[Slot, None]
    """Ordered: who waits longest gets the role first."""

    def __init__(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_readable = on_readable
        self._scheduler: Scheduler | None = None
        self._loop_thread = 0
        self.reset()

    def reset(self) -> None:
        """Nobody has it; also in a fork, whose parent's threads may have held it."""
        self.mutex = threading.RLock()
        self.holder = 0
        self.followers = {}
        self._is_paused = False

    # The event loop.

    def watch(self, scheduler: Scheduler) -> None:
        """Have the event loop of this thread watch the pipe from now on."""
        self._scheduler = scheduler
        self._loop_thread = get_ident()
        scheduler.add_reader(self._descriptor, self._on_readable)

    def unwatch(self) -> None:
        """Let go of the event loop."""
        assert self._scheduler is not None
        self._scheduler.remove_reader(self._descriptor)
        self._scheduler = None

    def take_for_loop(self, me: int) -> bool:
        """Take the role for the event loop, or stop watching the pipe."""
        with self.mutex:
            if self.holder == 0:
                self.holder = me
                return True

            if self._scheduler is not None and not self._is_paused:
                self._is_paused = True
                self._scheduler.remove_reader(self._descriptor)

            return False

    def _resume(self) -> None:
        """Watch the pipe again."""
        if self._scheduler is not None:
            self._scheduler.add_reader(self._descriptor, self._on_readable)

    # Other threads.

    def take_in_place_of_loop(self) -> bool:
        """Take the role, if there is an event loop and nobody reads."""
        with self.mutex:
            is_free = self.holder == 0 and self._scheduler is not None

            if is_free:
                self.holder = get_ident()

            return is_free

    def take_or_sleep(self, slot: Slot, deadline: float | None) -> bool:
        """Take the role, or sleep until the reply is there or the role is free.

        Returns whether this thread has the role now.

        Raises:
            ReentrantCall: it had it before.
        """
        me = get_ident()

        with self.mutex:
            if slot.done:
                return False

            if self.holder == 0:
                self.holder = me
                return True

            if self.holder == me:
                raise ReentrantCall

            wakeup = slot.wakeup = threading.Lock()
            wakeup.acquire()
            self.followers[slot] = None

        self._sleep(slot, wakeup, deadline)
        return False

    def _sleep(
        self, slot: Slot, wakeup: threading.Lock, deadline: float | None
    ) -> None:
        if deadline is None:
            wakeup.acquire()
            return

        if not wakeup.acquire(timeout=milliseconds_until(deadline) / 1000):
            with self.mutex:
                if slot.wakeup is not None:
                    slot.wakeup = None
                    del self.followers[slot]

    def hand_on(self) -> None:
        """Wake another follower instead of this one, which may have been woken."""
        with self.mutex:
            if self.holder == 0 and self.followers:
                self.wake(next(iter(self.followers)))

    # Who has the role.

    def give_up(self) -> None:
        """Leave the role to a follower, or to the event loop."""
        with self.mutex:
            self.holder = 0

            if self.followers:
                self.wake(next(iter(self.followers)))
                return

            if not self._is_paused:
                return

            self._is_paused = False

        scheduler = self._scheduler

        if get_ident() == self._loop_thread:
            self._resume()
        elif scheduler is not None:
            scheduler.call_soon_threadsafe(self._resume)

    def wake(self, slot: Slot) -> None:
        """Wake a follower, if it is one, or the task that waits; under the mutex."""
        if slot.waiter is not None:
            slot.waiter.set()

        wakeup, slot.wakeup = slot.wakeup, None

        if wakeup is not None:
            del self.followers[slot]
            wakeup.release()


def milliseconds_until(deadline: float) -> float:
    """Return how long it is until then; 0 if it is over."""
    return max(0.0, (deadline - time.monotonic()) * 1000)
