# SPDX-License-Identifier: Apache-2.0
"""The threads of a WSGI worker: as many as are needed, never more than allowed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from fake_node import TIMEOUT_S
from hornbeam._wsgi_threads import ThreadPool
from node import ROOT


class Jobs:
    """Jobs that wait until they are let go, and what has become of them."""

    def __init__(self, size: int) -> None:
        self.pool = ThreadPool(size)
        self.threads: list[str] = []
        self._started = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)
        self._over = threading.Semaphore(0)

    def submit(self) -> None:
        self.pool.submit(self._work)

    def await_start(self) -> None:
        assert self._started.acquire(timeout=TIMEOUT_S)

    def let_go(self) -> None:
        self._gate.release()
        assert self._over.acquire(timeout=TIMEOUT_S)

    def is_started(self) -> bool:
        return self._started.acquire(blocking=False)

    def _work(self) -> None:
        self.threads.append(threading.current_thread().name)
        self._started.release()
        assert self._gate.acquire(timeout=TIMEOUT_S)
        self._over.release()


def test_each_job_has_a_thread() -> None:
    jobs = Jobs(4)

    for _ in range(4):
        jobs.submit()
        jobs.await_start()

    assert len(set(jobs.threads)) == 4

    for _ in range(4):
        jobs.let_go()


def test_no_more_threads_than_allowed() -> None:
    """A job waits until a thread is free; none is lost."""
    jobs = Jobs(2)

    for _ in range(5):
        jobs.submit()

    jobs.await_start()
    jobs.await_start()
    assert not jobs.is_started()

    for _ in range(3):
        jobs.let_go()
        jobs.await_start()

    jobs.let_go()
    jobs.let_go()
    assert len(set(jobs.threads)) == 2


def test_a_free_thread_is_taken_again() -> None:
    pool = ThreadPool(100)
    threads: list[int] = []

    for number in range(1, 21):
        pool.submit(lambda: threads.append(threading.get_ident()))
        wait_until(lambda n=number: len(threads) == n and len(pool._idle) == 1)

    assert len(set(threads)) == 1


def test_one_thread_does_what_is_short() -> None:
    """It is not worth to wake another for each."""
    jobs = Jobs(8)

    for _ in range(8):
        jobs.submit()
        jobs.await_start()

    for _ in range(8):
        jobs.let_go()

    wait_until(lambda: len(jobs.pool._idle) == 8)
    threads: list[int] = []
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(TIMEOUT_S)

    try:
        for _ in range(100):
            jobs.pool.submit(lambda: threads.append(threading.get_ident()))

        # Nobody else has run yet.
        idle = len(jobs.pool._idle)
        wait_until(lambda: len(threads) == 100)
    finally:
        sys.setswitchinterval(interval_s)

    assert idle == 7
    assert len(set(threads)) <= 2


def test_no_job_is_lost() -> None:
    """Whoever comes at whatever moment, in all threads at once."""
    pool = ThreadPool(4)
    done: deque[int] = deque()
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    try:
        for number in range(3000):
            pool.submit(functools.partial(done.append, number))
            # Now and then all of them are idle.
            if number % 7 == 0:
                wait_until(lambda n=number: len(done) == n + 1)

        wait_until(lambda: len(done) == 3000)
    finally:
        sys.setswitchinterval(interval_s)

    assert sorted(done) == list(range(3000))


def test_a_thread_that_waits_does_not_hold_up_others() -> None:
    """Each that waits has had the next one woken before."""
    jobs = Jobs(8)
    short = threading.Event()

    for _ in range(7):
        jobs.submit()

    jobs.pool.submit(short.set)

    for _ in range(7):
        jobs.await_start()

    assert short.wait(TIMEOUT_S)

    for _ in range(7):
        jobs.let_go()


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there do the work; where there is none it is told."""
    start = threading.Thread.start
    may_start = [True, False, True]

    def start_or_fail(thread: threading.Thread) -> None:
        if not may_start.pop(0):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    jobs = Jobs(2)
    jobs.submit()
    jobs.await_start()
    # The one that fails.
    jobs.submit()
    jobs.let_go()
    jobs.await_start()
    jobs.submit()
    jobs.await_start()
    assert may_start == []
    jobs.let_go()
    jobs.let_go()

    may_start.append(False)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        ThreadPool(1).submit(lambda: None)


def wait_until(condition: Callable[..., bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S

    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_a_job_holds_is_freed() -> None:
    """Not only when the next one comes."""
    freed = threading.Event()

    class Held:
        def __del__(self) -> None:
            freed.set()

    def work(held: Held) -> None:
        pass

    ThreadPool(1).submit(functools.partial(work, Held()))
    assert freed.wait(TIMEOUT_S)


def test_a_busy_thread_does_not_hold_the_interpreter() -> None:
    """The process ends though a job does not."""
    script = (
        "import threading\n"
        "from hornbeam._wsgi_threads import ThreadPool\n"
        "started = threading.Event()\n"
        "never = threading.Event()\n"
        "ThreadPool(1).submit(lambda: (started.set(), never.wait()))\n"
        "started.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        timeout=TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
    )
    assert done.returncode == 0
