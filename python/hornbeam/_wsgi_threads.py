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

    One thread is woken for all that has come, and wakes the next before it begins, if
    there is more: where it does not wait for anything, it has done the others by the
    time that another thread has the interpreter.

    Not an executor of the standard library: the interpreter waits for the threads of
    such a one before it ends, also for one that is busy for ever, and a future for each
    job, which nobody asks, costs more than the rest.

    Args:
        size: how many threads there may be.
    """

    __slots__ = ("_idle", "_is_waking", "_jobs", "_size", "_started", "_wakeups")

    def __init__(self, size: int) -> None:
        self._size = size
        self._started = 0
        # Adding and taking is atomic, here and below.
        self._jobs: deque[Job] = deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        # One entry for each thread that waits to be woken.
        self._idle: deque[None] = deque()
        # A thread was woken that has not looked for a job yet: it will.
        self._is_waking = False

    def submit(self, job: Job) -> None:
        """Run a job, which must not raise, as soon as a thread is free.

        Raises:
            RuntimeError: there is no thread, and none can be started.
        """
        self._jobs.append(job)

        # That thread looks for jobs after this is set back.
        if not self._is_waking:
            self._wake()

    def _wake(self) -> None:
        try:
            self._idle.pop()
        except IndexError:
            self._start_thread()
        else:
            self._is_waking = True
            self._wakeups.put(None)

    def _start_thread(self) -> None:
        # Those that are busy look for more when they have done theirs.
        if self._started == self._size:
            return

        self._started += 1
        self._is_waking = True
        name = f"{_NAME}-{self._started}"

        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            self._started -= 1
            self._is_waking = False

            if self._started == 0:
                raise

    def _work(self) -> None:
        while True:
            self._is_waking = False
            self._run_jobs()
            self._idle.append(None)

            # What has come in between may have found nobody to wake.
            if not (self._jobs and self._takes_itself()):
                self._wakeups.get()

    def _takes_itself(self) -> bool:
        """Whether no one else has taken the entry: then nobody wakes this thread."""
        try:
            self._idle.pop()
        except IndexError:
            return False

        return True

    def _run_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return

            if self._jobs and not self._is_waking:
                self._wake()

            job()
            # Not kept while it waits for the next.
            del job
