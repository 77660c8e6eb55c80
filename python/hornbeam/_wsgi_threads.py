# SPDX-License-Identifier: Apache-2.0
"""The threads that requests of a WSGI application run in."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ("ThreadPool",)

Job: TypeAlias = Callable[[], None]

_NAME: Final = "hornbeam-wsgi"


class ThreadPool:
    """Runs jobs, each in a thread; they are started as they are needed.

    Not an executor of the standard library: the interpreter waits for the threads of
    such a one before it ends, also for one that is busy for ever, and a future for each
    job, which nobody asks, costs more than the rest.

    Args:
        size: how many threads there may be.
    """

    __slots__ = ("_idle", "_jobs", "_size", "_started")

    def __init__(self, size: int) -> None:
        self._size = size
        self._started = 0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # One entry for each thread that waits; adding and taking is atomic.
        self._idle: deque[None] = deque()

    def submit(self, job: Job) -> None:
        """Run a job, which must not raise, as soon as a thread is free.

        To be called by one thread, the event loop's.
        """
        self._jobs.put(job)

        try:
            self._idle.pop()
        except IndexError:
            self._start_thread()

    def _start_thread(self) -> None:
        if self._started == self._size:
            return

        self._started += 1
        name = f"{_NAME}-{self._started}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            # Not kept while it waits for the next.
            self._jobs.get()()
            self._idle.append(None)
